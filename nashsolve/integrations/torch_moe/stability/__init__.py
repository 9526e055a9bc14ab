"""When the base-expert chain contracts: exact region, spectral radius, best momentum and step, published conditions."""

from .choice import MomentumChoice, optimal_beta, optimal_step
from .published import fujiwara_corrected, fujiwara_published, region_published
from .recurrence import characteristic_polynomial, quaternion_twin, remaining_error, spectral_radius, transition_matrix
from .region import is_stable, largest_stable_step, stability_slack, stable_moduli
from .warning import UnstableChain, explain_stability, warn_if_unstable

__all__ = [
    "MomentumChoice",
    "UnstableChain",
    "characteristic_polynomial",
    "explain_stability",
    "fujiwara_corrected",
    "fujiwara_published",
    "is_stable",
    "largest_stable_step",
    "optimal_beta",
    "optimal_step",
    "quaternion_twin",
    "region_published",
    "remaining_error",
    "spectral_radius",
    "stability_slack",
    "stable_moduli",
    "transition_matrix",
    "warn_if_unstable",
]
