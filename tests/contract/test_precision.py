"""The laws of the contract for an iteration in float32: its bounds, judged in float64, hold like any other engine's."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import nashsolve as ns
from nashsolve import Status
from tests.asserts import assert_alpha_near, assert_bitwise, assert_no_agreement_certificate, assert_status
from tests.contract.geometry import HARD, Case, cases
from tests.helpers import needs
from tests.tolerances import tolerance

pytestmark = needs("compiled")
seeds = st.integers(0, 2**32 - 1)


def solve(case: Case, precision: str = "float32", **changes: Any) -> ns.Solution | None:
    """By the Gram, which is all that this precision is for; None where float32 is not enough and says so."""
    gram = case.vectors @ case.vectors.T
    given = {"weights": case.weights, "disagreement": case.disagreement, "radius": case.radius} | changes
    problem = ns.BargainingProblem(gram=np.triu(gram) + np.triu(gram, 1).T, **given)
    found = ns.solve(problem, solver="compiled", precision=precision, on_failure="return")
    assert_status(found, Status.SOLVED, Status.SOLVED_INACCURATE, Status.AMBIGUOUS)
    assert found.status is Status.SOLVED or found.limited_by == "precision"
    if found.status is Status.SOLVED:
        assert found.error_bound.max() <= tolerance("float32", "rtol")
    return found if found.success else None


def same(one: ns.Solution | None, other: ns.Solution | None, factor: Any = 1.0) -> None:
    if one is not None and other is not None:
        assert_alpha_near(one.alpha, one.error_bound, factor * other.alpha, other.error_bound)


@given(case=cases(HARD, 24, disagreement=True))
def test_the_bound_holds(case: Case) -> None:
    """Against the answer in float64."""
    same(solve(case), solve(case, "float64"))


@given(case=cases(HARD, 12, disagreement=True), data=st.data())
def test_permuted_players_permute_alpha(case: Case, data: Any) -> None:
    order = np.array(data.draw(st.permutations(range(case.n))))
    d = None if case.disagreement is None else case.disagreement[order]
    one, other = solve(case.but(vectors=case.vectors[order], weights=case.weights[order], disagreement=d)), solve(case)
    if one is not None and other is not None:
        assert_alpha_near(one.alpha, one.error_bound, other.alpha[order], other.error_bound[order])


@given(case=cases(HARD, 8), seed=seeds)
def test_rescaled_players_and_weights_rescale_alpha(case: Case, seed: int) -> None:
    """To the bit by powers of two of the players, of four of the weights."""
    factors = 2.0 ** np.random.default_rng(seed).integers(-6, 7, case.n)
    one, other = solve(case.but(vectors=case.vectors * factors[:, None])), solve(case)
    assert (one is None) == (other is None)
    if one is not None and other is not None:
        assert_bitwise(one.alpha * factors, other.alpha)
    natural = case.but(radius=None)
    same(solve(natural.but(weights=4 * case.weights)), solve(natural), 2.0)


@given(case=cases(HARD, 8), count=st.integers(2, 20), seed=seeds)
def test_a_batch_is_its_items(case: Case, count: int, seed: int) -> None:
    """In whatever lane an item lies."""
    weights = np.random.default_rng(seed).uniform(0.2, 5, (count, case.n))
    gram = case.vectors @ case.vectors.T
    gram = np.triu(gram) + np.triu(gram, 1).T
    batch = ns.solve(ns.BargainingProblem(gram=np.stack([gram] * count), weights=weights), precision="float32")
    for item in (0, count - 1):
        alone = solve(case, weights=weights[item], radius=None)
        if alone is not None:
            assert_bitwise(alone.alpha, batch.alpha[item])
            assert batch.status[item] == alone.status


@pytest.mark.parametrize("n", [2, 5, 16])
def test_opposed_players_are_proved_opposed(n: int) -> None:
    rows = np.random.default_rng(n).standard_normal((n, n))
    rows[1] = -rows[0]
    found = ns.solve(rows @ rows.T, solver="compiled", precision="float32", on_failure="return")
    assert_status(found, Status.NO_AGREEMENT)
    assert_no_agreement_certificate(found, rows @ rows.T)
