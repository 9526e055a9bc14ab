"""Gram by blocks of columns that stay in the cache: plain torch, any device."""

from __future__ import annotations

import torch

from .parts import Experts, Part

_RUN = 256
"""Columns in one float32 accumulator. The bound on its error is this many roundings."""
_CPU_BYTES = 2**19
_GPU_BYTES = 2**25
U32, U64 = 2.0**-24, 2.0**-53


def gram_blocked(read: Experts, wide: bool) -> tuple[torch.Tensor, float]:
    """Gram (n, n) in float64 and the bound on its relative error.

    Where a GPU computes, products are float64 whatever was asked for: the precision of its float32 products is a
    global switch of the user's, which the promised bound must not depend on.
    """
    wide = wide or read.device.type != "cpu"
    total = torch.zeros(read.n, read.n, dtype=torch.float64, device=read.device)
    for part in read.parts:
        total += _gram_of_part(part, torch.float64 if wide else torch.float32, read.device)
    total = (total + total.T) / 2
    columns = sum(part.length for part in read.parts)
    return total, error_bound(columns, wide)


def error_bound(columns: int, wide: bool) -> float:
    """Each difference and product is rounded once, a run of products is summed in their precision, runs in float64."""
    unit = U64 if wide else U32
    run = min(columns, _RUN)
    return (run + 3) * unit * 1.01 + (columns / _RUN + 2) * U64


def _gram_of_part(part: Part, kind: torch.dtype, device: torch.device) -> torch.Tensor:
    """By blocks as wide as the cache, or narrower ones where the memory for them is not there."""
    width = _width(len(part.experts), device, kind)
    while True:
        try:
            return _gram_by_width(part, kind, device, width)
        except torch.OutOfMemoryError:
            if width <= _RUN:
                raise
            width //= 2


def _gram_by_width(part: Part, kind: torch.dtype, device: torch.device, width: int) -> torch.Tensor:
    n, length = len(part.experts), part.length
    experts, base, _ = part.flat()
    total = torch.zeros(n, n, dtype=torch.float64, device=device)
    scratch = torch.empty(n, min(width, -(-length // _RUN) * _RUN), dtype=kind, device=device)
    below = None if base is None else torch.empty_like(scratch[0])
    for start in range(0, length, width):
        stop = min(start + width, length)
        wanted = -(-(stop - start) // _RUN) * _RUN
        rows = scratch[:, :wanted]
        if wanted > stop - start:
            rows[:, stop - start :] = 0
        piece = None if base is None or below is None else below[: stop - start].copy_(base[start:stop])
        for expert, row in zip(experts, rows, strict=True):
            difference(expert[start:stop], piece, row[: stop - start])
        runs = rows.unflatten(1, (wanted // _RUN, _RUN)).transpose(0, 1)
        total += torch.bmm(runs, runs.transpose(1, 2)).sum(0, dtype=torch.float64)
    return total


def difference(piece: torch.Tensor, below: torch.Tensor | None, into: torch.Tensor) -> None:
    """``piece - below`` rounded once, to the dtype of `below` and `into`."""
    if below is None:
        into.copy_(piece)
    elif piece.dtype == into.dtype:
        torch.sub(piece, below, out=into)
    else:
        into.copy_(piece).sub_(below)


def _width(n: int, device: torch.device, kind: torch.dtype) -> int:
    """Columns of a block: a power of two, such that all experts' pieces stay in the cache."""
    room = _CPU_BYTES * torch.get_num_threads() if device.type == "cpu" else _GPU_BYTES
    width = room // (n * kind.itemsize)
    return max(2 ** (width.bit_length() - 1) if width else 0, 2 * _RUN)
