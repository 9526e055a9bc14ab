r"""The base-expert chain near a fixed target: transition matrix, characteristic polynomial, spectral radius.

With frozen alpha, identity curvature and experts that agree on a target E*, one layer of the chain acts on the
error e = E - E* and on the two momentum buffers as a linear map that depends on the step only through
:math:`h = \gamma \sum_i \alpha_i`:

.. math:: P' = rP - uQ - he, \qquad Q' = uP + rQ, \qquad e' = e + P'
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from nashsolve.core.errors import InvalidProblem, InvalidType


def quaternion_twin(quaternion: Sequence[float]) -> complex:
    r"""The complex momentum with the same trajectories as a constant quaternion.

    .. math:: \beta = a + i\,\sqrt{b^2 + c^2 + d^2}

    Parameters
    ----------
    quaternion : four finite real numbers (a, b, c, d)

    Returns
    -------
    complex, with an imaginary part >= 0

    Raises
    ------
    InvalidProblem
    """
    parts = [_real(value, f"quaternion[{i}]") for i, value in enumerate(quaternion)]
    if len(parts) != 4:
        raise InvalidProblem(f"quaternion has {len(parts)} parts; (a, b, c, d) are needed")
    return complex(parts[0], float(np.linalg.norm(parts[1:])))


def read_beta(beta: Any) -> np.ndarray:
    """Momentum as a complex array: a number, an array of numbers, or a tuple or list (a, b, c, d) for a quaternion."""
    if isinstance(beta, tuple | list):
        return np.asarray(quaternion_twin(beta), dtype=np.complex128)
    value = np.asarray(beta)
    if value.dtype.kind not in "iufc":
        raise InvalidType(f"beta is {beta!r}; a real or complex number or a quaternion (a, b, c, d) is needed")
    if not np.isfinite(value).all():
        raise InvalidProblem(f"beta is {beta!r}; it must be finite")
    return value.astype(np.complex128)


def read_step(step: Any) -> np.ndarray:
    """The step h = gamma * sum(alpha) as a float array, finite and not negative."""
    value = np.asarray(step)
    if value.dtype.kind not in "iuf":
        raise InvalidType(f"step is {step!r}; a real number is needed")
    if not np.isfinite(value).all() or (value < 0).any():
        raise InvalidProblem(f"step is {step!r}; h = gamma * sum(alpha) must be finite and not negative")
    return value.astype(np.float64)


def _real(value: Any, name: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float | np.floating | np.integer):
        raise InvalidType(f"{name} is {value!r}; a real number is needed")
    if not np.isfinite(value):
        raise InvalidProblem(f"{name} is {value!r}; it must be finite")
    return float(value)


def transition_matrix(beta: Any, step: Any) -> np.ndarray:
    r"""The map of (P, Q, e) over one layer.

    Parameters
    ----------
    beta : momentum: real, complex, array of such, or a quaternion (a, b, c, d)
    step : h = gamma * sum(alpha) >= 0, broadcast against beta

    Returns
    -------
    float64 (..., 3, 3)
    """
    b, h = np.broadcast_arrays(read_beta(beta), read_step(step))
    r, u, zero = b.real, b.imag, np.zeros(b.shape)
    rows = [[r, -u, -h], [u, r, zero], [r, -u, 1 - h]]
    return np.stack([np.stack(row, axis=-1) for row in rows], axis=-2)


def characteristic_polynomial(beta: Any, step: Any) -> np.ndarray:
    r"""Coefficients of the characteristic polynomial, highest power first.

    .. math:: x^3 - (1 + 2r - h)\,x^2 + (|\beta|^2 + 2r - hr)\,x - |\beta|^2

    Parameters
    ----------
    beta, step : as in `transition_matrix`

    Returns
    -------
    float64 (..., 4)
    """
    b, h = np.broadcast_arrays(read_beta(beta), read_step(step))
    r, size = b.real, b.real**2 + b.imag**2
    return np.stack([np.ones(b.shape), -(1 + 2 * r - h), size + 2 * r - h * r, -size], axis=-1)


def spectral_radius(beta: Any, step: Any) -> np.ndarray:
    """Largest modulus of an eigenvalue of `transition_matrix`: the error shrinks like its l-th power over l layers.

    Parameters
    ----------
    beta, step : as in `transition_matrix`

    Returns
    -------
    float64 (...). Near a triple root the eigenvalues carry an error of about 1e-5.
    """
    return np.abs(np.linalg.eigvals(transition_matrix(beta, step))).max(axis=-1)


def remaining_error(beta: Any, step: Any, n_layers: int) -> np.ndarray:
    """Error after 0, 1, ..., n_layers layers, as a fraction of the first, with buffers that start at zero.

    A chain has a dozen layers or two, not infinitely many: what is left after them is told by this, not by the
    spectral radius alone.

    Parameters
    ----------
    beta, step : as in `transition_matrix`
    n_layers : int >= 0

    Returns
    -------
    float64 (..., n_layers + 1), signed
    """
    if isinstance(n_layers, bool) or not isinstance(n_layers, int) or n_layers < 0:
        raise InvalidProblem(f"n_layers is {n_layers!r}; a whole number >= 0 is needed")
    matrix = transition_matrix(beta, step)
    state = np.broadcast_to(np.array([0.0, 0.0, 1.0])[:, None], (*matrix.shape[:-1], 1))
    errors = [state[..., 2, 0]]
    for _ in range(n_layers):
        state = matrix @ state
        errors.append(state[..., 2, 0])
    return np.stack(errors, axis=-1)
