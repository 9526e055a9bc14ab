"""What the players get: under one agreement, or under several rules side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from nashsolve.core.arrays import to_numpy
from nashsolve.core.errors import InvalidProblem
from nashsolve.core.solution import Solution

from .figure import MARKERS, OKABE_ITO, new_axes


def plot_utilities(
    rules: Mapping[str, Any], names: Sequence[str] | None = None, disagreement: Any = None, ax: Any = None
) -> Any:
    """Utilities of all players under several rules: one marker a rule, one column a player.

    Parameters
    ----------
    rules : name of the rule -> utilities (n,); at most 8 rules
    names : n players, numbered by default
    disagreement : (n,), drawn as a short line for every player; zero by default
    ax : Axes to draw into, a new one by default

    Returns
    -------
    Axes

    Raises
    ------
    InvalidProblem, MissingExtra
    """
    values = {rule: to_numpy(u) for rule, u in rules.items()}
    n = len(next(iter(values.values()), ()))
    if len(values) > len(MARKERS):
        raise InvalidProblem(f"rules has {len(values)} entries; {len(MARKERS)} can be told apart")
    for rule, u in values.items():
        if u.shape != (n,):
            raise InvalidProblem(f"rules[{rule!r}] has shape {u.shape}; ({n},) is needed")
    labels = _labels(names, n)
    ax = new_axes(ax, (10.0, 5.0))
    for i in range(0, n, 2):
        ax.axvspan(i - 0.5, i + 0.5, color="0.95", zorder=0)
    floor = [0.0] * n if disagreement is None else to_numpy(disagreement)
    ax.hlines(floor, [i - 0.5 for i in range(n)], [i + 0.5 for i in range(n)], color="black", linewidth=1, zorder=1)
    for k, (rule, u) in enumerate(values.items()):
        place = [i + 0.16 * (k - (len(values) - 1) / 2) for i in range(n)]
        ax.vlines(place, floor, u, color=OKABE_ITO[k], linewidth=1.5, alpha=0.6, zorder=2)
        ax.plot(
            place,
            u,
            MARKERS[k],
            color=OKABE_ITO[k],
            markersize=7,
            markeredgecolor="white",
            label=rule,
            zorder=3,
        )
    ax.set_xlim(-0.5, n - 0.5)
    ax.set_xticks(range(n), labels)
    ax.tick_params(axis="x", length=0)
    ax.set_ylabel("utility")
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(ncols=len(values), loc="upper center", bbox_to_anchor=(0.5, -0.08), frameon=False)
    return ax


def plot_solution(solution: Solution, ax: Any = None) -> Any:
    """Disagreement utility (hatched) and gain of every player of one agreement.

    Parameters
    ----------
    solution : Solution of one problem with an agreement
    ax : Axes to draw into, a new one by default

    Returns
    -------
    Axes

    Raises
    ------
    InvalidProblem, MissingExtra
    """
    problem = solution.problem
    if problem.batch_shape or not solution.success:
        raise InvalidProblem(f"plot_solution takes one agreement; this is: {solution.message}")
    gains, utilities = to_numpy(solution.gains), to_numpy(solution.utilities)
    ax = new_axes(ax, (8.0, 4.0))
    place = range(problem.n)
    ax.bar(place, gains, bottom=utilities - gains, color=OKABE_ITO[0], label="gain")
    if problem.disagreement is not None:
        ax.bar(
            place,
            utilities - gains,
            facecolor="white",
            edgecolor="0.4",
            hatch="///",
            label="without agreement",
        )
        ax.legend(frameon=False)
    ax.axhline(0, color="black", linewidth=1)
    ax.set_xticks(place, [problem.player(i) for i in place])
    ax.set_ylabel("utility")
    ax.spines[["top", "right"]].set_visible(False)
    return ax


def _labels(names: Sequence[str] | None, n: int) -> list[str]:
    if names is None:
        return [f"player {i}" for i in range(n)]
    if len(names) != n:
        raise InvalidProblem(f"names has {len(names)} entries for {n} players")
    return list(names)
