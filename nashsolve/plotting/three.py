"""Three players: shares on a triangle, and directions on the hemisphere of a ball problem."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from nashsolve.core.arrays import to_numpy
from nashsolve.core.errors import InvalidProblem
from nashsolve.core.problem import BargainingProblem
from nashsolve.core.solution import Solution
from nashsolve.oracles.make import rows_of

from .figure import new_axes
from .frontier import mark, named

_CORNERS = np.array([[0.0, 0.0], [1.0, 0.0], [0.5, np.sqrt(3) / 2]])


def plot_simplex(
    problem: Any, solutions: Sequence[Solution] | Mapping[str, Solution], *, relative: bool = False, ax: Any = None
) -> Any:
    """How each agreement divides the gains of three players: one point in a triangle for each.

    Parameters
    ----------
    problem : any problem of three players
    solutions : agreements, or a mapping from their labels; at most nine
    relative : divide every player's gains by the largest that any of the agreements gives: for different units
    ax : Axes to draw into, a new one by default

    Raises
    ------
    InvalidProblem, MissingExtra
    """
    if problem.n != 3:
        raise InvalidProblem(f"plot_simplex takes three players; this problem has {problem.n}")
    marked = named(solutions)
    gains = {label: to_numpy(s.gains).astype(float) for label, s in marked.items()}
    unit = np.ones(3)
    if relative and gains:
        unit = np.max(list(gains.values()), axis=0)
    ax = new_axes(ax, (6.2, 5.0))
    for share in (0.25, 0.5, 0.75):
        for k in range(3):
            a, b = _CORNERS[(k + 1) % 3], _CORNERS[(k + 2) % 3]
            line = np.array([share * _CORNERS[k] + (1 - share) * a, share * _CORNERS[k] + (1 - share) * b])
            ax.plot(*line.T, color="0.88", linewidth=0.8, zorder=0)
    ax.plot(*_CORNERS[[0, 1, 2, 0]].T, color="0.3", linewidth=1.2, zorder=1)
    ax.plot(*_CORNERS.mean(axis=0), "+", color="0.4", markersize=10, label="equal shares", zorder=1)
    for k, (label, g) in enumerate(gains.items()):
        part = np.maximum(g / unit, 0.0)
        ax.plot(*((part / part.sum()) @ _CORNERS), label=label, clip_on=False, **mark(k))
    for k, (dx, dy, align) in enumerate(((0, -0.05, "center"), (0, -0.05, "center"), (0, 0.03, "center"))):
        ax.text(_CORNERS[k, 0] + dx, _CORNERS[k, 1] + dy, f"all to {problem.player(k)}", ha=align, va="center")
    ax.set_aspect("equal")
    ax.axis("off")
    ax.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return ax


def plot_hemisphere(
    problem: BargainingProblem, solutions: Sequence[Solution] | Mapping[str, Solution] = (), *, ax: Any = None
) -> Any:
    """The sphere of a ball problem of three players, seen from the first agreement (or the players' mean).

    An equal-area map of the hemisphere: the players' directions, the agreements, and in grey the directions from which
    everybody gains, darker where the Nash product is larger.

    Parameters
    ----------
    problem : BargainingProblem of three players with zero disagreement
    solutions : agreements, or a mapping from their labels; at most nine
    ax : Axes to draw into, a new one by default

    Raises
    ------
    InvalidProblem, MissingExtra
    """
    if not isinstance(problem, BargainingProblem) or problem.n != 3 or problem.batch_shape:
        raise InvalidProblem("plot_hemisphere takes one ball problem of three players")
    if problem.disagreement is not None:
        raise InvalidProblem("plot_hemisphere shows directions, which needs a zero disagreement point")
    marked = named(solutions)
    rows = rows_of(problem)
    rows = np.hstack([rows, np.zeros((3, 3 - rows.shape[1]))]) if rows.shape[1] < 3 else rows
    units = rows / np.linalg.norm(rows, axis=1)[:, None]
    points = {label: _direction(rows, s) for label, s in marked.items()}
    frame = _frame(next(iter(points.values()), units.mean(axis=0)), units)
    ax = new_axes(ax, (7.8, 5.2))
    _draw_welfare(ax, rows, to_numpy(problem.power).astype(float), frame)
    turn = np.linspace(0, 2 * np.pi, 200)
    ax.plot(np.sqrt(2) * np.cos(turn), np.sqrt(2) * np.sin(turn), color="0.3", linewidth=1.2)
    for i, v in enumerate(units):
        spot = _project(v, frame)
        back = v @ frame[2] < 0
        ax.annotate("", xy=spot, xytext=(0, 0), arrowprops={"arrowstyle": "->", "color": "0.35", "lw": 1.2}, zorder=2)
        ax.text(*(1.06 * spot + 0.04), problem.player(i) + (" (behind)" if back else ""), fontsize=9, zorder=6)
    for k, (label, x) in enumerate(points.items()):
        ax.plot(*_project(x, frame), label=label, **mark(k))
    ax.set_aspect("equal")
    ax.axis("off")
    if marked:
        ax.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return ax


def _direction(rows: Any, s: Solution) -> Any:
    """Unit vector of an agreement in the coordinates of `rows`, from its utilities."""
    x = np.linalg.lstsq(rows, to_numpy(s.utilities).astype(float), rcond=None)[0]
    return x / np.linalg.norm(x)


def _frame(centre: Any, units: Any) -> Any:
    """Orthonormal rows; the last is the direction of view, the first points towards the first player."""
    e3 = centre / np.linalg.norm(centre)
    e1 = units[0] - (units[0] @ e3) * e3
    e1 = e1 if np.linalg.norm(e1) > 1e-9 else np.eye(3)[int(np.argmin(abs(e3)))]
    e1 = e1 - (e1 @ e3) * e3
    e1 = e1 / np.linalg.norm(e1)
    return np.array([e1, np.cross(e3, e1), e3])


def _project(v: Any, frame: Any) -> Any:
    """Lambert's map of a unit vector; what lies behind is put on the rim."""
    x, y, z = frame @ v
    if z < 0:
        return np.sqrt(2) * np.array([x, y]) / max(float(np.hypot(x, y)), 1e-12)
    return np.array([x, y]) * np.sqrt(2 / (1 + z))


def _draw_welfare(ax: Any, rows: Any, w: Any, frame: Any) -> None:
    side = np.linspace(-np.sqrt(2), np.sqrt(2), 220)
    a, b = np.meshgrid(side, side)
    square = a * a + b * b
    inside = square <= 2
    z = 1 - square / 2
    factor = np.sqrt(np.maximum(1 - square / 4, 0))
    v = np.stack([a * factor, b * factor, z], axis=-1) @ frame
    gains = v @ rows.T
    good = inside & (gains > 0).all(axis=-1)
    with np.errstate(all="ignore"):
        welfare = np.where(good, np.log(gains) @ w, np.nan)
    if not good.any():
        return
    top = np.nanmax(welfare)
    levels = top - np.array([8.0, 4.0, 2.0, 1.0, 0.5, 0.2, 0.05, 0.0]) * w.mean()
    ax.contourf(a, b, good.astype(float), levels=[0.5, 1.5], colors=["0.95"], zorder=0)
    ax.contourf(a, b, welfare, levels=levels, cmap="Greys", alpha=0.45, zorder=0)
