"""Each concept against a formulation that shares nothing with it."""

from __future__ import annotations

from typing import Any

import cvxpy as cp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog

import nashsolve as ns
from nashsolve import Status
from nashsolve.concepts import catalog
from tests.asserts import assert_message, assert_near, assert_status

TIGHT = {"solver": "CLARABEL", "tol_gap_abs": 1e-9, "tol_gap_rel": 1e-9, "tol_feas": 1e-9}
pytestmark = pytest.mark.filterwarnings("ignore:Solution may be inaccurate:UserWarning")  # of the oracle, not of ours
seeds = st.integers(0, 2**32 - 1)
few = settings(max_examples=8)


def table(seed: int, n: int = 3) -> ns.OutcomeBargainingProblem:
    rng = np.random.default_rng(seed)
    return ns.OutcomeBargainingProblem(
        rng.uniform(-1, 2, (12, n)) + np.eye(12, n), weights=rng.uniform(0.5, 2, n), disagreement=rng.uniform(-1, 0, n)
    )


def ball(seed: int, n: int = 3) -> ns.BargainingProblem:
    rng = np.random.default_rng(seed)
    vectors = rng.standard_normal((n, 4)) * [0.3, 1, 1, 1] + np.array([1.5, 0, 0, 0])
    return ns.BargainingProblem(vectors=vectors, weights=rng.uniform(0.5, 2, n), radius=1.3)


def feasible(problem: Any) -> tuple[Any, list[Any]]:
    """Utilities and constraints in CVXPY, from the data of the problem alone."""
    if isinstance(problem, ns.OutcomeBargainingProblem):
        pi = cp.Variable(len(problem.payoffs), nonneg=True)
        return problem.payoffs.T @ pi, [cp.sum(pi) == 1]
    x = cp.Variable(problem.vectors.shape[1])
    return problem.vectors @ x, [cp.norm(x) <= float(problem.radius)]


def best(goal: Any, limits: list[Any]) -> float:
    model = cp.Problem(cp.Maximize(goal), limits)
    model.solve(**TIGHT)
    return float(model.value)


def disagreement(problem: Any) -> np.ndarray:
    return np.zeros(problem.n) if problem.disagreement is None else np.asarray(problem.disagreement)


problems = st.builds(lambda make, seed, n: make(seed, n), st.sampled_from([table, ball]), seeds, st.integers(2, 4))


@few
@given(problem=problems)
def test_nash(problem: Any) -> None:
    u, limits = feasible(problem)
    d = disagreement(problem)
    value = best(problem.power @ cp.log(u - d), limits)
    solution = ns.solve(problem)
    assert_near(solution.log_nash_product, np.float64(value), 1e-6, 1e-6)


@few
@given(problem=problems, aversion=st.sampled_from([0.5, 2.0, 5.0]))
def test_alpha_fairness(problem: Any, aversion: float) -> None:
    u, limits = feasible(problem)
    d = disagreement(problem)
    value = best((problem.power / (1 - aversion)) @ cp.power(u - d, 1 - aversion), limits)
    solution = ns.solve(problem, concept="alpha_fairness", aversion=aversion)
    reached = (problem.power * solution.gains ** (1 - aversion) / (1 - aversion)).sum()
    assert_near(np.float64(reached), np.float64(value), 1e-6, 1e-6)


@few
@given(problem=problems, rational=st.booleans())
def test_utilitarian(problem: Any, rational: bool) -> None:
    u, limits = feasible(problem)
    d = disagreement(problem)
    value = best(problem.power @ u, limits + ([u >= d] if rational else []))
    solution = ns.solve(problem, concept="utilitarian", rational=rational)
    assert_near(np.float64(problem.power @ solution.utilities), np.float64(value), 1e-6, 1e-6)
    if rational:
        assert (solution.gains >= -1e-8).all()


