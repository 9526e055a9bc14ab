"""Peers side by side on the instance families: time, true error, failures, and refusals.

    python -m benchmarks.solve_speed [--n 2,8,64] [--families a,c] [--quick] [--json FILE]

All solvers meet the same instance in the same round, on one thread. A call is a user's first call: it makes
the object, compiles and solves (see ``benchmarks/peers.py``). The answer that is judged is the first one. A
solver gets a time budget for each n; when it is spent, the solver sits out the rest, and the tables show on
how many instances its figures rest. Families come in an order that mixes easy, medium and hard ones, so that
a slow solver is not shown on easy instances only. Ratios are medians over the instances that both solvers
ran, with the same input (Gram or rows).

error     largest relative error of an entry of alpha against 50-digit Newton on the rows (n <= 16)
residual  max |alpha_i (A alpha)_i - 1| through the rows, in extended precision
wrong     no exception and no bad status, yet error > 1e-3 (n <= 16) or residual > 1e-3
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
import time
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import partial

import numpy as np

from benchmarks import measure
from benchmarks.families import FEASIBLE, GROUPS, INFEASIBLE
from benchmarks.peers import Array, Reported, Solve, load
from benchmarks.report import GROUP_OF, NAN, TAKES, WRONG, Record, Report
from benchmarks.truth import MAX_PLAYERS, relative_error, residual, true_alpha


@dataclass(frozen=True)
class Instance:
    """Rows, their Gram, and the truth where it is known."""

    family: str
    n: int
    seed: int
    vectors: Array
    gram: Array
    truth: Array | None

    @property
    def feasible(self) -> bool:
        """Whether an agreement exists."""
        return self.family in FEASIBLE


def make_instance(family: str, n: int, seed: int) -> Instance:
    """The instance, and its truth for few players."""
    vectors = (FEASIBLE if family in FEASIBLE else INFEASIBLE)[family](n, seed)
    truth = true_alpha(vectors) if family in FEASIBLE and n <= MAX_PLAYERS else None
    return Instance(family, n, seed, vectors, vectors @ vectors.T, truth)


def mixed_order(families: Sequence[str]) -> list[str]:
    """Easy, medium, hard, infeasible in turn, so that the first few are a fair sample."""
    groups = [[f for f in families if GROUP_OF.get(f) == group] for group in GROUPS]
    groups.append([f for f in families if f in INFEASIBLE])
    longest = max((len(group) for group in groups), default=0)
    return [group[i] for i in range(longest) for group in groups if i < len(group)]


def judge(instance: Instance, answer: object) -> tuple[str, float, float]:
    """Outcome, true error and residual of what a solver returned."""
    alpha = np.asarray(answer, dtype=np.float64)
    if alpha.shape != (instance.n,) or not np.isfinite(alpha).all():
        return "nan", NAN, NAN
    rest = residual(alpha, instance.vectors)
    error = NAN if instance.truth is None else relative_error(alpha, instance.truth)
    if not instance.feasible:
        return "silent", error, rest
    if not (alpha > 0).all():
        return "non-positive", error, rest
    return ("right" if (rest if error != error else error) <= WRONG else "wrong"), error, rest


def first_call(solve: Solve, instance: Instance, array: Array, limit: float) -> tuple[float, str, float, float, str]:
    """Seconds, outcome, error, residual and detail of one judged call."""
    start = time.perf_counter()
    try:
        with measure.limited(limit):
            answer = solve(array)
    except measure.OutOfTime:
        return limit, "out of time", NAN, NAN, f"over {limit:g} s"
    except Reported as report:
        seconds = time.perf_counter() - start
        _, error, rest = ("", NAN, NAN) if report.alpha is None else judge(instance, report.alpha)
        return seconds, "reported", error, rest, str(report)
    except Exception as error:  # a peer may raise anything; what it raised is the result
        return time.perf_counter() - start, "raised", NAN, NAN, f"{type(error).__name__}: {error}"[:200]
    seconds = time.perf_counter() - start
    return seconds, *judge(instance, answer), ""


def quietly(solve: Solve, array: Array) -> None:
    """A call of which only the time matters."""
    with suppress(Exception):  # judged in its first call
        solve(array)


def run(
    solvers: dict[str, Solve], options: argparse.Namespace, progress: Callable[[str], None]
) -> tuple[list[Record], dict[tuple[str, int], str]]:
    """Every solver on every instance within its budget; also who stopped early, and why."""
    records: list[Record] = []
    stopped: dict[tuple[str, int], str] = {}
    for n in options.n:
        spent = dict.fromkeys(solvers, 0.0)
        for solve_name, solve in solvers.items():
            warm = FEASIBLE["a"](2, 0)  # first-use costs: imports, compiled caches
            quietly(solve, warm if TAKES[solve_name] == "vectors" else warm @ warm.T)
        for seed in range(options.seeds):
            for family in mixed_order(options.families):
                instance = make_instance(family, n, seed)
                progress(f"n = {n}, {family}, seed {seed}")
                running = [name for name in solvers if (name, n) not in stopped]
                arrays = {"vectors": instance.vectors, "gram": instance.gram}
                judged = {}
                for name in running:
                    judged[name] = first_call(solvers[name], instance, arrays[TAKES[name]], options.limit)
                    spent[name] += judged[name][0]
                    if judged[name][1] == "out of time":
                        stopped[name, n] = judged[name][4]
                timed = {
                    name: partial(quietly, solvers[name], arrays[TAKES[name]])
                    for name in running
                    if judged[name][1] != "out of time"
                }
                before = {name: judged[name][0] for name in timed}
                seconds = measure.interleaved(timed, before, rounds=options.rounds)
                for name in running:
                    spent[name] += options.rounds * seconds.get(name, 0.0) * (judged[name][0] <= 0.6)
                    if spent[name] > options.budget:
                        stopped.setdefault((name, n), f"budget of {options.budget:g} s spent")
                    _, outcome, error, rest, detail = judged[name]
                    records.append(
                        Record(
                            peer=name,
                            n=n,
                            family=family,
                            seed=seed,
                            feasible=instance.feasible,
                            seconds=seconds.get(name, NAN),
                            error=error,
                            residual=rest,
                            outcome=outcome,
                            detail=detail,
                        )
                    )
    return records, stopped


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Options of the command line, checked."""
    parser = argparse.ArgumentParser(prog="solve_speed", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--n", help="numbers of players, 2..256, comma separated (default 2,8,16,64,256)")
    parser.add_argument("--families", help="families, comma separated (default: all)")
    parser.add_argument("--seeds", type=int, help="draws of each family (default 1)")
    parser.add_argument("--rounds", type=int, help="interleaved rounds (default 5)")
    parser.add_argument("--budget", type=float, help="seconds for each solver and n (default 15)")
    parser.add_argument("--limit", type=float, default=60.0, help="seconds after which a call is stopped (default 60)")
    parser.add_argument("--quick", action="store_true", help="n = 2,8, six families, 3 rounds, small budgets")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every record here")
    options = parser.parse_args(arguments)
    everything = [*FEASIBLE, *INFEASIBLE]
    few = ["a", "c", "b1e4", "d1e-3", "d1e-5", "e_dup", *INFEASIBLE]
    options.n = [int(n) for n in (options.n or ("2,8" if options.quick else "2,8,16,64,256")).split(",")]
    chosen = options.families.split(",") if options.families else few if options.quick else everything
    options.seeds = options.seeds or 1
    options.rounds = options.rounds or (3 if options.quick else 5)
    options.budget = options.budget or (5.0 if options.quick else 15.0)
    unknown = [family for family in chosen if family not in everything]
    if unknown:
        parser.error(f"unknown families {', '.join(unknown)}; known: {', '.join(everything)}")
    if any(not 2 <= n <= 256 for n in options.n):
        parser.error("--n takes numbers from 2 to 256")
    options.families = chosen
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Run, print, write."""
    options = parse(arguments)
    warnings.simplefilter("ignore")  # peers warn about accuracy on most hard instances; statuses are counted instead
    np.seterr(all="ignore")
    solvers, absent = load()
    measure.limit_torch_threads()
    print(measure.banner())
    for name, reason in absent.items():
        print(f"{name}: {reason}")

    def progress(line: str) -> None:
        if sys.stderr.isatty():
            print(f"\r{line:40}", end="", file=sys.stderr, flush=True)

    start = time.perf_counter()
    records, stopped = run(solvers, options, progress)
    progress("")
    report = Report(records, absent, options.n)
    print(report.text())
    for (name, n), reason in stopped.items():
        print(f"stopped early: {name}, n = {n}: {reason}")
    print(f"{len(records)} records in {time.perf_counter() - start:.0f} s")
    if options.json:
        settings = {key: getattr(options, key) for key in ("n", "families", "seeds", "rounds", "budget", "limit")}
        measure.write_json(
            options.json,
            {
                "settings": settings,
                "absent": absent,
                "stopped": [{"peer": name, "n": n, "why": why} for (name, n), why in stopped.items()],
                "records": [asdict(record) for record in records],
            },
        )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
