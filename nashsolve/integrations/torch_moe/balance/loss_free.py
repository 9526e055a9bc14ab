"""Balance without a loss: a bias on the scores that choose, moved against the load; and how uneven the load is."""

from __future__ import annotations

import torch
from torch import Tensor

from nashsolve.core.errors import InvalidProblem


def bias_update(bias: Tensor, counts: Tensor, rate: float = 1e-3) -> Tensor:
    r"""The bias after one batch: experts below the mean load become easier to choose.

    .. math:: b_e + \mathrm{rate} \cdot \mathrm{sign}(\bar c - c_e)

    Parameters
    ----------
    bias : (N,)
    counts : (N,) choices in the batch
    rate : >= 0

    Returns
    -------
    (N,), a new tensor. Source: [wang2024lossfree]_
    """
    load = counts.to(bias.dtype)
    return bias + rate * torch.sign(load.mean() - load)


def max_vio(counts: Tensor) -> Tensor:
    r"""How far the busiest expert is above the mean load; zero at perfect balance.

    .. math:: \max_e c_e / \bar c - 1

    Parameters
    ----------
    counts : (..., N) >= 0

    Returns
    -------
    (...); NaN where nothing was routed. Source: [wang2024lossfree]_

    Raises
    ------
    InvalidProblem
        For negative counts.
    """
    if bool((counts < 0).any()):
        raise InvalidProblem("counts has negative entries; numbers of choices are needed")
    load = counts.to(torch.get_default_dtype()) if not counts.is_floating_point() else counts
    return load.max(dim=-1).values / load.mean(dim=-1) - 1