def leximin_by_cvxpy(problem: Any, scale: np.ndarray) -> np.ndarray:
    """Relative gains, smallest first, by the definition: raise the least, hold who cannot rise, repeat."""
    u, limits = feasible(problem)
    d = disagreement(problem)
    ratio = [(u[i] - d[i]) / scale[i] for i in range(problem.n)]
    fixed: dict[int, float] = {}
    while len(fixed) < problem.n:
        held = [ratio[i] >= v - 1e-7 for i, v in fixed.items()]
        t = cp.Variable()
        free = [i for i in range(problem.n) if i not in fixed]
        level = best(t, limits + held + [ratio[i] >= t for i in free])
        highest = {i: best(ratio[i], limits + held + [ratio[j] >= level - 1e-7 for j in free]) for i in free}
        stuck = [i for i in free if highest[i] <= level + 1e-4 * (1 + abs(level))]
        if not stuck:
            stuck = [min(free, key=lambda i: highest[i])]
        fixed |= dict.fromkeys(stuck, level)
    return np.sort([fixed[i] for i in range(problem.n)])


@few
@given(problem=problems)
def test_egalitarian_is_the_leximin_of_gains_over_weights(problem: Any) -> None:
    solution = ns.solve(problem, concept="egalitarian")
    if isinstance(problem, ns.OutcomeBargainingProblem):  # on a ball the first stage leaves one point
        found = np.sort(solution.gains / problem.power)
        assert_near(found, leximin_by_cvxpy(problem, problem.power), 1e-3, 1e-3)
    plain = ns.solve(problem, concept="egalitarian", proportions=np.ones(problem.n), refine=False)
    u, limits = feasible(problem)
    t = cp.Variable()
    value = best(t, [*limits, u - disagreement(problem) >= t])
    assert_near(plain.gains.min(), np.float64(value), 1e-6, 1e-6)


@few
@given(problem=problems)
def test_kalai_smorodinsky(problem: Any) -> None:
    u, limits = feasible(problem)
    d = disagreement(problem)
    ideal = np.array([best(u[i], [*limits, u >= d]) for i in range(problem.n)])
    solution = ns.solve(problem, concept="kalai_smorodinsky")
    assert_near(solution.details["ideal"], ideal, 1e-5, 1e-6)
    t = cp.Variable()
    scale = problem.power * (ideal - d)
    value = best(t, [*limits, u - d >= cp.multiply(scale, t)])
    assert_near((solution.gains / scale).min(), np.float64(value), 1e-5, 1e-6)
    whole = ns.solve(problem, concept="kalai_smorodinsky", ideal="global")
    top = np.array([best(u[i], limits) for i in range(problem.n)])
    assert_near(whole.details["ideal"], top, 1e-5, 1e-6)


@few
@given(seed=seeds, n=st.integers(2, 6))
def test_min_norm_is_the_shortest_vector_in_the_hull(seed: int, n: int) -> None:
    problem = ball(seed, n)
    y = cp.Variable(n, nonneg=True)
    cp.Problem(cp.Minimize(cp.sum_squares(problem.vectors.T @ y)), [cp.sum(y) == 1]).solve(**TIGHT)
    solution = ns.solve(problem, concept="min_norm")
    shortest = problem.vectors.T @ y.value
    assert_near(solution.gains.min(), np.float64(1.3 * np.linalg.norm(shortest)), 1e-6)
    assert_near(solution.point, 1.3 * shortest / np.linalg.norm(shortest), 1e-4, 1e-4)
    assert_near(problem.vectors.T @ (solution.alpha / solution.alpha.sum()), shortest, 1e-4, 1e-4)


@pytest.mark.parametrize("seed", range(3))
def test_linear_programs_on_long_tables_see_every_outcome(seed: int) -> None:
    """Long tables start from promising outcomes; the values must be those of one program over all of them."""
    rng = np.random.default_rng(seed)
    payoffs, w = rng.standard_normal((1500, 4)), rng.uniform(0.5, 2, 4)
    problem = ns.OutcomeBargainingProblem(payoffs, weights=w)
    one = np.ones((1, 1501))
    one[0, -1] = 0.0

    def largest(scale: np.ndarray) -> float:
        found = linprog(
            np.append(np.zeros(1500), -1.0),
            np.hstack([-payoffs.T, scale[:, None]]),
            np.zeros(4),
            one,
            [1.0],
            bounds=[(0, None)] * 1500 + [(None, None)],
        )
        return -float(found.fun)

    assert_near(np.float64(ns.solve(problem, concept="egalitarian").details["value"]), np.float64(largest(w)), 1e-9)
    smorodinsky = ns.solve(problem, concept="kalai_smorodinsky").details
    assert_near(np.float64(smorodinsky["value"]), np.float64(largest(w * smorodinsky["ideal"])), 1e-9)
    best = [-linprog(-payoffs[:, i], -payoffs.T, np.zeros(4), np.ones((1, 1500)), [1.0]).fun for i in range(4)]
    assert_near(smorodinsky["ideal"], np.array(best), 1e-9)


