"""Three experts on the half sphere of unit steps: who gains where, and what each rule chooses."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

import nashsolve
from nashsolve.core.errors import InvalidProblem
from nashsolve.plotting.figure import MARKERS, OKABE_ITO, new_axes

from .heat import read_matrix

_GRID = 91


def plot_hemisphere(vectors: Any, rules: Mapping[str, Any] | None = None, ax: Any = None) -> Any:
    """Domain vectors of three experts as arrows, unit steps coloured by the Nash product, and the rules' steps.

    The sphere is drawn in the space that the vectors span, seen from the side of the Nash step. Grey steps hurt at
    least one expert.

    Parameters
    ----------
    vectors : (3, p) linearly independent, p >= 3; rows are experts
    rules : name -> step (p,), drawn at unit length; the Nash bargaining solution and the mean by default
    ax : Axes of projection "3d" to draw into, a new one by default

    Returns
    -------
    Axes

    Raises
    ------
    InvalidProblem, NoAgreement, MissingExtra
    """
    rows = read_matrix(vectors, "vectors")
    if rows.shape[0] != 3 or rows.shape[1] < 3:
        raise InvalidProblem(f"vectors has shape {rows.shape}; three experts in at least three dimensions are needed")
    nash = np.asarray(nashsolve.solve(nashsolve.BargainingProblem(vectors=rows)).point)
    steps = {"Nash": nash, "mean": rows.mean(0)} if rules is None else dict(rules)
    frame = _frame(rows, nash)
    ax = new_axes(ax, (6.4, 5.0), projection="3d")
    ax.computed_zorder = False  # arrows and points stay in front of the sphere
    _draw_sphere(ax, rows @ frame.T)
    for i, tip in enumerate(_unit(rows) @ frame.T):
        ax.quiver(0, 0, 0, *(1.25 * tip), color=OKABE_ITO[i], linewidth=2.5, arrow_length_ratio=0.08, zorder=5)
        ax.text(*(1.4 * tip), f"expert {i}", color=OKABE_ITO[i], ha="center", zorder=11)
    for k, (name, step) in enumerate(steps.items()):
        point = _unit(np.asarray(step, dtype=np.float64)[None]) @ frame.T * 1.02
        gains = _unit(rows) @ _unit(np.asarray(step, dtype=np.float64)[None])[0]
        least = f"{name}: least gain {gains.min():.2f}"
        marker, color = MARKERS[k + 1], OKABE_ITO[(k + 3) % len(OKABE_ITO)]
        ax.plot(*point.T, marker, color=color, markersize=9, markeredgecolor="white", label=least, zorder=10)
    ax.legend(frameon=False, loc="upper left")
    ax.set_axis_off()
    ax.set(xlim=(-1.1, 1.1), ylim=(-1.1, 1.1), zlim=(0, 1.1))
    ax.set_box_aspect((2, 2, 1), zoom=1.2)
    ax.view_init(elev=55, azim=-60)
    return ax


def _unit(rows: np.ndarray) -> np.ndarray:
    length = np.linalg.norm(rows, axis=-1, keepdims=True)
    if not (length > 0).all() or not np.isfinite(length).all():
        raise InvalidProblem("a vector or a rule's step has length zero or is not finite; it has no direction to draw")
    return rows / length


def _frame(rows: np.ndarray, pole: np.ndarray) -> np.ndarray:
    """Orthonormal rows (3, p) of the span of the vectors, the last one along the pole."""
    _, sizes, basis = np.linalg.svd(_unit(rows), full_matrices=False)
    if sizes[-1] < 1e-9 * sizes[0]:
        raise InvalidProblem("vectors are linearly dependent; three directions that span a space are needed")
    axis = basis @ _unit(pole[None])[0]
    turned, _ = np.linalg.qr(np.column_stack([axis, np.eye(3)]))
    frame = turned.T[[1, 2, 0]] * np.sign(turned[:, 0] @ axis)
    return frame @ basis


def _draw_sphere(ax: Any, rows: np.ndarray) -> None:
    """Upper half sphere, coloured by the product of the gains of unit vectors; grey where one is negative."""
    from matplotlib import colormaps

    polar, turn = np.meshgrid(np.linspace(0, np.pi / 2, _GRID), np.linspace(0, 2 * np.pi, 4 * _GRID))
    points = np.stack([np.sin(polar) * np.cos(turn), np.sin(polar) * np.sin(turn), np.cos(polar)], axis=-1)
    gains = points @ _unit(rows).T
    product = np.where((gains > 0).all(-1), gains.prod(-1), np.nan)
    share = np.cbrt(product / np.nanmax(product))
    colors = colormaps["viridis"](np.nan_to_num(share))
    colors[np.isnan(product)] = (0.85, 0.85, 0.85, 1.0)
    colors[..., 3] = 0.55
    x, y, z = np.moveaxis(points, -1, 0)
    ax.plot_surface(x, y, z, facecolors=colors, rstride=1, cstride=1, linewidth=0, shade=False, zorder=1)
