"""How a chain changes in training: coefficients of all experts, and how far the base expert moves."""

from __future__ import annotations

from typing import Any

import numpy as np

from nashsolve.core.errors import InvalidProblem
from nashsolve.plotting.figure import new_axes

from ..telemetry import LINK_VECTORS, Telemetry
from .heat import draw_heat


def plot_alpha_map(
    history: Telemetry, key: str = "coefficients", chain: str | None = None, group: str = "all", ax: Any = None
) -> Any:
    """Heat map of every expert's weight: rows are experts within layers, columns steps; grey where there is none.

    Parameters
    ----------
    history : Telemetry with chains
    key : "alpha", "coefficients", or another vector of the link records
    chain, group : as in Telemetry.links
    ax : Axes to draw into, a new one by default

    Returns
    -------
    Axes

    Raises
    ------
    InvalidProblem, MissingExtra
    """
    if key not in LINK_VECTORS:
        raise InvalidProblem(f"key is {key!r}; one of {', '.join(LINK_VECTORS)} is needed")
    values = history.links(key, chain, group)
    n_steps, depth, n = values.shape
    ax = new_axes(ax, (8.0, max(3.0, 0.13 * depth * n + 1.0)))
    picture = values.transpose(1, 2, 0).reshape(depth * n, n_steps)
    draw_heat(ax, picture, key, cmap="viridis", aspect="auto", interpolation="nearest")
    for layer in range(1, depth):
        ax.axhline(layer * n - 0.5, color="white", linewidth=1.5)
    ax.set_yticks([layer * n + (n - 1) / 2 for layer in range(depth)], [f"layer {k}" for k in range(depth)])
    ax.tick_params(axis="y", length=0)
    _step_ticks(ax, history.steps)
    return ax


def plot_base_updates(history: Telemetry, chain: str | None = None, group: str = "all", ax: Any = None) -> Any:
    r"""Length of the step of the base expert, :math:`\|E_m^{l+1} - E_m^l\|`, one line a layer over training steps.

    Parameters
    ----------
    history : Telemetry with chains
    chain, group : as in Telemetry.links
    ax : Axes to draw into, a new one by default

    Returns
    -------
    Axes

    Raises
    ------
    InvalidProblem, MissingExtra
    """
    values = history.links("base_move", chain, group)
    ax = new_axes(ax, (7.0, 4.2))
    from matplotlib import colormaps
    from matplotlib.ticker import LogLocator, NullFormatter

    depth = values.shape[1]
    for layer in range(depth):
        color = colormaps["viridis"](0.9 * layer / max(depth - 1, 1))
        ax.plot(history.steps, values[:, layer], color=color, linewidth=1.8, label=f"{layer} to {layer + 1}")
    if np.nanmin(values) > 0 and np.nanmax(values) > 10 * np.nanmin(values):
        ax.set_yscale("log")
        ax.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        ax.yaxis.set_major_formatter("{x:g}")
        ax.yaxis.set_minor_formatter(NullFormatter())
    ax.set_xlabel("training step")
    ax.set_ylabel("step of the base expert")
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(title="layers", frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    return ax


def _step_ticks(ax: Any, steps: list[int]) -> None:
    places = np.unique(np.linspace(0, len(steps) - 1, min(len(steps), 9)).round().astype(int))
    ax.set_xticks(places, [str(steps[i]) for i in places])
    ax.set_xlabel("training step")
