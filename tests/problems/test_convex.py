"""Convex problems: linear over domains, plain functions, CVXPY; markets clear; bad input is refused in one sentence."""

from __future__ import annotations

import cvxpy as cp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import nashsolve as ns
from nashsolve import Status
from nashsolve.problems.jets import Jet
from tests.asserts import assert_message, assert_near, assert_status
from tests.tolerances import tolerance

seeds = st.integers(0, 2**32 - 1)


@settings(max_examples=15)
@given(seed=seeds, n=st.integers(1, 6), p=st.integers(2, 12), rows=st.integers(0, 4))
def test_planted_agreement_in_a_ball_with_linear_constraints(seed: int, n: int, p: int, rows: int) -> None:
    """Choose the point and the multipliers; the weights that make them optimal follow."""
    rng = np.random.default_rng(seed)
    vectors = rng.standard_normal((n, p))
    matrix = rng.standard_normal((rows, p))
    beta, y, mu = rng.uniform(0.5, 2, n), rng.uniform(0.5, 2, rows), rng.uniform(0.5, 2)
    x = (beta @ vectors - y @ matrix) / mu
    gains = rng.uniform(0.3, 2, n)
    problem = ns.ConvexBargainingProblem(
        utilities=vectors,
        constraints=ns.ball(p, float(np.linalg.norm(x))) & ns.polytope(matrix, matrix @ x)
        if rows
        else ns.ball(p, float(np.linalg.norm(x))),
        disagreement=vectors @ x - gains,
        weights=beta * gains,
    )
    solution = ns.solve(problem)
    assert_status(solution, Status.SOLVED)
    off = np.abs(solution.gains / gains - 1)
    assert (off <= solution.error_bound + 1e-9).all()
    assert np.linalg.norm(solution.point - x) <= 1e-5 * np.linalg.norm(x)
    if rows < p and np.linalg.cond(np.vstack([matrix, x])) < 30:  # the multipliers are unique
        assert_near(solution.duals["ball"], np.float64(mu), 1e-4)
        assert_near(solution.duals["matrix"], y, 1e-3, 1e-4)


@settings(max_examples=15)
@given(seed=seeds, n=st.integers(2, 5), p=st.integers(2, 6))
def test_planted_agreement_of_curved_utilities(seed: int, n: int, p: int) -> None:
    """u_i = sum c log x on a simplex: at the planted x the weights make every coordinate's pull the same."""
    rng = np.random.default_rng(seed)
    x = rng.dirichlet(np.full(p, 3.0)) + 0.05
    x = x / x.sum()
    share = rng.uniform(0.2, 1, (n, p))
    beta = rng.uniform(0.5, 2, n)
    price = (beta @ share / x).max() * 1.0
    share = share * (price / (beta @ share / x))
    functions = [lambda z, c=c: (c * np.log(z)).sum() for c in share]
    gains = rng.uniform(0.3, 2, n)
    exact = share @ np.log(x)
    problem = ns.ConvexBargainingProblem(functions, ns.simplex(p), disagreement=exact - gains, weights=beta * gains)
    solution = ns.solve(problem)
    # where utilities are much larger than gains, their rounding lets the proof end just above the accuracy asked for
    assert_status(solution, Status.SOLVED, Status.SOLVED_INACCURATE)
    assert solution.error_bound.max() <= 4 * tolerance("curved", "rtol")
    assert (np.abs(solution.gains / gains - 1) <= solution.error_bound + 1e-9).all()
    assert_near(solution.point, x, 1e-4)


@settings(max_examples=15)
@given(seed=seeds, n=st.integers(2, 6), m=st.integers(1, 6))
def test_fisher_prices_clear_the_market(seed: int, n: int, m: int) -> None:
    rng = np.random.default_rng(seed)
    worth, budgets = rng.uniform(0.1, 1, (n, m)), rng.uniform(0.5, 2, n)
    solution = ns.solve(ns.fisher_market(worth, budgets))
    prices, allocation = solution.details["prices"], solution.details["allocation"]
    assert abs(prices.sum() - budgets.sum()) <= 1e-8 * budgets.sum()
    assert_near(allocation.sum(axis=0), np.ones(m), 1e-8)
    assert_near(allocation @ prices, budgets, 1e-8)
    bang = worth / prices
    assert (allocation * (bang.max(axis=1)[:, None] - bang) <= 1e-7 * bang.max()).all()


