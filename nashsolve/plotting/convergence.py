"""How fast solvers close the gap."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from nashsolve.core.errors import InvalidProblem

from .figure import MARKERS, OKABE_ITO, new_axes

_FLOOR = 1e-32


def plot_convergence(histories: Mapping[str, Sequence[float]], *, ylabel: str = "duality gap", ax: Any = None) -> Any:
    """Certified gap after every iteration, on a logarithmic scale; one line a solver.

    Parameters
    ----------
    histories : label -> gaps after 0, 1, 2, ... iterations, as `nashsolve.convergence` returns; infinite gaps, where no
        iterate is certified yet, leave a hole, and zeros are drawn at the bottom. At most 8.
    ylabel : what the numbers are
    ax : Axes to draw into, a new one by default

    Raises
    ------
    InvalidProblem, MissingExtra
    """
    if not histories:
        raise InvalidProblem("histories is empty; at least one is needed")
    if len(histories) > len(MARKERS):
        raise InvalidProblem(f"histories has {len(histories)} entries; {len(MARKERS)} can be told apart")
    ax = new_axes(ax, (6.4, 4.2))
    for k, (label, gaps) in enumerate(histories.items()):
        values = np.asarray(gaps, dtype=float)
        if values.ndim != 1 or (values < 0).any():
            raise InvalidProblem(f"histories[{label!r}] must be numbers >= 0 in one axis")
        values = np.where(np.isfinite(values), np.maximum(values, _FLOOR), np.nan)
        ax.semilogy(range(len(values)), values, marker=MARKERS[k], color=OKABE_ITO[k], label=str(label), markersize=5)
    ax.set_xlabel("iterations")
    ax.set_ylabel(ylabel)
    ax.grid(axis="y", color="0.9")
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(frameon=False)
    return ax
