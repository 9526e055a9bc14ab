r"""Bargains of many tokens at once: weights of two players in closed form, of more by batched Newton.

Shares are :math:`c_i = \alpha_i / \sum_j \alpha_j` for the weighted solution :math:`\alpha_i (G\alpha)_i = w_i`.
Tokens whose players cannot agree fall back to shares in proportion to w, and are counted.
"""

from __future__ import annotations

import torch
from torch import Tensor

import nashsolve
from nashsolve import BargainingProblem

_OPPOSED = 1e-6
"""Two players with 1 + cosine below this are taken to be opposed; float32 inner products say no more."""
_GRAM_ERROR = 4 * torch.finfo(torch.float32).eps


def token_shares(gram: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Shares of the players of every token.

    Parameters
    ----------
    gram : (T, k, k) inner products of the players' vectors
    weights : (T, k) >= 0, bargaining power; who has none takes no part

    Returns
    -------
    (T, k) shares that sum to one, differentiable in both arguments; (T,) bool, True where no agreement exists
    """
    total = weights.sum(-1, keepdim=True)
    # Rows without any power (all choices dropped) bargain equally; their shares are multiplied by zero afterwards.
    power = torch.where(total > 0, weights / torch.where(total > 0, total, 1.0), 1 / weights.shape[-1])
    if gram.shape[-1] == 1:
        return torch.ones_like(power), torch.zeros_like(power[:, 0], dtype=torch.bool)
    found, opposed = _two(gram, power) if gram.shape[-1] == 2 else _many(gram, power)
    return torch.where(opposed[:, None], power, found), opposed


def _two(gram: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
    r"""The root t of :math:`w_2t^2 - \rho(w_1-w_2)t - w_1 = 0`, as a ratio in which nothing cancels."""
    norm = gram.diagonal(dim1=-2, dim2=-1).clamp(min=0).sqrt()
    product = norm[:, 0] * norm[:, 1]
    rho = gram[:, 0, 1] / torch.where(product > 0, product, 1)
    opposed = (product == 0) | (1 + rho < _OPPOSED)
    rho = torch.where(opposed, 0.0, rho)
    norm = torch.where(opposed[:, None], 1.0, norm)
    # A player of no power at all would still not be hurt by the others, which is not what a dropped choice means.
    alone = (w == 0).any(-1)
    w1, w2 = torch.where(alone[:, None], 0.5, w).unbind(-1)
    m = rho * (w1 - w2)
    root = (m * m + 4 * w1 * w2).sqrt()
    first = torch.where(m > 0, m + root, 2 * w1) / norm[:, 0]
    second = torch.where(m > 0, 2 * w2, root - m) / norm[:, 1]
    shares = torch.stack([first, second], dim=-1) / (first + second)[:, None]
    return torch.where(alone[:, None], w, shares), opposed & ~alone


def _many(gram: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
    gram = (gram + gram.mT).double() / 2
    here = w > 0
    power = torch.where(here, w, 1.0).double()
    problem = BargainingProblem(gram=gram, weights=power, gram_error=_GRAM_ERROR, mask=here)
    solution = nashsolve.solve(problem, on_failure="return")
    failed = solution.failed
    alpha = torch.where(here & ~failed[:, None], solution.alpha, here.double())
    return (alpha / alpha.sum(-1, keepdim=True)).to(w.dtype), failed
