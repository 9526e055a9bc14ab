"""What an iteration in float32 gains and what it loses, against the same kernel in float64.

    python -m benchmarks.precision [--quick] [--json FILE]

Errors: every family of instances, ten draws each, by the engine `compiled` in both precisions; the truth has 50 digits
for up to 16 players and is the float64 answer beyond. `error * margin**2 / eps32` is the constant of the law that the
error follows, and the statuses show that no answer with a larger error than asked for is called SOLVED.
Throughput: ordinary batches on one thread, both precisions in turn; the iteration alone, and `solve` with everything.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"  # read once, when numpy is loaded
os.environ["OPENBLAS_NUM_THREADS"] = "1"
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # run as a file, too

import argparse
import statistics
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

import nashsolve as ns
from benchmarks import measure
from benchmarks.families import FEASIBLE
from benchmarks.truth import MAX_PLAYERS, NoTruth, true_alpha
from nashsolve import kernels

EPS32 = 2.0**-23
Array = NDArray[np.float64]


def stack(family: str, n: int, draws: int) -> tuple[Array, Array]:
    """Rows (draws, n, p) of a family and their exactly symmetric Grams."""
    rows = np.stack([FEASIBLE[family](n, seed) for seed in range(draws)])
    grams = rows @ rows.swapaxes(-1, -2)
    return rows, 0.5 * grams + 0.5 * grams.swapaxes(-1, -2)


def truths(rows: Array, fallback: Array) -> Array:
    """alpha of every draw: to 50 digits where that is quick and they suffice, else what float64 found."""
    if rows.shape[1] > MAX_PLAYERS:
        return fallback
    found = []
    for one, other in zip(rows, fallback, strict=True):
        try:
            found.append(true_alpha(one))
        except NoTruth:
            found.append(other)
    return np.stack(found)


def accuracy(family: str, n: int, draws: int) -> dict[str, Any]:
    """One line of the table of errors."""
    rows, grams = stack(family, n, draws)
    exact = ns.solve(grams, solver="compiled")
    rough = ns.solve(grams, solver="compiled", precision="float32")
    truth = truths(rows, exact.alpha)
    off = {"float64": exact, "float32": rough}
    errors = {name: np.abs(s.alpha / truth - 1).max(axis=-1) for name, s in off.items()}
    fine = rough.status <= ns.Status.SOLVED_INACCURATE
    law = (errors["float32"] * exact.margin**2 / EPS32)[fine]
    names = sorted({ns.Status(int(c)).name for c in rough.status})
    counts = ", ".join(f"{int((rough.status == ns.Status[name]).sum())} {name}" for name in names)
    good = rough.status == ns.Status.SOLVED
    return {
        "family": family,
        "n": n,
        "margin": float(np.median(exact.margin)),
        "error64": float(errors["float64"].max()),
        "error32": float(errors["float32"][fine].max()) if fine.any() else float("nan"),
        "bound32": float(rough.error_bound.max(axis=-1)[fine].max()) if fine.any() else float("nan"),
        "law": float(law.max()) if fine.any() else float("nan"),
        "worst_solved": float(errors["float32"][good].max()) if good.any() else float("nan"),
        "statuses": counts,
    }


def iteration(grams: Array, rough: bool) -> Callable[[], None]:
    """The kernel's iteration alone, on equilibrated Grams."""
    lengths = np.sqrt(np.einsum("kii->ki", grams))
    unit = np.ascontiguousarray(grams / lengths[:, :, None] / lengths[:, None, :])
    w, out = np.ones(lengths.shape), np.empty(lengths.shape)
    stop, n_iter = np.empty(len(grams), dtype=np.int64), np.empty(len(grams), dtype=np.int64)
    native = kernels.load()
    return lambda: native.newton(unit, w, None, 1e-15, 64, out, stop, n_iter, 1, rough)


def throughput(n: int, count: int, rounds: int) -> dict[str, Any]:
    """Problems a second of both precisions, for one batch of Gaussian rows."""
    rows = np.random.default_rng(n).standard_normal((count, n, 2 * n))
    grams = rows @ rows.swapaxes(-1, -2)
    grams = 0.5 * grams + 0.5 * grams.swapaxes(-1, -2)
    calls: dict[str, Callable[[], object]] = {
        "solve64": lambda: ns.solve(grams, threads=1),
        "solve32": lambda: ns.solve(grams, threads=1, precision="float32"),
        "iterate64": iteration(grams, False),
        "iterate32": iteration(grams, True),
    }
    first = {name: measure.once(call) for name, call in calls.items()}
    seconds = measure.interleaved(calls, first, rounds=rounds, slow=60.0)
    return {"n": n, "count": count} | {name: count / s for name, s in seconds.items()}


def report(errors: Sequence[dict[str, Any]], rates: Sequence[dict[str, Any]]) -> str:
    """Both tables and the law."""
    one = [
        [
            f"{r['family']}, n = {r['n']}",
            *(measure.figure(r[k], 2) for k in ("margin", "error64", "error32", "bound32", "law")),
            r["statuses"],
        ]
        for r in errors
    ]
    header = [
        "",
        "margin",
        "error, float64",
        "error, float32",
        "its bound",
        "constant",
        "statuses of float32",
    ]
    two = [
        [
            f"n = {r['n']}",
            *(f"{r[k]:,.0f}" for k in ("iterate64", "iterate32")),
            f"{r['iterate32'] / r['iterate64']:.2f}",
            *(f"{r[k]:,.0f}" for k in ("solve64", "solve32")),
            f"{r['solve32'] / r['solve64']:.2f}",
        ]
        for r in rates
    ]
    names = ["", "iteration, float64", "float32", "ratio", "solve, float64", "float32", "ratio"]
    laws = [r["law"] for r in errors if r["law"] == r["law"]]
    solved = [r["worst_solved"] for r in errors if r["worst_solved"] == r["worst_solved"]]
    return "\n".join(
        [
            measure.table("Errors of alpha (largest of the draws that float32 answers)", header, one),
            measure.table("Problems a second, one thread", names, two),
            f"error margin^2 / eps32: median {statistics.median(laws):.2g}, largest {max(laws):.2g}",
            f"largest error of an answer in float32 that is called SOLVED: {max(solved):.1e}",
        ]
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few draws, 8 and 32 players")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures to this file")
    options = parser.parse_args(arguments)
    np.seterr(all="ignore")
    sizes, draws = ((8, 32), 2) if options.quick else ((3, 8, 16, 64), 10)
    errors = [accuracy(family, n, draws) for n in sizes for family in FEASIBLE]
    counts = {8: 16384, 32: 512} if options.quick else {4: 65536, 8: 65536, 16: 8192, 64: 512, 256: 16}
    rates = [throughput(n, count, 3 if options.quick else 9) for n, count in counts.items()]
    print(measure.banner())
    print(report(errors, rates))
    if options.json:
        measure.write_json(options.json, {"errors": errors, "rates": rates})
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