def test_market_supply_and_names_matter() -> None:
    one = ns.solve(ns.fisher_market([[1.0, 2.0], [2.0, 1.0]], supply=[3.0, 1.0], names=["ann", "bob"]))
    assert one.problem.names == ("ann", "bob")
    assert_near(one.details["allocation"].sum(axis=0), np.array([3.0, 1.0]), 1e-8)


def test_outside_options_bind_only_when_they_must() -> None:
    plain = ns.split(1.0, 2)
    assert_near(ns.solve(ns.outside_options(plain, [0.3, -np.inf])).utilities, np.full(2, 0.5), 1e-6)
    assert_near(ns.solve(ns.outside_options(plain, [0.7, -np.inf])).utilities, np.array([0.7, 0.3]), 1e-6)
    x = cp.Variable(2, nonneg=True)
    same = ns.ConvexBargainingProblem([x[0], x[1]], [cp.sum(x) <= 1], names=["a", "b"])
    assert_near(ns.solve(ns.outside_options(same, {"a": 0.7, "b": 0})).utilities, np.array([0.7, 0.3]), 1e-5)
    with pytest.raises(ns.InvalidProblem, match="more than the total"):
        ns.split(1.0, outside=[0.7, 0.6])


def test_cvxpy_points_come_by_variable_and_duals_by_constraint() -> None:
    x, y = cp.Variable(2, nonneg=True, name="x"), cp.Variable(name="y")
    problem = ns.ConvexBargainingProblem([cp.sqrt(x[0]) + y, x[1]], [cp.sum(x) + y <= 1, cp.abs(y) <= 0.1])
    solution = ns.solve(problem)
    assert set(solution.point) == {"x", "y"}
    assert len(solution.duals) == 2
    assert abs(solution.point["x"].sum() + solution.point["y"] - 1) <= 1e-6


def test_methods_of_convenience() -> None:
    problem = ns.split(1.0, names=["a", "b"])
    assert_near(problem.solve().x, np.full(2, 0.5), 1e-6)
    assert problem.solve(concept="utilitarian").concept == "utilitarian"
    assert problem.sweep("weights", [[1, 1], [3, 1]]).utilities.shape == (2, 2)


def test_offset_and_description_are_used() -> None:
    problem = ns.ConvexBargainingProblem(
        np.eye(2), ns.simplex(2), offset=[0.5, 0.0], describe=lambda point, duals: {"first": float(point[0])}
    )
    solution = ns.solve(problem)
    assert_near(solution.utilities, np.array([0.75, 0.75]), 1e-6)
    assert solution.details["first"] == pytest.approx(0.25)


EXACT = {
    "power": (lambda x: x[0] ** 0.5 * 2 + x[1], lambda x: [x[0] ** -0.5, 1.0]),
    "product": (lambda x: x[0] * x[1] / (1 + x[0]), lambda x: [x[1] / (1 + x[0]) ** 2, x[0] / (1 + x[0])]),
    "functions": (lambda x: np.log1p(x).sum() + np.exp(-x[0]), lambda x: 1 / (1 + x) - [np.exp(-x[0]), 0]),
    "matmul": (lambda x: np.tanh(np.array([1.0, 2.0]) @ x), lambda x: np.array([1, 2]) / np.cosh(x[0] + 2 * x[1]) ** 2),
    "mean": (lambda x: -((x - x.mean()) ** 2).sum(), lambda x: [x[1] - x[0], x[0] - x[1]]),
    "reverse": (lambda x: 3 - 2 / x[0] - (-x[1]) ** 2, lambda x: [2 / x[0] ** 2, -2 * x[1]]),
    "prod": (lambda x: np.sqrt(np.prod(x)), lambda x: np.sqrt(x[0] * x[1]) / (2 * x)),
}


