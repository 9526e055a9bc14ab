"""Tables of outcomes: large ones against CVXPY, certificates, single outcomes, bad input."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import cvxpy as cp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import nashsolve as ns
from nashsolve import Status, kernels
from nashsolve.oracles.lottery import solve_lottery
from tests.asserts import assert_message, assert_near, assert_status

seeds = st.integers(0, 2**32 - 1)


@pytest.fixture(params=["kernel", "numpy"], autouse=True, scope="module")
def engine(request: pytest.FixtureRequest) -> Iterator[None]:
    """Everything by the compiled kernel where there is one, and once more without it."""
    if request.param == "kernel" and kernels.load() is None:
        pytest.skip(kernels.reason())
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "numpy":
            patch.setattr(kernels, "load", lambda: None)
        yield


def by_cvxpy(payoffs: np.ndarray, w: np.ndarray, d: np.ndarray) -> np.ndarray:
    """Utilities by a conic solver: the formulation of the textbook."""
    pi = cp.Variable(len(payoffs), nonneg=True)
    gains = payoffs.T @ pi - d
    model = cp.Problem(cp.Maximize(w @ cp.log(gains)), [cp.sum(pi) == 1])
    model.solve(solver="CLARABEL")
    lottery = np.maximum(pi.value, 0.0)
    return payoffs.T @ (lottery / lottery.sum())


def excess(payoffs: np.ndarray, w: np.ndarray, d: np.ndarray, utilities: np.ndarray) -> float:
    """How far the best outcome is above the total weight: zero exactly at the solution."""
    return float(((payoffs - d) @ (w / (utilities - d))).max() / w.sum() - 1)


@pytest.mark.parametrize(("many", "n"), [(1000, 10), (4000, 4), (300, 40)])
def test_large_tables_agree_with_cvxpy(many: int, n: int) -> None:
    rng = np.random.default_rng(many)
    payoffs, w, d = rng.standard_normal((many, n)) + 0.5, rng.uniform(0.5, 2, n), rng.uniform(-0.1, 0.1, n)
    solution = ns.solve(ns.OutcomeBargainingProblem(payoffs, weights=w, disagreement=d))
    assert_status(solution, Status.SOLVED)
    other = by_cvxpy(payoffs, w, d)
    assert_near(solution.utilities, other, 1e-3, 1e-4)
    assert solution.log_nash_product >= w @ np.log(other - d) - 1e-12
    assert excess(payoffs, w, d, solution.utilities) <= 1e-12
    assert_near(solution.point @ payoffs, solution.utilities, 1e-12)
    assert (solution.point >= 0).all() and abs(solution.point.sum() - 1) <= 1e-12


def test_a_hundred_thousand_outcomes() -> None:
    rng = np.random.default_rng(5)
    payoffs = rng.standard_normal((100_000, 6))
    solution = ns.solve(ns.OutcomeBargainingProblem(payoffs))
    assert_status(solution, Status.SOLVED)
    assert excess(payoffs, np.ones(6), np.zeros(6), solution.utilities) <= 1e-12


@given(seed=seeds, n=st.integers(1, 6), many=st.integers(1, 30))
def test_stated_bounds_hold(seed: int, n: int, many: int) -> None:
    """Planted: alpha on some outcomes' supporting plane; every other outcome is pushed below it."""
    rng = np.random.default_rng(seed)
    payoffs = rng.uniform(-1, 1, (many + n, n))
    payoffs[:n] += np.eye(n) * rng.uniform(1, 3, n)
    pi = np.concatenate([rng.dirichlet(np.ones(n)), np.zeros(many)])
    exact = pi @ payoffs
    d = exact - rng.uniform(0.2, 2, n)
    normal = np.abs(np.linalg.lstsq(payoffs[:n], np.ones(n), rcond=None)[0]) + 0.1
    payoffs[:n] += ((normal @ exact) - payoffs[:n] @ normal)[:, None] * normal / (normal @ normal)
    exact = pi @ payoffs
    over = np.maximum(payoffs[n:] @ normal - normal @ exact, 0) + rng.uniform(0, 1, many)
    payoffs[n:] -= over[:, None] * normal / (normal @ normal)
    d = exact - np.abs(exact - d)
    w = normal * (exact - d)
    solution = ns.solve(ns.OutcomeBargainingProblem(payoffs, weights=w, disagreement=d))
    rounding = 1e-13 * np.abs(payoffs).max() / (exact - d)
    off = np.abs(solution.gains / (exact - d) - 1)
    assert (off <= solution.error_bound + rounding + 1e-10).all()


