"""Reference cases of the families beyond the ball, each through the constructor that a user would call."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cvxpy as cp
import numpy as np
import pytest

import nashsolve as ns
from tests.asserts import assert_near
from tests.test_cases import CASES as BALL_CASES
from tests.test_cases import array, number

DATA = Path(__file__).parent.parent / "data"
CASES = BALL_CASES + json.loads((DATA / "family_cases.json").read_text(encoding="utf-8"))["cases"]

KINDS = (
    "tu_split",
    "tu_split_outside",
    "scalar",
    "box_linear",
    "hull",
    "frontier2_concept",
    "pnorm_frontier",
    "rubinstein",
    "edgeworth",
    "fisher",
    "network",
    "risk_budget",
    "ball_constrained",
    "ball_concept",
)


def cases(*kinds: str) -> Any:
    found = [case for case in CASES if case["kind"] in kinds]
    return pytest.mark.parametrize("case", found, ids=[case["name"] for case in found])


def near(case: dict, found: Any, wanted: Any) -> None:
    tolerance = case["tolerance"]
    assert_near(found, array(wanted), tolerance["rtol"], max(tolerance["atol"], tolerance["rtol"] * 1e-3))


def inputs(case: dict) -> dict:
    return {k: array(v) if isinstance(v, list) and k not in ("u", "labels") else v for k, v in case["inputs"].items()}


def test_every_kind_of_case_is_tested_somewhere() -> None:
    elsewhere = {"ball", "gram", "ball_recipe", "derivative", "diagnostics", "ccp", "ccp_unbounded"}
    assert {case["kind"] for case in CASES} == elsewhere | set(KINDS)


@cases("tu_split", "tu_split_outside")
def test_split(case: dict) -> None:
    given = inputs(case)
    problem = ns.split(given["V"], disagreement=given["d"], weights=given["w"], outside=given.get("outside"))
    near(case, ns.solve(problem).utilities, case["expected"]["u"])


def expression(text: str, x: Any) -> Any:
    """The case's utility as a CVXPY expression."""
    return eval(text.replace("x**0.5", "sqrt(x)"), {"x": x, "abs": cp.abs, "sqrt": cp.sqrt})


@cases("scalar")
def test_scalar_with_cvxpy(case: dict) -> None:
    given = case["inputs"]
    x = cp.Variable(name="x")
    problem = ns.ConvexBargainingProblem(
        utilities=[expression(text, x) for text in given["u"]],
        constraints=[x >= given["lo"], x <= given["hi"]],
        disagreement=given["d"],
        weights=given["w"],
    )
    solution = ns.solve(problem)
    loose = {**case, "tolerance": {"rtol": 1e-6, "atol": 1e-6}}  # a conic solver
    near(loose, solution.point["x"], case["expected"]["x"])
    near(loose, solution.utilities, case["expected"]["u"])


@cases("scalar")
def test_scalar_with_plain_functions(case: dict) -> None:
    given = case["inputs"]
    if "abs" in given["u"][0]:
        pytest.skip("absolute values have no second derivative; CVXPY takes them")
    functions = [eval(f"lambda z: {text.replace('x', 'z[0]')}") for text in given["u"]]
    solution = ns.solve(
        utilities=functions,
        constraints=ns.box([given["lo"]], [given["hi"]]),
        disagreement=given["d"],
        weights=given["w"],
    )
    near(case, solution.point[0], case["expected"]["x"])
    near(case, solution.utilities, case["expected"]["u"])
    near(case, solution.log_nash_product, case["expected"]["log_nash"])


@cases("box_linear")
def test_box_linear(case: dict) -> None:
    given = inputs(case)
    problem = ns.ConvexBargainingProblem(
        utilities=given["gain"].T,
        constraints=ns.box(0.0, np.ones(len(given["gain"]))),
        disagreement=given["d"],
        weights=given["w"],
    )
    solution = ns.solve(problem, concept=given["concept"])
    expected = case["expected"]
    if "u" in expected:
        near(case, solution.utilities, expected["u"])
    if "z" in expected:
        near(case, solution.point, expected["z"])
    if "value" in expected:
        near(case, solution.utilities.sum(), expected["value"])


