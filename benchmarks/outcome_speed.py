"""Tables of outcomes, and balls with linear constraints: this package against CVXPY with Clarabel, in one run.

    python -m benchmarks.outcome_speed [--quick] [--json FILE]

Both build the model, solve it and hand back utilities. `excess` is what the certificate measures: how far the support
function in the direction of w / gains is above the total weight, relative; zero exactly at the solution. CVXPY runs
with its default tolerances, and once more with those at which its excess comes nearest to ours.
"""

from __future__ import annotations

import argparse
import contextlib
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cvxpy as cp
import numpy as np

import nashsolve as ns
from benchmarks import measure

TIGHT = {"tol_gap_abs": 1e-11, "tol_gap_rel": 1e-11, "tol_feas": 1e-11}
OURS, PLAIN, SHARP = "nashsolve", "CVXPY + Clarabel", "CVXPY + Clarabel, 1e-11"


def tables(quick: bool) -> list[tuple[str, np.ndarray, None]]:
    """Payoffs (K, n)."""
    sizes = (
        [(100, 5), (1000, 10)] if quick else [(10, 2), (100, 5), (1000, 10), (1000, 50), (10_000, 10), (100_000, 10)]
    )
    rng = np.random.default_rng(0)
    return [(f"{many} outcomes, {n} players", rng.standard_normal((many, n)) + 0.3, None) for many, n in sizes]


def balls(quick: bool) -> list[tuple[str, np.ndarray, tuple[np.ndarray, np.ndarray]]]:
    """Vectors (n, p), and rows and limits of the linear constraints."""
    sizes = (
        [(5, 20, 3), (10, 200, 5)] if quick else [(2, 2, 1), (5, 20, 3), (10, 200, 5), (20, 1000, 10), (50, 2000, 10)]
    )
    rng = np.random.default_rng(1)
    found = []
    for n, p, rows in sizes:
        vectors = rng.standard_normal((n, p)) + rng.standard_normal(p)
        matrix = rng.standard_normal((rows, p)) / np.sqrt(p)
        limit = 0.3 * matrix @ (vectors.sum(0) / np.linalg.norm(vectors.sum(0)))
        matrix, limit = np.where(limit[:, None] < 0, -matrix, matrix), np.abs(limit) + 1e-3
        found.append((f"{n} players in a ball of R^{p}, {rows} linear constraints", vectors, (matrix, limit)))
    return found


def ours(data: np.ndarray, limits: Any) -> Callable[[], np.ndarray]:
    """From arrays to utilities, validation and certificate included."""
    if limits is None:
        return lambda: ns.solve(ns.OutcomeBargainingProblem(data)).utilities
    matrix, limit = limits

    def run() -> np.ndarray:
        domain = ns.ball(data.shape[1]) & ns.polytope(matrix, limit)
        return ns.solve(ns.ConvexBargainingProblem(data, domain)).utilities

    return run


def theirs(data: np.ndarray, limits: Any, **settings: float) -> Callable[[], np.ndarray]:
    """From arrays to utilities by CVXPY; a lottery is made exactly one, a point brought back into the ball."""

    def run() -> np.ndarray:
        x = cp.Variable(len(data) if limits is None else data.shape[1])
        u = data.T @ x if limits is None else data @ x
        rest = [x >= 0, cp.sum(x) == 1] if limits is None else [cp.norm(x) <= 1, limits[0] @ x <= limits[1]]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            cp.Problem(cp.Maximize(cp.sum(cp.log(u))), rest).solve(solver="CLARABEL", **settings)
        if limits is None:
            pi = np.maximum(x.value, 0)
            return data.T @ (pi / pi.sum())
        return data @ (x.value / max(1.0, float(np.linalg.norm(x.value))))

    return run


def excess(data: np.ndarray, limits: Any, utilities: np.ndarray) -> float:
    """Relative to the total weight; by the best outcome, or for a ball by a linear program over ball and rows."""
    if not (utilities > 0).all():
        return float("inf")
    direction = 1 / utilities
    if limits is None:
        return float((data @ direction).max() / len(utilities) - 1)
    x = cp.Variable(data.shape[1])
    model = cp.Problem(cp.Maximize((data.T @ direction) @ x), [cp.norm(x) <= 1, limits[0] @ x <= limits[1]])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.solve(solver="CLARABEL", **TIGHT)
    return float(model.value / len(utilities) - 1)


def fastest(calls: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Smallest seconds of each call over rounds in which each has its turn: what other work cannot inflate.

    A turn is a call that is not timed, since the turn before has emptied the caches, and the mean of 5 ms of calls.
    """
    repeats = {label: max(1, int(5e-3 / measure.once(call))) for label, call in calls.items()}
    times: dict[str, list[float]] = {label: [] for label in calls}
    for turn in range(rounds):
        labels = list(calls)
        for label in labels[turn % len(labels) :] + labels[: turn % len(labels)]:
            calls[label]()
            times[label].append(measure.once(calls[label], repeats[label]))
    return {label: min(values) for label, values in times.items()}


def main() -> None:
    """Print a table and write JSON if asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="two sizes each, fewer rounds")
    parser.add_argument("--json", type=Path, help="write the records here")
    options = parser.parse_args()
    print(measure.banner())
    records = []
    for name, data, limits in [*tables(options.quick), *balls(options.quick)]:
        calls = {OURS: ours(data, limits), PLAIN: theirs(data, limits), SHARP: theirs(data, limits, **TIGHT)}
        answers = {}
        for label, call in calls.items():
            with contextlib.suppress(cp.error.SolverError):  # a row without an answer says so in the table
                answers[label] = call()
        seconds = fastest({label: calls[label] for label in answers}, 15 if options.quick else 30)
        for label in calls:
            time = seconds.get(label, float("nan"))
            gap = excess(data, limits, answers[label]) if label in answers else float("nan")
            records.append({"problem": name, "solver": label, "seconds": time, "excess": gap})
    rows = []
    base = {r["problem"]: r["seconds"] for r in records if r["solver"] == OURS}
    for r in records:
        ratio = r["seconds"] / base[r["problem"]]
        shown = "failed" if r["seconds"] != r["seconds"] else measure.figure(1e3 * r["seconds"])
        rows.append(
            [r["problem"], r["solver"], shown, f"{ratio:.3g}x" if ratio == ratio else "-", f"{r['excess']:.0e}"]
        )
    print(measure.table("Fastest of all rounds, one call", ["problem", "solver", "ms", "ratio", "excess"], rows))
    if options.json:
        measure.write_json(options.json, {"records": records})


if __name__ == "__main__":
    main()
