"""A matrix as a heat map, with its numbers where they fit."""

from __future__ import annotations

from typing import Any

import numpy as np

from nashsolve.core.errors import InvalidProblem

WRITTEN_UP_TO = 10
MISSING = "0.85"


def read_matrix(value: Any, name: str, ndim: int = 2) -> np.ndarray:
    """A float64 array of `ndim` axes, from any array library; torch tensors may carry a gradient."""
    if hasattr(value, "detach"):
        value = value.detach().double().cpu().numpy()
    array = np.asarray(value, dtype=np.float64)
    if array.ndim != ndim or not array.size:
        raise InvalidProblem(f"{name} has shape {array.shape}; {ndim} axes with entries are needed")
    return array


def draw_heat(ax: Any, values: np.ndarray, label: str, **image: Any) -> Any:
    """Draw `values` into `ax` with a colour bar; grey where a value is missing. Returns the image."""
    picture = ax.imshow(np.ma.masked_invalid(values), **image)
    ax.set_facecolor(MISSING)
    bar = ax.figure.colorbar(picture, ax=ax, shrink=0.85)
    bar.set_label(label)
    bar.outline.set_visible(False)
    ax.spines[:].set_visible(False)
    return picture


def write_numbers(ax: Any, values: np.ndarray, picture: Any) -> None:
    """Each number in its cell, dark on light or light on dark."""
    for (row, column), value in np.ndenumerate(values):
        if np.isfinite(value):
            red, green, blue, _ = picture.cmap(picture.norm(value))
            dark = 0.299 * red + 0.587 * green + 0.114 * blue < 0.5
            ax.text(
                column, row, f"{value:.2f}", ha="center", va="center", fontsize=8, color="white" if dark else "black"
            )
