"""Everything to be measured on a GPU, in one run of about ten minutes.

    python -m benchmarks.gpu [--quick] [--only gram,solve] [--json FILE]

ceilings      rates of copying, of reading, and of bfloat16 products
accumulator   how wide a tensor core's accumulator is, and where libraries split a long sum
gram          Gram bandwidth: ours, torch's mm and bmm, and the memory that each takes
differences   fused, augmented and materialized differences: time and error by the distance from the base
combine       combination and momentum against the copy rate
solve         problems per second and latency of the engines, and of the same in torch operations
chain         24 layers of Gram, solve and combine in one CUDA graph, and that nothing waits for the host
streams       the same results from streams that race

A part that fails is reported as such and makes the exit status 1. Times are CUDA events, medians over rounds in which
everything is timed in turn, on fresh random data that is larger than the caches.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

import nashsolve as ns
from benchmarks import measure

Calls = Mapping[str, Callable[[], Any]]


def events(calls: Calls, rounds: int = 20, inner: int = 1) -> dict[str, float]:
    """Median milliseconds of each call."""
    found: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        call()
        call()
    for _ in range(rounds):
        for name, call in calls.items():
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begin.record()
            for _ in range(inner):
                call()
            end.record()
            end.synchronize()
            found[name].append(begin.elapsed_time(end) / inner)
    return {name: statistics.median(times) for name, times in found.items()}


def replayed(call: Callable[[], Any], inner: int = 100) -> float:
    """Microseconds of a call in a CUDA graph that holds `inner` of them."""
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        for _ in range(3):
            call()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=side):
        for _ in range(inner):
            call()
    return 1e3 * events({"graph": graph.replay})["graph"] / inner


def ceilings(quick: bool) -> dict[str, Any]:
    count = 2**27 if quick else 2**29
    a, b = torch.randn(count, device="cuda"), torch.empty(count, device="cuda")
    m = torch.randn(8192, 8192, device="cuda").bfloat16()
    took = events({"copy": lambda: b.copy_(a), "read": a.sum, "bf16 gemm": lambda: m @ m})
    return {
        "copy TB/s": 8 * count / took["copy"] / 1e9,
        "read TB/s": 4 * count / took["read"] / 1e9,
        "bf16 TFLOP/s": 2 * 8192**3 / took["bf16 gemm"] / 1e9,
    }


def accumulator(quick: bool) -> dict[str, Any]:
    """Relative error of the diagonal for sums of K squares of |bf16 numbers|, by method."""
    from benchmarks.gpu_kernels import dot_chain

    found: dict[str, Any] = {}
    for power in range(10, 20 if quick else 24):
        k = 2**power
        x = torch.randn(16, k, device="cuda").abs().bfloat16()
        exact = (x.double() ** 2).sum(1)

        def off(gram: torch.Tensor, exact: torch.Tensor = exact) -> float:
            return float(((gram.diagonal().double() - exact) / exact).abs().max())

        row = {"mm": off(torch.mm(x, x.T, out_dtype=torch.float32))}
        for chunk in (512, 2048, 8192, 65536):
            if chunk <= k:
                runs = x.unflatten(1, (k // chunk, chunk)).transpose(0, 1)
                parts = torch.bmm(runs, runs.transpose(1, 2), out_dtype=torch.float32)
                row[f"bmm {chunk}"] = off(parts.sum(0, dtype=torch.float64))
        for every in (0, 8):
            out = torch.empty(16, 16, device="cuda")
            dot_chain[(1,)](x, out, k, N=16, BLOCK=128, EVERY=every)
            row["one accumulator" if every == 0 else "emptied every 1024"] = off(out)
        row["nashsolve"] = off(ns.gram_of_differences(list(x)).gram)
        found[f"K=2^{power}"] = row
    return found


def gram(quick: bool) -> dict[str, Any]:
    """Share of the read rate and peak memory beyond the data, by shape."""
    rate = ceilings(True)["read TB/s"]
    found: dict[str, Any] = {}
    for n, d in ((8, 4_718_592), (60, 8_650_752 // (4 if quick else 1)), (64, 8_650_752 // (4 if quick else 1))):
        for dtype in (torch.bfloat16, torch.float32):
            rotated = 1 + int(2.5e8 / ((n + 1) * d * dtype.itemsize))
            sets = [torch.randn(n + 1, d, device="cuda").to(dtype) for _ in range(rotated)]
            turn = itertools.cycle(sets)

            def rows(turn: Any = turn) -> torch.Tensor:
                return next(turn)

            def ours(method: str, rows: Any = rows) -> Any:
                x = rows()
                return ns.gram_of_differences(list(x[:-1]), x[-1], method=method)

            def chunks(rows: Any = rows, d: int = d) -> Any:
                x = rows()
                x = (x[:-1] - x[-1]).unflatten(1, (d // 2048, 2048)).transpose(0, 1)
                out = {} if x.dtype == torch.float32 else {"out_dtype": torch.float32}
                return torch.bmm(x, x.transpose(1, 2), **out).sum(0, dtype=torch.float64)

            def whole(rows: Any = rows) -> Any:
                x = rows()
                x = x[:-1] - x[-1]
                return torch.mm(x, x.T) if x.dtype == torch.float32 else torch.mm(x, x.T, out_dtype=torch.float32)

            calls = {"triton": lambda o=ours: o("triton"), "torch path": lambda o=ours: o("torch")}
            calls |= {"subtract, bmm": chunks, "subtract, mm": whole}
            size = (n + 1) * d * dtype.itemsize
            took = events(calls, 5 if quick else 20)
            row = {}
            for name, call in calls.items():
                torch.cuda.reset_peak_memory_stats()
                before = torch.cuda.memory_allocated()
                call()
                torch.cuda.synchronize()
                more = torch.cuda.max_memory_allocated() - before
                row[name] = {"ms": took[name], "share": size / took[name] / 1e9 / rate, "MB": more / 1e6}
            found[f"{n} x {d} {dtype}"] = row
            del sets
    return found


def differences(quick: bool) -> dict[str, Any]:
    """Errors of three ways to the Gram of experts at a relative distance from their base."""
    d = 2**20 if quick else 2**22
    found: dict[str, Any] = {}
    for near in (1.0, 0.1, 3e-2, 1e-2, 1e-3, 1e-4):
        base = torch.randn(d, device="cuda")
        x = base + near * torch.randn(8, d, device="cuda")
        exact = ns.gram_of_differences(list(x), base, products="float64").gram
        size = exact.diagonal().sqrt()
        taller = torch.cat([x, base[None]])
        joint = taller @ taller.T
        augmented = joint[:-1, :-1] - joint[:-1, -1:] - joint[-1:, :-1] + joint[-1, -1]
        shifted = x - base
        calls = {
            "fused": lambda x=x, base=base: ns.gram_of_differences(list(x), base).gram,
            "augmented": lambda taller=taller: taller @ taller.T,
            "materialized": lambda x=x, base=base: (x - base) @ (x - base).T,
        }
        took = events(calls, 10)
        grams = {"fused": calls["fused"](), "augmented": augmented, "materialized": shifted @ shifted.T}
        found[f"delta {near:g}"] = {
            name: {"error": float(((g.double() - exact).abs() / (size[:, None] * size)).max()), "ms": took[name]}
            for name, g in grams.items()
        }
    return found


def combine(quick: bool) -> dict[str, Any]:
    rate = ceilings(True)["copy TB/s"]
    found: dict[str, Any] = {}
    for n, d in ((8, 4_718_592), (60, 8_650_752 // (4 if quick else 1))):
        x = torch.randn(n + 1, d, device="cuda").bfloat16()
        c = torch.full((n,), 1 / n, device="cuda", dtype=torch.float64)
        out = torch.empty_like(x[0])
        state = [torch.zeros(d, device="cuda") for _ in range(2)]
        experts, base = list(x[:-1]), x[-1]
        calls = {
            "combine": lambda e=experts, b=base, c=c, o=out: ns.combine(b, e, c, out=o),
            "complex momentum": lambda e=experts, b=base, c=c, o=out, s=state: ns.combine(
                b, e, c, momentum=0.5j, buffers=s, out=o, buffers_out=s
            ),
        }
        took = events(calls)
        size = {"combine": 2 * (n + 2) * d, "complex momentum": 2 * (n + 2) * d + 16 * d}
        found[f"{n} x {d}"] = {k: {"ms": took[k], "share": size[k] / took[k] / 1e9 / rate} for k in calls}
    return found


def problems(count: int, n: int) -> torch.Tensor:
    rows = torch.randn(count, n, 2 * n, device="cuda", dtype=torch.float64)
    return rows @ rows.mT


def solve(quick: bool) -> dict[str, Any]:
    """Problems per second in batches, and microseconds for one problem, called and replayed."""
    found: dict[str, Any] = {}
    for n in (8, 16, 32, 64):
        most = (10**5 if quick else 10**6) // (1 if n <= 16 else 4 if n == 32 else 16)
        for count in sorted({1, 1000, 100_000, most} & set(range(most + 1))):
            gram_batch = problems(count, n)
            row: dict[str, Any] = {}
            for engine in ("cupy", "newton"):
                try:
                    call = lambda g=gram_batch, e=engine: ns.solve(g, solver=e, on_failure="return")  # noqa: E731
                    milliseconds = events({"call": call}, 5)["call"]
                    row[engine] = {"ms": milliseconds, "per second": 1e3 * count / milliseconds}
                    if count == 1 and engine == "cupy":
                        row[engine]["us in a graph"] = replayed(call)
                except Exception as error:
                    row[engine] = f"failed: {type(error).__name__}: {error}"
            found[f"n={n}, batch {count}"] = row
    return found


def chain(quick: bool) -> dict[str, Any]:
    """A chain of layers, each base expert the agreed one of the layer before."""
    layers, n, d = 24, 8, 2**20 if quick else 2**22
    experts = [[torch.randn(d, device="cuda").bfloat16() for _ in range(n)] for _ in range(layers)]
    base = torch.zeros(d, device="cuda").bfloat16()
    outs = [torch.empty_like(base) for _ in range(layers)]

    def run() -> torch.Tensor:
        below = base
        for layer, out in zip(experts, outs, strict=True):
            g = ns.gram_of_differences(layer, below)
            problem = ns.BargainingProblem(gram=g.gram, gram_error=g.gram_error)
            alpha = ns.solve(problem, solver="cupy", on_failure="return").coefficients
            below = ns.combine(below, layer, alpha, out=out)
        return below

    run()
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        run()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return {"ms": events({"chain": run}, 5)["chain"], "ms in a graph": replayed(run, 1) / 1e3, "syncs": 0}


def streams(quick: bool) -> dict[str, Any]:
    """Producer and consumer on different streams, many times: every result must have the bits of the first."""
    wrong, first = 0, None
    x = torch.randn(9, 2**18, device="cuda")
    for _ in range(50 if quick else 500):
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            y = x * 1.0
            found = ns.gram_of_differences(list(y[:-1]), y[-1]).gram
            alpha = ns.solve(found, solver="cupy", on_failure="return").alpha
        torch.cuda.current_stream().wait_stream(side)
        alpha.record_stream(torch.cuda.current_stream())
        result = alpha.clone()
        first = result if first is None else first
        wrong += int(not torch.equal(first, result))
    if wrong:
        raise AssertionError(f"{wrong} results differ")
    return {"different results": 0}


PARTS: dict[str, Callable[[bool], dict[str, Any]]] = {
    f.__name__: f for f in (ceilings, accumulator, gram, differences, combine, solve, chain, streams)
}


def lines(found: Mapping[str, Any], indent: str = "  ") -> list[str]:
    """Nested figures as indented text."""
    out = []
    for name, value in found.items():
        if isinstance(value, Mapping):
            flat = all(not isinstance(v, Mapping) for v in value.values())
            text = "   ".join(f"{k} {v:.4g}" if isinstance(v, float | int) else f"{k} {v}" for k, v in value.items())
            out += [f"{indent}{name}: {text}"] if flat else [f"{indent}{name}", *lines(value, indent + "  ")]
        else:
            out.append(f"{indent}{name}: {value:.4g}" if isinstance(value, float | int) else f"{indent}{name}: {value}")
    return out


def incomplete(found: Mapping[str, Any]) -> bool:
    """Whether something within a part has failed."""
    values = found.values()
    return any(incomplete(v) if isinstance(v, Mapping) else str(v).startswith("failed") for v in values)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="smaller shapes, fewer rounds")
    parser.add_argument("--only", default=",".join(PARTS), help="parts to run, separated by commas")
    parser.add_argument("--json", type=Path, help="write all figures to this file")
    options = parser.parse_args(arguments)
    wanted = options.only.split(",")
    unknown = [name for name in wanted if name not in PARTS]
    if unknown:
        parser.error(f"there is no part {unknown[0]!r}; the parts are {', '.join(PARTS)}")
    if not torch.cuda.is_available():
        sys.exit("This benchmark needs a CUDA device, and torch sees none: nothing was measured.")
    print(measure.banner())
    print(f"{torch.cuda.get_device_name()}, CUDA {torch.version.cuda}")
    results: dict[str, Any] = {"device": torch.cuda.get_device_name(), "cuda": torch.version.cuda}
    failed = []
    for name in wanted:
        begin = time.perf_counter()
        try:
            results[name] = PARTS[name](options.quick)
        except Exception as error:
            results[name] = {name: f"failed: {type(error).__name__}: {error}"}
        failed += [name] if incomplete(results[name]) else []
        print(f"\n{name} ({time.perf_counter() - begin:.0f} s)")
        print("\n".join(lines(results[name])), flush=True)
        if options.json:
            measure.write_json(options.json, results)
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
