"""Residuals as if in twice the precision, against exact fractions, and what they do for nearly opposed players."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import nashsolve as ns
from nashsolve.backends import compensated


def exact(rows: np.ndarray, a: np.ndarray, w: np.ndarray) -> np.ndarray:
    g = [[Fraction(float(x)) for x in row] for row in rows]
    weights = [Fraction(float(x)) for x in a]
    y = [sum(weights[i] * g[i][j] for i in range(len(a))) for j in range(rows.shape[1])]
    return np.array(
        [float(Fraction(float(w[i])) - weights[i] * sum(map(Fraction.__mul__, g[i], y))) for i in range(len(a))]
    )


@given(seed=st.integers(0, 2**32 - 1), n=st.integers(1, 6), p=st.integers(1, 9), digits=st.integers(0, 8))
def test_residual_is_that_of_exact_arithmetic(seed: int, n: int, p: int, digits: int) -> None:
    """Also where vectors cancel to the given number of digits."""
    rng = np.random.default_rng(seed)
    rows = rng.standard_normal((n, p))
    rows[-1] = -rows[:-1].sum(axis=0) + 10.0**-digits * rng.standard_normal(p)
    a, w = 10.0 ** (digits * rng.uniform(0, 1, n)), rng.uniform(0.5, 2, n)
    a = np.full(n, a.max()) * (1 + 1e-9 * rng.standard_normal(n))
    found, wanted = compensated.residual(rows, a, w, np), exact(rows, a, w)
    size = w + abs(a * (abs(rows) @ (abs(rows).T @ a)))
    assert (abs(found - wanted) <= 5e-16 * abs(wanted) + 1e-30 * size * 64).all()


def test_blocks_of_columns_end_in_the_same_digits(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    rows, a, w = rng.standard_normal((3, 50)), np.array([1e6, 2e6, 1.5e6]), np.ones(3)
    rows[2] = -(rows[0] * a[0] + rows[1] * a[1]) / a[2] + 1e-6 * rng.standard_normal(50)
    whole = compensated.residual(rows, a, w, np)
    monkeypatch.setattr(compensated, "_ENTRIES", 12)
    np.testing.assert_allclose(compensated.residual(rows, a, w, np), whole, rtol=1e-13)


@pytest.mark.parametrize("margin", [1e-3, 1e-5, 1e-6])
@pytest.mark.parametrize("batch", [False, True])
@pytest.mark.parametrize("solver", ["newton", "compiled"])
def test_nearly_opposed_players_from_vectors(margin: float, batch: bool, solver: str) -> None:
    """Two players at a planted margin: alpha = 1 / (|g| sqrt(1 + cosine)), here in fractions."""
    if solver == "compiled" and ns.kernels.load() is None:
        pytest.skip(ns.kernels.reason())
    rng = np.random.default_rng(3)
    one = rng.standard_normal(12)
    rows = np.array([one, -one + margin * rng.standard_normal(12)])
    g = [[Fraction(float(x)) for x in row] for row in rows]
    (aa, ab), (_, bb) = ([sum(map(Fraction.__mul__, x, y)) for y in g] for x in g)
    # alpha_1^2 |g_1|^2 = alpha_2^2 |g_2|^2 and alpha_1 (alpha_1 aa + alpha_2 ab) = 1
    far = 10**60
    ratio = Fraction(_root(int(aa / bb * far)), 10**30)
    wanted = [1 / float(_fraction_root(aa + ratio * ab)), 0.0]
    wanted[1] = wanted[0] * float(ratio)
    easy = rng.standard_normal((2, 12))
    problem = ns.BargainingProblem(vectors=np.stack([easy, rows]) if batch else rows)
    solution = ns.solve(problem, solver=solver)
    found = solution.alpha[1] if batch else solution.alpha
    np.testing.assert_allclose(found, wanted, rtol=4e-15)


def _root(x: int) -> int:
    import math

    return math.isqrt(x)


def _fraction_root(x: Fraction) -> Fraction:
    return Fraction(_root(x.numerator * 10**80 // x.denominator), 10**40)


@pytest.mark.parametrize("columns", [300_000, 2_000])
def test_tall_vectors_cost_a_few_passes(columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """No copy of the vectors is made, and the bound of many columns stays small."""
    rows = np.random.default_rng(1).standard_normal((3, columns))
    problem = ns.BargainingProblem(vectors=rows)
    monkeypatch.setattr(type(problem), "unit_vectors", property(lambda _: pytest.fail("the vectors were copied")))
    solution = ns.solve(problem)
    assert problem.white is problem.vectors and solution.error_bound.max() < 1e-10
    np.testing.assert_allclose(solution.alpha, ns.solve(rows @ rows.T).alpha, rtol=1e-12)
