r"""The algebra of the published appendix, checked: matrices written out, polynomials by traces, a counter-example."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ...torch_moe import stability

COUNTER_EXAMPLE = {"beta": 0.9 * np.exp(1j * np.pi / 6), "alpha": 0.1, "gamma": 29.5}


def random_systems(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Momenta in the unit disk and steps up to 4."""
    rng = np.random.default_rng(seed)
    beta = np.sqrt(rng.random(count)) * np.exp(2j * np.pi * rng.random(count))
    return beta, 4 * rng.random(count)


def quaternion_matrix(quaternion: Sequence[float], step: float) -> np.ndarray:
    """One layer with all four buffers of the quaternion, written out: (5, 5) on (p0, p1, p2, p3, e)."""
    a, b, c, d = quaternion
    product = np.array([[a, -b, -c, -d], [b, a, -d, c], [c, d, a, -b], [d, -c, b, a]])
    matrix = np.zeros((5, 5))
    matrix[:4, :4] = product
    matrix[0, 4] = -step
    matrix[4] = matrix[0]
    matrix[4, 4] += 1
    return matrix


def polynomial(matrix: np.ndarray) -> np.ndarray:
    """Characteristic polynomial of a matrix by traces alone (Faddeev-LeVerrier), highest power first."""
    found, power = [1.0], np.zeros_like(matrix)
    for k in range(1, len(matrix) + 1):
        power = matrix @ power + found[-1] * matrix
        found.append(-float(np.trace(power)) / k)
    return np.array(found)


def printed_matrix(beta: complex, alpha: float, gamma: float, corrected: bool) -> np.ndarray:
    """The matrix of (31) on (P, Q, e) with buffers free of gamma; without the correction, that of (32)."""
    r, u = beta.real, beta.imag
    lost = gamma if corrected else 1.0
    return np.array([[r, -u, -alpha], [u, r, 0.0], [gamma * r, -lost * u, 1 - gamma * alpha]])


def identities(seed: int, count: int = 200) -> dict[str, float]:
    """Largest violation over random systems of what should hold exactly."""
    rng = np.random.default_rng([seed, 2])
    beta, step = random_systems(count, seed + 2)
    alpha = 10 ** rng.uniform(-0.5, 0.5, count)
    quaternions = rng.uniform(-0.6, 0.6, (count, 4))
    worst = {"polynomial": 0.0, "published_shift": 0.0, "quaternion_factors": 0.0}
    for b, h, a, q in zip(beta, step, alpha, quaternions, strict=True):
        exact = polynomial(printed_matrix(b, a, h / a, corrected=True))
        formula = stability.characteristic_polynomial(b, h)
        printed = polynomial(printed_matrix(b, a, h / a, corrected=False))
        shift = np.array([0, 0, 0, a * b.imag**2 * (1 - h / a)])
        cubic = stability.characteristic_polynomial(tuple(q), h)
        factors = np.convolve(cubic, [1, -2 * q[0], (q**2).sum()])
        for name, error in (
            ("polynomial", exact - formula),
            ("published_shift", exact - printed - shift),
            ("quaternion_factors", polynomial(quaternion_matrix(q, h)) - factors),
        ):
            worst[name] = max(worst[name], float(np.abs(error).max()))
    conjugate = stability.remaining_error(beta, step, 24) - stability.remaining_error(beta.conj(), step, 24)
    real = max(heavy_ball_gap(b.real, h) for b, h in zip(beta, step, strict=True) if h < 1)
    return worst | {
        "phase_sign": float(np.abs(conjugate).max()),
        "heavy_ball_real": real,
        "heavy_ball_complex": heavy_ball_gap(0.9 * np.exp(1j * np.pi / 6), 1.0),
    }


def heavy_ball_gap(beta: complex, step: float, layers: int = 24) -> float:
    """Largest difference between the momentum of (11) and the heavy ball of (14), whose base expert is real."""
    errors = [1.0, 1.0 - step]
    for _ in range(layers - 1):
        errors.append(errors[-1] - step * errors[-1] + complex(beta).real * (errors[-1] - errors[-2]))
    return float(np.abs(stability.remaining_error(beta, step, layers) - np.array(errors)).max())


def counter_example() -> dict[str, Any]:
    """A system that the published condition certifies and that amplifies errors."""
    beta, alpha, gamma = COUNTER_EXAMPLE.values()
    return {
        "alpha": alpha,
        "gamma": gamma,
        "modulus": abs(beta),
        "phase": float(np.angle(beta)),
        "certified": bool(stability.fujiwara_published(beta, alpha, gamma)),
        "radius": float(stability.spectral_radius(beta, alpha * gamma)),
    }
