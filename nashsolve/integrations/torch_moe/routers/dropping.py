"""Dropping of choices beyond the capacity of their experts."""

from __future__ import annotations

from dataclasses import replace

import torch

from nashsolve.core.errors import InvalidProblem

from ..balance.capacity import DROP_ORDERS, expert_capacity, keep_within_capacity
from ..router_output import RouterOutput
from .checks import choice


def drop(output: RouterOutput, factor: float | None, order: str) -> RouterOutput:
    """Set the weights of choices beyond the capacity of their experts to zero; padding takes no place."""
    if factor is None:
        return output
    n = output.probs.shape[-1]
    rows, k = output.topk_index.shape
    index, priority = output.topk_index, None
    if output.row_mask is not None:
        index = torch.where(output.row_mask[:, None], index, n)  # a waiting line of its own
    if order == "score":
        priority = output.probs.detach().max(dim=-1).values
    kept = keep_within_capacity(index, n + 1, expert_capacity(rows, n, k, factor), priority)
    return replace(output, topk_weight=output.topk_weight * kept)


def check_capacity(factor: float | None, order: str) -> float | None:
    """Raise for a capacity factor that is not positive, an unknown order, or an order without a factor."""
    choice("drop_order", order, DROP_ORDERS)
    if factor is None and order != "arrival":
        raise InvalidProblem("drop_order changes nothing without capacity_factor")
    if factor is not None and not factor > 0:
        raise InvalidProblem(f"capacity_factor is {factor}; it must be positive")
    return factor
