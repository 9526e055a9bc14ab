"""Several solution concepts on one problem, side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .concepts import catalog
from .core.arrays import to_numpy
from .core.errors import InvalidProblem, NashSolveError, NoAgreement
from .core.solution import Solution
from .solve import solve


@dataclass(frozen=True)
class Row:
    """One concept: its solution, or why it has none."""

    concept: str
    title: str
    solution: Solution | None
    says: str


@dataclass(frozen=True)
class Comparison:
    """Rows in the order of the catalog; `row["nash"]` is the solution of a concept."""

    problem: Any
    rows: tuple[Row, ...]

    def __getitem__(self, concept: str) -> Solution:
        for row in self.rows:
            if row.concept == concept and row.solution is not None:
                return row.solution
        raise KeyError(concept)

    @property
    def solutions(self) -> dict[str, Solution]:
        """The concepts that have a certified solution."""
        return {row.concept: row.solution for row in self.rows if row.solution is not None and row.solution.success}

    def to_dict(self) -> dict[str, Any]:
        """Plain Python, ready for JSON."""
        return {
            "names": [self.problem.player(i) for i in range(self.problem.n)],
            "concepts": [
                {
                    "concept": row.concept,
                    "says": row.says,
                    "utilities": None if row.solution is None else row.solution.to_dict()["utilities"],
                    "gains": None if row.solution is None else row.solution.to_dict()["gains"],
                }
                for row in self.rows
            ],
        }

    def to_frame(self) -> Any:
        """A pandas DataFrame of utilities, one row a concept."""
        from .core.rendering import pandas

        names = [self.problem.player(i) for i in range(self.problem.n)]
        found = self.solutions
        data = [to_numpy(s.utilities) for s in found.values()]
        return pandas().DataFrame(data, index=list(found), columns=names)

    def __str__(self) -> str:
        return _table(self)

    __repr__ = __str__


def compare(problem: Any, concepts: Sequence[str] | None = None) -> Comparison:
    """Solve `problem` by several solution concepts, each with its own certificate.

    Parameters
    ----------
    problem : any problem of this package, or a Gram matrix
    concepts : names, all that are defined for the problem by default

    Returns
    -------
    Comparison
        Printed, a table of utilities; `comparison["nash"]` is a Solution.

    Raises
    ------
    InvalidProblem
        For an unknown concept. A concept that fails on this problem says so in its row.
    """
    problem = _read(problem)
    if concepts is None:
        rows = [row for row in catalog.CONCEPTS if _defined(row, problem)]
    else:
        rows = [catalog.row(name) for name in concepts]
    return Comparison(problem, tuple(_one(problem, row) for row in rows))


def _read(problem: Any) -> Any:
    from .core.problem import BargainingProblem
    from .problems.family import Family

    if not isinstance(problem, BargainingProblem | Family):
        problem = BargainingProblem(gram=problem)
    if problem.batch_shape:
        raise InvalidProblem("compare takes one problem; pick an item of the batch")
    return problem


def _defined(row: Any, problem: Any) -> bool:
    if row.most is not None and problem.n > row.most:
        return False
    return not (row.frontier and (getattr(problem, "lotteries", True) is False or problem.n < 2))


def _one(problem: Any, row: Any) -> Row:
    try:
        found = solve(problem, concept=row.name, on_failure="return")
    except NoAgreement as error:
        return Row(row.name, row.title, error.solution, str(error))
    except NashSolveError as error:
        return Row(row.name, row.title, None, f"{type(error).__name__}: {error}")
    return Row(row.name, row.title, found, found.status.name)


def _table(c: Comparison) -> str:
    names = [c.problem.player(i) for i in range(c.problem.n)]
    shown = names if len(names) <= 8 else [*names[:7], "..."]
    width = max(11, *(len(n) for n in shown))
    first = max(12, *(len(row.title) for row in c.rows))
    lines = [f"{'utilities':<{first}}  " + "  ".join(f"{n:>{width}}" for n in shown)]
    if c.problem.disagreement is not None:
        lines.append(_line("disagreement", to_numpy(c.problem.disagreement), first, width, len(shown), len(names)))
    for row in c.rows:
        if row.solution is None or not row.solution.success:
            lines.append(f"{row.title:<{first}}  {row.says}")
        else:
            lines.append(_line(row.title, to_numpy(row.solution.utilities), first, width, len(shown), len(names)))
    return "\n".join(line.rstrip() for line in lines)


def _line(title: str, values: Any, first: int, width: int, shown: int, n: int) -> str:
    cells = [
        f"{0.0 if abs(v) < 1e-14 * np.abs(values).max() else v:>{width}.6g}"
        for v in values[: shown if shown == n else 7]
    ]
    return f"{title:<{first}}  " + "  ".join(cells if shown == n else [*cells, f"{'...':>{width}}"])


def convergence(problem: Any, concept: str = "nash", *, most: int = 60, **options: Any) -> list[float]:
    """Certified gaps after 0, 1, 2, ... iterations, by solving anew with each limit: for `plotting.plot_convergence`.

    Parameters
    ----------
    problem, concept, **options : as for `solve`; the engine must take `max_iter`
    most : iterations at which to stop at the latest

    Returns
    -------
    list of float, infinite where the iterate gives somebody no gain; it ends where the solver is done
    """
    gaps: list[float] = []
    for limit in range(most + 1):
        found = solve(problem, concept=concept, on_failure="return", max_iter=limit, **options)
        gap = float(found.gap)
        gaps.append(gap if gap == gap else float("inf"))
        if found.n_iter < limit:
            break
    return gaps
