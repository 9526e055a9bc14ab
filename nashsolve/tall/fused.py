"""The Triton kernels' launches: which data they take, tables of pointers, and the bound on their error."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import lru_cache
from importlib.util import find_spec
from typing import Any, NamedTuple

import torch

from .blocked import U32, U64
from .combine_blocked import Momentum
from .parts import Experts, Part

_PROGRAMS = 528
"""Programs of a launch at most: four for each multiprocessor of an H100, and the same everywhere, for the same bits."""
_MOST = 128
"""Experts whose Gram a program holds in registers."""
_TENSOR_UNIT = 2.0**-22
"""Truncation of one accumulation of 16 products in a tensor core, one bit coarser than has been reported."""
_COLUMNS = 1024


def why_not(read: Experts, products: str = "float32") -> str | None:
    """None where the kernels take these experts, else the reason."""
    if read.device.type != "cuda" and not _interpreted():
        return f"the experts are on {read.device}; triton needs a CUDA device"
    if find_spec("triton") is None:
        return "triton is not installed"
    if products == "float64" or any(part.wide == torch.float64 for part in read.parts):
        return "its products are float32"
    if read.n > _MOST:
        return f"there are {read.n} experts and it takes at most {_MOST}"
    return why_not_combine(read)


def why_not_combine(read: Experts) -> str | None:
    """The same for the combination, which takes any number of experts and float64."""
    if read.device.type != "cuda" and not _interpreted():
        return f"the experts are on {read.device}; triton needs a CUDA device"
    if find_spec("triton") is None:
        return "triton is not installed"
    if any(len({t.dtype for t in part.experts}) > 1 for part in read.parts):
        return "the experts differ in dtype"
    return None


def _interpreted() -> bool:
    return os.environ.get("TRITON_INTERPRET") == "1"


def gram_fused(read: Experts) -> tuple[torch.Tensor, float]:
    """Gram (n, n) in float64 and the bound on its relative error."""
    import triton

    from .triton_kernels import gram_partials, sum_partials

    n, device = read.n, read.device
    padded = max(16, triton.next_power_of_2(n))
    parts = [part for part in read.parts if part.length]
    shapes = [launch_shape(padded, max(t.dtype.itemsize for t in part.experts)) for part in parts]
    counts = [min(_PROGRAMS, triton.cdiv(p.length, 4 * s.block)) for p, s in zip(parts, shapes, strict=True)]
    if not counts:
        return torch.zeros(n, n, dtype=torch.float64, device=device), 0.0
    partial = torch.empty(sum(counts), padded, padded, dtype=torch.float64, device=device)
    start, error = 0, 0.0
    for part, shape, count in zip(parts, shapes, counts, strict=True):
        experts, base, _ = part.flat()
        pieces, lost = _pieces(part)
        gram_partials[(count,)](
            pointers(tuple(t.data_ptr() for t in experts), device),
            experts[0] if base is None else base,
            partial[start:],
            part.length,
            N=n,
            NP=padded,
            BLOCK=shape.block,
            KIND=_kind(experts[0].dtype),
            HAS_BASE=base is not None,
            PIECES=pieces,
            ALIGNED=_aligned(experts),
            EMULATED=_interpreted(),
            num_warps=shape.warps,
            num_stages=shape.stages,
        )
        start += count
        dots = {1: 1, 2: 3, 3: 4}[pieces]
        error = max(error, lost + dots * shape.block / 16 * _TENSOR_UNIT + shape.block / 16 * U32)
    out = torch.empty(n, n, dtype=torch.float64, device=device)
    width = min(64, padded * padded)
    sum_partials[(padded * padded // width,)](partial, out, start, N=n, NP=padded, WIDTH=width, DEEP=16)
    return out, error + (sum(p.length / s.block for p, s in zip(parts, shapes, strict=True)) + start) * U64


class Shape(NamedTuple):
    """Columns of a tile, warps and stages of its pipeline."""

    block: int
    warps: int
    stages: int


def launch_shape(padded: int, itemsize: int) -> Shape:
    """For experts padded to a power of two: the widest tiles whose registers do not spill on sm_90."""
    wide = itemsize > 2
    return {
        16: Shape(256, 4, 3),
        32: Shape(128 if wide else 256, 4, 3),
        64: Shape(64 if wide else 128, 8, 3),
        128: Shape(32 if wide else 64, 8, 2),
    }[padded]


def _pieces(part: Part) -> tuple[int, float]:
    """Into how many bfloat16 numbers a difference is split, and what is lost by the split and by rounding it.

    One holds bfloat16 data themselves, two hold 16 digits (all of float16) and three 24.
    """
    dtypes = {t.dtype for t in part.experts}
    if part.base is None and dtypes <= {torch.bfloat16, torch.float16}:
        return (1, 0.0) if dtypes == {torch.bfloat16} else (2, 0.0)
    narrow = dtypes <= {torch.bfloat16, torch.float16}
    narrow = narrow and (part.base is None or part.base.dtype in (torch.bfloat16, torch.float16))
    rounding = 2 * U32 if part.base is not None else 0.0
    return (2, 2.0**-17 + rounding) if narrow else (3, 2.0**-24 + rounding)


def combine_fused(
    experts: Sequence[torch.Tensor],
    base: torch.Tensor | None,
    c: torch.Tensor,
    step: complex,
    beta: Momentum | None,
    old: Sequence[torch.Tensor],
    results: Sequence[torch.Tensor],
    kind: torch.dtype,
) -> None:
    """What `combine_blocked` does, in one kernel."""
    import triton

    from .triton_kernels import combine_columns

    length, device = experts[0].numel(), experts[0].device
    if not length:
        return
    fixed = (step.real, step.imag, *((beta.r, beta.u) if beta else (0.0, 0.0)))
    out = results[0]
    p_new, q_new = [*results[1:], out, out][:2]
    p_old, q_old = [*old, out, out][:2]
    combine_columns[(triton.cdiv(length, _COLUMNS),)](
        pointers(tuple(t.data_ptr() for t in experts), device),
        experts[0] if base is None else base,
        torch.cat([c, constants(fixed, kind, device)]),
        out,
        p_old,
        q_old,
        p_new,
        q_new,
        length,
        N=len(experts),
        BLOCK=_COLUMNS,
        KIND=_kind(experts[0].dtype),
        WIDE=_kind(kind),
        HAS_BASE=base is not None,
        BUFFERS=beta.buffers if beta else 0,
        HAS_OLD=bool(old),
        ALIGNED=_aligned(experts),
        num_warps=4,
    )


@lru_cache(maxsize=256)
def pointers(addresses: tuple[int, ...], device: torch.device) -> torch.Tensor:
    """Addresses on the device; the same ones are copied there once, from pinned memory, so that nothing waits.

    A CUDA graph must find them there: the copy would be captured, and its source is gone when the graph is replayed.
    """
    table = torch.tensor(addresses, dtype=torch.int64)
    return table if device.type == "cpu" else table.pin_memory().to(device, non_blocking=True)


@lru_cache(maxsize=256)
def constants(values: tuple[float, ...], kind: torch.dtype, device: torch.device) -> torch.Tensor:
    """Numbers on the device, copied there once."""
    numbers = torch.tensor(values, dtype=kind)
    return numbers if device.type == "cpu" else numbers.pin_memory().to(device, non_blocking=True)


def _aligned(tensors: Sequence[torch.Tensor]) -> bool:
    return all(t.data_ptr() % 16 == 0 for t in tensors)


def _kind(dtype: torch.dtype) -> Any:
    import triton.language as tl

    return {
        torch.bfloat16: tl.bfloat16,
        torch.float16: tl.float16,
        torch.float32: tl.float32,
        torch.float64: tl.float64,
    }[dtype]
