"""Several axes in one figure that no global state knows."""

from __future__ import annotations

from typing import Any

from nashsolve.plotting.figure import new_axes


def panels(rows: int, columns: int, size: tuple[float, float], **options: Any) -> list[Any]:
    """Axes of one figure, row by row; options go to ``Figure.add_subplot``."""
    first = new_axes(None, size, **options)
    figure = first.figure
    first.remove()
    return [figure.add_subplot(rows, columns, k + 1, **options) for k in range(rows * columns)]
