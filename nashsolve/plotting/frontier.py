"""Two players: the feasible set, its frontier, and where each concept meets it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from nashsolve.concepts.base import Bargain
from nashsolve.concepts.catalog import CONCEPTS
from nashsolve.concepts.edge import pareto_chain
from nashsolve.concepts.ideal import ideal_point
from nashsolve.core.arrays import to_numpy
from nashsolve.core.errors import InvalidProblem
from nashsolve.core.problem import BargainingProblem
from nashsolve.core.solution import Solution
from nashsolve.oracles.make import oracle, rows_of
from nashsolve.problems.outcomes import OutcomeBargainingProblem

from .figure import MARKERS, OKABE_ITO, new_axes

_LINES = (*MARKERS, "h")
"""Nine shapes: with colours that repeat only for the ninth."""


def plot_frontier(
    problem: Any,
    solutions: Sequence[Solution] | Mapping[str, Solution] = (),
    *,
    ideal: bool = True,
    level_curve: bool = True,
    many: int = 65,
    ax: Any = None,
) -> Any:
    """The feasible utilities of two players with d, the ideal point and the agreements.

    Parameters
    ----------
    problem : any problem of two players
    solutions : agreements to mark, or a mapping from their labels; at most nine. `compare(problem).solutions` fits.
    ideal : mark the ideal point, the best that each could have while the other keeps d
    level_curve : draw the level curve of the Nash product through the Nash agreement, where that is among them
    many : directions in which a curved set is sampled
    ax : Axes to draw into, a new one by default

    Returns
    -------
    Axes

    Raises
    ------
    InvalidProblem, MissingExtra
    """
    if problem.n != 2 or problem.batch_shape:
        raise InvalidProblem(f"plot_frontier takes one problem of two players; this has {problem.n}")
    marked = named(solutions)
    ax = new_axes(ax, (6.4, 5.6))
    d = np.zeros(2) if problem.disagreement is None else to_numpy(problem.disagreement).astype(float)
    outline, chain = feasible_outline(problem, d, many)
    single = getattr(problem, "lotteries", True) is False
    if single:
        ax.plot(*problem.payoffs.T, ".", color="0.55", label="outcomes", zorder=1)
    else:
        ax.fill(*outline.T, color="0.93", zorder=0)
        ax.plot(*chain.T, color="0.25", linewidth=1.8, label="frontier", zorder=1)
    if isinstance(problem, OutcomeBargainingProblem) and not single and len(problem.payoffs) <= 400:
        ax.plot(*problem.payoffs.T, ".", color="0.55", markersize=4, zorder=1)
    ax.axvline(d[0], color="0.6", linewidth=0.8, linestyle=":", zorder=0)
    ax.axhline(d[1], color="0.6", linewidth=0.8, linestyle=":", zorder=0)
    ax.plot(*d, "x", color="black", markersize=9, markeredgewidth=2, label="disagreement", zorder=3, clip_on=False)
    best = _draw_ideal(ax, problem, d) if ideal and not single else None
    for k, (label, solution) in enumerate(marked.items()):
        u = to_numpy(solution.utilities)
        ax.plot(*u, label=label, clip_on=False, **mark(k))
    _limits(ax, np.vstack([chain, d[None], *([best[None]] if best is not None else [])]))
    if level_curve:
        _draw_level(ax, problem, d, marked)
    ax.set_xlabel(f"utility of {problem.player(0)}")
    ax.set_ylabel(f"utility of {problem.player(1)}")
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return ax


def feasible_outline(problem: Any, d: Any, many: int = 65) -> tuple[Any, Any]:
    """Polygon (k, 2) of the feasible set and its frontier (m, 2); a set known only by utilities is shown down to d."""
    if isinstance(problem, OutcomeBargainingProblem):
        chain = pareto_chain(problem.payoffs)
        return _hull(problem.payoffs), chain
    if isinstance(problem, BargainingProblem):
        rows, radius = rows_of(problem), float(problem.ball_radius)
        return _rim(rows, radius, 2 * np.pi, 4 * many), _rim(rows, radius, np.pi / 2, many)
    asked = oracle(problem)
    turn = np.linspace(0, np.pi / 2, many)
    points = np.array([asked.linear(np.array([np.sin(t), np.cos(t)])).utilities for t in turn])
    chain = pareto_chain(points[np.isfinite(points).all(axis=1)])
    low = np.minimum(d, chain.min(axis=0))
    outline = np.vstack([[low[0], chain[0, 1]], chain, [chain[-1, 0], low[1]], low])
    return outline, chain


def _rim(rows: Any, radius: float, angle: float, many: int) -> Any:
    """Where the utilities of a ball are supported in directions from the first axis through `angle`."""
    turn = np.linspace(0, angle, many)
    pull = np.column_stack([np.cos(turn), np.sin(turn)]) @ rows
    length = np.linalg.norm(pull, axis=1)
    good = length > 1e-12 * length.max()
    return radius * (pull[good] / length[good, None]) @ rows.T


def _hull(points: Any) -> Any:
    upper = _half(points)
    lower = -_half(-points)
    return np.vstack([upper, lower])


def _half(points: Any) -> Any:
    """Upper half of the convex hull, from left to right."""
    kept: list[Any] = []
    for p in points[np.lexsort((points[:, 1], points[:, 0]))]:
        while len(kept) > 1 and (kept[-1][0] - kept[-2][0]) * (p[1] - kept[-2][1]) >= (kept[-1][1] - kept[-2][1]) * (
            p[0] - kept[-2][0]
        ):
            kept.pop()
        kept.append(p)
    return np.array(kept)


def named(solutions: Any) -> dict[str, Solution]:
    """Agreements by their labels; refuses what cannot be shown."""
    if not isinstance(solutions, Mapping):
        solutions = {s.concept: s for s in solutions}
    if len(solutions) > len(_LINES):
        raise InvalidProblem(f"solutions has {len(solutions)} entries; {len(_LINES)} can be told apart")
    for label, s in solutions.items():
        if not s.success:
            raise InvalidProblem(f"the solution {label!r} has no agreement to show: {s.message}")
    titles = {row.name: row.title for row in CONCEPTS}
    return {titles.get(str(label), str(label)): s for label, s in solutions.items()}


def mark(k: int) -> dict[str, Any]:
    """Style of the k-th of several points: smaller the later, so that points on one spot show as a target."""
    return {
        "marker": _LINES[k],
        "markersize": 12.5 - 0.9 * k,
        "color": OKABE_ITO[k % len(OKABE_ITO)],
        "markeredgecolor": "black",
        "markeredgewidth": 0.6,
        "linestyle": "none",
        "zorder": 4 + k,
    }


def _draw_ideal(ax: Any, problem: Any, d: Any) -> Any:
    best = ideal_point(Bargain.of(problem, oracle(problem)))
    if not (best > d).all():
        return None
    style = {"markersize": 12, "markerfacecolor": "white", "markeredgecolor": "black", "zorder": 3, "clip_on": False}
    ax.plot(*best, "*", label="ideal point", **style)
    ax.plot([d[0], best[0]], [d[1], best[1]], color="0.75", linewidth=0.8, zorder=1)
    return best


def _draw_level(ax: Any, problem: Any, d: Any, marked: Mapping[str, Solution]) -> None:
    nash = next((s for s in marked.values() if s.concept == "nash"), None)
    if nash is None:
        return
    w = to_numpy(problem.power).astype(float)
    gains = to_numpy(nash.gains).astype(float)
    right, top = ax.get_xlim()[1] - d[0], ax.get_ylim()[1] - d[1]
    first = np.geomspace(gains[0] * (gains[1] / top) ** (w[1] / w[0]), right, 200)
    second = gains[1] * (gains[0] / first) ** (w[0] / w[1])
    label = "level of the Nash product"
    ax.plot(d[0] + first, d[1] + second, "--", color=OKABE_ITO[0], linewidth=1.2, label=label, zorder=2)


def _limits(ax: Any, points: Any) -> None:
    low, high = points.min(axis=0), points.max(axis=0)
    room = 0.06 * np.maximum(high - low, 1e-12)
    ax.set_xlim(low[0] - room[0], high[0] + room[0])
    ax.set_ylim(low[1] - room[1], high[1] + room[1])
