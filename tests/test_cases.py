"""Reference cases with independently known answers, through every engine that can take them."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import nashsolve as ns
from nashsolve import Status
from nashsolve.backends import catalog
from tests.asserts import (
    assert_near,
    assert_no_agreement_certificate,
    assert_status,
    assert_success,
    assert_within_bound,
)
from tests.helpers import needs

CASES = json.loads((Path(__file__).parent / "data" / "reference_cases.json").read_text(encoding="utf-8"))["cases"]
LARGE = 500
"""Players above which the conic engines are too slow for a test."""


def number(value: Any) -> float:
    return float(Fraction(value)) if isinstance(value, str) and "/" in value else float(value)


def array(value: Any) -> np.ndarray:
    if isinstance(value, list):
        return np.array([array(v) for v in value])
    return np.float64(number(value))


def of_kind(*kinds: str) -> list[dict]:
    return [case for case in CASES if case["kind"] in kinds]


def problem_of(case: dict) -> ns.BargainingProblem:
    inputs = {name: array(value) for name, value in case["inputs"].items()}
    if case["kind"] == "gram":
        return ns.BargainingProblem(gram=inputs["A"], weights=inputs["w"])
    if case["kind"] == "risk_budget":
        vol = inputs["vol"]
        return ns.BargainingProblem(gram=vol[:, None] * inputs["corr"] * vol, weights=inputs["b"])
    return ns.BargainingProblem(
        vectors=inputs["G"].T,
        weights=inputs["w"],
        disagreement=inputs["d"],
        radius=inputs["eps"],
        metric=inputs.get("M"),
    )


def by_engine(*kinds: str) -> list[Any]:
    return [
        pytest.param(case, row.name, id=f"{case['name']}-{row.name}", marks=needs(row.name))
        for case in of_kind(*kinds)
        for row in catalog.CATALOG
        if row.name not in ("compiled", "cupy")
    ]


def solve_or_skip(problem: ns.BargainingProblem, name: str) -> ns.Solution:
    engine = catalog.make(name)
    reason = engine.why_not(problem)
    if reason:
        pytest.skip(f"{name}: {reason}")
    return ns.solve(problem, solver=name, on_failure="return")


def near(case: dict, solution: ns.Solution, found: Any, wanted: Any) -> None:
    """To the case's tolerance, or to the engine's own where that engine promises less."""
    rtol = max(case["tolerance"]["rtol"], catalog.make(solution.solver).rtol or 0.0)
    if solution.status is Status.SOLVED_INACCURATE and solution.solver in ("closed_form", "ccp"):
        # these work from the Gram alone and say how little it tells about nearly opposed players
        rtol = max(rtol, float(solution.error_bound.max()))
    assert_near(found, wanted, rtol, case["tolerance"]["atol"])


def near_point(case: dict, solution: ns.Solution, wanted: np.ndarray) -> None:
    """The agreed point, relative to its length: an entry that is exactly zero is found to rounding only."""
    rtol = max(case["tolerance"]["rtol"], catalog.make(solution.solver).rtol or 0.0)
    if solution.status is Status.SOLVED_INACCURATE and solution.solver in ("closed_form", "ccp"):
        rtol = max(rtol, float(solution.error_bound.max()))
    assert np.linalg.norm(solution.point - wanted) <= rtol * np.linalg.norm(wanted) + case["tolerance"]["atol"]


def expect_agreement(case: dict, solution: ns.Solution) -> None:
    expected = case["expected"]
    if solution.solver == "ccp" and not solution.success:
        assert_status(solution, Status.NUMERICAL_ERROR, Status.MAX_ITER)
        return
    assert_success(solution)
    problem = solution.problem
    zero = problem.disagreement is None
    if expected.get("alpha") is not None:
        wanted = array(expected["alpha"])
        scale = np.sqrt(problem.power.sum()) / problem.ball_radius if zero else 1.0
        near(case, solution, solution.coefficients * scale, wanted)
        if zero and problem.radius is None:
            assert_within_bound(solution, wanted)
    if "x" in expected:
        near_point(case, solution, array(expected["x"]))
    if "u" in expected:
        near(case, solution, solution.utilities, array(expected["u"]))
    if "u_at_unit_ball" in expected:
        unit = ns.BargainingProblem(gram=problem.gram, weights=problem.weights, radius=1.0)
        near(case, solution, ns.solve(unit, solver=solution.solver).utilities, array(expected["u_at_unit_ball"]))
    if "beta" in expected:
        near(case, solution, solution.alpha, array(expected["beta"]))
    if "mu" in expected:
        near(case, solution, solution.ball_multiplier, array(expected["mu"]))
    if "log_nash" in expected:
        near(case, solution, solution.log_nash_product, array(expected["log_nash"]))


@pytest.mark.parametrize(("case", "name"), by_engine("ball", "gram"))
def test_ball_and_gram(case: dict, name: str) -> None:
    problem = problem_of(case)
    solution = solve_or_skip(problem, name)
    if case["expected"]["status"] == "optimal":
        expect_agreement(case, solution)
        return
    if name == "ccp":
        assert not solution.success
        return
    gram = ns.gram(problem.vectors)
    assert_no_agreement_certificate(solution, gram, problem.disagreement, float(problem.ball_radius))
    if "r_min" in case["expected"]:
        if name == "newton":
            near(case, solution, solution.radius_needed, array(case["expected"]["r_min"]))
        assert 1 <= float(solution.radius_needed) <= number(case["expected"]["r_min"]) * (1 + case["tolerance"]["rtol"])
    if name != "cvxpy" or not array(case["inputs"]["d"]).any():
        wanted = array(case["expected"]["certificate"])
        atol = max(case["tolerance"]["rtol"], catalog.make(name).rtol or 0.0)
        assert_near(solution.certificate, wanted, atol, atol)


@needs("cvxpy")
@pytest.mark.parametrize("case", of_kind("ball", "gram", "risk_budget"), ids=lambda c: c["name"])
def test_crosscheck_agrees_within_the_stated_bounds(case: dict) -> None:
    """Whatever is certified agrees with everything else certified; only ccp may end without a certified answer."""
    table = ns.crosscheck(problem_of(case))
    assert table.best is not None
    for row in table.rows:
        if row.solution is not None and row.solver != "ccp":
            assert row.verdict == "agrees", f"{row.solver}: {row.verdict}\n{table}"
        assert not row.verdict.startswith("DIFFERS"), str(table)


@pytest.mark.parametrize("name", ["newton", "closed_form"])
def test_face_of_the_blocked_case(name: str) -> None:
    case = next(c for c in CASES if c["name"] == "infeasible_face_third_player_can_gain")
    problem = problem_of(case)
    if catalog.make(name).why_not(problem):
        pytest.skip(f"{name} cannot take it")
    solution = ns.solve(problem, solver=name, on_failure="face")
    assert_status(solution, Status.NO_AGREEMENT)
    assert solution.details["blocked"] == case["expected"]["blocking"]
    assert_near(solution.point, array(case["expected"]["face_x"]), case["tolerance"]["rtol"], case["tolerance"]["rtol"])
    blocked = case["expected"]["blocking"]
    assert (solution.gains[blocked] == 0).all() and solution.gains[2] > 0


@pytest.mark.parametrize(("case", "name"), by_engine("risk_budget"))
def test_risk_budget(case: dict, name: str) -> None:
    problem = problem_of(case)
    solution = solve_or_skip(problem, name)
    if name == "ccp" and not solution.success:
        return
    assert_success(solution)
    weights = solution.alpha / solution.alpha.sum()
    expected = case["expected"]
    near(case, solution, weights, array(expected["weights"]))
    near(case, solution, np.sqrt(weights @ problem.gram @ weights), array(expected["volatility"]))
    assert_near(
        weights,
        array(expected["published"]),
        0.0,
        max(number(expected["published_tol"]), case["tolerance"]["rtol"], catalog.make(name).rtol or 0.0),
    )


@needs("cvxpy")
@pytest.mark.parametrize("case", of_kind("ball_constrained"), ids=lambda c: c["name"])
def test_ball_with_a_constraint(case: dict) -> None:
    inputs = case["inputs"]
    side, limit = array(inputs["C"]), array(inputs["c"])
    solution = ns.solve(problem_of(case), solver="cvxpy", constraints=lambda x: [side @ x <= limit])
    assert_success(solution)
    near(
        case | {"tolerance": {"rtol": case["tolerance"]["rtol"], "atol": 0.0}},
        solution,
        solution.point,
        array(case["expected"]["x"]),
    )
    near(case, solution, solution.utilities, array(case["expected"]["u"]))


def test_fan_of_1001_players_in_a_plane() -> None:
    case = next(c for c in CASES if c["name"] == "fan_symmetric_N1001")
    n = case["inputs"]["N"]
    theta = (2 * np.arange(n) - (n - 1)) / (n - 1) * np.pi / 3
    solution = ns.solve(ns.BargainingProblem(vectors=np.stack([np.cos(theta), np.sin(theta)], axis=1), radius=1.0))
    alpha = solution.coefficients * np.sqrt(n)
    expected, rtol = case["expected"], case["tolerance"]["rtol"]
    assert_success(solution)
    assert_near(solution.point, array(expected["x"]), rtol, rtol)
    assert_near(alpha[[0, n // 2]], array([expected["alpha_first"], expected["alpha_middle"]]), rtol)
    assert_near(alpha.sum(), array(expected["alpha_sum"]), rtol)


@pytest.mark.slow
def test_rank_one_plus_identity_of_2000_players() -> None:
    case = next(c for c in CASES if c["name"] == "rank_one_plus_identity_N2000")
    n = case["inputs"]["N"]
    solution = ns.solve(ns.BargainingProblem(gram=0.5 * np.eye(n) + 0.5, weights=1.0 + np.arange(n) % 3))
    rtol = case["tolerance"]["rtol"]
    assert_success(solution)
    classes = array(case["expected"]["alpha_classes"])
    assert_near(solution.alpha, classes[np.arange(n) % 3], rtol)
    assert_near(solution.alpha.sum(), array(case["expected"]["alpha_sum"]), rtol)


@pytest.mark.parametrize("case", of_kind("diagnostics"), ids=lambda c: c["name"])
def test_diagnostics_of_a_given_alpha(case: dict) -> None:
    inputs = {name: array(value) for name, value in case["inputs"].items()}
    expected = {name: array(value) for name, value in case["expected"].items()}
    problem = ns.BargainingProblem(gram=inputs["A"], weights=inputs["w"])
    proof = ns.verify(problem, inputs["alpha"])
    rtol = case["tolerance"]["rtol"]
    residual = inputs["alpha"] * (inputs["A"] @ inputs["alpha"]) - inputs["w"]
    assert_near(residual, expected["residual"], rtol)
    assert_near(proof.gap, expected["duality_gap"], rtol)
    exact = ns.solve(problem).alpha
    true = np.abs(exact / inputs["alpha"] - 1)
    assert_near(true, expected["true_rel_error"], rtol)
    assert (np.abs(inputs["alpha"] / exact - 1) <= proof.error_bound).all()


@needs("ccp")
@pytest.mark.parametrize("case", of_kind("ccp"), ids=lambda c: c["name"])
def test_ccp_stops_at_a_point_that_is_not_nash_and_says_so(case: dict) -> None:
    gram, expected = array(case["inputs"]["A"]), case["expected"]
    rtol = case["tolerance"]["rtol"]
    assert_near(ns.solve(gram).alpha, array(expected["nash_alpha"]), rtol)
    found = ns.solve(
        gram, solver="ccp", max_iter=200, stop_residual=0.0, start=array(expected["nash_alpha"]), on_failure="return"
    )
    # older conic solvers never meet the published test on the step, and end at the limit instead
    assert_status(found, Status.NUMERICAL_ERROR, Status.MAX_ITER)
    assert not found.success
    fixed = array(expected["ccp_fixed_point"])
    assert_near(found.alpha, fixed, rtol)
    assert_near(found.details["effective_weights"], fixed * (gram @ fixed), rtol)


@needs("ccp")
@pytest.mark.parametrize("case", of_kind("ccp_unbounded"), ids=lambda c: c["name"])
def test_ccp_reports_an_unbounded_first_sub_problem(case: dict) -> None:
    gram = array(case["inputs"]["A"])
    assert_near(ns.solve(gram).alpha, array(case["expected"]["nash_alpha"]), case["tolerance"]["rtol"])
    found = ns.solve(gram, solver="ccp", on_failure="return")
    assert_status(found, Status.NUMERICAL_ERROR)
    assert "sub-problem 1" in found.details["reason"]
    with pytest.raises(ns.SolverFailed):
        ns.solve(gram, solver="ccp")
