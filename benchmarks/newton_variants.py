"""Which Newton step: iterations of four variants over the feasible families, the measurement behind backends/newton.py.

    python -m benchmarks.newton_variants

`line search` is the primal step with an exact search on the derivative, `primal-dual` the step of the engine; each with
and without putting the iterate back on the optimum of its ray. All solve the unit-diagonal Gram in float64.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.linalg.lapack import dpotrf, dpotrs

from benchmarks.families import FEASIBLE

_DONE, _NOISY, _LIMIT = 1e-11, 1e-4, 100


class _Stop:
    """Converged, or at the floor where steps no longer shrink."""

    def __init__(self) -> None:
        self.best, self.stalled = np.inf, 0

    def __call__(self, size: float) -> bool:
        self.stalled = self.stalled + 1 if size < _NOISY and size > 0.3 * self.best else 0
        self.best = min(self.best, size)
        return size < _DONE or self.stalled >= 2


def _ray(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return a * np.sqrt(len(a) / (a @ b @ a))


def line_search(b: np.ndarray, rescale: bool) -> int:
    """Primal Newton; the step solves phi'(t) = 0 by safeguarded Newton."""
    a, stop = _ray(np.ones(len(b)), b), _Stop()
    for iteration in range(_LIMIT):
        scaled = b * a[:, None] * a
        r = 1 - a * (b @ a)
        e = dpotrs(dpotrf(scaled + np.eye(len(a)), lower=1)[0], r, lower=1)[0]
        if stop(float(np.sqrt(max(r @ e, 0.0)))):
            return iteration
        a = a * (1 + _search(e, float(scaled.sum(1) @ e), float(e @ scaled @ e)) * e)
        a = _ray(a, b) if rescale else a
    return _LIMIT


def _search(e: np.ndarray, slope: float, curvature: float) -> float:
    low, high = 0.0, (1 / -e.min() if e.min() < 0 else np.inf)
    t = min(1.0, 0.9 * high)
    for _ in range(20):
        move = e / (1 + t * e)
        value = slope + t * curvature - move.sum()
        low, high = (low, t) if value > 0 else (t, high)
        following = t - value / (curvature + move @ move)
        if not low < following < high:
            following = (low + high) / 2 if np.isfinite(high) else 2 * t + 1
        if abs(following - t) < 1e-3 * t:
            return following
        t = following
    return t


def primal_dual(b: np.ndarray, rescale: bool) -> int:
    """Primal-dual Newton with one second-order correction by the same factor."""
    a = _ray(np.ones(len(b)), b)
    u, stop = 1 / a, _Stop()
    for iteration in range(_LIMIT):
        r, au = 1 - a * (b @ a), a * u
        factor, failed = dpotrf(b * a[:, None] * a + np.diag(au), lower=1)
        if failed:
            return _LIMIT
        da = dpotrs(factor, r, lower=1)[0]
        if stop(max(float(np.sqrt(max(r @ da, 0.0))), float(abs(da).max()))):
            return iteration
        du = 1 / au - 1 - da
        da2 = dpotrs(factor, r - au * da * du, lower=1)[0]
        du2 = 1 / au - 1 - da * du - da2
        if _length(da2, du2) >= _length(da, du):
            da, du = da2, du2
        t = _length(da, du)
        a, u = a * (1 + t * da), u * (1 + t * du)
        a = _ray(a, b) if rescale else a
    return _LIMIT


def _length(da: np.ndarray, du: np.ndarray) -> float:
    low = min(da.min(), du.min())
    return -0.9 / low if low < -0.9 else 1.0


VARIANTS: dict[str, Callable[[np.ndarray], int]] = {
    "line search": lambda b: line_search(b, rescale=False),
    "line search, rescaled": lambda b: line_search(b, rescale=True),
    "primal-dual": lambda b: primal_dual(b, rescale=False),
    "primal-dual, rescaled": lambda b: primal_dual(b, rescale=True),
}


def unit_gram(vectors: np.ndarray) -> np.ndarray:
    """Gram of the rows at unit length."""
    gram = vectors @ vectors.T
    norms = np.sqrt(np.diag(gram))
    return gram / norms / norms[:, None]


def main() -> None:
    """Print median and largest number of iterations, by family and over all."""
    grams = {
        family: [unit_gram(make(n, seed)) for n in (2, 3, 8, 16, 64, 256) for seed in range(3 if n < 256 else 1)]
        for family, make in FEASIBLE.items()
    }
    print(f"{'family':10}" + "".join(f"{name:>24}" for name in VARIANTS))
    every: dict[str, list[int]] = {name: [] for name in VARIANTS}
    for family, instances in grams.items():
        cells = []
        for name, run in VARIANTS.items():
            counts = [run(b) for b in instances]
            every[name] += counts
            cells.append(f"{np.median(counts):g} / {max(counts)}")
        print(f"{family:10}" + "".join(f"{cell:>24}" for cell in cells), flush=True)
    print(f"{'all':10}" + "".join(f"{f'{np.median(v):g} / {max(v)}':>24}" for v in every.values()))


if __name__ == "__main__":
    main()
