"""Answers known from elsewhere: closed forms, planted instances, Newton in 50 digits, exact rationals."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import nashsolve as ns
from benchmarks.families import FEASIBLE, INFEASIBLE
from benchmarks.truth import true_alpha
from nashsolve import Status
from tests.asserts import (
    assert_near,
    assert_no_agreement_certificate,
    assert_status,
    assert_success,
    assert_within_bound,
)
from tests.tolerances import tolerance

RTOL = tolerance("float64", "rtol")
ULP = tolerance("float64", "ulp")

seeds = st.integers(0, 2**32 - 1)


# closed forms


@pytest.mark.parametrize("solver", ["newton", "closed_form"])
@pytest.mark.parametrize("n", [1, 2, 3, 17])
def test_diagonal_gram(solver: str, n: int) -> None:
    rng = np.random.default_rng(n)
    diagonal, w = 10 ** rng.uniform(-3, 3, n), 10 ** rng.uniform(-2, 2, n)
    solution = ns.solve(ns.BargainingProblem(gram=np.diag(diagonal), weights=w), solver=solver)
    assert_near(solution.alpha, np.sqrt(w / diagonal), ULP)
    assert_within_bound(solution, np.sqrt(w / diagonal))


@pytest.mark.parametrize("n", [2, 3, 10, 100])
@pytest.mark.parametrize("fraction", [0.9, 0.3, 0.0, -0.3, -0.9, -0.99])
def test_constant_correlation(n: int, fraction: float) -> None:
    c = fraction if fraction > 0 else fraction / (1 - n) * -1
    gram = (1 - c) * np.eye(n) + c
    solution = ns.solve(gram, solver="newton")
    assert_near(solution.alpha, np.full(n, 1 / np.sqrt(1 + (n - 1) * c)), RTOL)


@given(rho=st.floats(-0.999, 0.999), k=st.floats(-6, 6), s=st.floats(-3, 3))
def test_two_players_have_the_closed_form(rho: float, k: float, s: float) -> None:
    w = np.array([10.0**k, 1.0])
    scale = np.array([10.0**s, 1.0])
    gram = np.array([[1.0, rho], [rho, 1.0]]) * np.outer(scale, scale)
    problem = ns.BargainingProblem(gram=gram, weights=w)
    ours, formula = ns.solve(problem, solver="newton"), ns.solve(problem, solver="closed_form")
    assert_near(ours.alpha, formula.alpha, RTOL)


# planted instances


@given(seed=seeds, n=st.integers(1, 12), p=st.integers(1, 14), spread=st.floats(0, 6))
def test_planted_alpha_is_found(seed: int, n: int, p: int, spread: float) -> None:
    rng = np.random.default_rng(seed)
    vectors = rng.standard_normal((n, p))
    vectors[:, 0] = np.abs(vectors[:, 0]) + 1
    alpha = 10 ** rng.uniform(-spread, spread, n)
    gram = vectors @ vectors.T
    w = alpha * (gram @ alpha)
    if (w <= 1e-6 * alpha * np.sqrt(np.diagonal(gram)) * np.sqrt(alpha @ gram @ alpha)).any():
        vectors = np.abs(vectors)
        gram = vectors @ vectors.T
        w = alpha * (gram @ alpha)
    solution = ns.solve(ns.BargainingProblem(gram=gram, weights=w), on_failure="return")
    assert_success(solution)
    # w is rounded, so the planted alpha is exact for weights off by a few ulp times their cancellation
    loss = (alpha * (np.abs(gram) @ alpha) / w).max() * n * ULP
    off = np.abs(solution.alpha / alpha - 1)
    assert (off <= solution.error_bound + loss * np.sqrt(w.sum() / w)).all()


@given(seed=seeds, n=st.integers(1, 8))
def test_planted_agreement_with_disagreement(seed: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    vectors = rng.standard_normal((n, n + 2))
    beta, mu = rng.uniform(0.5, 2, n), rng.uniform(0.5, 2)
    x = beta @ vectors / mu
    s = rng.uniform(0.2, 2, n)
    problem = ns.BargainingProblem(
        vectors=vectors, weights=beta * s, disagreement=vectors @ x - s, radius=np.linalg.norm(x)
    )
    solution = ns.solve(problem, on_failure="return")
    assert_success(solution)
    assert_near(solution.alpha, beta, RTOL)
    assert_near(solution.ball_multiplier, np.asarray(mu), RTOL)
    assert_near(solution.point, x, RTOL, RTOL * np.linalg.norm(x))


@given(seed=seeds, n=st.integers(2, 8))
def test_planted_agreement_inside_the_ball(seed: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    beta = rng.uniform(0.5, 2, n)
    vectors = rng.standard_normal((n, n + 1))
    vectors[-1] = -(beta[:-1] @ vectors[:-1]) / beta[-1]
    x = 0.3 * rng.standard_normal(n + 1) @ np.linalg.pinv(vectors) @ vectors
    s = rng.uniform(0.2, 2, n)
    problem = ns.BargainingProblem(
        vectors=vectors, weights=beta * s, disagreement=vectors @ x - s, radius=2 * np.linalg.norm(x)
    )
    solution = ns.solve(problem, on_failure="return")
    assert_success(solution)
    assert float(solution.ball_multiplier) == 0.0
    assert_near(solution.alpha, beta, RTOL)
    assert_near(solution.point, x, RTOL, RTOL * np.linalg.norm(x))


# 50 digits


@pytest.mark.parametrize("family", FEASIBLE)
@pytest.mark.parametrize("n", [2, 5, 16])
def test_against_50_digits(family: str, n: int) -> None:
    vectors = FEASIBLE[family](n, 1)[:, :200]
    if family in ("a", "c", "e_dup"):
        vectors = vectors[:, : 2 * n]
    exact = true_alpha(vectors)
    assert_within_bound(ns.solve(ns.BargainingProblem(vectors=vectors)), exact)
    found = ns.solve(ns.BargainingProblem(gram=ns.gram(vectors)), on_failure="return")
    assert_status(found, Status.SOLVED, Status.SOLVED_INACCURATE, Status.AMBIGUOUS)


@pytest.mark.parametrize("family", ["b1e4", "b1e8", "b1e12", "d1e-2", "d1e-4", "d1e-6", "dl1e-4"])
def test_vectors_reach_their_own_accuracy(family: str) -> None:
    vectors = FEASIBLE[family](8, 2)
    exact = true_alpha(vectors)
    solution = ns.solve(ns.BargainingProblem(vectors=vectors))
    distance = float(solution.margin)
    off = np.abs(solution.alpha / exact - 1).max()
    assert off <= 8 * tolerance("float64", "ulp") / distance


@settings(max_examples=200)
@given(seed=seeds, n=st.integers(1, 5), margin=st.integers(0, 5), power=st.floats(0, 3), gram=st.booleans())
def test_error_bound_is_never_violated(seed: int, n: int, margin: int, power: float, gram: bool) -> None:
    rng = np.random.default_rng(seed)
    vectors = rng.standard_normal((n, n + 1))
    vectors -= (rng.dirichlet(np.ones(n)) @ vectors) * (1 - 10.0**-margin)
    vectors[:, 0] = np.abs(vectors[:, 0]) + 10.0**-margin
    w = 10 ** rng.uniform(-power, power, n)
    if gram:
        # the float64 Gram is the data, so the exact answer must be that of a Gram without rounding
        vectors = np.round(vectors * 2.0**20) * 2.0**-20
        problem = ns.BargainingProblem(gram=vectors @ vectors.T, weights=w)
    else:
        problem = ns.BargainingProblem(vectors=vectors, weights=w)
    solution = ns.solve(problem, on_failure="return")
    if solution.success:
        assert_within_bound(solution, true_alpha(vectors, w))
    else:
        assert_status(solution, Status.AMBIGUOUS)


@given(seed=seeds, n=st.integers(1, 4), size=st.integers(1, 15))
def test_verify_bounds_any_alpha(seed: int, n: int, size: int) -> None:
    rng = np.random.default_rng(seed)
    vectors = np.abs(rng.standard_normal((n, n + 1)))
    exact = true_alpha(vectors)
    alpha = exact * (1 + 10.0**-size * rng.uniform(-1, 1, n))
    proof = ns.verify(ns.BargainingProblem(vectors=vectors), alpha)
    assert (np.abs(alpha / exact - 1) <= proof.error_bound).all()


# exact rationals


def blocked_exactly(rows: list[list[int]]) -> bool:
    """Whether 0 lies in the convex hull, by Fourier-Motzkin elimination on {x : rows x >= 1} in fractions."""
    system = [([Fraction(v) for v in row], Fraction(1)) for row in rows]
    for axis in range(len(rows[0])):
        up = [(r, b) for r, b in system if r[axis] > 0]
        down = [(r, b) for r, b in system if r[axis] < 0]
        rest = [(r, b) for r, b in system if r[axis] == 0]
        for r, b in up:
            for q, c in down:
                f, g = -q[axis], r[axis]
                rest.append(([f * x + g * y for x, y in zip(r, q, strict=True)], f * b + g * c))
        system = rest
    return any(b > 0 for _, b in system)


@settings(max_examples=300)
@given(data=st.data(), n=st.integers(1, 6), p=st.integers(1, 3))
def test_small_integers_are_judged_exactly(data: st.DataObject, n: int, p: int) -> None:
    entry = st.integers(-3, 3)
    rows = data.draw(st.lists(st.lists(entry, min_size=p, max_size=p), min_size=n, max_size=n))
    vectors = np.array(rows, dtype=float)
    for problem in (ns.BargainingProblem(vectors=vectors), ns.BargainingProblem(gram=vectors @ vectors.T)):
        solution = ns.solve(problem, on_failure="return")
        if blocked_exactly(rows):
            assert_no_agreement_certificate(solution, vectors @ vectors.T)
        else:
            assert_success(solution)


@pytest.mark.parametrize("family", INFEASIBLE)
@pytest.mark.parametrize("n", [2, 3, 8, 16, 64])
def test_families_without_agreement(family: str, n: int) -> None:
    vectors = INFEASIBLE[family](n, 0)
    gram = vectors @ vectors.T
    assert_no_agreement_certificate(ns.solve(ns.BargainingProblem(vectors=vectors), on_failure="return"), gram)
    assert_no_agreement_certificate(ns.solve(gram, on_failure="return"), gram)