@pytest.mark.parametrize("name", EXACT)
def test_derivatives_of_plain_functions_are_exact(name: str) -> None:
    function, gradient = EXACT[name]
    x = np.array([0.7, 1.3])
    jet = function(Jet.variable(x))
    assert_near(jet.value, np.float64(function(x)), 1e-14)
    assert_near(jet.gradient, np.asarray(gradient(x), dtype=float), 1e-13, 1e-14)
    h = 1e-5
    columns = [(np.asarray(gradient(x + h * e)) - np.asarray(gradient(x - h * e))) / (2 * h) for e in np.eye(2)]
    assert_near(jet.hessian, np.column_stack(columns), 1e-8, 1e-8)


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (lambda x: abs(x[0]), "numpy.absolute"),
        (lambda x: np.maximum(x[0], x[1]), "numpy.maximum"),
        (lambda x: x[0] if x[0] > 1 else x[1], "numpy.greater"),
        (lambda x: x, "shape (2,)"),
        (lambda x: x[0] ** 2, "not concave"),
        (lambda x: max(float(x[0]), 1), "branches"),
    ],
)
def test_functions_that_cannot_be_utilities(function, words: str) -> None:
    with pytest.raises(ns.InvalidProblem) as caught:
        ns.solve(utilities=[function, lambda x: x[1]], constraints=ns.simplex(2))
    assert_message(caught.value, words)


x = cp.Variable(2)
BAD = [
    ({"utilities": []}, "at least one player"),
    ({"utilities": [lambda z: z[0], np.ones(2)], "constraints": ns.simplex(2)}, "mixes functions and linear"),
    ({"utilities": [lambda z: z[0]]}, "constraints is NoneType"),
    ({"utilities": np.eye(2), "constraints": ns.simplex(3)}, "rows of 2 coordinates, but constraints has 3"),
    ({"utilities": np.eye(2) * np.nan, "constraints": ns.simplex(2)}, "utilities[0, 0] is nan"),
    ({"utilities": np.ones(2), "constraints": ns.simplex(2)}, "shape (2,)"),
    ({"utilities": [cp.square(x[0]), x[1]], "constraints": []}, "utilities[0] of player 0 is not concave"),
    ({"utilities": [x, x[1]], "constraints": []}, "scalar expression"),
    ({"utilities": [x[0], x[1]], "constraints": [cp.sqrt(x[0]) <= 1]}, "constraints[0] is not convex"),
    ({"utilities": [x[0], x[1]], "constraints": [True]}, "constraints[0] is bool"),
    ({"utilities": [x[0], x[1]], "constraints": ns.simplex(2)}, "list of CVXPY constraints"),
    ({"utilities": {"a": x[0], "b": x[1]}, "names": ["a", "c"]}, "leave out names"),
    ({"utilities": {"a": x[0], "b": x[1]}, "weights": {"a": 1, "c": 2}}, "unknown player 'c'"),
    ({"utilities": [x[0], x[1]], "offset": [1, 1]}, "offset belongs to linear utilities"),
]


@pytest.mark.parametrize(("arguments", "words"), BAD)
def test_bad_statements(arguments: dict, words: str) -> None:
    with pytest.raises(ns.InvalidProblem) as caught:
        ns.ConvexBargainingProblem(**arguments)
    assert_message(caught.value, words)


EMPTY = [
    (np.eye(2), ns.polytope([[1, 1], [-1, -1]], [0, -1]), "empty"),
    (np.eye(2), ns.ball(2, 1.0) & ns.box([2, 2], [3, 3]), "outside the ball"),
    ([lambda z: z[0], lambda z: z[1]], ns.polytope([[1, 1], [-1, -1]], [0, -1]), "empty"),
]


@pytest.mark.parametrize(("utilities", "domain", "words"), EMPTY)
def test_empty_sets(utilities, domain, words: str) -> None:
    with pytest.raises(ns.InvalidProblem, match=words):
        ns.solve(ns.ConvexBargainingProblem(utilities, domain))


