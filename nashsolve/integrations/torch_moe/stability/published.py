r"""Sufficient conditions of the published appendix, as printed and corrected, for comparison only.

Fujiwara's bound says that :math:`x^3 + a_2x^2 + a_1x + a_0` has its roots in the unit disk if
:math:`|a_2| < 1/2`, :math:`|a_1| < 1/4` and :math:`|a_0| < 1/4`. Applied to the correct polynomial it is true but so
cautious that no momentum with :math:`|\beta|^2 \ge 1/4` passes. The published constant term belongs to a matrix
in which a factor gamma is missing, so that the published condition passes unstable chains.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from nashsolve.core.errors import InvalidProblem

from .recurrence import characteristic_polynomial, read_beta, read_step


def fujiwara_corrected(beta: Any, step: Any) -> np.ndarray:
    r"""Fujiwara's condition on the correct characteristic polynomial: sufficient for stability.

    Parameters
    ----------
    beta : momentum: real, complex, array of such, or a quaternion (a, b, c, d)
    step : h = gamma * sum(alpha) >= 0

    Returns
    -------
    bool (...). Source: [fujiwara1916]_
    """
    return _fujiwara(characteristic_polynomial(beta, step)[..., 1:])


def fujiwara_published(beta: Any, alpha: Any, gamma: Any) -> np.ndarray:
    r"""The condition as published: NOT sufficient for stability.

    .. math:: |1+2r-h| < \tfrac12, \quad |r^2+u^2+2r-hr| < \tfrac14, \quad |r^2+u^2(1+\alpha-h)| < \tfrac14,
       \qquad h = \alpha\gamma

    It depends on alpha and gamma separately although the chain depends on their product only.

    Parameters
    ----------
    beta : as in `fujiwara_corrected`
    alpha, gamma : >= 0, broadcast against beta

    Returns
    -------
    bool (...). Source: [namex2025]_
    """
    b, a, g = _read(beta, alpha, gamma)
    r, v, h = b.real, b.imag**2, a * g
    return _fujiwara(np.stack([1 + 2 * r - h, r * r + v + 2 * r - h * r, r * r + v * (1 + a - h)], axis=-1))


def region_published(beta: Any, alpha: Any, gamma: Any) -> np.ndarray:
    r"""The published solution of `fujiwara_published` for r and u, with its two slips.

    .. math:: \tfrac{h}{2}-\tfrac34 < r < \tfrac{h}{2}-\tfrac14, \quad
       |u^2 + r^2 + 2r + hr| < \tfrac14, \quad
       \frac{-1-4r^2}{1+\alpha-h} < u^2 < \frac{1-4r^2}{1+\alpha-h}

    The sign of h r in the second and the factor 4 in the third are the slips. Where 1 + alpha - h <= 0, the third
    line is read as printed, without turning the inequalities around.

    Parameters
    ----------
    beta, alpha, gamma : as in `fujiwara_published`

    Returns
    -------
    bool (...). Source: [namex2025]_
    """
    b, a, g = _read(beta, alpha, gamma)
    r, v, h = b.real, b.imag**2, a * g
    factor = 1 + a - h
    with np.errstate(divide="ignore", invalid="ignore"):
        low, high = (-1 - 4 * r * r) / factor, (1 - 4 * r * r) / factor
    first = (h / 2 - 0.75 < r) & (r < h / 2 - 0.25)
    second = np.abs(v + r * r + 2 * r + h * r) < 0.25
    return first & second & (low < v) & (v < high)


def _read(beta: Any, alpha: Any, gamma: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    values = {"alpha": np.asarray(alpha, dtype=np.float64), "gamma": np.asarray(gamma, dtype=np.float64)}
    for name, value in values.items():
        if not np.isfinite(value).all() or (value < 0).any():
            raise InvalidProblem(f"{name} is {value}; it must be finite and not negative")
    read_step(values["alpha"] * values["gamma"])
    b, a, g = np.broadcast_arrays(read_beta(beta), values["alpha"], values["gamma"])
    return b, a, g


def _fujiwara(coefficients: np.ndarray) -> np.ndarray:
    return (np.abs(coefficients) < np.array([0.5, 0.25, 0.25])).all(axis=-1)
