"""Gains of many players under several agreements, as bars that read in grey."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from nashsolve.core.arrays import to_numpy
from nashsolve.core.errors import InvalidProblem
from nashsolve.core.solution import Solution

from .figure import OKABE_ITO, new_axes
from .frontier import named

_HATCHES = ("", "///", "...", "xxx", "---", "\\\\\\", "ooo", "+++", "***")


def plot_gains(solutions: Sequence[Solution] | Mapping[str, Solution], *, ax: Any = None) -> Any:
    """Gain of every player under every agreement: a group of bars a player, told apart by colour and hatching.

    Parameters
    ----------
    solutions : agreements of one problem, or a mapping from their labels; at most nine
    ax : Axes to draw into, a new one by default

    Raises
    ------
    InvalidProblem, MissingExtra
    """
    marked = named(solutions)
    if not marked:
        raise InvalidProblem("solutions is empty; at least one agreement is needed")
    problem = next(iter(marked.values())).problem
    if any(s.problem.n != problem.n for s in marked.values()):
        raise InvalidProblem("the solutions belong to problems with different numbers of players")
    ax = new_axes(ax, (max(6.0, 0.5 * problem.n + 3), 4.2))
    width = 0.8 / len(marked)
    place = np.arange(problem.n)
    for k, (label, s) in enumerate(marked.items()):
        at = place + (k - (len(marked) - 1) / 2) * width
        color = OKABE_ITO[k % len(OKABE_ITO)]
        style = {"color": color, "hatch": _HATCHES[k], "edgecolor": "white", "linewidth": 0.5}
        ax.bar(at, to_numpy(s.gains), width, label=label, **style)
    ax.axhline(0, color="black", linewidth=1)
    ax.set_xticks(place, [problem.player(i) for i in range(problem.n)], rotation=45 if problem.n > 8 else 0)
    ax.set_ylabel("gain over disagreement")
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return ax
