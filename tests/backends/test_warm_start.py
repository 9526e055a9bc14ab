"""Starts that do something, and never harm: iterations saved on drifting problems, and the same answers."""

from __future__ import annotations

import numpy as np
import pytest

import nashsolve as ns
from benchmarks.families import FEASIBLE
from benchmarks.warm_start import misled, problem_of, sequence, walk
from nashsolve.core.status import Status
from tests.asserts import assert_same_alpha

FAMILIES = ("a", "b1e4", "d1e-2", "e_low")
ASKED = {"zero": 0.0, "below": -0.5, "above": 0.4}


@pytest.mark.parametrize("name", ASKED)
@pytest.mark.parametrize("family", FAMILIES)
def test_iterations_saved_on_a_drift(family, name):
    row = sequence(family, 8, 1e-3, name, 5)
    assert row.warm <= 0.6 * row.cold and row.most <= 0


@pytest.mark.parametrize("name", ASKED)
@pytest.mark.parametrize("family", FAMILIES)
def test_the_answer_is_the_same(family, name):
    first, second = (problem_of(rows, ASKED[name]) for rows in walk(family, 8, 5e-2, 2))
    start = ns.solve(first, solver="newton")
    assert_same_alpha(ns.solve(second, solver="newton", start=start), ns.solve(second, solver="newton"))


@pytest.mark.parametrize("name", ["zero", "below", "above"])
def test_a_solution_is_its_own_best_start(name):
    problem = problem_of(FEASIBLE["b1e4"](8, 0), ASKED[name])
    solution = ns.solve(problem, solver="newton")
    assert ns.solve(problem, solver="newton", start=solution).n_iter <= 1 < solution.n_iter


def test_random_starts_cost_at_most_one_iteration():
    assert misled(8, 5) <= 1


def test_random_starts_are_harmless_at_a_disagreement():
    problem = problem_of(FEASIBLE["a"](8, 0), 0.4)
    cold = ns.solve(problem, solver="newton")
    for seed in range(10):
        start = 10 ** np.random.default_rng(seed).uniform(-6, 6, 8)
        assert_same_alpha(ns.solve(problem, solver="newton", start=start), cold)


def test_every_item_of_a_batch_has_its_own_start():
    """One stale start sends only its own item down the cold path."""
    items = [problem_of(FEASIBLE["a"](8, seed), 0.4) for seed in range(3)]
    batch = ns.BargainingProblem(
        gram=np.stack([p.gram for p in items]), disagreement=np.stack([p.disagreement for p in items]), radius=1.0
    )
    cold = ns.solve(batch, solver="newton")
    start = np.array(cold.alpha)
    start[1] = 10.0 ** np.arange(8)
    warm = ns.solve(batch, solver="newton", start=start)
    assert_same_alpha(warm, cold)
    assert warm.n_iter[1] == cold.n_iter[1] and warm.n_iter[0] <= 1 and warm.n_iter[2] <= 1


@pytest.mark.parametrize("start", [None, [1.0, 2.0]], ids=str)
def test_a_start_cannot_make_an_agreement(start):
    """With a disagreement the system of these players is exactly singular, which LAPACK reports by an exception."""
    rows = np.array([[1.0, 0.0], [-1.0, 0.0]])
    for extra in ({}, {"disagreement": [0.3, 0.2], "radius": 1.0}):
        problem = ns.BargainingProblem(vectors=rows, **extra)
        found = ns.solve(problem, solver="newton", start=start, on_failure="return")
        assert found.status is Status.NO_AGREEMENT


def test_an_inactive_ball_is_found_from_any_start():
    problem = ns.BargainingProblem(vectors=[[1.0], [-1.0]], disagreement=[-1.0, -2.0], radius=1.0)
    found = ns.solve(problem, solver="newton", start=[0.7, 0.6])
    assert float(found.ball_multiplier) == 0.0
    assert abs(float(found.point[0]) - 0.5) <= 1e-12


def test_starts_in_torch():
    torch = pytest.importorskip("torch", reason="the extra 'torch' is not installed")
    for asked in ASKED.values():
        p = problem_of(FEASIBLE["d1e-2"](8, 0), asked)
        extra = {} if p.disagreement is None else {"disagreement": torch.tensor(p.disagreement), "radius": 1.0}
        problem = ns.BargainingProblem(gram=torch.tensor(p.gram), **extra)
        cold = ns.solve(problem, solver="newton")
        warm = ns.solve(problem, solver="newton", start=cold.alpha * 1.001)
        assert int(warm.n_iter) < int(cold.n_iter)
        assert_same_alpha(warm, cold)
