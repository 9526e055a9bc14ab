"""The compiled one-pass kernels for CPUs: what loads them, which data they take, and the bound on their error."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

import torch

from nashsolve.tall.blocked import U32, U64
from nashsolve.tall.combine_blocked import Momentum
from nashsolve.tall.parts import Experts, Part

SOURCE = Path(__file__).parent
_CHUNK = 2**18
"""Columns of one call. Chunks are summed in their order, so that the bits do not depend on the number of threads."""
_MOST = 512
"""Experts whose accumulators are worth their memory; beyond, products of matrices are what limits."""
_KINDS = {torch.bfloat16: 0, torch.float16: 1, torch.float32: 2, torch.float64: 3}
_SETS = {"AVX512": ("v4", "v3", "base"), "AVX2": ("v3", "base")}


@cache
def library() -> tuple[Any, str]:
    """The library for this processor and an empty string, or None and why there is none."""
    reason = "this installation was built without a C++ compiler"
    for name in _SETS.get(torch.backends.cpu.get_cpu_capability(), ("base",)):
        file = SOURCE / f"_columns_{name}.so"
        if file.exists():
            try:
                return ctypes.CDLL(str(file)), ""
            except OSError as error:
                reason = f"{file.name} does not load: {error}"
    return None, reason


def why_not(read: Experts) -> str | None:
    """None where the compiled kernels take these experts, else the reason."""
    if read.device.type != "cpu":
        return f"the experts are on {read.device}; the compiled kernels are for the CPU"
    if read.n > _MOST:
        return f"there are {read.n} experts and they take at most {_MOST}"
    return library()[1] or None


def gram_compiled(read: Experts, wide: bool) -> tuple[torch.Tensor, float]:
    """Gram (n, n) in float64 and the bound on its relative error."""
    total = torch.zeros(read.n, read.n, dtype=torch.float64)
    for part in read.parts:
        for piece in _pieces_of(part, wide):
            total += piece
    lib = library()[0]
    run = min(lib.nash_block() // lib.nash_lanes(), max(part.length for part in read.parts))
    columns = sum(part.length for part in read.parts)
    return total, (run + 3) * (U64 if wide else U32) * 1.01 + (columns / lib.nash_block() + 64) * U64


def _pieces_of(part: Part, wide: bool) -> torch.Tensor:
    """Grams (chunks, n, n) of the chunks of columns."""
    experts, base, _ = part.flat()
    n = len(experts)
    bounds = _bounds(part.length)
    pieces = torch.zeros(len(bounds), n, n, dtype=torch.float64)
    table = _table(experts, base)
    call = library()[0].nash_gram

    def run(k: int) -> None:
        begin, end = (ctypes.c_int64(x) for x in bounds[k])
        if call(*table, ctypes.c_int(wide), begin, end, ctypes.c_void_p(pieces[k].data_ptr())):
            raise MemoryError("no memory for the scratch of a Gram")

    _on_all_cores(run, len(bounds))
    return pieces


def combine_compiled(
    experts: Sequence[torch.Tensor],
    base: torch.Tensor | None,
    c: torch.Tensor,
    step: complex,
    beta: Momentum | None,
    old: Sequence[torch.Tensor],
    results: Sequence[torch.Tensor],
    kind: torch.dtype,
) -> None:
    """What `combine_blocked` does, in one pass."""
    fixed = (step.real, step.imag, *((beta.r, beta.u) if beta else (0.0, 0.0)))
    numbers = (ctypes.c_double * (len(experts) + 4))(*c.double().tolist(), *fixed)
    buffers = beta.buffers if beta else 0
    places: list[int | None] = [None] * 4
    for k in range(buffers):
        places[k] = old[k].data_ptr() if old else None
        places[k + 2] = results[k + 1].data_ptr()
    rest = (ctypes.c_void_p * 4)(*places)
    out, call = results[0], library()[0].nash_combine
    bounds, table = _bounds(len(out)), _table(experts, base)
    into = (ctypes.c_void_p(out.data_ptr()), ctypes.c_int(_KINDS[out.dtype]))
    how = (ctypes.c_int(buffers), ctypes.c_int(kind == torch.float64))

    def run(k: int) -> None:
        call(*table, numbers, *into, rest, *how, *(ctypes.c_int64(x) for x in bounds[k]))

    _on_all_cores(run, len(bounds))


def _bounds(length: int) -> list[tuple[int, int]]:
    return [(begin, min(begin + _CHUNK, length)) for begin in range(0, length, _CHUNK)]


def _table(experts: Sequence[torch.Tensor], base: torch.Tensor | None) -> tuple[Any, ...]:
    n = len(experts)
    return (
        (ctypes.c_void_p * n)(*(t.data_ptr() for t in experts)),
        ctypes.c_int64(n),
        (ctypes.c_int * n)(*(_KINDS[t.dtype] for t in experts)),
        ctypes.c_void_p(None if base is None else base.data_ptr()),
        ctypes.c_int(_KINDS[torch.float32 if base is None else base.dtype]),
    )


def _on_all_cores(run: Callable[[int], None], count: int) -> None:
    """`run(k)` for every k, on as many threads as torch uses; the calls leave Python's lock alone."""
    workers = min(torch.get_num_threads(), count)
    if workers <= 1:
        for k in range(count):
            run(k)
        return
    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(run, range(count)))
