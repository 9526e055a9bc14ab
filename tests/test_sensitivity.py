"""Derivatives against differences of solved neighbours, closed forms, and reference values; sweeps."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import nashsolve as ns
from tests.asserts import assert_message, assert_near
from tests.problems.test_family_cases import CASES
from tests.test_cases import array

seeds = st.integers(0, 2**32 - 1)
LOOSE = {"rtol": 2e-5, "atol": 1e-6}


def differences(problem, name: str, value: np.ndarray, h: float) -> np.ndarray:
    """du / d value by central differences: shape (n, *value.shape)."""
    out = np.empty((problem.n, *value.shape))
    for index in np.ndindex(value.shape):
        step = np.zeros_like(value)
        step[index] = h
        up = ns.solve(replace(problem, **{name: value + step})).utilities
        down = ns.solve(replace(problem, **{name: value - step})).utilities
        out[(slice(None), *index)] = (up - down) / (2 * h)
    return out


@settings(max_examples=8)
@given(seed=seeds, n=st.integers(1, 4), natural=st.booleans())
def test_ball(seed: int, n: int, natural: bool) -> None:
    rng = np.random.default_rng(seed)
    vectors = rng.standard_normal((n, 4)) * 0.4 + np.array([1.0, 0, 0, 0])
    w = rng.uniform(0.5, 2, n)
    if natural:
        problem = ns.BargainingProblem(vectors=vectors, weights=w)
    else:
        problem = ns.BargainingProblem(vectors=vectors, weights=w, radius=1.1, disagreement=rng.uniform(-0.1, 0.1, n))
    found = ns.sensitivity(ns.solve(problem))
    assert found.method == "implicit" and found.smooth
    assert_near(found.data["vectors"], differences(problem, "vectors", vectors, 1e-5), **LOOSE)
    assert_near(found.weights, differences(problem, "weights", w, 1e-5), **LOOSE)
    if not natural:
        wanted = differences(problem, "disagreement", np.asarray(problem.disagreement), 1e-5)
        assert_near(found.disagreement, wanted, **LOOSE)


def test_reference_derivatives_of_alpha() -> None:
    """du/dw of the natural problem follows from d alpha / dw = inv(A + diag(w / alpha^2)) / alpha."""
    for case in (c for c in CASES if c["kind"] == "derivative"):
        gram, w = array(case["inputs"]["A"]), array(case["inputs"]["w"])
        alpha, slope = array(case["expected"]["alpha"]), array(case["expected"]["dalpha_dw"])
        found = ns.sensitivity(ns.solve(ns.BargainingProblem(gram=gram, weights=w)))
        wanted = np.diag(1 / alpha) - (w / alpha**2)[:, None] * slope  # u = w / alpha
        assert_near(found.weights, wanted, 1e-8, 1e-9)


@settings(max_examples=6)
@given(seed=seeds)
def test_table(seed: int) -> None:
    rng = np.random.default_rng(seed)
    payoffs = rng.uniform(0, 1, (8, 3)) + np.eye(8, 3)
    problem = ns.OutcomeBargainingProblem(payoffs, weights=rng.uniform(0.5, 2, 3), disagreement=[0.1, 0.0, 0.05])
    solution = ns.solve(problem)
    found = ns.sensitivity(solution)
    reduced = problem.power.sum() - (payoffs - problem.disagreement) @ (problem.power / solution.gains)
    played = solution.point > 1e-6
    if (solution.point[played] < 1e-3).any() or (reduced[~played] < 1e-3).any():
        return  # too close to a kink for differences
    assert found.smooth
    assert_near(found.disagreement, differences(problem, "disagreement", problem.disagreement, 1e-5), 1e-3, 1e-4)
    assert_near(found.weights, differences(problem, "weights", problem.power, 1e-5), 1e-3, 1e-4)
    assert_near(found.data["payoffs"], differences(problem, "payoffs", payoffs, 1e-5), 1e-3, 1e-4)


def test_splitting_a_pie_in_closed_form() -> None:
    """u_i = d_i + p_i (V - sum d): everything can be differentiated by hand."""
    w, d = np.array([1.0, 2.0, 5.0]), np.array([0.1, 0.0, 0.2])
    found = ns.sensitivity(ns.solve(ns.split(1.0, disagreement=d, weights=w)))
    share, total = w / w.sum(), 1 - d.sum()
    assert_near(found.disagreement, np.eye(3) - share[:, None], 1e-6, 1e-8)
    assert_near(found.weights, total * (np.eye(3) - share[:, None]) / w.sum(), 1e-6, 1e-8)
    assert_near(found.data["limit"], share[:, None], 1e-6, 1e-8)


def test_domains_with_curved_utilities_and_balls() -> None:
    problem = ns.ConvexBargainingProblem(
        [lambda x: x[0] ** 0.5, lambda x: x[1]], ns.simplex(2), disagreement=[0.1, 0.2], weights=[1.0, 2.0]
    )
    both = [ns.sensitivity(ns.solve(problem), method=m) for m in ("implicit", "differences")]
    assert_near(both[0].disagreement, both[1].disagreement, **LOOSE)
    assert_near(both[0].weights, both[1].weights, **LOOSE)
    rng = np.random.default_rng(0)
    rows = rng.uniform(0, 1, (3, 4))
    domain = ns.ball(4) & ns.polytope(rng.uniform(0, 1, (1, 4)), [0.7])
    linear = ns.ConvexBargainingProblem(rows, domain, weights=[1.0, 2.0, 3.0])
    found = ns.sensitivity(ns.solve(linear))
    assert_near(found.data["utilities"], differences(linear, "utilities", rows, 1e-5), 1e-3, 1e-4)
    limits = differences_of_limit(linear, rows, domain)
    assert_near(found.data["limit"], limits, 1e-3, 1e-4)


def differences_of_limit(problem, rows, domain) -> np.ndarray:
    def at(limit: float) -> np.ndarray:
        moved = ns.ball(4) & ns.polytope(domain.matrix, [limit])
        return ns.solve(ns.ConvexBargainingProblem(rows, moved, weights=problem.power)).utilities

    return ((at(0.7 + 1e-5) - at(0.7 - 1e-5)) / 2e-5)[:, None]


def test_kinks_are_marked() -> None:
    kink = ns.OutcomeBargainingProblem([[4, 0], [3, 3], [0, 4]])  # optimal for a whole range of weights
    assert ns.sensitivity(ns.solve(kink)).weights == pytest.approx(np.zeros((2, 2)), abs=1e-6)
    edge = ns.OutcomeBargainingProblem([[10, 0], [5, 5], [0, 5]])  # the weights are at the end of that range
    assert not ns.sensitivity(ns.solve(edge)).smooth


def test_other_concepts_are_differenced() -> None:
    circle = ns.frontier(lambda u: 1 - u, span=(0.0, 1.0))
    found = ns.sensitivity(ns.solve(circle, concept="egalitarian"))
    assert found.method == "differences"
    assert_near(found.disagreement, np.array([[0.5, -0.5], [-0.5, 0.5]]), 1e-6)
    with pytest.raises(ns.InvalidProblem, match="no implicit derivative"):
        ns.sensitivity(ns.solve(circle, concept="egalitarian"), method="implicit")


def test_refusals() -> None:
    blocked = ns.solve(ns.OutcomeBargainingProblem([[1.0, -1.0]]), on_failure="return")
    with pytest.raises(ns.InvalidProblem, match="one solved problem"):
        ns.sensitivity(blocked)
    with pytest.raises(ns.InvalidProblem, match="Did you mean 'implicit'"):
        ns.sensitivity(ns.solve(ns.split(1.0, 2)), method="implict")


def test_sweep_over_weights_disagreement_and_options() -> None:
    pie = ns.split(1.0, names=["ann", "bob"])
    found = ns.sweep(pie, "weights", [[1, 1], [3, 1]])
    assert_near(found.utilities, np.array([[0.5, 0.5], [0.75, 0.25]]), 1e-6)
    one = ns.sweep(pie, "disagreement", [0.0, 0.4, 1.2], player="ann")
    assert_near(one.utilities[:2, 0], np.array([0.5, 0.7]), 1e-6)
    assert np.isnan(one.utilities[2]).all() and "NO_AGREEMENT" in str(one)
    frame = one.to_frame()
    assert list(frame.columns) == ["disagreement of ann", "ann", "bob", "status"]
    assert frame["status"].tolist() == ["SOLVED", "SOLVED", "NO_AGREEMENT"]
    curve = ns.ConvexBargainingProblem([lambda x: x[0] ** 0.5, lambda x: x[1]], ns.simplex(2))
    fair = ns.sweep(curve, "aversion", [1, 2, 8], concept="alpha_fairness").utilities
    assert (np.diff(fair.min(axis=1)) > 0).all()
    ball = ns.BargainingProblem(vectors=np.eye(2), radius=1.0)
    assert_near(ns.sweep(ball, "radius", [1.0, 2.0]).utilities[1], np.full(2, 2**0.5), 1e-9)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("wieghts", [[1, 1]]), "Did you mean 'weights'?"),
        (("aversion", [1]), "unknown parameter 'aversion'"),
    ],
)
def test_bad_parameters(arguments, words: str) -> None:
    with pytest.raises(ns.InvalidProblem) as caught:
        ns.sweep(ns.split(1.0, 2), *arguments)
    assert_message(caught.value, words)


def test_bad_players() -> None:
    pie = ns.split(1.0, names=["ann", "bob"])
    with pytest.raises(ns.InvalidProblem, match="Did you mean 'ann'"):
        ns.sweep(pie, "weights", [1], player="an")
    with pytest.raises(ns.InvalidProblem, match="0 to 1"):
        ns.sweep(pie, "weights", [1], player=2)
    with pytest.raises(ns.InvalidProblem, match="leave player out"):
        ns.sweep(pie, "utilities", [1], player=0)
