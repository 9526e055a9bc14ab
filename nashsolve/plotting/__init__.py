"""Pictures: every function takes ax=None and returns the Axes; matplotlib is imported when one is drawn."""

from .axioms import plot_axioms
from .bars import plot_gains
from .convergence import plot_convergence
from .figure import save
from .frontier import plot_frontier
from .sweep import plot_sweep
from .three import plot_hemisphere, plot_simplex
from .utilities import plot_solution, plot_utilities

__all__ = [
    "plot_axioms",
    "plot_convergence",
    "plot_frontier",
    "plot_gains",
    "plot_hemisphere",
    "plot_simplex",
    "plot_solution",
    "plot_sweep",
    "plot_utilities",
    "save",
]
