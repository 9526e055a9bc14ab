"""How many choices an expert takes, and which are dropped beyond that."""

from __future__ import annotations

import torch
from torch import Tensor

from nashsolve.core.errors import InvalidProblem

DROP_ORDERS = ("arrival", "score")


def expert_capacity(n_rows: int, n_experts: int, top_k: int, factor: float) -> int:
    r"""Choices that one expert takes.

    .. math:: k \left\lfloor \mathrm{factor} \cdot \lceil T / N \rceil \right\rfloor

    Parameters
    ----------
    n_rows : T >= 0
    n_experts, top_k : N, k >= 1
    factor : > 0

    Returns
    -------
    int. Source: [tutel2023]_

    Raises
    ------
    InvalidProblem
    """
    if not factor > 0:
        raise InvalidProblem(f"capacity_factor is {factor}; it must be positive")
    return top_k * int(factor * -(-n_rows // n_experts))


def keep_within_capacity(topk_index: Tensor, n_experts: int, capacity: int, priority: Tensor | None = None) -> Tensor:
    """Which choices an expert still takes: all first choices come before all second ones, and so on.

    Parameters
    ----------
    topk_index : (rows, k) int64, best first
    n_experts : N
    capacity : choices that one expert takes
    priority : (rows,), optional
        Rows of high priority are served first (batch-prioritised routing); by default in their order.

    Returns
    -------
    bool (rows, k). Source: [tutel2023]_, [vmoe2021]_
    """
    rows, k = topk_index.shape
    served = topk_index if priority is None else topk_index[priority.argsort(descending=True, stable=True)]
    line = torch.nn.functional.one_hot(served.T.reshape(-1), n_experts)  # all first choices, then all second ones
    place = (line.cumsum(0) * line).sum(-1).reshape(k, rows).T
    kept = place <= capacity
    if priority is None:
        return kept
    back = torch.empty_like(kept)
    back[priority.argsort(descending=True, stable=True)] = kept
    return back