def polygon(seed: int) -> ns.OutcomeBargainingProblem:
    rng = np.random.default_rng(seed)
    return ns.OutcomeBargainingProblem(np.vstack([rng.uniform(0, 1, (6, 2)), np.eye(2)]), disagreement=[0.1, 0.05])


def chain_of(problem: ns.OutcomeBargainingProblem) -> Any:
    """The frontier as a function of the first utility, on a fine grid, by brute force over pairs of outcomes."""
    grid = np.linspace(0.1, problem.payoffs[:, 0].max(), 4001)
    top = np.full(len(grid), -np.inf)
    for a in problem.payoffs:
        for b in problem.payoffs:
            if b[0] > a[0]:
                t = (grid - a[0]) / (b[0] - a[0])
                top = np.maximum(top, np.where((t >= 0) & (t <= 1), a[1] + t * (b[1] - a[1]), -np.inf))
    return grid, np.maximum.accumulate(top[::-1])[::-1]


@few
@given(seed=seeds)
def test_equal_area_halves_what_can_be_gained(seed: int) -> None:
    problem = polygon(seed)
    grid, top = chain_of(problem)
    solution = ns.solve(problem, concept="equal_area")
    keep = top >= 0.05
    height = np.where(keep, top - 0.05, 0.0)
    x, y = solution.gains
    line = np.minimum((grid - 0.1) * y / x, height)
    assert_near(np.float64(line.sum()), np.float64(height.sum() / 2), 2e-3)
    assert_near(solution.details["area_above"], solution.details["area_below"], 1e-9)


@few
@given(seed=seeds)
def test_raiffa_walks_half_way_and_its_limit(seed: int) -> None:
    problem = polygon(seed)
    grid, top = chain_of(problem)

    def ideal(u: np.ndarray) -> np.ndarray:
        first = grid[top >= u[1] - 1e-12].max(initial=u[0])
        return np.array([first, max(np.interp(u[0], grid, top), u[1])])

    u = np.array([0.1, 0.05])
    for _ in range(60):
        u = (u + ideal(u)) / 2
    assert_near(ns.solve(problem, concept="raiffa_discrete").utilities, u, 2e-3, 2e-3)
    v = np.array([0.1, 0.05])
    for _ in range(6000):
        v = v + 0.002 * (ideal(v) - v)
    assert_near(ns.solve(problem, concept="raiffa_continuous").utilities, v, 5e-3, 5e-3)


def test_two_player_concepts_on_curved_sets() -> None:
    """On the quarter circle with d = 0 everything symmetric meets in the middle; polygons through it come close."""
    circle = ns.frontier(lambda u: (1 - u**2) ** 0.5, span=(0.0, 1.0))
    turn = np.linspace(0, np.pi / 2, 200)
    near = ns.frontier(np.column_stack([np.cos(turn), np.sin(turn)]), disagreement=[0.3, 0.1])
    moved = ns.frontier(lambda u: (1 - u**2) ** 0.5, span=(0.0, 1.0), disagreement=[0.3, 0.1])
    assert_near(ns.solve(circle, concept="raiffa_discrete").utilities, np.full(2, 0.5**0.5), 1e-6)
    for concept in ("equal_area", "raiffa_discrete", "raiffa_continuous"):
        found, wanted = ns.solve(moved, concept=concept), ns.solve(near, concept=concept)
        assert_near(found.utilities, wanted.utilities, 3e-4)


