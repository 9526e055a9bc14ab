"""How alike experts are: cosines of their domain vectors, or of their outputs on the same tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from nashsolve.core.errors import InvalidProblem
from nashsolve.plotting.figure import new_axes

from .heat import WRITTEN_UP_TO, draw_heat, read_matrix, write_numbers


def output_cosines(outputs: Any) -> np.ndarray:
    r"""Mean cosine of the outputs of each pair of experts on the same tokens.

    .. math:: C_{ij} = \frac1T \sum_t \cos(f_i(x_t), f_j(x_t))

    Parameters
    ----------
    outputs : (N, T, d): every expert on every token, whatever the router says; tokens on which an expert's output is
        zero are left out for its pairs

    Returns
    -------
    float64 (N, N); NaN for a pair without a common token

    Raises
    ------
    InvalidProblem

    Notes
    -----
    Source: [lo2025closer]_
    """
    values = read_matrix(outputs, "outputs", ndim=3)
    norms = np.linalg.norm(values, axis=-1, keepdims=True)
    unit = np.divide(values, norms, out=np.zeros_like(values), where=norms > 0)
    flat = unit.reshape(len(values), -1)
    seen = (norms[..., 0] > 0).astype(np.float64)
    together = seen @ seen.T
    return np.divide(flat @ flat.T, together, out=np.full(together.shape, np.nan), where=together > 0)


def plot_cosines(cosines: Any, names: Sequence[str] | None = None, title: str = "", ax: Any = None) -> Any:
    """Heat map of cosines from -1 to 1, with numbers for up to ten experts.

    Parameters
    ----------
    cosines : (N, N), of `output_cosines` or of a link record
    names : N experts, numbered by default
    title : above the map
    ax : Axes to draw into, a new one by default

    Returns
    -------
    Axes

    Raises
    ------
    InvalidProblem, MissingExtra
    """
    values = read_matrix(cosines, "cosines")
    n = len(values)
    if values.shape != (n, n):
        raise InvalidProblem(f"cosines has shape {values.shape}; a square matrix is needed")
    if names is not None and len(names) != n:
        raise InvalidProblem(f"names has {len(names)} entries for {n} experts")
    ax = new_axes(ax, (5.2, 4.4))
    picture = draw_heat(ax, values, "cosine", cmap="RdBu_r", vmin=-1, vmax=1)
    if n <= WRITTEN_UP_TO:
        write_numbers(ax, values, picture)
    every = 1 if n <= 16 else 8
    places = range(0, n, every)
    labels = [str(i) if names is None else names[i] for i in places]
    ax.set_xticks(places, labels)
    ax.set_yticks(places, labels)
    ax.tick_params(length=0)
    ax.set_xlabel("expert")
    ax.set_ylabel("expert")
    ax.set_title(title)
    return ax
