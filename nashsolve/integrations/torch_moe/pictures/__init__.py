"""Pictures of merging: every function takes ax=None and returns the Axes."""

from .cosine_maps import output_cosines, plot_cosines
from .hemisphere import plot_hemisphere
from .history import plot_alpha_map, plot_base_updates
from .stability_map import plot_stability_map

__all__ = [
    "output_cosines",
    "plot_alpha_map",
    "plot_base_updates",
    "plot_cosines",
    "plot_hemisphere",
    "plot_stability_map",
]
