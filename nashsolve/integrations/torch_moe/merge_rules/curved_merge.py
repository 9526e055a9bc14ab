r"""Merged parameters with curvature and sign masks, one expert and one Kronecker term at a time.

.. math:: \hat W_u = W_m + \sum_i s_{ui}\; m_i \odot M_i(W_i - W_m)

The published einsums keep every intermediate of every term of every expert for the backward pass: four tensors of size
R N d for each matrix. Here nothing of that size exists: forward and backward visit the experts one by one, and backward
recomputes what it needs. Both are operators of torch, ``torch.ops.nashsolve.curved_merge`` and its backward: a compiled
model has one node for each, and no break.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..curvature import SlotCurvature
from ..experts import Slot


def curved_merge(
    slot: Slot, base: Tensor, weights: Tensor, curvature: SlotCurvature | None, ties: bool, over_base: bool = True
) -> Tensor:
    """Merged tensors of one slot, differentiable in everything, once.

    Parameters
    ----------
    slot : of the experts
    base : the base expert's tensor
    weights : (rows, N), eta and dropout included
    curvature : None for the identity
    ties : keep only entries of a domain vector whose sign is that of the sum of all domain vectors
    over_base : add the base expert; False gives the combined domain vectors alone

    Returns
    -------
    (rows, *shape) in the dtype of `weights`
    """
    factors = [] if curvature is None else list(curvature.factors)
    scale = 1.0 if curvature is None else curvature.scale
    result: Tensor = _merge(weights, base, list(slot.tensors), factors, slot.fused, scale, ties, over_base)
    return result


@torch.library.custom_op("nashsolve::curved_merge", mutates_args=())
def _merge(
    weights: Tensor,
    base: Tensor,
    tensors: Sequence[Tensor],
    factors: Sequence[Tensor],
    fused: bool,
    scale: float,
    ties: bool,
    over_base: bool,
) -> Tensor:
    slot, curvature = _read(tensors, factors, fused, scale)
    start = base.to(weights.dtype)
    with torch.autocast(weights.device.type, enabled=False):
        elected = _elected(slot, start) if ties else None
        below = start if over_base else torch.zeros_like(start)
        result = below.expand(len(weights), *start.shape).clone()
        rows = result.view(len(weights), -1)
        for i in range(slot.n):
            tau = slot.expert(i).to(start.dtype) - start
            curved = tau if curvature is None else curvature.apply(i, tau)
            if elected is not None:
                curved = curved * (tau.sign() == elected)
            # In place, row by row: no tensor of the result's size beside it.
            rows.addr_(weights[:, i], curved.reshape(-1))
    return result


@torch.library.custom_op("nashsolve::curved_merge_backward", mutates_args=())
def _backward(
    upstream: Tensor,
    weights: Tensor,
    base: Tensor,
    tensors: Sequence[Tensor],
    factors: Sequence[Tensor],
    fused: bool,
    scale: float,
    ties: bool,
    over_base: bool,
) -> list[Tensor]:
    """Gradients of weights, base, tensors and factors, in this order."""
    slot, curvature = _read(tensors, factors, fused, scale)
    start, flat = base.to(weights.dtype), upstream.reshape(len(upstream), -1)
    sums = [torch.zeros_like(f, dtype=weights.dtype) for f in factors]
    of_weights = torch.empty_like(weights)
    of_base = upstream.sum(0) if over_base else torch.zeros_like(start)
    shape, kind = (slot.n, *start.shape), tensors[0].dtype
    rows = torch.empty(shape, dtype=kind, device=start.device) if fused else [start] * slot.n
    with torch.autocast(weights.device.type, enabled=False):
        elected = _elected(slot, start) if ties else None
        for i in range(slot.n):
            tau = slot.expert(i).to(start.dtype) - start
            mask = None if elected is None else tau.sign() == elected
            g = (weights[:, i] @ flat).reshape(start.shape)
            g = g if mask is None else g * mask
            curved = tau
            if curvature is not None:
                g, curved = curvature.pull_back(i, tau, g, sums)
            of_weights[:, i] = flat @ (curved if mask is None else curved * mask).reshape(-1)
            of_base = of_base - g
            rows[i] = g.to(kind)
    experts = [rows] if isinstance(rows, Tensor) else rows
    parts = [total.to(f.dtype) for total, f in zip(sums, factors, strict=True)]
    return [of_weights, of_base.to(base.dtype), *experts, *parts]


@_merge.register_fake
def _(weights: Tensor, base: Tensor, *_: Any) -> Tensor:
    return weights.new_empty(weights.shape[0], *base.shape)


@_backward.register_fake
def _(
    upstream: Tensor,
    weights: Tensor,
    base: Tensor,
    tensors: Sequence[Tensor],
    factors: Sequence[Tensor],
    *_: Any,
) -> list[Tensor]:
    return [torch.empty_like(t, memory_format=torch.contiguous_format) for t in (weights, base, *tensors, *factors)]


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    weights, base, tensors, factors, *ctx.how = inputs
    ctx.sizes = len(tensors), len(factors)
    ctx.save_for_backward(weights, base, *tensors, *factors)


def _pull_back(ctx: Any, upstream: Tensor) -> tuple[Any, ...]:
    n = ctx.sizes[0]
    weights, base, *rest = ctx.saved_tensors
    found = _backward(upstream, weights, base, rest[:n], rest[n:], *ctx.how)
    return found[0], found[1], found[2 : 2 + n], found[2 + n :], None, None, None, None


_merge.register_autograd(_pull_back, setup_context=_keep)


def _read(
    tensors: Sequence[Tensor], factors: Sequence[Tensor], fused: bool, scale: float
) -> tuple[Slot, SlotCurvature | None]:
    """Experts and curvature of a slot as the operators get them."""
    curvature = SlotCurvature((factors[0], factors[1], factors[2], factors[3]), scale) if factors else None
    return Slot("", tuple(tensors), fused), curvature


def _elected(slot: Slot, base: Tensor) -> Tensor:
    """Sign of the sum of all domain vectors, entry by entry."""
    total = torch.zeros_like(base)
    for i in range(slot.n):
        total.add_(slot.expert(i).to(base.dtype) - base)
    return total.sign()
