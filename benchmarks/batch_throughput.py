"""One batched ``solve()`` against a Python loop over ``solve()``: problems a second and the ratio.

    python -m benchmarks.batch_throughput [--batch 4096] [--n 8] [--json FILE]

Both build their `BargainingProblem` inside the timed call and certify every answer, on one thread. The loop
runs over a part of the batch; figures are per problem, medians over interleaved rounds. The two answers are
compared.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"  # these are read once, when numpy and torch are loaded
os.environ["OPENBLAS_NUM_THREADS"] = "1"
os.environ["MKL_NUM_THREADS"] = "1"
os.environ["VECLIB_MAXIMUM_THREADS"] = "1"
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # run as a file, too

import argparse
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from benchmarks import measure

Array = NDArray[np.float64]


def batches(batch: int, n: int) -> dict[str, Array]:
    """Ordinary rows (p = 2 n) and harder ones (less 0.99 of their mean)."""
    rng = np.random.default_rng([20, batch, n])
    rows = rng.standard_normal((batch, n, 2 * n))
    return {"ordinary": rows, "conflicting": rows - 0.99 * rows.mean(axis=1, keepdims=True)}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run, print, write."""
    parser = argparse.ArgumentParser(prog="batch_throughput", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--batch", type=int, default=4096)
    parser.add_argument("--n", type=int, default=8)
    parser.add_argument("--loop", type=int, default=256, help="how many of them the loop solves")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args(arguments)

    from nashsolve import BargainingProblem, nash_weights, solve

    part = min(options.loop, options.batch)
    lines, records = [], []
    drawn = batches(options.batch, options.n)
    grams = {family: rows @ rows.swapaxes(-1, -2) for family, rows in drawn.items()}
    cases = [("auto", "gram", grams), ("newton", "gram", grams), ("newton", "vectors", drawn)]
    for solver, kind, stacks in cases:
        for family, stack in stacks.items():

            def batched(stack: Array = stack, kind: str = kind, solver: str = solver) -> Array:
                return solve(BargainingProblem(**{kind: stack}), solver=solver, on_failure="return").alpha

            def looped(stack: Array = stack, kind: str = kind, solver: str = solver) -> list[Array]:
                return [
                    solve(BargainingProblem(**{kind: one}), solver=solver, on_failure="return").alpha
                    for one in stack[:part]
                ]

            def lean(stack: Array = stack) -> list[Array]:
                return [nash_weights(one) for one in stack[:part]]

            calls: dict[str, Callable[[], object]] = {"batched": batched, "loop": looped}
            if solver == "auto":
                calls["lean loop"] = lean
            together, apart = batched()[:part], np.stack(looped())
            difference = float(np.max(np.abs(together / apart - 1.0)))
            seconds = measure.interleaved(
                calls,
                {name: measure.once(call) for name, call in calls.items()},
                rounds=options.rounds,
                slow=60.0,
            )
            each = {name: seconds[name] / (options.batch if name == "batched" else part) for name in calls}
            ratio = each["loop"] / each["batched"]
            lines.append(
                [
                    f"{solver}, {kind}, {family}",
                    *(measure.figure(1e6 * each[name]) if name in each else "-" for name in ("batched", "loop")),
                    f"{ratio:.1f}x",
                    measure.figure(1e6 * each["lean loop"]) if "lean loop" in each else "-",
                    f"{1.0 / each['batched']:,.0f}",
                    f"{difference:.0e}",
                ]
            )
            record = {"solver": solver, "family": family, "input": kind, "ratio": ratio, "gap": difference}
            records.append(record | {"seconds_each": each})
    print(measure.banner())
    title = f"{options.batch} problems of {options.n} players (loops: {part} of them), microseconds a problem"
    header = [
        "",
        "solve batched",
        "loop of solve",
        "ratio",
        "loop of nash_weights",
        "batched a second",
        "difference",
    ]
    print(measure.table(title, header, lines))
    if options.json:
        settings = {key: getattr(options, key) for key in ("batch", "n", "loop", "rounds")}
        measure.write_json(options.json, {"settings": settings, "records": records})
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
