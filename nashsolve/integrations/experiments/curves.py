"""Learning curves: the mean over seeds of each system, smoothed as the paper does, with all seeds behind it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from nashsolve.plotting.figure import OKABE_ITO, new_axes

from .systems import title

Curves = Mapping[str, Sequence[Mapping[str, Any]]]
POINTS = 5
"""Points of the moving average, as in the paper's figure 7."""


def plot_curves(curves: Curves, number: str, label: str, *, points: int = POINTS, ax: Any = None) -> Any:
    """One line a system.

    Parameters
    ----------
    curves : of `Book.curves`; keys are "system/seed"
    number : of the points, such as "loss"
    label : of the axis
    points : of the moving average
    ax : matplotlib axes, or None for a new figure

    Returns
    -------
    Axes
    """
    ax = new_axes(ax, (7.0, 4.2))
    for k, (system, (steps, values)) in enumerate(mean_curves(curves, number).items()):
        style = "-" if k < len(OKABE_ITO) else "--"
        smooth = np.convolve(values, np.ones(points) / points, mode="valid") if len(values) >= points else values
        at = steps[len(steps) - len(smooth) :]
        ax.plot(at, smooth, style, color=OKABE_ITO[k % len(OKABE_ITO)], label=title(system), lw=1.4)
    ax.set_xlabel("optimizer step")
    ax.set_ylabel(label)
    ax.legend(fontsize=7, ncols=2)
    return ax


def mean_curves(curves: Curves, number: str) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """System -> (steps, mean over seeds), of the steps that all its seeds have."""
    groups: dict[str, list[dict[int, float]]] = {}
    for key, points in curves.items():
        found = {p["step"]: p[number] for p in points if p.get(number) is not None}
        if found and "/" in key:
            groups.setdefault(key.rpartition("/")[0], []).append(found)
    result = {}
    for system, seeds in groups.items():
        steps = sorted(set.intersection(*(set(found) for found in seeds)))
        if steps:
            means = np.array([np.mean([found[s] for found in seeds]) for s in steps])
            result[system] = (np.array(steps), means)
    return result