@given(seed=seeds, n=st.integers(2, 5))
def test_no_agreement_is_proved(seed: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    y = rng.dirichlet(np.ones(n))
    payoffs = rng.standard_normal((20, n))
    payoffs -= (np.maximum(payoffs @ y, 0) + 0.01)[:, None]
    solution = ns.solve(ns.OutcomeBargainingProblem(payoffs), on_failure="return")
    assert_status(solution, Status.NO_AGREEMENT)
    found = solution.certificate
    assert (found >= 0).all() and abs(found.sum() - 1) <= 1e-12
    assert (payoffs @ found).max() <= 1e-12
    assert np.isnan(solution.utilities).all()
    assert_message(ValueError(solution.message), "No feasible point", "Lower the disagreement")


def test_no_agreement_raises_by_default_with_the_solution() -> None:
    table = ns.OutcomeBargainingProblem([[1.0, -1.0], [-1.0, 1.0]], names=["ann", "bob"])
    with pytest.raises(ns.NoAgreement, match="ann, bob") as caught:
        ns.solve(table)
    assert caught.value.solution.status is Status.NO_AGREEMENT


@given(seed=seeds, n=st.integers(1, 5), concept=st.sampled_from(["nash", "egalitarian", "utilitarian", "min_norm"]))
def test_single_outcomes_are_enumerated(seed: int, n: int, concept: str) -> None:
    rng = np.random.default_rng(seed)
    payoffs, w = rng.uniform(-1, 2, (12, n)), rng.uniform(0.5, 2, n)
    payoffs[0] = np.abs(payoffs[0]) + 0.01
    table = ns.OutcomeBargainingProblem(payoffs, weights=w, lotteries=False)
    solution = ns.solve(table, concept=concept)
    good = [row for row in payoffs if (row > 0).all() or concept == "utilitarian"]
    key = {
        "nash": lambda row: np.prod(row**w),
        "egalitarian": lambda row: sorted(row / w),
        "utilitarian": lambda row: row @ w,
        "min_norm": lambda row: row.min(),
    }[concept]
    assert_near(solution.utilities, max(good, key=key), 1e-15)
    assert float(solution.gap) == 0.0


def test_single_outcomes_without_agreement_count_who_blocks() -> None:
    table = ns.OutcomeBargainingProblem([[1.0, -1.0], [-2.0, 1.0], [3, -1]], lotteries=False, names=["ann", "bob"])
    solution = ns.solve(table, on_failure="return")
    assert_status(solution, Status.NO_AGREEMENT)
    assert solution.details["without_gain"] == {"ann": 1, "bob": 2}
    assert "allow lotteries" in solution.message
    assert ns.solve(ns.OutcomeBargainingProblem(table.payoffs)).success


def test_ties_are_named_and_the_first_outcome_is_taken() -> None:
    found = ns.solve(ns.OutcomeBargainingProblem([[1, 2], [2, 1]], lotteries=False, labels=["a", "b"]))
    assert found.details == {"outcome": "a", "ties": ["a", "b"], "lottery": {"a": 1.0}}


def test_data_frames_name_players_and_outcomes() -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"ann": [4.0, 3.0, 0.0], "bob": [0.0, 3.0, 4.0]}, index=["left", "middle", "right"])
    solution = ns.solve_discrete(frame, weights={"ann": 5, "bob": 1})
    assert solution.problem.names == ("ann", "bob")
    assert set(solution.details["lottery"]) == {"left", "middle"}
    assert solution.to_frame().loc["ann", "utility"] == pytest.approx(10 / 3)


