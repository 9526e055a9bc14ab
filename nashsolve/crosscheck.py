"""Several solvers on one problem, side by side, each judged by the same certificate."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .backends import catalog
from .core import arrays
from .core.errors import InvalidProblem, MissingExtra, SolverFailed
from .core.problem import BargainingProblem
from .core.solution import Solution
from .core.status import Status
from .problems.family import Family
from .solve import solve


@dataclass(frozen=True)
class CrossCheckRow:
    """One solver's line: its solution, or why it has none."""

    solver: str
    solution: Solution | None
    reason: str
    difference: float
    verdict: str


@dataclass(frozen=True)
class CrossCheck:
    """Rows for all solvers, the best-certified answer and the verdict."""

    rows: tuple[CrossCheckRow, ...]
    best: Solution | None
    agree: bool

    @property
    def verdict(self) -> str:
        """One sentence."""
        ran = [r for r in self.rows if r.solution is not None]
        if self.best is None or not ran:
            return "No solver could take this problem."
        found = self.best.status.name
        bad = [r.solver for r in ran if r.verdict != "agrees"]
        if not bad:
            return f"All {len(ran)} solvers that ran agree within their bounds: {found}."
        return f"{found} by {self.best.solver}; not confirmed by: {', '.join(bad)} (see their status)."

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, ready for JSON."""
        rows = []
        for r in self.rows:
            s = r.solution
            rows.append(
                {
                    "solver": r.solver,
                    "status": s.status.name if s else None,
                    "reason": r.reason,
                    "difference": r.difference if r.difference == r.difference else None,
                    "verdict": r.verdict,
                    "solution": s.to_dict() if s else None,
                }
            )
        return {"agree": self.agree, "verdict": self.verdict, "rows": rows}

    def table(self) -> list[list[str]]:
        """Header and rows as text."""
        head = ["solver", "status", "gap", "error bound", "difference", "iterations", "ms", "verdict"]
        lines = [head]
        for r in self.rows:
            s = r.solution
            if s is None:
                lines.append([r.solver, "-", "", "", "", "", "", r.reason])
                continue
            none = s.status is Status.NO_AGREEMENT
            bound = float(s.error_bound.max()) if s.problem.n else 0.0
            lines.append(
                [
                    r.solver,
                    s.status.name,
                    "" if none else f"{float(s.gap):.1e}",
                    "" if none else f"{bound:.1e}",
                    "" if r.difference != r.difference else f"{r.difference:.1e}",
                    str(int(s.n_iter)),
                    f"{1e3 * s.solve_time:.2f}",
                    r.verdict,
                ]
            )
        return lines

    def __repr__(self) -> str:
        lines = self.table()
        width = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
        text = ["  ".join(c.ljust(n) for c, n in zip(line, width, strict=True)).rstrip() for line in lines]
        return "\n".join([*text, self.verdict])


def crosscheck(problem: Any, solvers: tuple[str, ...] | None = None) -> CrossCheck:
    """Run every installed solver that can take the problem and compare with the best-certified answer.

    Parameters
    ----------
    problem : BargainingProblem (one, not a batch), or a Gram matrix (n, n)
    solvers : names to run, all of the catalog by default

    Returns
    -------
    CrossCheck : `difference` is the largest relative difference of any alpha to the best answer, and a row
        "agrees" when its status is the best one's and the difference lies within the sum of both error bounds.
    """
    if isinstance(problem, Family):
        raise InvalidProblem(
            f"crosscheck compares the solvers of BargainingProblem; a {type(problem).__name__} has one. "
            "compare() sets its solution concepts side by side."
        )
    if not isinstance(problem, BargainingProblem):
        problem = BargainingProblem(gram=problem)
    if problem.batch_shape:
        raise InvalidProblem("crosscheck takes one problem; pick an item of the batch")
    found: list[tuple[str, Solution | None, str]] = []
    for name in solvers or catalog.names():
        try:
            found.append((name, solve(problem, solver=name, on_failure="return"), ""))
        except MissingExtra as error:
            found.append((name, None, f"not installed: {error}"))
        except (InvalidProblem, SolverFailed) as error:
            found.append((name, None, str(error)))
    ran = [s for _, s, _ in found if s is not None]
    best = min(ran, key=_rank) if ran else None
    rows = tuple(_row(name, s, reason, best) for name, s, reason in found)
    agree = best is not None and all(r.verdict == "agrees" for r in rows if r.solution is not None)
    return CrossCheck(rows, best, agree)


def _rank(s: Solution) -> tuple[int, float]:
    order = (Status.SOLVED, Status.NO_AGREEMENT, Status.SOLVED_INACCURATE, Status.AMBIGUOUS)
    place = order.index(s.status) if s.status in order else len(order)
    bound = float(s.error_bound.max()) if s.problem.n and s.success else 0.0
    return place, bound


def _row(name: str, s: Solution | None, reason: str, best: Solution | None) -> CrossCheckRow:
    nan = float("nan")
    if s is None or best is None:
        return CrossCheckRow(name, None, reason, nan, "did not run")
    if s.status is Status.NO_AGREEMENT and best.status is Status.NO_AGREEMENT:
        return CrossCheckRow(name, s, reason, nan, "agrees")
    if not (s.success and best.success):
        same = s.status == best.status and s.status is Status.AMBIGUOUS
        return CrossCheckRow(name, s, reason, nan, "agrees" if same else "no certified answer")
    mine, theirs = (arrays.to_numpy(v.alpha).astype(float) for v in (s, best))
    allowed = arrays.to_numpy(s.error_bound) + arrays.to_numpy(best.error_bound)
    allowed = allowed + 4 * arrays.roundoff("float64" if s.problem.kind == "float64" else "float32")
    gap = abs(mine / theirs - 1)
    inside = bool((gap <= 1.5 * allowed).all())
    return CrossCheckRow(name, s, reason, float(gap.max(initial=0.0)), "agrees" if inside else "DIFFERS beyond bounds")
