"""A warning with numbers when a configured chain is unstable."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np

from .recurrence import read_beta, read_step, spectral_radius
from .region import is_stable, largest_stable_step


class UnstableChain(UserWarning):
    """The base-expert chain amplifies differences from layer to layer."""


def explain_stability(beta: Any, step: Any, where: str = "the base-expert chain") -> str:
    """One sentence with modulus, phase, step, spectral radius and the largest stable step; empty when stable.

    Parameters
    ----------
    beta : momentum: real, complex, or a quaternion (a, b, c, d)
    step : h = gamma * sum(alpha), one number or one per layer (L,); the worst is named
    where : what is judged, for the sentence

    Returns
    -------
    str
    """
    b, steps = complex(read_beta(beta)), np.atleast_1d(read_step(step))
    # A step of exactly zero holds the base expert where it is: nothing moves, nothing grows.
    bad = (steps > 0) & ~is_stable(b, steps)
    if not bad.any():
        return ""
    worst = int(np.argmax(np.where(bad, spectral_radius(b, steps), 0)))
    limit, h = float(largest_stable_step(b)), float(steps[worst])
    layer = f" at layer {worst}" if steps.size > 1 else ""
    if limit > 0:
        change = f"h must stay below {limit:.4g}: divide gamma by more than {h / limit:.3g} or change the momentum"
    else:
        change = "no step is stable: lower |beta| below 1"
    return (
        f"{where} is unstable{layer}: momentum {abs(b):.4g} at phase {np.degrees(np.angle(b)):.4g} degrees and "
        f"h = gamma * sum(alpha) = {h:.4g} have spectral radius {float(spectral_radius(b, h)):.6g}; {change}."
    )


def warn_if_unstable(beta: Any, step: Any, where: str = "the base-expert chain") -> bool:
    """Issue a `UnstableChain` when the chain is unstable; returns whether it is.

    Parameters
    ----------
    beta, step, where : as in `explain_stability`

    Returns
    -------
    bool
    """
    text = explain_stability(beta, step, where)
    if text:
        warnings.warn(text, UnstableChain, stacklevel=2)
    return bool(text)
