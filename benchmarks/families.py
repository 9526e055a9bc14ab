"""Seeded instance families: rows of players, ordinary to adversarial, some without any agreement.

Every generator is ``make(n, seed) -> vectors`` with ``vectors`` a fresh float64 array of shape (n, p), one
player a row; the same (family, n, seed) gives the same draws. ``FEASIBLE`` and ``INFEASIBLE`` map family
names to generators. Only numpy is needed, so tests may import this file. ``python -m benchmarks.families``
checks the constructions.

======== =====================================================================================================
a        Gaussian rows, p = 50 n: nearly orthogonal, the ordinary case
b1eK     Gram of condition number 10^K, random eigenvectors, geometric spectrum
c        the rows of ``a`` with norms from 1e-6 to 1e6
d1e-K    unit rows, 0 at distance 10^-K from their convex hull, otherwise in general position (p = 2 n)
dl1e-K   the same with p = n // 2 + 1: rank deficient, many conflicting directions
e_low    p = n // 2 (at least 2), all rows in one open half-space
e_dup    every player twice (an odd n has one player once)
f_cen    rows minus their mean, without rounding: no agreement
f_opp    two exactly opposed players among ordinary ones: no agreement
======== =====================================================================================================
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

Vectors = NDArray[np.float64]
Make = Callable[[int, int], Vectors]


def generator(name: str, n: int, seed: int) -> np.random.Generator:
    """A generator of its own for each (name, n, seed), independent of every other."""
    return np.random.default_rng([zlib.crc32(name.encode()), n, seed])


def ordinary(n: int, seed: int, *, name: str = "a") -> Vectors:
    """Gaussian rows in 50 n dimensions."""
    return generator(name, n, seed).standard_normal((n, 50 * n))


def conditioned(n: int, seed: int, *, name: str, cond: float) -> Vectors:
    """Rows whose Gram has random eigenvectors and eigenvalues from 1 to 1 / cond in geometric steps."""
    rng = generator(name, n, seed)
    left, _ = np.linalg.qr(rng.standard_normal((n, n)))
    right, _ = np.linalg.qr(rng.standard_normal((n, n)))
    exponents = np.linspace(0.0, -0.5, n) if n > 1 else np.zeros(1)
    return np.asarray((left * cond**exponents) @ right, dtype=np.float64)


def scaled(n: int, seed: int, *, name: str = "c") -> Vectors:
    """Gaussian directions with norms spread geometrically over 1e-6..1e6, in random order."""
    rng = generator(name, n, seed)
    rows = rng.standard_normal((n, 50 * n))
    norms = np.logspace(-6.0, 6.0, n) if n > 1 else np.ones(1)
    rows *= (rng.permutation(norms) / np.linalg.norm(rows, axis=1))[:, None]
    return rows


def at_distance(n: int, seed: int, *, name: str, distance: float, low: bool = False) -> Vectors:
    r"""Unit rows with 0 at exactly ``distance`` from their convex hull, up to the rounding of the rows.

    ``v_i = distance * q + sqrt(1 - distance^2) z_i`` with unit ``z_i`` orthogonal to the unit vector ``q``
    and ``sum_i c_i z_i = 0`` for some ``c > 0``: every point of the hull has component ``distance`` along
    ``q``, and the point of weights ``c`` has no other, so it is the nearest one to 0.
    """
    rng = generator(name, n, seed)
    p = n // 2 + 1 if low else 2 * n
    weights = rng.uniform(0.2, 1.0, n)
    weights /= weights.sum()
    q = rng.standard_normal(p)
    q /= np.linalg.norm(q)
    z = rng.standard_normal((n, p))
    z -= np.outer(z @ q, q)
    z -= weights @ z
    z /= np.linalg.norm(z, axis=1)[:, None]
    z -= np.outer(z @ q, q)
    return np.asarray(distance * q + np.sqrt(1.0 - distance**2) * z, dtype=np.float64)


def half_space(n: int, seed: int, *, name: str = "e_low") -> Vectors:
    """Gaussian rows in n // 2 dimensions, each with component at least 0.1 along one common direction."""
    rng = generator(name, n, seed)
    p = max(2, n // 2)
    q = rng.standard_normal(p)
    q /= np.linalg.norm(q)
    rows = rng.standard_normal((n, p))
    along = rows @ q
    rows += np.outer(np.abs(along) + 0.1 - along, q)
    return rows


def duplicated(n: int, seed: int, *, name: str = "e_dup") -> Vectors:
    """Gaussian rows, each present twice, bit for bit."""
    half = (n + 1) // 2
    rows = generator(name, n, seed).standard_normal((half, 50 * half))
    return np.repeat(rows, 2, axis=0)[:n]


def centred(n: int, seed: int, *, name: str = "f_cen") -> Vectors:
    """Gaussian rows minus their mean, on a dyadic grid so that they sum to zero without rounding."""
    grid = np.round(generator(name, n, seed).standard_normal((n, 50 * n)) * 2.0**20)
    return np.asarray((n * grid - grid.sum(axis=0)) * 2.0 ** -(20 + n.bit_length() - 1), dtype=np.float64)


def opposed(n: int, seed: int, *, name: str = "f_opp") -> Vectors:
    """Gaussian rows of which the second is the exact opposite of the first."""
    rows = generator(name, n, seed).standard_normal((n, 50 * n))
    rows[1] = -rows[0]
    return rows


def _feasible() -> dict[str, Make]:
    table: dict[str, Make] = {"a": ordinary}
    for k in (2, 4, 6, 8, 10, 12):
        table[f"b1e{k}"] = partial(conditioned, name=f"b1e{k}", cond=10.0**k)
    table["c"] = scaled
    for k in (1, 2, 3, 4, 5, 6):
        table[f"d1e-{k}"] = partial(at_distance, name=f"d1e-{k}", distance=10.0**-k)
    for k in (2, 4):
        table[f"dl1e-{k}"] = partial(at_distance, name=f"dl1e-{k}", distance=10.0**-k, low=True)
    table["e_low"] = half_space
    table["e_dup"] = duplicated
    return table


FEASIBLE: Mapping[str, Make] = MappingProxyType(_feasible())
INFEASIBLE: Mapping[str, Make] = MappingProxyType({"f_cen": centred, "f_opp": opposed})

EASY = ("a", "c", "e_low", "e_dup", "b1e2", "d1e-1")
MEDIUM = ("b1e4", "b1e6", "d1e-2", "d1e-3", "dl1e-2")
HARD = ("b1e8", "b1e10", "b1e12", "d1e-4", "d1e-5", "d1e-6", "dl1e-4")
GROUPS: Mapping[str, tuple[str, ...]] = MappingProxyType({"easy": EASY, "medium": MEDIUM, "hard": HARD})
"""The feasible families by how much they ask of a solver."""


def hull_distance(vectors: Vectors) -> tuple[float, float]:
    """Bounds of the distance from 0 to the hull of the rows, from one non-negative least squares.

    With ``x`` the hull point found, ``min_i v_i . x / |x| <= distance <= |x|``, whoever found ``x``.
    """
    from scipy.optimize import nnls

    n = vectors.shape[0]
    basis = np.linalg.qr(vectors.T, mode="r")
    y, _ = nnls(np.vstack([basis, np.ones(n)]), np.append(np.zeros(basis.shape[0]), 1.0), maxiter=100 * n)
    x = vectors.T @ (y / y.sum())
    norm = float(np.linalg.norm(x))
    return (float(np.min(vectors @ x)) / norm if norm else 0.0), norm


def check(n: int, seed: int) -> None:
    """Assert what each family promises."""
    made = {name: make(n, seed) for name, make in (*FEASIBLE.items(), *INFEASIBLE.items())}
    for name, vectors in made.items():
        again = {**FEASIBLE, **INFEASIBLE}[name](n, seed)
        assert vectors.dtype == np.float64 and vectors.shape[0] == n and np.isfinite(vectors).all(), name
        assert np.array_equal(vectors, again) and not np.shares_memory(vectors, again), name
    for name in FEASIBLE:
        vectors = made[name]
        if name.startswith("b"):
            singular = np.linalg.svd(vectors, compute_uv=False)
            cond = float(singular[0] / singular[-1]) ** 2
            assert abs(cond / float(name[1:]) - 1.0) < 1e-6, (name, n, cond)
        elif name.startswith("d"):
            distance = float(name.removeprefix("dl").removeprefix("d"))
            low, high = hull_distance(vectors)
            slack = 1e-8 + 1e-14 / distance**2  # rounding of the hull point turns the direction by eps / distance
            assert abs(low / distance - 1.0) < slack and abs(high / distance - 1.0) < 1e-8, (
                name,
                n,
                low,
                high,
            )
            assert np.allclose(np.linalg.norm(vectors, axis=1), 1.0, rtol=1e-14), name
            assert np.linalg.matrix_rank(vectors, tol=1e-12) == (n // 2 + 1 if name[1] == "l" else n), name
        else:
            unit = vectors / np.linalg.norm(vectors, axis=1)[:, None]
            assert hull_distance(unit)[0] > 1e-3, (name, n)
    for name in INFEASIBLE:
        assert hull_distance(made[name])[1] < 1e-13 * np.abs(made[name]).max() * n, name
    norms = np.linalg.norm(made["c"], axis=1)
    assert np.allclose([norms.min(), norms.max()], [1e-6, 1e6], rtol=1e-12)
    assert np.array_equal(made["e_dup"][0], made["e_dup"][1])
    assert not made["f_cen"].sum(axis=0).any() and np.linalg.norm(made["f_cen"], axis=1).min() > 1.0
    assert not (made["f_opp"][0] + made["f_opp"][1]).any()


if __name__ == "__main__":
    assert set(FEASIBLE) == {name for group in GROUPS.values() for name in group}
    for players in (2, 3, 8, 16, 60, 64, 128, 256):
        for draw in (0, 1):
            check(players, draw)
        print(f"n = {players}: every family keeps its promise")
