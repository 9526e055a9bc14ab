"""What all pictures share: axes, colours that a colour-blind reader can tell apart, and saving."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from nashsolve.core.errors import MissingExtra

OKABE_ITO = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#F0E442", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
"""One shape for each colour, so that a picture printed in grey still reads."""


def new_axes(ax: Any, size: tuple[float, float], **options: Any) -> Any:
    """`ax`, or the axes of a new figure that no global state knows; options go to ``Figure.add_subplot``."""
    if ax is not None:
        return ax
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise MissingExtra("matplotlib", "plot") from None
    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    return figure.add_subplot(**options)


def save(ax: Any, file: str | Path, dpi: int = 150) -> Path:
    """Write the figure of `ax`; returns the path."""
    ax.figure.savefig(file, dpi=dpi)
    return Path(file)
