"""Which momenta are stable at one step, beside what the published conditions say."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from nashsolve.core.errors import InvalidProblem
from nashsolve.plotting.figure import MARKERS, OKABE_ITO, new_axes

from ..stability import fujiwara_corrected, fujiwara_published, region_published, spectral_radius, stability_slack
from ..stability.recurrence import read_beta

_GRID = 401
_LEVELS = (0.2, 0.4, 0.6, 0.8, 0.9)
_POINTS = ("#FFFFFF", *OKABE_ITO[:6])


def plot_stability_map(
    alpha: float = 0.5,
    gamma: float = 2.0,
    momenta: Mapping[str, Any] | None = None,
    published: bool = True,
    ax: Any = None,
) -> Any:
    """The plane of momenta at h = alpha * gamma: the exact region with its spectral radii, and the published ones.

    Parameters
    ----------
    alpha, gamma : only their product matters to the chain, but the published conditions read both
    momenta : name -> real or complex beta or quaternion (a, b, c, d), drawn as points; at most 7
    published : draw the outlines of the published condition, of its printed solution, and of the corrected condition
    ax : Axes to draw into, a new one by default

    Returns
    -------
    Axes

    Raises
    ------
    InvalidProblem, MissingExtra
    """
    points = {name: complex(read_beta(beta)) for name, beta in (momenta or {}).items()}
    if len(points) >= len(MARKERS):
        raise InvalidProblem(f"momenta has {len(points)} entries; {len(MARKERS) - 1} can be told apart")
    h = float(alpha) * float(gamma)
    axis = np.linspace(-1.15, 1.15, _GRID)
    r, u = np.meshgrid(axis, axis)
    plane = r + 1j * u
    ax = new_axes(ax, (6.6, 5.4))
    radius = np.where(stability_slack(plane, h) > 0, spectral_radius(plane, h), np.nan)
    shade = ax.contourf(r, u, radius, levels=np.linspace(0, 1, 21), cmap="viridis_r", alpha=0.75)
    ax.figure.colorbar(shade, ax=ax, label="spectral radius", ticks=np.linspace(0, 1, 6))
    lines = ax.contour(r, u, radius, levels=_LEVELS, colors="white", linewidths=0.6)
    ax.clabel(lines, fontsize=7)
    turn = np.linspace(0, 2 * np.pi, 361)
    ax.plot(np.cos(turn), np.sin(turn), color="0.6", linewidth=0.8, linestyle=":")
    _outline(ax, plane, stability_slack(plane, h), "black", "-", "stable (exact)")
    if published:
        _outline(ax, plane, fujiwara_corrected(plane, h), OKABE_ITO[1], "-", "Fujiwara, correct polynomial")
        _outline(ax, plane, fujiwara_published(plane, alpha, gamma), OKABE_ITO[3], "--", "condition as published")
        _outline(ax, plane, region_published(plane, alpha, gamma), OKABE_ITO[4], ":", "region as published")
    for k, (name, beta) in enumerate(points.items()):
        verdict = f"{name}, radius {float(spectral_radius(beta, h)):.3f}"
        style = {"color": _POINTS[k], "markeredgecolor": "black", "linestyle": "none"}
        ax.plot([beta.real], [beta.imag], MARKERS[k + 1], markersize=8, label=verdict, **style)
    ax.set_title(f"h = gamma * sum(alpha) = {h:.4g}")
    ax.set_xlabel("real part of the momentum")
    ax.set_ylabel("imaginary part")
    ax.set_aspect("equal")
    ax.legend(frameon=False, fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.12), ncols=2)
    return ax


def _outline(ax: Any, plane: np.ndarray, inside: np.ndarray, color: str, style: str, label: str) -> None:
    """The boundary of where `inside` is true, or positive, and one entry in the legend."""
    level = 0.5 if inside.dtype == bool else 0.0
    if not (inside > level).any():
        ax.plot([], [], color=color, linestyle=style, label=f"{label}: empty")
        return
    ax.contour(plane.real, plane.imag, inside.astype(float), levels=[level], colors=[color], linestyles=[style])
    ax.plot([], [], color=color, linestyle=style, label=label)
