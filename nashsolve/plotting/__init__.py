"""Pictures: every function takes ax=None and returns the Axes; matplotlib is imported when one is drawn."""

from .figure import save
from .utilities import plot_solution, plot_utilities

__all__ = ["plot_solution", "plot_utilities", "save"]
