r"""Merged parameters with curvature and sign masks, one expert and one Kronecker term at a time.

.. math:: \hat W_u = W_m + \sum_i s_{ui}\; m_i \odot M_i(W_i - W_m)

The published einsums keep every intermediate of every term of every expert for the backward pass: four tensors of size
R N d for each matrix. Here nothing of that size exists: forward and backward visit the experts one by one, and backward
recomputes what it needs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..curvature import SlotCurvature
from ..experts import Slot


@dataclass(frozen=True)
class _Plan:
    slot: Slot
    curvature: SlotCurvature | None
    ties: bool
    over_base: bool


@torch.compiler.disable
def curved_merge(
    slot: Slot, base: Tensor, weights: Tensor, curvature: SlotCurvature | None, ties: bool, over_base: bool = True
) -> Tensor:
    """Merged tensors of one slot, differentiable in everything.

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
    factors = () if curvature is None else curvature.factors
    return _CurvedMerge.apply(_Plan(slot, curvature, ties, over_base), weights, base, *slot.tensors, *factors)


class _CurvedMerge(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, plan: _Plan, weights: Tensor, base: Tensor, *tensors: Tensor) -> Tensor:
        ctx.plan = plan
        ctx.save_for_backward(weights, base, *tensors)
        slot, start = plan.slot, base.to(weights.dtype)
        with torch.autocast(weights.device.type, enabled=False):
            elected = _elected(slot, start) if plan.ties else None
            below = start if plan.over_base else torch.zeros_like(start)
            result = below.expand(len(weights), *start.shape).clone()
            for i in range(slot.n):
                tau = slot.expert(i).to(start.dtype) - start
                curved = tau if plan.curvature is None else plan.curvature.apply(i, tau)
                if elected is not None:
                    curved = curved * (tau.sign() == elected)
                for row, weight in zip(result, weights[:, i], strict=True):
                    row.add_(curved * weight)
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Any, ...]:
        weights, base, *_ = ctx.saved_tensors
        plan: _Plan = ctx.plan
        slot, start = plan.slot, base.to(weights.dtype)
        flat = upstream.reshape(len(upstream), -1)
        factors = () if plan.curvature is None else plan.curvature.factors
        sums = [torch.zeros_like(f, dtype=weights.dtype) for f in factors]
        of_weights = torch.empty_like(weights)
        of_base = upstream.sum(0) if plan.over_base else torch.zeros_like(start)
        shape, kind = (slot.n, *start.shape), slot.tensors[0].dtype
        rows = torch.empty(shape, dtype=kind, device=start.device) if slot.fused else [start] * slot.n
        with torch.autocast(weights.device.type, enabled=False):
            elected = _elected(slot, start) if plan.ties else None
            for i in range(slot.n):
                tau = slot.expert(i).to(start.dtype) - start
                mask = None if elected is None else tau.sign() == elected
                g = (weights[:, i] @ flat).reshape(start.shape)
                g = g if mask is None else g * mask
                curved = tau
                if plan.curvature is not None:
                    g, curved = plan.curvature.pull_back(i, tau, g, sums)
                of_weights[:, i] = flat @ (curved if mask is None else curved * mask).reshape(-1)
                of_base = of_base - g
                rows[i] = g.to(kind)
        experts = [rows] if slot.fused else rows
        parts = [total.to(f.dtype) for total, f in zip(sums, factors, strict=True)]
        return None, of_weights, of_base.to(base.dtype), *experts, *parts


def _elected(slot: Slot, base: Tensor) -> Tensor:
    """Sign of the sum of all domain vectors, entry by entry."""
    total = torch.zeros_like(base)
    for i in range(slot.n):
        total.add_(slot.expert(i).to(base.dtype) - base)
    return total.sign()
