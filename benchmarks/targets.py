"""The compiled engine against what it was asked to reach on a CPU: one line a target, with what was measured.

    python -m benchmarks.targets [--quick] [--json FILE]

Times are the fastest of many rounds on one thread, in processor time, so that other work on the machine counts little.
riskparity.py (its compiled solver at tolerance 1e-10) is called in turn with `nash_weights` on the same Gram; shown is
the median over the feasible families of the ratios of their fastest times, for every number of players, and the family
"a" of easy problems has a column of its own. The last line, one Cholesky factor by LAPACK, tells machines apart.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

os.environ["OPENBLAS_NUM_THREADS"] = "1"  # read once, when numpy is loaded
os.environ["MKL_NUM_THREADS"] = "1"
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # run as a file, too

import argparse
import statistics
import time
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

import nashsolve as ns
from benchmarks import measure
from benchmarks.families import FEASIBLE
from benchmarks.peers import riskparity

Array = NDArray[np.float64]
TARGETS = {  # microseconds on one thread
    "nash_weights, n = 8": 6.0,
    "solve with everything, n = 8": 15.0,
    "nash_weights, n = 64": 250.0,
    "nash_weights, n = 256": 3300.0,
}
PLAYERS = (2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256)


def fastest(calls: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Least processor time of a call, in seconds, over rounds in which each takes its turn."""
    best = dict.fromkeys(calls, float("inf"))
    repeats = {}
    for name, call in calls.items():
        call()
        repeats[name] = max(1, min(500, int(2e-3 / max(measure.once(call), 1e-7))))
    for _ in range(rounds):
        for name, call in calls.items():
            begin = time.process_time_ns()
            for _ in range(repeats[name]):
                call()
            best[name] = min(best[name], 1e-9 * (time.process_time_ns() - begin) / repeats[name])
    return best


def gram_of(family: str, n: int, seed: int = 0) -> Array:
    """The exactly symmetric Gram of an instance."""
    rows = FEASIBLE[family](n, seed)
    gram = rows @ rows.T
    return 0.5 * gram + 0.5 * gram.T


def single(rounds: int) -> list[dict[str, Any]]:
    """The targets of one call, on the easy family and on one of moderate conflict; the slower of both counts."""
    found = []
    for name, target in TARGETS.items():
        n = int(name.rpartition(" ")[2])
        call = ns.solve if name.startswith("solve") else ns.nash_weights
        calls = {family: partial(call, gram_of(family, n)) for family in ("a", "b1e2")}
        slowest = 1e6 * max(fastest(calls, rounds).values())
        found.append({"target": name, "asked": target, "found": slowest, "unit": "us", "most": True})
    return found


def batch(rounds: int, quick: bool) -> dict[str, Any]:
    """Problems a second of 65,536 ordinary ones with 8 players on 2 threads, in wall time."""
    count = 8192 if quick else 65536
    rows = np.random.default_rng(8).standard_normal((count, 8, 16))
    grams = rows @ rows.swapaxes(-1, -2)
    grams = 0.5 * grams + 0.5 * grams.swapaxes(-1, -2)
    seconds = min(measure.once(lambda: ns.solve(grams, threads=2)) for _ in range(max(3, rounds // 4)))
    name = f"batch of {count:,} with n = 8, 2 threads"
    return {"target": name, "asked": 1e6, "found": count / seconds, "unit": "problems/s", "most": False}


def against(rounds: int, players: Sequence[int]) -> list[dict[str, Any]]:
    """How many times riskparity.py takes as long, by the number of players; nothing where it is not installed."""
    try:
        other = riskparity(method="spinu", tol=1e-10, maxiter=20000)
    except ImportError:
        return []
    found = []
    for n in players:
        ratios = {}
        for family in FEASIBLE:
            gram = gram_of(family, n)
            try:
                ours = ns.solve(gram, on_failure="return")
            except ns.NashSolveError:
                continue
            if not ours.success:
                continue
            start = time.perf_counter()
            other(gram)
            if time.perf_counter() - start > 1.0:  # that many sweeps: no need to wait for more
                ratios[family] = float("inf")
                continue
            times = fastest({"ours": lambda g=gram: ns.nash_weights(g), "other": lambda g=gram: other(g)}, rounds)
            ratios[family] = times["other"] / times["ours"]
        found.append({"n": n, "easy": ratios["a"], "median": statistics.median(ratios.values()), "ratios": ratios})
    return found


def report(rows: Sequence[dict[str, Any]], ratios: Sequence[dict[str, Any]], reference: float) -> str:
    """Both tables."""
    lines = []
    for r in rows:
        met = r["found"] <= r["asked"] if r["most"] else r["found"] >= r["asked"]
        bound = "at most" if r["most"] else "at least"
        cells = [f"{bound} {r['asked']:,.6g} {r['unit']}", f"{r['found']:,.6g}", "met" if met else "MISSED"]
        lines.append([r["target"], *cells])
    parts = [measure.table("Targets", ["", "asked", "found", ""], lines)]
    if ratios:
        peers = [
            [
                f"n = {r['n']}",
                f"{r['easy']:.2f}",
                f"{r['median']:.1f}",
                f"{min(r['ratios'].values()):.2f} ({min(r['ratios'], key=r['ratios'].get)})",
                "met" if r["median"] > 1 and r["easy"] > 1 else "MISSED",
            ]
            for r in ratios
        ]
        header = ["", "easy family", "median of all", "least", ""]
        parts.append(measure.table("How many times as long riskparity.py takes, tolerance 1e-10", header, peers))
    else:
        parts.append("riskparity.py is not installed (benchmarks/requirements.txt); no comparison with it\n")
    parts.append(f"a Cholesky factor of 256 by LAPACK takes {1e6 * reference:.0f} us here")
    return "\n".join(parts)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few rounds, few numbers of players")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures to this file")
    options = parser.parse_args(arguments)
    warnings.simplefilter("ignore")  # the peer warns of its accuracy
    np.seterr(all="ignore")
    rounds = 5 if options.quick else 25
    rows = [*single(rounds), batch(rounds, options.quick)]
    ratios = against(rounds, (2, 8, 64) if options.quick else PLAYERS)
    matrix = gram_of("a", 256)
    reference = fastest({"": lambda: np.linalg.cholesky(matrix)}, rounds)[""]
    print(measure.banner())
    print(report(rows, ratios, reference))
    if options.json:
        measure.write_json(options.json, {"targets": rows, "riskparity": ratios, "cholesky_256": reference})
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