def test_empty_and_unbounded_sets_in_cvxpy() -> None:
    z = cp.Variable(2)
    with pytest.raises(ns.InvalidProblem, match="empty"):
        ns.solve(ns.ConvexBargainingProblem([z[0], z[1]], [z <= 0, z >= 1]))
    with pytest.raises(ns.InvalidProblem, match="ann has no upper bound"):
        ns.solve(ns.ConvexBargainingProblem({"ann": z[0], "bob": z[1]}, [z[1] <= 1]))


def test_unbounded_linear_utilities() -> None:
    with pytest.raises(ns.InvalidProblem, match="player 1 has no upper bound"):
        ns.solve(ns.ConvexBargainingProblem(np.eye(2), ns.box([0, 0], [1, np.inf])))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: ns.box([1, 0], [0, 1]), "the set is empty"),
        (lambda: ns.simplex(2, total=-1), "total is -1"),
        (lambda: ns.ball(2, radius=0), "radius is 0"),
        (lambda: ns.ball(0), "size is 0"),
        (lambda: ns.polytope([[1, 1]], [1, 2]), "limit has shape (2,)"),
        (lambda: ns.polytope([[1, np.inf]], [1]), "matrix[0, 1] is inf"),
        (lambda: ns.polytope([[1, 1]], [1], equal=[[1, 1]]), "give both equal and total"),
        (lambda: ns.ball(2) & ns.ball(3), "2 and 3 coordinates"),
        (lambda: ns.fisher_market([[0, 0], [1, 1]]), "valuations[0] is zero"),
        (lambda: ns.fisher_market([[1, -1]]), "valuations[0, 1] is -1"),
        (lambda: ns.fisher_market([[1, 1]], utility="ces"), "unknown utility 'ces'"),
        (lambda: ns.fisher_market([[0.5, 0.2]], utility="cobb_douglas"), "add up to 0.7"),
        (lambda: ns.exchange([[1, 1]], [[1, 1, 1]]), "exponents has shape (1, 3)"),
        (lambda: ns.network([[1, 0]], [1]), "flow 1 uses no link"),
        (lambda: ns.network([[1, 1]], [0]), "capacity[0] is 0"),
        (lambda: ns.split(np.inf, 2), "total is inf"),
        (lambda: ns.split(1.0), "number of players is not known"),
        (lambda: ns.split(1.0, 2, weights=[1, 2, 3]), "2 and 3 players"),
        (lambda: ns.frontier(lambda u: u), "span is None"),
        (lambda: ns.frontier([[1, 2]], span=(0, 1)), "span belongs to a function"),
        (lambda: ns.alternating_offers([0.1, -0.1], 1.0), "must be positive"),
        (lambda: ns.portfolio(ns.solve(ns.split(1.0, 2))), "risk_budgeting"),
        (lambda: ns.solve(), "give a problem"),
        (lambda: ns.solve(ns.split(1.0, 2), max_itr=3), "Did you mean 'max_iter'?"),
    ],
)
def test_constructors_refuse(make, words: str) -> None:
    with pytest.raises((ns.InvalidProblem, AttributeError)) as caught:
        make()
    assert_message(caught.value, words)


def test_no_agreement_says_who_blocks_by_how_much_and_what_to_change() -> None:
    with pytest.raises(ns.NoAgreement) as caught:
        ns.solve(
            utilities={"union": lambda z: z[0] ** 0.5, "firm": lambda z: z[1]},
            constraints=ns.simplex(2),
            disagreement={"union": 1.0, "firm": 1.0},
        )
    assert_message(caught.value, "at once is -0.382", "union, firm", "0.5528 * union", "Lower the disagreement")
    solution = caught.value.solution
    y = solution.certificate
    assert_near(y.sum(), np.float64(1.0), 1e-12)
    grid = np.linspace(0, 1, 2001)  # the multipliers prove it: no split is worth y'd
    assert (y[0] * np.sqrt(grid) + y[1] * (1 - grid)).max() <= y.sum() - 0.38


@pytest.mark.parametrize("exact", [True, False])
def test_a_frontier_point_as_disagreement_has_no_agreement(exact: bool) -> None:
    d = [0.5, 0.5] if exact else [0.5**0.5, 0.5]
    first = (lambda z: z[0]) if exact else (lambda z: z[0] ** 0.5)
    problem = ns.ConvexBargainingProblem([first, lambda z: z[1]], ns.simplex(2), disagreement=d)
    solution = ns.solve(problem, on_failure="return")
    assert_status(solution, Status.NO_AGREEMENT, Status.AMBIGUOUS)