def test_families_answer_alike() -> None:
    """One triangle, stated in five ways."""
    x = cp.Variable(2, nonneg=True)
    ways = [
        ns.OutcomeBargainingProblem([[0, 0], [2, 0], [0, 1]], disagreement=[0.2, 0.1]),
        ns.ConvexBargainingProblem(np.eye(2), ns.polytope([[1, 2]], [2], nonnegative=True), disagreement=[0.2, 0.1]),
        ns.ConvexBargainingProblem(
            [lambda z: z[0], lambda z: z[1]], ns.polytope([[1, 2]], [2], nonnegative=True), disagreement=[0.2, 0.1]
        ),
        ns.ConvexBargainingProblem([x[0], x[1]], [x[0] + 2 * x[1] <= 2], disagreement=[0.2, 0.1]),
        ns.frontier(lambda u: 1 - u / 2, span=(0.0, 2.0), disagreement=[0.2, 0.1]),
    ]
    for concept in catalog.NAMES:
        slow = concept in ("equal_area", "raiffa_continuous")  # hundreds of conic programs
        found = [ns.solve(problem, concept=concept).utilities for problem in (ways[:2] if slow else ways)]
        if concept == "utilitarian":  # weights of one: the corner (2, 0) is the best sum
            assert_near(found[0], np.array([2.0, 0.0]), 1e-9, 1e-9)
        for other in found[1:]:
            assert_near(other, found[0], 2e-5, 2e-5)


@pytest.mark.parametrize("concept", catalog.NAMES)
def test_no_agreement_in_every_concept_that_needs_gains(concept: str) -> None:
    blocked = ns.OutcomeBargainingProblem([[1.0, -1.0], [-1.0, 1.0]])
    found = ns.solve(blocked, concept=concept, on_failure="return")
    if concept == "utilitarian":
        assert_status(found, Status.SOLVED)
    else:
        assert_status(found, Status.NO_AGREEMENT)


def test_aversion_runs_from_the_sum_to_the_smallest() -> None:
    problem = table(4)
    fair = {a: ns.solve(problem, concept="alpha_fairness", aversion=a).utilities for a in (0, 1, float("inf"))}
    assert_near(fair[0], ns.solve(problem, concept="utilitarian", rational=True).utilities, 1e-9, 1e-9)
    assert_near(fair[1], ns.solve(problem).utilities, 1e-6)
    equal = ns.solve(problem, concept="egalitarian", proportions=np.ones(3))
    assert_near(fair[float("inf")], equal.utilities, 1e-9, 1e-9)


REFUSED = [
    ({"concept": "nsah"}, "Did you mean 'nash'?"),
    ({"concept": "nash", "aversion": 2}, "aversion"),
    ({"concept": "alpha_fairness", "aversoin": 2}, "Did you mean 'aversion'?"),
    ({"concept": "alpha_fairness", "aversion": -1}, "at least 0"),
    ({"concept": "alpha_fairness", "aversion": "two"}, "a number is needed"),
    ({"concept": "kalai_smorodinsky", "ideal": "best"}, "choose one of rational, global"),
    ({"concept": "egalitarian", "proportions": [1, 0, 1]}, "proportions[1] is 0"),
    ({"concept": "equal_area"}, "two players"),
    ({"concept": "raiffa_discrete"}, "two players"),
    ({"concept": "nash", "solver": "newton"}, "solver has no effect"),
    ({"concept": "nash", "start": [1, 1, 1]}, "start has no effect"),
    ({"concept": "nash", "on_failure": "face"}, "on_failure"),
]


@pytest.mark.parametrize(("options", "words"), REFUSED)
def test_refusals(options: dict, words: str) -> None:
    with pytest.raises(ns.InvalidProblem) as caught:
        ns.solve(table(0), **options)
    assert_message(caught.value, words)


def test_frontier_concepts_need_lotteries() -> None:
    single = ns.OutcomeBargainingProblem([[1, 2], [2, 1]], lotteries=False)
    with pytest.raises(ns.InvalidProblem, match="allow lotteries"):
        ns.solve(single, concept="equal_area")


def test_batches_are_refused_except_for_nash_on_the_ball() -> None:
    batch = ns.BargainingProblem(vectors=np.random.default_rng(0).random((2, 3, 4)))
    with pytest.raises(ns.InvalidProblem, match="one problem"):
        ns.solve(batch, concept="egalitarian")


def test_a_gram_gives_the_utilities_of_its_vectors() -> None:
    problem = ball(1)
    gram = ns.BargainingProblem(gram=ns.gram(problem.vectors), weights=problem.weights, radius=1.3)
    for concept in ("kalai_smorodinsky", "egalitarian", "alpha_fairness"):
        one, other = ns.solve(problem, concept=concept), ns.solve(gram, concept=concept)
        assert_near(one.utilities, other.utilities, 1e-6)
        assert_near(problem.vectors.T @ other.coefficients, one.point, 1e-5, 1e-6)
        assert other.point is None
