"""Grams and combinations of long parameter vectors against the rate at which this machine reads memory.

    python -m benchmarks.gram_bandwidth [--quick] [--threads 1,2] [--json FILE]

Each round reads one tensor as large as the experts and their base, then runs every method once, in rotating order; a
share is the rate of the method over that of the read in the same round, and its median over the rounds is printed. Time
is that of the process on its core, so that other work on a shared machine counts less, and wall time with more threads.

The last table shows which of two limits a Gram meets: one core's read of its bytes, or the kernel's arithmetic, timed
on columns that stay in the cache. The highest share is what both would allow if they overlapped fully.

`whole matrix` stacks the differences and multiplies them in float32, as one would without the library.
"""

from __future__ import annotations

import argparse
import ctypes
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

import nashsolve as ns
from benchmarks import measure

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16, "float64": torch.float64}
Tensors = list[torch.Tensor]


def draw(n: int, d: int, dtype: torch.dtype) -> tuple[Tensors, torch.Tensor]:
    """n experts, each a tenth of its length away from the base."""
    generator = torch.Generator().manual_seed(n)
    base = torch.randn(d, generator=generator)
    return [(base + 0.1 * torch.randn(d, generator=generator)).to(dtype) for _ in range(n)], base.to(dtype)


def stacked(experts: Tensors, base: torch.Tensor) -> torch.Tensor:
    rows = torch.stack(experts).float() - base.float()
    return rows @ rows.T


def gram_methods(experts: Tensors, base: torch.Tensor) -> dict[str, Callable[[], Any]]:
    """Name -> a call whose result is a Gram or a DifferenceGram."""
    calls: dict[str, Callable[[], Any]] = {
        "auto": lambda: ns.gram_of_differences(experts, base),
        "auto, float64 products": lambda: ns.gram_of_differences(experts, base, products="float64"),
        "torch": lambda: ns.gram_of_differences(experts, base, method="torch"),
        "whole matrix": lambda: stacked(experts, base),
    }
    return calls


def combine_methods(experts: Tensors, base: torch.Tensor) -> dict[str, Callable[[], Any]]:
    """The combination alone, and fused with complex momentum."""
    c = torch.full((len(experts),), 0.5 / len(experts), dtype=torch.float64)
    out = torch.empty_like(base)
    wide = torch.float64 if base.dtype == torch.float64 else torch.float32
    state = [torch.zeros_like(base, dtype=wide) for _ in range(2)]

    def moving() -> Any:
        return ns.combine(base, experts, c, momentum=0.5j, buffers=state, out=out, buffers_out=state)

    return {
        "auto": lambda: ns.combine(base, experts, c, out=out),
        "auto, complex momentum": moving,
        "torch": lambda: ns.combine(base, experts, c, out=out, method="torch"),
        "sum of c_i (E_i - b)": lambda: base + sum(ci * (e - base) for ci, e in zip(c.tolist(), experts, strict=True)),
    }


def traffic(name: str, n: int, d: int, dtype: torch.dtype) -> int:
    """Bytes that the combination has to read and write."""
    moved = (n + 2) * d * dtype.itemsize
    return moved + 4 * d * max(4, dtype.itemsize) if "momentum" in name else moved


def seconds(call: Callable[[], Any], threads: int) -> float:
    clock = time.process_time if threads == 1 else time.perf_counter
    begin = clock()
    call()
    return clock() - begin


