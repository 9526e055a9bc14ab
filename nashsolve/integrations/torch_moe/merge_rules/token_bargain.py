r"""Bargains of many tokens at once: weights of two players in closed form, of more by batched Newton.

Shares are :math:`c_i = \alpha_i / \sum_j \alpha_j` for the weighted solution :math:`\alpha_i (G\alpha)_i = w_i`.
Tokens whose players cannot agree fall back to shares in proportion to w, and are counted.
"""

from __future__ import annotations

import torch
from torch import Tensor

import nashsolve
from nashsolve import BargainingProblem

_TINY = 1e-12
"""Weights below this share of the largest count as this share: a bargain knows no player without power."""
_OPPOSED = 1e-6
"""Two players with 1 + cosine below this are taken to be opposed; float32 inner products say no more."""
_GRAM_ERROR = 4 * torch.finfo(torch.float32).eps


def token_shares(gram: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Shares of the players of every token.

    Parameters
    ----------
    gram : (T, k, k) inner products of the players' vectors
    weights : (T, k) >= 0, bargaining power; a row of zeros has no bargain

    Returns
    -------
    (T, k) shares that sum to one, differentiable in both arguments; (T,) bool, True where no agreement exists
    """
    power = weights + _TINY * weights.amax(-1, keepdim=True).clamp(min=_TINY)
    power = power / power.sum(-1, keepdim=True)
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
    w1, w2 = w[:, 0], w[:, 1]
    m = rho * (w1 - w2)
    root = (m * m + 4 * w1 * w2).sqrt()
    first = torch.where(m > 0, m + root, 2 * w1) / norm[:, 0]
    second = torch.where(m > 0, 2 * w2, root - m) / norm[:, 1]
    return torch.stack([first, second], dim=-1) / (first + second)[:, None], opposed


def _many(gram: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
    gram = (gram + gram.mT).double() / 2
    problem = BargainingProblem(gram=gram, weights=w.double(), gram_error=_GRAM_ERROR)
    solution = nashsolve.solve(problem, on_failure="return")
    failed = solution.failed
    alpha = torch.where(failed[:, None], 1.0, solution.alpha)
    return (alpha / alpha.sum(-1, keepdim=True)).to(w.dtype), failed
