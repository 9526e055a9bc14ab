"""A ball with linear constraints: the compiled kernel against NumPy, step by step the same method."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nashsolve import kernels
from nashsolve.oracles.gram_interior import solve_in_ball, solve_in_numpy
from tests.asserts import assert_near

pytestmark = pytest.mark.skipif(kernels.load() is None, reason=kernels.reason())


@settings(max_examples=60)
@given(seed=st.integers(0, 2**32 - 1), n=st.integers(1, 30), rows=st.integers(0, 12), p=st.integers(1, 40))
def test_kernel_and_numpy_take_the_same_steps(seed: int, n: int, rows: int, p: int) -> None:
    rng = np.random.default_rng(seed)
    players = rng.standard_normal((n, p)) + 2 * rng.standard_normal(p)
    matrix = rng.standard_normal((rows, p))
    every = np.vstack([players, -matrix])
    centre = players.sum(0) / np.linalg.norm(players.sum(0))
    b = np.concatenate([0.1 * rng.standard_normal(n), -abs(0.5 * matrix @ centre) - 1e-3])
    w = rng.uniform(0.5, 2, n)
    for limit in (0, 2, 60):
        mine, my_steps, my_stop = solve_in_ball(every @ every.T, b, w, limit)
        wanted, steps, stop = solve_in_numpy(every @ every.T, b, w, limit)
        # rounding alone decides in which step the last digit is reached
        assert my_stop == stop or ({my_stop, stop} == {"", "max_iter"} and limit < 60)
        if "numerical" not in (my_stop, stop):
            assert abs(my_steps - steps) <= (0 if my_stop == stop == "max_iter" else 6)
            assert_near(_point(every, mine), _point(every, wanted), 1e-6, 1e-6)


def _point(rows: np.ndarray, eta: np.ndarray) -> np.ndarray:
    pull = eta @ rows
    return pull / np.linalg.norm(pull)


def test_a_row_of_nothing_is_left_to_the_general_method() -> None:
    eta, steps, stop = solve_in_ball(np.diag([1.0, 0.0]), np.array([0.1, 0.0]), np.ones(1), 60)
    assert (steps, stop) == (0, "numerical") and (eta == 1).all()


def test_wrong_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="matching shapes"):
        kernels.load().in_ball(np.eye(2), np.zeros(3), np.ones(1), 5, np.empty(2))
