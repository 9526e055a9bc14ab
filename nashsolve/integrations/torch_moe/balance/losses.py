r"""Losses that keep experts in use: each takes tensors and returns a scalar without a coefficient.

Rows are what the router decided about: tokens, segments or sequences. `row_mask` (rows,) is True for rows that count.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from nashsolve.core.errors import InvalidProblem

_TINY = 1e-10


def expert_counts(topk_index: Tensor, n_experts: int, row_mask: Tensor | None = None) -> Tensor:
    """How many choices fell on each expert.

    Parameters
    ----------
    topk_index : (rows, k) int64
    n_experts : N
    row_mask : (rows,) bool, optional

    Returns
    -------
    float32 (N,)
    """
    ones = torch.ones(topk_index.shape, device=topk_index.device)
    if row_mask is not None:
        ones = ones * row_mask[:, None]
    return torch.zeros(n_experts, device=topk_index.device).index_add_(0, topk_index.flatten(), ones.flatten())


def switch_loss(
    probs: Tensor, topk_index: Tensor, row_mask: Tensor | None = None, every_choice: bool = False
) -> Tensor:
    r"""Auxiliary loss of GShard and the Switch Transformer.

    .. math:: N \sum_e f_e P_e

    with f_e the share of rows whose first choice is e and P_e the mean probability of e; one at perfect balance.

    Parameters
    ----------
    probs : (rows, N), rows sum to one
    topk_index : (rows, k) int64, best first
    row_mask : (rows,) bool, optional
    every_choice : count all k choices, so that f sums to k

    Returns
    -------
    scalar. Source: [gshard2021]_, [switch2022]_
    """
    n = probs.shape[-1]
    chosen = topk_index if every_choice else topk_index[:, :1]
    rows = _rows(probs, row_mask)
    share = expert_counts(chosen, n, row_mask).to(probs.dtype) / rows
    return n * (share * (_masked(probs, row_mask).sum(0) / rows)).sum()


def fastmoe_loss(
    logits: Tensor, topk_index: Tensor, row_mask: Tensor | None = None, temperature: float = 1.0
) -> Tensor:
    r"""The same product with both factors divided by the number of choices instead of the number of rows.

    .. math:: N \sum_e \frac{c_e}{k T} \frac{\sum_t \mathrm{softmax}(z_t/\theta)_e}{k T}

    Parameters
    ----------
    logits : (rows, N)
    topk_index : (rows, k) int64
    row_mask : (rows,) bool, optional
    temperature : theta > 0; the cosine routers of that code base use 0.3

    Returns
    -------
    scalar. Source: [fastmoe2021]_
    """
    n, choices = logits.shape[-1], topk_index.shape[-1] * _rows(logits, row_mask)
    share = expert_counts(topk_index, n, row_mask).to(logits.dtype) / choices
    probs = _masked(torch.softmax(logits / temperature, dim=-1), row_mask)
    return n * (share * (probs.sum(0) / choices)).sum()


def z_loss(logits: Tensor, row_mask: Tensor | None = None) -> Tensor:
    r"""Mean squared log-partition of the logits, which keeps them small.

    .. math:: \frac1T \sum_t \Big(\log \sum_e e^{z_{te}}\Big)^2

    Parameters
    ----------
    logits : (rows, N)
    row_mask : (rows,) bool, optional

    Returns
    -------
    scalar. Source: [stmoe2022]_
    """
    squares = _masked(torch.logsumexp(logits, dim=-1, keepdim=True) ** 2, row_mask)
    return squares.sum() / _rows(logits, row_mask)


def cv_squared(values: Tensor) -> Tensor:
    """Squared coefficient of variation of (N,) numbers >= 0, with the unbiased variance; zero for one number."""
    if values.numel() < 2:
        return (values * 0).sum()
    return values.var() / (values.mean() ** 2 + _TINY)


def importance_loss(gates: Tensor, row_mask: Tensor | None = None) -> Tensor:
    r"""CV^2 of the summed gate values :math:`\sum_t g_{te}`.

    Parameters
    ----------
    gates : (rows, N), zero for experts that were not chosen
    row_mask : (rows,) bool, optional

    Returns
    -------
    scalar. Source: [shazeer2017]_
    """
    return cv_squared(_masked(gates, row_mask).sum(0))


def load_loss(
    logits: Tensor, noisy_logits: Tensor, noise_std: Tensor, k: int, row_mask: Tensor | None = None
) -> Tensor:
    r"""CV^2 of the smoothed load: the chance that fresh noise on one logit would put its expert among the k chosen.

    .. math:: \mathrm{load}_e = \sum_t \Phi\!\big((z_{te} - \mathrm{kth}_{j \ne e}\,\tilde z_{tj}) / \sigma_{te}\big)

    Parameters
    ----------
    logits : (rows, N) without noise
    noisy_logits : (rows, N)
    noise_std : (rows, N) or scalar, > 0
    k : number of choices; with k = N every load is the number of rows, and the loss is zero
    row_mask : (rows,) bool, optional

    Returns
    -------
    scalar. Source: [shazeer2017]_
    """
    if k >= logits.shape[-1]:
        return (logits * 0).sum()
    best = noisy_logits.topk(k + 1, dim=-1).values
    inside = noisy_logits > best[:, k:]  # without its own entry, the k-th of the others is one place further down
    threshold = torch.where(inside, best[:, k:], best[:, k - 1 : k])
    return cv_squared(_masked(_normal_cdf((logits - threshold) / noise_std), row_mask).sum(0))


def load_importance_loss(
    probs: Tensor,
    logits: Tensor,
    noisy_logits: Tensor,
    noise_std: Tensor,
    topk_index: Tensor,
    row_mask: Tensor | None = None,
    literal: bool = False,
) -> Tensor:
    r"""Half the sum of both CV^2, in the form of Tutel: the threshold is the last chosen noisy logit.

    .. math:: \tfrac12 CV^2\Big(\sum_t p_t\Big) + \tfrac12 CV^2\Big(\sum_t \Phi((z_t - \tilde z_{t,(k)})/\sigma)\Big)

    Parameters
    ----------
    probs : (rows, N) softmax of the logits without noise
    logits, noisy_logits : (rows, N)
    noise_std : scalar or (rows, N)
    topk_index : (rows, k) int64, best first
    row_mask : (rows,) bool, optional
    literal : compare probabilities with logits, as the published code does, instead of logits with logits

    Returns
    -------
    scalar. Source: [tutel2023]_
    """
    threshold = noisy_logits.gather(-1, topk_index[:, -1:])
    chance = _normal_cdf(((probs if literal else logits) - threshold) / noise_std)
    return 0.5 * (importance_loss(probs, row_mask) + cv_squared(_masked(chance, row_mask).sum(0)))


def sequence_loss(probs: Tensor, topk_index: Tensor, n_sequences: int, row_mask: Tensor | None = None) -> Tensor:
    r"""Balance within each sequence, averaged over sequences; one at perfect balance.

    .. math:: \frac1B \sum_b \sum_e \frac{N c_{be}}{k T_b}\, \frac1{T_b}\sum_{t \in b} p_{te}

    Parameters
    ----------
    probs : (rows, N), rows of one sequence next to each other
    topk_index : (rows, k) int64
    n_sequences : B, divides the number of rows
    row_mask : (rows,) bool, optional; a sequence without a row that counts is left out

    Returns
    -------
    scalar. Source: [deepseekmoe2024]_
    """
    rows, n = probs.shape
    k = topk_index.shape[-1]
    if n_sequences < 1 or rows % n_sequences:
        raise InvalidProblem(f"n_sequences is {n_sequences}; it must divide the {rows} rows")
    mask = torch.ones(rows, device=probs.device, dtype=probs.dtype) if row_mask is None else row_mask.to(probs.dtype)
    mask = mask.reshape(n_sequences, -1, 1)
    length = mask.sum(1)
    hits = torch.zeros_like(probs).scatter_add_(-1, topk_index, torch.ones_like(topk_index, dtype=probs.dtype))
    counts = (hits.reshape(n_sequences, -1, n) * mask).sum(1)
    safe = length.clamp(min=1)
    mean = (probs.reshape(n_sequences, -1, n) * mask).sum(1) / safe
    per_sequence = (n * counts / (k * safe) * mean).sum(-1)
    return per_sequence.sum() / (length > 0).sum().clamp(min=1)


def _rows(values: Tensor, row_mask: Tensor | None) -> Tensor | float:
    return float(values.shape[0]) if row_mask is None else row_mask.sum().clamp(min=1).to(values.dtype)


def _masked(values: Tensor, row_mask: Tensor | None) -> Tensor:
    # where, not a product: a masked row may hold NaN
    return values if row_mask is None else torch.where(row_mask[:, None], values, torch.zeros_like(values))


def _normal_cdf(x: Tensor) -> Tensor:
    return 0.5 * (1 + torch.erf(x / math.sqrt(2)))
