"""What a start from the previous solution saves on drifting problems, as in training.

    python -m benchmarks.warm_start [--quick] [--json FILE]

The players' vectors take a random walk: at every step each moves by `drift` of its length, or by less where that would
end the agreement. Every problem is solved cold and from the previous solution, in turn, at zero disagreement, below it
(players who would otherwise lose something) and above (players who ask for 40 % of what they can get).
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import nashsolve as ns
from benchmarks import measure
from benchmarks.families import FEASIBLE

FAMILIES = ("a", "e_low", "c", "b1e4", "d1e-2", "dl1e-2")
DISAGREEMENTS: Mapping[str, float] = {"zero": 0.0, "below": -0.5, "above": 0.4}
DRIFTS = (1e-4, 1e-2, 5e-2, 2e-1)


@dataclass(frozen=True)
class Row:
    """One drifting sequence; the figures are medians, the iterations means."""

    family: str
    n: int
    drift: float
    disagreement: str
    cold: float
    warm: float
    most: int
    cold_ms: float
    warm_ms: float


def walk(family: str, n: int, drift: float, steps: int) -> Iterator[NDArray[np.float64]]:
    """Vectors (n, p) of `steps` problems, each near the one before."""
    rows = FEASIBLE[family](n, 0)
    rng = np.random.default_rng(1)
    for _ in range(steps):
        yield rows
        margin = float(ns.solve(rows @ rows.T, on_failure="return").margin)
        move = rng.standard_normal(rows.shape) / np.sqrt(rows.shape[1])
        rows = rows + min(drift, 3 * drift * margin) * np.linalg.norm(rows, axis=1, keepdims=True) * move


def problem_of(rows: NDArray[np.float64], asked: float) -> ns.BargainingProblem:
    """The problem of these vectors, with the given share of the Nash utilities as disagreement."""
    gram = rows @ rows.T
    if asked == 0:
        return ns.BargainingProblem(gram=gram)
    utilities = ns.solve(ns.BargainingProblem(gram=gram, radius=1.0), on_failure="return").utilities
    return ns.BargainingProblem(gram=gram, disagreement=asked * utilities, radius=1.0)


def timed(problem: ns.BargainingProblem, start: Any) -> tuple[ns.Solution, float]:
    begin = time.perf_counter()
    solution = ns.solve(problem, solver="newton", start=start, on_failure="return")
    return solution, 1e3 * (time.perf_counter() - begin)


def sequence(family: str, n: int, drift: float, name: str, steps: int) -> Row:
    """Cold and warm solves of one walk, in alternating order."""
    pairs: list[tuple[int, int]] = []
    times: list[tuple[float, float]] = []
    before: ns.Solution | None = None
    for k, rows in enumerate(walk(family, n, drift, steps)):
        problem = problem_of(rows, DISAGREEMENTS[name])
        found = {kind: timed(problem, before if kind else None) for kind in ((0, 1) if k % 2 else (1, 0))}
        if before is not None:
            pairs.append((int(found[0][0].n_iter), int(found[1][0].n_iter)))
            times.append((found[0][1], found[1][1]))
        before = found[1][0]
    cold, warm = (statistics.mean(column) for column in zip(*pairs, strict=True))
    cold_ms, warm_ms = (statistics.median(column) for column in zip(*times, strict=True))
    return Row(family, n, drift, name, cold, warm, max(w - c for c, w in pairs), cold_ms, warm_ms)


def misled(n: int, tries: int) -> int:
    """The most iterations that a start from random numbers costs beyond the cold solve, zero disagreement."""
    worst = 0
    for family in FAMILIES:
        problem = problem_of(FEASIBLE[family](n, 0), 0.0)
        cold = int(ns.solve(problem, solver="newton", on_failure="return").n_iter)
        for seed in range(tries):
            rng = np.random.default_rng(seed)
            start = 10 ** (rng.uniform(0, 6) * rng.uniform(-1, 1, n))
            warm = ns.solve(problem, solver="newton", start=start, on_failure="return")
            worst = max(worst, int(warm.n_iter) - cold)
    return worst


def report(rows: Sequence[Row]) -> str:
    """Iterations, cold and warm, by drift; and the time of a call."""
    drifts = sorted({r.drift for r in rows})
    lines = []
    for name in DISAGREEMENTS:
        for family in FAMILIES:
            for n in sorted({r.n for r in rows}):
                mine = {r.drift: r for r in rows if (r.family, r.n, r.disagreement) == (family, n, name)}
                cells = [f"{mine[d].cold:.1f} -> {mine[d].warm:.1f}" for d in drifts]
                ratio = statistics.median(r.cold_ms / r.warm_ms for r in mine.values())
                lines.append([f"{name}, {family}, n={n}", *cells, f"{ratio:.2f}x"])
    header = ["disagreement, family", *(f"drift {d:g}" for d in drifts), "faster"]
    return measure.table("Iterations, cold -> warm (mean); time of a call, cold over warm (median)", header, lines)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer steps, n = 8 only")
    parser.add_argument("--json", type=Path, help="write all figures to this file")
    options = parser.parse_args(arguments)
    sizes, steps = ((8,), 6) if options.quick else ((8, 32), 20)
    rows = [
        sequence(family, n, drift, name, steps)
        for name in DISAGREEMENTS
        for family in FAMILIES
        for n in sizes
        for drift in DRIFTS
    ]
    print(measure.banner())
    print(report(rows))
    saved = {
        name: 1
        - sum(r.warm for r in rows if r.disagreement == name) / sum(r.cold for r in rows if r.disagreement == name)
        for name in DISAGREEMENTS
    }
    print("Iterations saved: " + ", ".join(f"{100 * share:.0f} % ({name})" for name, share in saved.items()))
    worst = misled(8, 10 if options.quick else 40)
    print(f"A start from random numbers costs at most {worst} iterations more than none (n = 8).")
    if options.json:
        content = {"rows": [vars(r) for r in rows], "saved": saved, "misled": worst}
        measure.write_json(options.json, content)


if __name__ == "__main__":
    main()
