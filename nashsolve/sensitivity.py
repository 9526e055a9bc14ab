"""How an agreement moves: derivatives of the utilities, and sweeps over any parameter."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np

from .concepts import catalog
from .core.arrays import to_numpy
from .core.errors import InvalidProblem, SolverFailed
from .core.problem import BargainingProblem
from .core.solution import Solution
from .oracles.implicit import Derivatives, ball_derivatives, domain_derivatives, table_derivatives
from .problems.convex import ConvexBargainingProblem
from .problems.family import Family, nearest
from .problems.outcomes import OutcomeBargainingProblem
from .solve import solve

_STEP = 1e-4
"""Central differences move d by this share of the gains and w by this share of itself."""


def sensitivity(solution: Solution, *, method: str = "auto") -> Derivatives:
    """Derivatives of the agreed utilities with respect to disagreement, weights and data.

    Parameters
    ----------
    solution : of one solved problem, any family and concept
    method : "implicit" differentiates the optimality conditions (Nash solution of ball problems, tables of outcomes and
        domains), "differences" solves again on both sides; "auto" takes the first where it can

    Returns
    -------
    Derivatives
        `disagreement[i, j]` is the derivative of u_i with respect to d_j, `weights[i, j]` that with respect to w_j, and
        `data` holds those with respect to the data by name. `smooth` is False where the agreement sits in a kink, so
        that the numbers hold on one side only.

    Raises
    ------
    InvalidProblem, SolverFailed
    """
    problem = solution.problem
    if problem.batch_shape or not solution.success:
        raise InvalidProblem(f"sensitivity takes one solved problem; this is: {solution.message}")
    if method not in ("auto", "implicit", "differences"):
        raise nearest(method, ("auto", "implicit", "differences"), "method")
    found = None if method == "differences" else _implicit(problem, solution)
    if found is None and method == "implicit":
        raise InvalidProblem(
            f"there is no implicit derivative for {solution.concept} on {type(problem).__name__}; use differences"
        )
    return found if found is not None else _differences(problem, solution)


def _implicit(problem: Any, solution: Solution) -> Derivatives | None:
    if solution.concept != "nash":
        return None
    if isinstance(problem, BargainingProblem):
        return ball_derivatives(problem, solution) if float(solution.ball_multiplier) > 0 else None
    if isinstance(problem, OutcomeBargainingProblem):
        return table_derivatives(problem, solution) if problem.lotteries else None
    if isinstance(problem, ConvexBargainingProblem) and problem.form != "cvxpy":
        return domain_derivatives(problem, solution)
    return None


def _differences(problem: Any, solution: Solution) -> Derivatives:
    n = problem.n
    w = to_numpy(problem.power).astype(float)
    d = np.zeros(n) if problem.disagreement is None else to_numpy(problem.disagreement).astype(float)
    gains = abs(to_numpy(solution.utilities).astype(float) - d)
    steps = _STEP * np.where(gains > 0, gains, gains.max())
    radius = {"radius": float(problem.ball_radius)} if isinstance(problem, BargainingProblem) else {}

    def at(name: str, value: Any) -> Any:
        changed = _changed(problem, name, value, radius if name == "disagreement" else None)
        found = solve(changed, concept=solution.concept, on_failure="return")
        if not found.success:
            raise SolverFailed(f"a neighbour of this problem, with other {name}, is not solved: {found.message}", found)
        return to_numpy(found.utilities).astype(float)

    by_d, by_w = np.empty((n, n)), np.empty((n, n))
    for j in range(n):
        e = np.zeros(n)
        e[j] = 1.0
        by_d[:, j] = (at("disagreement", d + steps[j] * e) - at("disagreement", d - steps[j] * e)) / (2 * steps[j])
        h = _STEP * w[j]
        by_w[:, j] = (at("weights", w + h * e) - at("weights", w - h * e)) / (2 * h)
    return Derivatives(by_d, by_w, {}, smooth=True, method="differences")


def _changed(problem: Any, name: str, value: Any, more: dict[str, Any] | None = None) -> Any:
    """The problem with one argument replaced."""
    extra = dict(more or {})
    if isinstance(problem, ConvexBargainingProblem):
        extra |= {"utilities": problem.utilities if problem.form == "linear" else list(problem.utilities)}
        extra |= {"constraints": problem.constraints if problem.form != "cvxpy" else list(problem.constraints)}
        extra |= {"offset": problem.offset if problem.form == "linear" else None}
    return replace(problem, **{**extra, name: value})


@dataclass(frozen=True)
class Sweep:
    """Solutions along a parameter.

    parameter : its name; values : what it took; solutions : one for each, with a status of its own
    """

    problem: Any
    parameter: str
    values: tuple[Any, ...]
    solutions: tuple[Solution, ...]
    player: int | None = field(default=None)

    @property
    def utilities(self) -> Any:
        """(len(values), n), NaN where there is no certified agreement."""
        rows = [
            to_numpy(s.utilities).astype(float) if s.success else np.full(self.problem.n, np.nan)
            for s in self.solutions
        ]
        return np.array(rows)

    @property
    def label(self) -> str:
        """The parameter in words."""
        who = "" if self.player is None else f" of {self.problem.player(self.player)}"
        return f"{self.parameter}{who}"

    def to_frame(self) -> Any:
        """A pandas DataFrame: the values, the utilities and the status."""
        from .core.rendering import pandas

        names = [self.problem.player(i) for i in range(self.problem.n)]
        frame = pandas().DataFrame(self.utilities, columns=names)
        frame.insert(0, self.label, [_short(v) for v in self.values])
        frame["status"] = [s.status.name for s in self.solutions]
        return frame

    def plot(self, ax: Any = None) -> Any:
        """`nashsolve.plotting.plot_sweep`."""
        from .plotting import plot_sweep

        return plot_sweep(self, ax=ax)

    def __str__(self) -> str:
        names = [self.problem.player(i) for i in range(self.problem.n)]
        shown = [str(_short(v)) for v in self.values]
        first = max(len(self.label), *(len(v) for v in shown)) if shown else len(self.label)
        width = max(11, *(len(n) for n in names))
        lines = [f"{self.label:<{first}}  " + "  ".join(f"{n:>{width}}" for n in names)]
        for value, s, u in zip(shown, self.solutions, self.utilities, strict=True):
            cells = "  ".join(f"{x:>{width}.6g}" for x in u) if s.success else s.status.name
            lines.append(f"{value:<{first}}  {cells}")
        return "\n".join(lines)

    __repr__ = __str__


def _short(value: Any) -> Any:
    if isinstance(value, int | float | str | np.floating):
        return value
    found = np.asarray(value, dtype=float)
    return f"({', '.join(f'{v:.4g}' for v in found.ravel()[:4])}{', ...' if found.size > 4 else ''})"


def sweep(
    problem: Any,
    parameter: str,
    values: Sequence[Any],
    *,
    player: int | str | None = None,
    concept: str = "nash",
    **options: Any,
) -> Sweep:
    """Solve along a parameter.

    Parameters
    ----------
    problem : any problem of this package
    parameter : an argument of the problem, such as "weights", "disagreement", "radius" or "payoffs", or an option of
        the concept, such as "aversion"
    values : what it takes, one after another
    player : number or name; then `parameter` is one per player, and the values are those of this player alone
    concept, **options : as for `solve`

    Returns
    -------
    Sweep
        With `utilities`, `to_frame()`, `plot()`, and printed a table. Values without an agreement keep their status.
    """
    if not isinstance(problem, BargainingProblem | Family):
        problem = BargainingProblem(gram=problem)
    arguments = tuple(f.name for f in fields(problem) if f.init)
    known = tuple(catalog.options_of(concept))
    if parameter not in (*arguments, *known):
        raise nearest(parameter, (*arguments, *known), "parameter")
    who = None if player is None else _number_of(problem, player)
    found = []
    for value in values:
        if parameter in known:
            found.append(solve(problem, concept=concept, on_failure="return", **{**options, parameter: value}))
            continue
        given = value if who is None else _with(problem, parameter, who, value)
        changed = _changed(problem, parameter, given)
        found.append(solve(changed, concept=concept, on_failure="return", **options))
    return Sweep(problem, parameter, tuple(values), tuple(found), who)


def _number_of(problem: Any, player: int | str) -> int:
    if isinstance(player, str):
        names = [problem.player(i) for i in range(problem.n)]
        if player not in names:
            raise nearest(player, names, "player")
        return names.index(player)
    if not 0 <= player < problem.n:
        raise InvalidProblem(f"player is {player}; the players are 0 to {problem.n - 1}")
    return int(player)


def _with(problem: Any, parameter: str, player: int, value: float) -> Any:
    defaults = {"weights": problem.power, "disagreement": np.zeros(problem.n)}
    now = getattr(problem, parameter)
    if now is None and parameter not in defaults:
        raise InvalidProblem(f"{parameter} is not one number a player; leave player out")
    current = np.array(to_numpy(defaults[parameter] if now is None else now), dtype=float)
    if current.shape != (problem.n,):
        raise InvalidProblem(f"{parameter} is not one number a player; leave player out")
    current[player] = value
    return current