@pytest.mark.parametrize("kind", ["gram_interior", "interior"])
def test_engine_options_change_what_happens(kind: str) -> None:
    rows = np.random.default_rng(0).uniform(0, 1, (3, 4))
    domain = ns.ball(4) & ns.polytope(np.ones((1, 4)), [1.2])
    domain = domain if kind == "gram_interior" else domain & ns.box(-np.ones(4), np.ones(4))
    problem = ns.ConvexBargainingProblem(rows, domain)
    whole = ns.solve(problem)
    assert whole.solver == kind and whole.status is Status.SOLVED
    assert_status(ns.solve(problem, max_iter=1, on_failure="return"), Status.MAX_ITER)
    with pytest.raises(ns.SolverFailed, match="iteration limit"):
        ns.solve(problem, max_iter=1)
    assert_status(ns.solve(problem, time_limit=0.0, on_failure="return"), Status.MAX_TIME)
    assert_status(ns.solve(problem, rtol=1e-13, on_failure="return"), Status.SOLVED_INACCURATE)


def test_options_that_cvxpy_cannot_take_are_refused() -> None:
    z = cp.Variable(2, nonneg=True)
    with pytest.raises(ns.InvalidProblem, match="max_iter has no effect"):
        ns.solve(ns.ConvexBargainingProblem([z[0], z[1]], [cp.sum(z) <= 1]), max_iter=3)


def test_two_ways_through_a_ball_agree() -> None:
    """A bound that never binds sends the problem to the general method."""
    rng = np.random.default_rng(3)
    rows, matrix = rng.uniform(0, 1, (4, 6)), rng.uniform(0, 1, (2, 6))
    domain = ns.ball(6) & ns.polytope(matrix, [0.9, 1.0])
    quick = ns.solve(ns.ConvexBargainingProblem(rows, domain))
    general = ns.solve(ns.ConvexBargainingProblem(rows, domain & ns.box(-2 * np.ones(6), 2 * np.ones(6))))
    assert (quick.solver, general.solver) == ("gram_interior", "interior")
    assert_near(quick.utilities, general.utilities, 1e-7)
    assert_near(quick.duals["matrix"], general.duals["matrix"], 1e-5, 1e-7)
    slack = ns.ConvexBargainingProblem(np.vstack([rows, -rows[:1]]), domain, disagreement=[-1, 0, 0, 0, -3])
    assert ns.solve(slack).success  # opposed players: here the ball may be idle


@pytest.mark.parametrize(
    ("problem", "point"),
    [
        (ns.ConvexBargainingProblem(np.eye(2), ns.simplex(2)), np.array([0.9, 0.9])),
        (ns.ConvexBargainingProblem(np.eye(2), ns.ball(2)), np.array([0.8, 0.8])),
        (ns.ConvexBargainingProblem(np.eye(2), ns.box([0, 0], [1, 1])), np.array([1.1, 1.1])),
        (ns.ConvexBargainingProblem(np.eye(2), ns.simplex(2, free_disposal=False)), np.array([0.6, 0.6])),
        (ns.OutcomeBargainingProblem(np.eye(2)), np.array([0.7, 0.7])),
    ],
)
def test_a_point_outside_the_set_is_never_certified(monkeypatch: pytest.MonkeyPatch, problem, point) -> None:
    """A solver that cheats on the constraints finds better utilities, and the judge refuses them."""
    from dataclasses import replace

    from nashsolve.oracles.hull import HullOracle
    from nashsolve.oracles.smooth import SmoothOracle

    for kind in (HullOracle, SmoothOracle):
        honest = kind.fair

        def cheat(self, *arguments, honest=honest):
            return replace(honest(self, *arguments), point=point, utilities=point.copy())

        monkeypatch.setattr(kind, "fair", cheat)
    found = ns.solve(problem, on_failure="return")
    assert_status(found, Status.NUMERICAL_ERROR)
    assert not found.success
