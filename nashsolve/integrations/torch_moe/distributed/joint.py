r"""All Grams of a chain from one: base experts as combinations of the first one and of the experts seen so far.

With :math:`v` all experts of all layers, minus the first base expert, and :math:`G = v^\top v`, the base expert of
layer l is :math:`E_m^1 + \sum_k a_k v_k`, and the Gram of its experts' domain vectors is :math:`W G W^\top` with rows
:math:`w_i = e_i - a`. So the chain is run on coefficients of a few thousand entries first, which need no other rank.
"""

from __future__ import annotations

import numpy as np
import torch

from ..chain_plan import Link, Plan, propagate
from ..domain import DomainGram
from ..experts import Expert, ExpertView, Slot

_NAME = "coefficients"


def layer_gram(gram: np.ndarray, error: float, rows: np.ndarray) -> DomainGram:
    r"""Gram of combinations, with the bound that cancellation leaves.

    An entry's error is at most :math:`\epsilon\,(|w_i|^\top s)(|w_j|^\top s)` with :math:`s_k = \sqrt{G_{kk}}`.

    Parameters
    ----------
    gram : (m, m) float64
    error : bound of its relative errors
    rows : w, (n, m)
    """
    found = rows @ gram @ rows.T
    size = np.abs(rows) @ np.sqrt(np.maximum(np.diagonal(gram), 0.0))
    norms = np.sqrt(np.maximum(np.diagonal(found), 0.0))
    with np.errstate(divide="ignore", invalid="ignore"):
        worst = float(np.max(np.where(size > 0, size / norms, 0.0)))
    unit = error + (2 * len(gram) + 2) * 2.0**-53
    return DomainGram((found + found.T) / 2, min(unit * worst**2, 1.0) if np.isfinite(worst) else 1.0)


def coefficient_links(layers: int, n: int) -> list[Link]:
    """The chain's layers with experts that are unit vectors."""
    eye = torch.eye(layers * n, dtype=torch.float64)
    return [Link(ExpertView((Slot(_NAME, (eye[k * n : (k + 1) * n],), True),))) for k in range(layers)]


def agree_jointly(plan: Plan) -> None:
    """Fill the plan's agreements by a run on coefficients; ``plan.agree`` is given views of coefficients."""
    layers, n = len(plan.links), plan.links[0].view.n
    short = Plan(coefficient_links(layers, n), plan.momentum, plan.gamma, plan.agree, agreed=plan.agreed)
    propagate(short, {_NAME: torch.zeros(layers * n, dtype=torch.float64)}, short.agree_once)


def rows_of(view: ExpertView, now: Expert) -> np.ndarray:
    """Coefficients (n, m) of a layer's domain vectors, from what `agree_jointly` hands on."""
    rows: np.ndarray = (view.slots[0].tensors[0] - now[_NAME]).numpy()
    return rows