def shares(
    calls: Mapping[str, Callable[[], Any]], sizes: Mapping[str, int], threads: int, rounds: int
) -> dict[str, Any]:
    """Median over the rounds of the read time over each method's time for the same bytes, and of the times in ms."""
    probe = torch.ones(min(max(sizes.values()), 2**28) // 4)
    names = list(calls)
    found: dict[str, list[float]] = {name: [] for name in names}
    times: dict[str, list[float]] = {name: [] for name in names}
    reads = []
    for name in names:
        calls[name]()
    for turn in range(rounds):
        read = seconds(probe.sum, threads) / (probe.numel() * 4)
        reads.append(1e-9 / read)
        shift = turn % len(names)
        for name in names[shift:] + names[:shift]:
            took = seconds(calls[name], threads)
            found[name].append(read * sizes[name] / took)
            times[name].append(1e3 * took)
    middle = statistics.median
    return {"read": middle(reads)} | {k: (middle(found[k]), middle(times[k])) for k in names}


def in_cache(experts: Tensors, base: torch.Tensor, repeats: int = 200) -> float:
    """Seconds a column that the compiled kernel takes where nothing comes from memory, or NaN without it."""
    from nashsolve.tall import native

    if native.library()[0] is None:
        return float("nan")
    columns = min(4096, len(base))
    short, low = [e[:columns].clone() for e in experts], base[:columns].clone()
    table, out = native._table(short, low), torch.empty(len(short), len(short), dtype=torch.float64)
    bounds = ctypes.c_int(0), ctypes.c_int64(0), ctypes.c_int64(columns), ctypes.c_void_p(out.data_ptr())
    call, best = native.library()[0].nash_gram, float("inf")
    for _ in range(repeats):
        begin = time.process_time_ns()
        for _ in range(8):
            call(*table, *bounds)
        best = min(best, 1e-9 * (time.process_time_ns() - begin) / 8)
    return best / columns


def limits(n: int, d: int, kind: str, share: float, read: float) -> dict[str, Any]:
    """Milliseconds that reading and arithmetic alone take on one core, and which of them rules."""
    experts, base = draw(n, min(d, 8192), DTYPES[kind])
    reading = 1e3 * (n + 1) * d * DTYPES[kind].itemsize / (1e9 * read)
    products = 1e3 * d * in_cache(experts, base)
    return {"n": n, "d": d, "dtype": kind, "reading": reading, "products": products, "share": share}


def report_limits(rows: Sequence[Mapping[str, Any]]) -> str:
    """Both limits side by side."""
    lines = []
    for r in rows:
        ratio = r["products"] / r["reading"]
        rule = "bandwidth" if ratio <= 0.8 else ("both" if ratio <= 1 else "arithmetic")
        cells = [measure.figure(r["reading"]), measure.figure(r["products"]), f"{min(1.0, 1 / ratio):.2f}"]
        lines.append([f"gram {r['n']} x {r['d'] / 1e6:g}M {r['dtype']}", *cells, f"{r['share']:.2f}", rule])
    header = ["", "reading, ms", "arithmetic, ms", "highest share", "measured share", "limit"]
    return measure.table("What limits the compiled Gram on one core", header, lines)


def relative_error(found: Any, experts: Tensors, base: torch.Tensor) -> float:
    """Against products in float64 of the same data."""
    gram = found.gram if hasattr(found, "gram") else found.double()
    exact = ns.gram_of_differences(experts, base, products="float64", method="torch").gram
    size = exact.diagonal().sqrt()
    return float(((gram - exact).abs() / (size[:, None] * size)).max())


def case(kind: str, n: int, d: int, threads: int, rounds: int) -> list[dict[str, Any]]:
    """All methods of both operations on one set of experts."""
    dtype = DTYPES[kind]
    experts, base = draw(n, d, dtype)
    size = (n + 1) * d * dtype.itemsize
    rows = []
    for operation, calls in (("gram", gram_methods(experts, base)), ("combine", combine_methods(experts, base))):
        sizes = {name: size if operation == "gram" else traffic(name, n, d, dtype) for name in calls}
        found = shares(calls, sizes, threads, rounds)
        for name, call in calls.items():
            share, milliseconds = found[name]
            error = relative_error(call(), experts, base) if operation == "gram" else float("nan")
            bound = getattr(call(), "gram_error", float("nan")) if operation == "gram" else float("nan")
            row = {"operation": operation, "n": n, "d": d, "dtype": kind, "threads": threads, "method": name}
            row |= {"ms": milliseconds, "share": share, "read_gb_s": found["read"], "error": error, "bound": bound}
            rows.append(row)
    return rows


def report(rows: Sequence[Mapping[str, Any]]) -> str:
    lines = [
        [
            f"{r['operation']} {r['n']} x {r['d'] / 1e6:g}M {r['dtype']}, {r['method']}",
            str(r["threads"]),
            measure.figure(r["ms"]),
            f"{r['share']:.2f}",
            measure.figure(r["error"], 2),
            measure.figure(r["bound"], 2),
        ]
        for r in rows
    ]
    header = ["", "threads", "ms", "share of read rate", "error", "stated bound"]
    return measure.table("One pass over the experts and their base", header, lines)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--quick", action="store_true", help="a quarter of the length, fewer rounds, float32 and bfloat16"
    )
    parser.add_argument("--threads", default="1", help="compute threads, such as 1,2")
    parser.add_argument("--json", type=Path, help="write all figures to this file")
    options = parser.parse_args(arguments)
    sizes = {8: 4_718_592, 60: 1_048_576}
    kinds = list(DTYPES)[:2] if options.quick else list(DTYPES)
    rows = []
    for threads in (int(t) for t in options.threads.split(",")):
        torch.set_num_threads(threads)
        for n, d in sizes.items():
            for kind in kinds:
                rows += case(kind, n, d // 4 if options.quick else d, threads, 3 if options.quick else 7)
    print(measure.banner())
    print(report(rows))
    rates = sorted({round(r["read_gb_s"], 1) for r in rows})
    print(f"Measured read rates: {rates[0]} to {rates[-1]} GB/s\n")
    ours = [r for r in rows if (r["operation"], r["method"], r["threads"]) == ("gram", "auto", 1)]
    rooflines = [
        limits(r["n"], r["d"], r["dtype"], r["share"], r["read_gb_s"]) for r in ours if r["dtype"] != "float64"
    ]
    print(report_limits(rooflines))
    if options.json:
        measure.write_json(options.json, {"rows": rows, "limits": rooflines})


if __name__ == "__main__":
    main()
