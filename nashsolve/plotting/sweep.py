"""Utilities along a parameter."""

from __future__ import annotations

from typing import Any

import numpy as np

from nashsolve.core.errors import InvalidProblem

from .figure import MARKERS, OKABE_ITO, new_axes


def plot_sweep(sweep: Any, *, ax: Any = None) -> Any:
    """One line a player; values without an agreement leave a hole.

    Parameters
    ----------
    sweep : what `nashsolve.sweep` returns, of at most 8 players; values that are not numbers are numbered, and a value
        with one number a player is placed at the first of them as a share of their sum
    ax : Axes to draw into, a new one by default

    Raises
    ------
    InvalidProblem, MissingExtra
    """
    utilities = sweep.utilities
    if utilities.shape[1] > len(MARKERS):
        raise InvalidProblem(f"the sweep has {utilities.shape[1]} players; {len(MARKERS)} can be told apart")
    place, label = _place(sweep)
    ax = new_axes(ax, (6.4, 4.2))
    for i in range(utilities.shape[1]):
        name = sweep.problem.player(i)
        ax.plot(place, utilities[:, i], marker=MARKERS[i], color=OKABE_ITO[i], markersize=5, label=name)
    ax.set_xlabel(label)
    ax.set_ylabel("utility")
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(frameon=False)
    return ax


def _place(sweep: Any) -> tuple[Any, str]:
    shapes = {np.shape(v) for v in sweep.values}
    if shapes == {()} and not any(isinstance(v, str) for v in sweep.values):
        return np.asarray(sweep.values, dtype=float), sweep.label
    if sweep.parameter == "weights" and shapes == {(sweep.problem.n,)}:
        values = np.asarray(sweep.values, dtype=float)
        return values[:, 0] / values.sum(axis=1), f"share of the weight of {sweep.problem.player(0)}"
    return np.arange(len(sweep.values)), f"number of the value of {sweep.label}"
