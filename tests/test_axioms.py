"""Axioms by Hypothesis: what theory grants holds on random problems, what it denies has a counter-example."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import nashsolve as ns
from nashsolve.axioms import NAMES, check
from tests.asserts import assert_message, assert_near

seeds = st.integers(0, 2**32 - 1)
GRANTED = {
    "nash": ("pareto_efficiency", "individual_rationality", "symmetry", "scale_covariance", "independence"),
    "kalai_smorodinsky": ("individual_rationality", "symmetry", "scale_covariance"),
    "egalitarian": ("pareto_efficiency", "individual_rationality", "symmetry"),
    "utilitarian": ("pareto_efficiency", "independence"),
    "alpha_fairness": ("pareto_efficiency", "individual_rationality", "symmetry", "independence"),
    "raiffa_discrete": ("pareto_efficiency", "individual_rationality", "symmetry", "scale_covariance"),
}
"""Utilitarian independence needs a unique best point, which random tables have."""


def random_problem(seed: int, symmetric: bool) -> ns.OutcomeBargainingProblem:
    rng = np.random.default_rng(seed)
    payoffs = rng.uniform(0, 1, (6, 2))
    payoffs = np.vstack([payoffs, payoffs[:, ::-1]]) if symmetric else payoffs
    d = np.zeros(2) if symmetric else payoffs.min(axis=0) * rng.uniform(0, 1, 2)
    return ns.OutcomeBargainingProblem(np.vstack([payoffs, 0.5 * np.ones(2)]), disagreement=d)


@pytest.mark.parametrize("concept", GRANTED)
@settings(max_examples=10)
@given(seed=seeds, symmetric=st.booleans())
def test_what_theory_grants(concept: str, seed: int, symmetric: bool) -> None:
    if concept == "utilitarian" and symmetric:
        return  # ties: the best sum need not be one point
    report = check(random_problem(seed, symmetric), concept, GRANTED[concept])
    assert report.failed == (), str(report)
    if symmetric:
        assert report["symmetry"].holds is True


@settings(max_examples=10)
@given(seed=seeds)
def test_kalai_smorodinsky_is_monotone_and_efficient_for_two_players(seed: int) -> None:
    report = check(random_problem(seed, False), "kalai_smorodinsky", ["monotonicity", "pareto_efficiency"])
    assert report.failed == (), str(report)


KINK = ns.OutcomeBargainingProblem([[0, 0], [1, 0], [0, 1], [0.75, 0.75]], names=["ann", "bob"])
DENIED = [
    ("nash", "monotonicity"),
    ("kalai_smorodinsky", "independence"),
    ("egalitarian", "scale_covariance"),
    ("utilitarian", "scale_covariance"),
    ("min_norm", "scale_covariance"),
    ("alpha_fairness", "scale_covariance"),
    ("raiffa_discrete", "independence"),
    ("equal_area", "independence"),
]


@pytest.mark.parametrize(("concept", "axiom"), DENIED)
def test_known_failures_come_with_a_counter_example_that_can_be_solved(concept: str, axiom: str) -> None:
    finding = check(KINK, concept, [axiom])[axiom]
    assert finding.holds is False and finding.why
    before, after = ns.solve(KINK, concept=concept).utilities, ns.solve(finding.example, concept=concept).utilities
    if axiom == "independence":
        assert np.abs(after - before).max() > 1e-4
        assert (finding.example.payoffs <= 1 + 1e-12).all()
    if axiom == "monotonicity":
        assert (after < before - 1e-4).any()
        assert len(finding.example.payoffs) > len(KINK.payoffs)
    if axiom == "scale_covariance":
        unit = finding.example.payoffs.max(axis=0) / KINK.payoffs.max(axis=0)
        assert np.abs(after / unit - before).max() > 1e-4


def test_utilitarian_can_break_individual_rationality() -> None:
    table = ns.OutcomeBargainingProblem([[5.0, -1.0], [1.0, 1.0]])
    finding = check(table, "utilitarian", ["individual_rationality"])["individual_rationality"]
    assert finding.holds is False
    assert_message(ValueError(finding.why), "player 1 gets 1 less")
    assert check(table, "utilitarian", ["individual_rationality"], rational=True).failed == ()


def test_max_min_without_refinement_can_waste() -> None:
    roth = ns.OutcomeBargainingProblem([[0, 0, 0], [1, 0, 0.4], [0, 1, 0.4], [0.5, 0.5, 1]])
    loose = ns.OutcomeBargainingProblem([[1.0, 1.0], [1.0, 3.0]], disagreement=[0.0, 0.0])
    found = check(loose, "egalitarian", ["pareto_efficiency"], refine=False)
    full = check(loose, "egalitarian", ["pareto_efficiency"])
    assert full.failed == ()
    assert found["pareto_efficiency"].holds in (True, False)
    assert check(roth, "kalai_smorodinsky", ["pareto_efficiency"]).failed == ()


def test_a_lying_concept_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """The checks fail on a rule that is plainly bad: everybody stays at the first outcome's half."""
    from dataclasses import replace

    import nashsolve.axioms as axioms

    honest = axioms.solve

    def lying(problem, **options):
        found = honest(problem, **options)
        return replace(found, utilities=np.array([0.3, 0.1]), gains=np.array([0.3, 0.1]))

    monkeypatch.setattr(axioms, "solve", lying)
    report = check(KINK, "nash", ["pareto_efficiency", "symmetry", "scale_covariance"])
    assert set(report.failed) == {"pareto_efficiency", "symmetry", "scale_covariance"}


