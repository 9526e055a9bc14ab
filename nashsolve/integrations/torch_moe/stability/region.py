r"""Exactly which momenta and steps are stable, in closed form (Jury's criterion).

With r the real part of beta, B = :math:`|\beta|^2` and h = gamma * sum(alpha), the chain contracts if and only if
h > 0, B < 1 and

.. math::
   h(1+r) < 2|1+\beta|^2, \qquad h(r-B) < (1-B)|1+\beta|^2, \qquad h(B-r) < (1-B)|1-\beta|^2 .
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np

from .recurrence import read_beta, read_step


def stability_slack(beta: Any, step: Any) -> np.ndarray:
    """Smallest slack of the five inequalities of the stable region.

    Parameters
    ----------
    beta : momentum: real, complex, array of such, or a quaternion (a, b, c, d)
    step : h = gamma * sum(alpha) >= 0, broadcast against beta

    Returns
    -------
    float64 (...): positive inside the region, zero on its boundary, negative outside. Source: [jury1964]_
    """
    b, h = np.broadcast_arrays(read_beta(beta), read_step(step))
    size, plus, minus = _squares(b)
    r = b.real
    slacks = [
        h,
        1 - size,
        2 * plus - h * (1 + r),
        (1 - size) * plus - h * (r - size),
        (1 - size) * minus - h * (size - r),
    ]
    # Outside the disk the products of two negative factors would say nothing; 1 - size < 0 decides there.
    return np.minimum.reduce(slacks)


def is_stable(beta: Any, step: Any) -> np.ndarray:
    """True where the chain contracts: spectral radius below one.

    Parameters
    ----------
    beta, step : as in `stability_slack`

    Returns
    -------
    bool (...)
    """
    return stability_slack(beta, step) > 0


def largest_stable_step(beta: Any) -> np.ndarray:
    r"""Supremum of the stable steps h of a momentum; every h between zero and it is stable.

    .. math:: h_{\max} = \min\left\{\frac{2|1+\beta|^2}{1+r},\;
       \frac{(1-B)|1+\beta|^2}{r-B}\ (r>B),\; \frac{(1-B)|1-\beta|^2}{B-r}\ (r<B)\right\}

    Parameters
    ----------
    beta : as in `stability_slack`

    Returns
    -------
    float64 (...): 2 (1 + beta) for real beta, 2 without momentum, 0 where abs(beta) >= 1
    """
    b = read_beta(beta)
    size, plus, minus = _squares(b)
    r = b.real
    with np.errstate(divide="ignore", invalid="ignore"):
        flip = 2 * plus / (1 + r)
        inner = np.where(r > size, (1 - size) * plus / (r - size), np.inf)
        outer = np.where(r < size, (1 - size) * minus / (size - r), np.inf)
        limit = np.minimum(np.minimum(flip, inner), outer)
    return np.where(size < 1, limit, 0.0)


def stable_moduli(phase: float, step: float) -> list[tuple[float, float]]:
    """Open intervals of abs(beta) that are stable at one phase and one step.

    Parameters
    ----------
    phase : angle of beta in radians
    step : h = gamma * sum(alpha) >= 0

    Returns
    -------
    Increasing list of (low, high) within [0, 1]; empty where no modulus is stable
    """
    h, c = float(read_step(step)), float(np.cos(phase))
    flip = [2, 4 * c - h * c, 2 - h]
    inner = [-1, -2 * c, h, (2 - h) * c, 1]
    outer = [-1, 2 * c, -h, (h - 2) * c, 1]
    roots = np.concatenate([np.roots(np.trim_zeros(p, "f")) for p in (flip, inner, outer)])
    real = roots.real[np.abs(roots.imag) <= 1e-7 * (1 + np.abs(roots))]
    cuts = np.unique(np.concatenate([[0.0], real[(real > 0) & (real < 1)], [1.0]]))
    found: list[tuple[float, float]] = []
    for low, high in pairwise(cuts):
        middle = (low + high) / 2 * np.exp(1j * phase)
        if not is_stable(middle, h):
            continue
        touches = found and found[-1][1] == low and bool(is_stable(low * np.exp(1j * phase), h))
        start = found.pop()[0] if touches else float(low)
        found.append((start, float(high)))
    return found


def _squares(b: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """|beta|^2, |1 + beta|^2, |1 - beta|^2 without a square root."""
    r, v = b.real, b.imag**2
    return r * r + v, (1 + r) ** 2 + v, (1 - r) ** 2 + v