def test_options_change_what_happens() -> None:
    table = ns.OutcomeBargainingProblem(np.random.default_rng(0).random((50, 3)))
    stopped = ns.solve(table, max_iter=1, on_failure="return")
    assert_status(stopped, Status.MAX_ITER)
    assert_status(ns.solve(table, time_limit=0.0, on_failure="return"), Status.MAX_TIME)
    assert_status(ns.solve(table, rtol=1e-14, on_failure="return"), Status.SOLVED_INACCURATE)


def test_the_engine_meets_its_goal_and_says_when_it_cannot() -> None:
    v, w = np.array([[1.0, 0.0], [0.0, 1.0]]), np.ones(2)
    loose = solve_lottery(v, w, rtol=1e-2)
    tight = solve_lottery(v, w)
    assert loose[2] < tight[2] or tight[2] <= 3
    assert solve_lottery(v - 2, w)[3] == "blocked"


BAD = [
    ({"payoffs": [[1.0, np.nan]]}, "payoffs[0, 1] is nan"),
    ({"payoffs": [1.0, 2.0]}, "shape (2,)"),
    ({"payoffs": np.zeros((0, 2))}, "no outcomes"),
    ({"payoffs": np.zeros((2, 0))}, "no players"),
    ({"payoffs": [["a", "b"]]}, "payoffs"),
    ({"payoffs": [[1, 2]], "weights": [1, 0]}, "weights[1] is 0"),
    ({"payoffs": [[1, 2]], "weights": [1]}, "weights has shape (1,)"),
    ({"payoffs": [[1, 2]], "disagreement": [np.inf, 0]}, "disagreement[0] is inf"),
    ({"payoffs": [[1, 2]], "names": ["a"]}, "names has 1"),
    ({"payoffs": [[1, 2]], "names": ["ann", "bob"], "weights": {"ann": 1, "bbo": 2}}, "Did you mean 'bob'?"),
    ({"payoffs": [[1, 2]], "names": ["ann", "bob"], "weights": {"ann": 1}}, "no entry for player 'bob'"),
    ({"payoffs": [[1, 2]], "weights": {"ann": 1, "bob": 2}}, "no names"),
    ({"payoffs": [[1, 2]], "labels": ["a", "b"]}, "labels has 2"),
    ({"payoffs": [[1, 2]], "lotteries": "yes"}, "True or False"),
]


@pytest.mark.parametrize(("arguments", "words"), BAD)
def test_bad_tables(arguments: dict, words: str) -> None:
    with pytest.raises(ns.InvalidProblem) as caught:
        ns.OutcomeBargainingProblem(**arguments)
    assert_message(caught.value, words)


def test_inputs_are_neither_written_nor_shared() -> None:
    payoffs = np.array([[4.0, 0.0], [0.0, 4.0]])
    before = payoffs.copy()
    table = ns.OutcomeBargainingProblem(payoffs)
    ns.solve(table)
    assert (payoffs == before).all()
    payoffs[0, 0] = 9.0
    assert table.payoffs[0, 0] == 4.0
    with pytest.raises(ValueError, match="read-only"):
        table.payoffs[0, 0] = 1.0


def test_units_do_not_matter() -> None:
    rng = np.random.default_rng(3)
    payoffs = rng.random((30, 3))
    plain = ns.solve(ns.OutcomeBargainingProblem(payoffs)).utilities
    for powers in itertools.product([1e-9, 1.0, 1e9], repeat=3):
        found = ns.solve(ns.OutcomeBargainingProblem(payoffs * powers)).utilities
        assert_near(found / powers, plain, 1e-6)