def test_ball_and_curved_problems_are_checked_too() -> None:
    ball = ns.BargainingProblem(vectors=[[1.0, 0.2], [0.2, 1.0]], radius=1.0)
    assert check(ball)["symmetry"].holds is True
    assert check(ball, "egalitarian")["scale_covariance"].holds is False
    pie = ns.split(1.0, 3)
    report = check(pie)
    assert report["symmetry"].holds is True and "monotonicity" not in report.failed
    curve = ns.frontier(lambda u: (1 - u**2) ** 0.5, span=(0.0, 1.0))
    assert set(check(curve, "nash", ["scale_covariance", "independence"]).failed) == set()


def test_reports_print_and_refuse() -> None:
    text = str(check(KINK))
    assert "FAILS" in text and all(name in text for name in NAMES)
    with pytest.raises(ns.InvalidProblem, match="Did you mean 'symmetry'"):
        check(KINK, "nash", ["symetry"])
    with pytest.raises(ns.InvalidProblem, match="Did you mean 'nash'"):
        check(KINK, "nsh")
    with pytest.raises(ns.InvalidProblem, match="allow lotteries"):
        check(ns.OutcomeBargainingProblem([[1, 2]], lotteries=False))
    with pytest.raises(KeyError):
        check(KINK)["fairness"]


def test_compare_tables_every_concept_once() -> None:
    found = ns.compare(KINK)
    assert [row.concept for row in found.rows] == list(ns.concepts.catalog.NAMES)
    for name, solution in found.solutions.items():
        assert_near(found[name].utilities, solution.utilities, 0.0)
        assert_near(solution.utilities, ns.solve(KINK, concept=name).utilities, 1e-12)
    assert "Kalai-Smorodinsky" in str(found) and "ann" in str(found)
    assert found.to_frame().loc["nash", "ann"] == pytest.approx(0.75)
    three = ns.compare(ns.split(1.0, 3))
    assert "equal_area" not in [row.concept for row in three.rows]
    blocked = ns.compare(ns.OutcomeBargainingProblem([[1.0, -1.0], [-1.0, 1.0]]), ["nash", "utilitarian"])
    assert list(blocked.solutions) == ["utilitarian"] and "NO_AGREEMENT" in str(blocked)
    with pytest.raises(KeyError):
        blocked["egalitarian"]
    refused = ns.compare(ns.split(1.0, 3), ["equal_area"])
    assert "two players" in str(refused)


def test_convergence_ends_where_the_solver_does() -> None:
    gaps = ns.convergence(KINK)
    assert gaps[-1] <= 1e-12 and len(gaps) <= ns.solve(KINK).n_iter + 2
    assert len(ns.convergence(KINK, most=3)) == 4
