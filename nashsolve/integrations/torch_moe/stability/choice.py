r"""The best momentum for a step, the best step for a momentum.

**One step known.** Every momentum has spectral radius at least 1 - y, where y is the largest root of
:math:`2y^3 - 3hy + h^2`, which is :math:`\sqrt{2h}\cos(\tfrac13\arccos(-\sqrt{h/2}))`, and at least
:math:`\sqrt h - 1`. For h <= 1 the first is reached, by a triple root q = 1 - y with r = 1 - 3y/2 + h/2 and
:math:`|\beta|^2 = q^3`; for 1 <= h < 4 the second, by Polyak's real :math:`(\sqrt h - 1)^2`. At h = 1 both are no
momentum at all, and from h = 4 on nothing is stable. The proofs are in the documentation.

**Only a range of steps known** (alpha changes from layer to layer and from step to step). Then the largest spectral
radius over the range is minimised.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from nashsolve.core.errors import InvalidProblem

from .recurrence import read_beta, read_step, spectral_radius
from .region import largest_stable_step

_RANGE_POINTS = 33
_ACROSS = (1.0, 1.0, 1.0)


@dataclass(frozen=True)
class MomentumChoice:
    """A momentum, the step or the ends of the range of steps that it is meant for, and the spectral radius there.

    Attributes
    ----------
    beta : complex, with an imaginary part >= 0 (its conjugate has the same trajectories)
    step : (low, high) of h = gamma * sum(alpha)
    radius : spectral radius, the largest over the range
    largest_step : where the momentum becomes unstable
    """

    beta: complex
    step: tuple[float, float]
    radius: float
    largest_step: float

    def quaternion(self, direction: Sequence[float] = _ACROSS) -> tuple[float, float, float, float]:
        """The quaternions (a, b, c, d) that are this momentum: any direction of (b, c, d) gives the same chain."""
        axis = np.asarray(direction, dtype=np.float64)
        length = float(np.linalg.norm(axis)) if axis.shape == (3,) else 0.0
        if not length > 0 or not np.isfinite(length):
            raise InvalidProblem(f"direction is {direction!r}; three finite numbers, not all zero, are needed")
        b, c, d = (float(x) for x in axis / length * self.beta.imag)
        return self.beta.real, b, c, d

    def settings(self, kind: str = "complex", direction: Sequence[float] = _ACROSS) -> dict[str, Any]:
        """Keywords of a `MomentumConfig` of kind "complex" or "quaternion" (with its direction)."""
        if kind == "quaternion":
            return {"kind": kind, "quaternion": self.quaternion(direction)}
        if kind != "complex":
            raise InvalidProblem(f"kind is {kind!r}; 'complex' or 'quaternion' is needed")
        return {"kind": kind, "beta": float(abs(self.beta)), "phase": float(np.angle(self.beta))}


def optimal_beta(step: float | Sequence[float], real: bool = False) -> MomentumChoice:
    r"""The momentum with the smallest spectral radius at a step, or the smallest worst one over a range of steps.

    Parameters
    ----------
    step : h = gamma * sum(alpha) in (0, 4), or (low, high) with 0 < low <= high < 4
    real : True for the best real momentum, :math:`(1 - \sqrt h)^2`

    Returns
    -------
    MomentumChoice. In closed form for one step and for real momentum, by a search over the disk otherwise.

    Raises
    ------
    InvalidProblem

    Notes
    -----
    Real momentum is Polyak's [polyak1964]_.
    """
    low, high = _range(step)
    candidates = [max((1 - np.sqrt(low)) ** 2, (1 - np.sqrt(high)) ** 2) + 0j]
    if not real:
        candidates.append(_triple_root(low) if low < 1 else candidates[0])
        if high > low:
            candidates += [_triple_root(h) for h in (np.sqrt(low * high), high) if h < 1]
            candidates.append(_search(lambda b: _worst(b, low, high), candidates))
    best = min(candidates, key=lambda b: _worst(b, low, high))
    if low == high:
        best = candidates[-1]  # exact; eigenvalues at multiple roots are not
    return MomentumChoice(complex(best), (low, high), _radius(best, low, high), float(largest_stable_step(best)))


def optimal_step(beta: Any) -> MomentumChoice:
    r"""The step with the smallest spectral radius for a momentum.

    Parameters
    ----------
    beta : real, complex, or a quaternion (a, b, c, d), abs(beta) < 1

    Returns
    -------
    MomentumChoice. For real beta in [0, 1) every step from :math:`(1-\sqrt\beta)^2` to :math:`(1+\sqrt\beta)^2`
    is as good; the smallest is returned.

    Raises
    ------
    InvalidProblem
        For abs(beta) >= 1: no step is stable.
    """
    b = complex(read_beta(beta))
    b = complex(b.real, abs(b.imag))
    limit = float(largest_stable_step(b))
    if limit <= 0:
        raise InvalidProblem(f"beta is {beta!r} with modulus {abs(b):.6g}; no step is stable from modulus 1 on")
    if b.imag == 0 and b.real >= 0:
        h = float((1 - np.sqrt(b.real)) ** 2)
    else:
        h = _line_search(lambda h: spectral_radius(b, h), limit)
    return MomentumChoice(b, (h, h), float(spectral_radius(b, h)), limit)


def _range(step: float | Sequence[float]) -> tuple[float, float]:
    ends = np.atleast_1d(read_step(step))
    if ends.shape not in ((1,), (2,)):
        raise InvalidProblem(f"step is {step!r}; one number or (low, high) is needed")
    low, high = float(ends[0]), float(ends[-1])
    if not 0 < low <= high:
        raise InvalidProblem(f"step is {step!r}; 0 < low <= high is needed")
    if high >= 4:
        raise InvalidProblem(f"step is {step!r}; no momentum is stable from h = 4 on: lower gamma")
    return low, high


def _triple_root(h: float) -> complex:
    y = np.sqrt(2 * h) * np.cos(np.arccos(-np.sqrt(h / 2)) / 3)
    r = 1 - 1.5 * y + h / 2
    return complex(r, np.sqrt(max((1 - y) ** 3 - r * r, 0.0)))


def _radius(beta: complex, low: float, high: float) -> float:
    """Worst spectral radius; at one step from the product of the equal roots, free of their rounding."""
    if low < high:
        return float(_worst(beta, low, high))
    return float(np.abs(1 - np.sqrt(low)) if beta.imag == 0 else np.cbrt(abs(beta) ** 2))


def _worst(beta: complex, low: float, high: float) -> float:
    steps = np.geomspace(low, high, _RANGE_POINTS if high > low else 1)
    return float(spectral_radius(beta, steps).max())


def _search(worst: Callable[[complex], float], starts: Sequence[complex]) -> complex:
    """Nelder-Mead from each start and from a coarse grid: the objective has corners where eigenvalues meet."""
    from scipy.optimize import minimize

    grid = [complex(r, u) for r in np.linspace(-0.2, 0.95, 24) for u in np.linspace(0, 0.6, 13)]
    seeds = sorted([*starts, *sorted(grid, key=worst)[:3]], key=worst)[:4]
    ends = [minimize(lambda p: worst(complex(*p)), (b.real, b.imag), method="Nelder-Mead") for b in seeds]
    found = min(ends, key=lambda end: float(end.fun)).x
    return complex(found[0], abs(found[1]))


def _line_search(radius: Callable[[Any], Any], limit: float) -> float:
    """Smallest value on (0, limit): a grid finds the valley, golden sections its floor."""
    from scipy.optimize import minimize_scalar

    grid = np.linspace(0, limit, 2002)[1:-1]
    at = int(np.argmin(radius(grid)))
    ends = grid[max(at - 1, 0)], grid[min(at + 1, len(grid) - 1)]
    found = minimize_scalar(lambda h: float(radius(h)), bounds=ends, method="bounded", options={"xatol": 1e-12})
    return float(found.x)