@cases("hull", "frontier2_concept")
def test_hull(case: dict) -> None:
    given = inputs(case)
    table = ns.OutcomeBargainingProblem(given["vertices"], disagreement=given["d"], weights=given.get("w"))
    solution = ns.solve(table, concept=given["concept"])
    expected = case["expected"]
    for key in ("u", "u_lex"):
        if key in expected:
            near(case, solution.utilities, expected[key])
    if "value" in expected:
        near(case, solution.details["value"], expected["value"])
    if "ideal" in expected:
        near(case, solution.details["ideal"], expected["ideal"])


@cases("pnorm_frontier")
def test_norm_frontier(case: dict) -> None:
    given = inputs(case)
    (a, b), p = given["a"], given["p"]
    problem = ns.frontier(
        lambda u: b * (1 - (u / a) ** p) ** (1 / p), span=(0.0, a), disagreement=given["d"], weights=given["w"]
    )
    if given["concept"] != "nash":
        problem = ns.frontier(lambda u: b * (1 - (u / a) ** p) ** (1 / p), span=(0.0, a), disagreement=given["d"])
    solution = ns.solve(problem, concept=given["concept"])
    near(case, solution.utilities, case["expected"]["u"])
    if "ideal" in case["expected"]:
        near(case, solution.details["ideal"], case["expected"]["ideal"])


@cases("rubinstein")
def test_alternating_offers(case: dict) -> None:
    rates = array(case["inputs"]["r"])
    shares = ns.alternating_offers(rates, case["inputs"]["Delta"])
    near(case, shares[0], case["expected"]["first_mover_share"])
    near(case, ns.solve(ns.split(1.0, weights=1 / rates)).utilities[0], case["expected"]["nash_limit_share"])


@cases("edgeworth")
def test_exchange(case: dict) -> None:
    solution = ns.solve(ns.exchange(array(case["inputs"]["endow"]), weights=array(case["inputs"]["w"])))
    near(case, solution.utilities, case["expected"]["u"])


@cases("fisher")
def test_fisher(case: dict) -> None:
    given = inputs(case)
    solution = ns.solve(ns.fisher_market(given["V"], given["budgets"], utility=given["utility"]))
    near(case, solution.utilities, case["expected"]["u"])
    near(case, solution.details["prices"], case["expected"]["prices"])


@cases("network")
def test_network(case: dict) -> None:
    given = inputs(case)
    solution = ns.solve(ns.network(given["routing"], given["capacity"], weights=given["w"]))
    near(case, solution.point, case["expected"]["x"])
    near(case, solution.details["link_prices"], case["expected"]["link_prices"])


@cases("risk_budget")
def test_risk_budgeting(case: dict) -> None:
    given = inputs(case)
    covariance = given["vol"][:, None] * given["corr"] * given["vol"]
    book = ns.portfolio(ns.solve(ns.risk_budgeting(covariance, given["b"])))
    near(case, book.weights, case["expected"]["weights"])
    near(case, book.volatility, case["expected"]["volatility"])
    near(case, book.contributions, [number(b) / sum(map(number, given["b"])) for b in given["b"]])


@cases("ball_constrained")
def test_ball_with_linear_constraints(case: dict) -> None:
    given = inputs(case)
    problem = ns.ConvexBargainingProblem(
        utilities=given["G"].T,
        constraints=ns.ball(len(given["G"]), given["eps"]) & ns.polytope(given["C"], given["c"]),
        disagreement=given["d"],
        weights=given["w"],
    )
    solution = ns.solve(problem)
    near(case, solution.point, case["expected"]["x"])
    near(case, solution.utilities, case["expected"]["u"])


@cases("ball_concept")
def test_concepts_on_the_ball(case: dict) -> None:
    given = inputs(case)
    problem = ns.BargainingProblem(
        vectors=given["G"].T, weights=given["w"], disagreement=given["d"], radius=given["eps"]
    )
    concept, options = {
        "kalai_smorodinsky_global": ("kalai_smorodinsky", {"ideal": "global"}),
        "egalitarian": ("egalitarian", {}),
        "alpha_fair_2": ("alpha_fairness", {"aversion": 2}),
    }[given["concept"]]
    solution = ns.solve(problem, concept=concept, **options)
    expected = case["expected"]
    near(case, solution.utilities, expected["u"])
    near(case, solution.point, expected["x"])
    if "lam" in expected:
        wide = {**case, "tolerance": {"rtol": 1e-7, "atol": 1e-7}}
        near(wide, solution.alpha / solution.alpha.sum(), expected["lam"])
