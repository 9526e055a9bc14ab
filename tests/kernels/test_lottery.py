"""Lotteries over a table of outcomes: the compiled kernel against NumPy, step by step the same method."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nashsolve import kernels
from nashsolve.oracles import lottery
from nashsolve.oracles.lottery import solve_in_numpy, solve_lottery
from tests.asserts import assert_bitwise, assert_near
from tests.tolerances import tolerance

pytestmark = pytest.mark.skipif(kernels.load() is None, reason=kernels.reason())

SETS = ("base", "v3", "v4", "device")
SUM = tolerance("float64", "sum")


@pytest.fixture(params=SETS)
def instruction_set(request: pytest.FixtureRequest) -> str:
    native = kernels.load()
    before = native.instruction_set()
    try:
        native.instruction_set(request.param)
    except ValueError as missing:
        pytest.skip(str(missing))
    yield request.param
    native.instruction_set(before)


def table(rng: np.random.Generator, many: int, n: int, kind: int) -> np.ndarray:
    """Payoffs of which every column has a positive entry and none above one."""
    v = rng.standard_normal((many, n)) + 0.3
    if kind == 1:
        v = rng.integers(-2, 3, (many, n)).astype(float)  # ties
    if kind == 2:
        v = np.repeat(v, 2, axis=0)  # every outcome twice
    if kind == 3:
        v[:, -1] = v[:, 0]  # two players with one interest
    if kind == 4:
        v = v * 10 ** rng.uniform(-3, 0, n)
    v[rng.integers(len(v), size=n), np.arange(n)] = abs(v).max(axis=0) + 0.1
    return v / (1.5 * v.max(axis=0))


def excess(v: np.ndarray, w: np.ndarray, pi: np.ndarray) -> float:
    return float((v @ (w / (pi @ v))).max() / w.sum() - 1)


@settings(max_examples=80)
@given(seed=st.integers(0, 2**32 - 1), n=st.integers(1, 12), many=st.integers(1, 300), kind=st.integers(0, 4))
def test_kernel_and_numpy_take_the_same_steps(seed: int, n: int, many: int, kind: int) -> None:
    rng = np.random.default_rng(seed)
    v, w = table(rng, many, n, kind), rng.uniform(0.5, 2, n)
    for limit in (0, 3, 80):
        pi, gains, steps, stop = solve_lottery(v, w, limit)
        wanted, their_gains, their_steps, their_stop = solve_in_numpy(v, w, limit)
        # rounding alone decides in which step the last digit is reached
        assert stop == their_stop or ({stop, their_stop} == {"", "max_iter"} and limit < 80)
        assert abs(pi.sum() - 1) <= SUM and (pi >= 0).all()
        if stop == their_stop == "max_iter":
            assert steps == their_steps
            if len(v) > 15 * n and kind in (1, 2):
                continue  # which of equal outcomes come into the first part is nobody's business
            assert_near(pi @ v, wanted @ v, 1e-6, 1e-6)
        elif stop == their_stop == "":
            assert_near(gains, pi @ v, SUM, SUM)
            assert_near(gains, their_gains, 1e-4)
            assert max(excess(v, w, pi), excess(v, w, wanted)) <= 1e-9


@pytest.mark.parametrize(("many", "n"), [(1, 1), (7, 3), (16, 4), (600, 5), (3000, 3), (700, 33)])
def test_every_instruction_set_finds_the_agreement(instruction_set: str, many: int, n: int) -> None:
    rng = np.random.default_rng(many)
    v, w = table(rng, many, n, 0), rng.uniform(0.5, 2, n)
    pi, gains, _, stop = solve_lottery(v, w)
    assert stop == "" and excess(v, w, pi) <= SUM
    assert_near(gains, solve_in_numpy(v, w)[1], 1e-6)


def test_a_long_table_is_solved_in_parts() -> None:
    """Its last rows are the best, and few steps suffice: no part of a size to hold the whole is made."""
    rng = np.random.default_rng(8)
    v = np.vstack([0.2 * rng.random((40_000, 4)), table(rng, 60, 4, 0)])
    pi, _, steps, stop = solve_lottery(v, np.ones(4))
    assert stop == "" and excess(v, np.ones(4), pi) <= SUM and not pi[:40_000].any()
    assert steps == solve_in_numpy(v, np.ones(4))[2]


def test_what_blocks_is_handed_over() -> None:
    rng = np.random.default_rng(2)
    for many in (20, 2000):
        v = table(rng, many, 3, 0)
        v = v - (np.maximum(v @ np.full(3, 1 / 3), 0) + 0.01)[:, None]
        found, y, _, stop = solve_lottery(v, np.ones(3))
        assert stop == solve_in_numpy(v, np.ones(3))[3] == "blocked"
        assert (v @ y).max() <= 0 and abs(y.sum() - 1) <= SUM and abs(found.sum() - 1) <= SUM


def test_shift_and_scale_are_those_of_the_table() -> None:
    rng = np.random.default_rng(3)
    for many in (30, 900):
        payoffs, shift, scale = rng.standard_normal((many, 4)) + 1, rng.uniform(-0.2, 0.2, 4), np.array([0.5, 0.25] * 2)
        both = solve_lottery(payoffs, np.ones(4), shift=shift, scale=scale)
        plain = solve_lottery((payoffs - shift) * scale, np.ones(4))
        assert_bitwise(both[0], plain[0])
        assert_bitwise(both[1], plain[1])


def test_limits_of_time_and_accuracy() -> None:
    v, w = table(np.random.default_rng(4), 400, 6, 0), np.ones(6)
    assert solve_lottery(v, w, time_limit=0.0)[3] == solve_in_numpy(v, w, time_limit=0.0)[3] == "time"
    loose, tight = solve_lottery(v, w, rtol=0.3), solve_lottery(v, w)
    assert loose[2] < tight[2] and excess(v, w, loose[0]) <= 0.5 * 0.3**2
    assert solve_lottery(v, w, 10**30)[3] == ""


def test_payoffs_beyond_all_numbers_end_the_call() -> None:
    rng = np.random.default_rng(5)
    v = rng.standard_normal((500, 3))
    v[::7] = np.inf
    v[1::7] = -np.inf
    with np.errstate(all="ignore"):
        assert solve_lottery(v, np.ones(3))[3] != ""


def test_without_memory_numpy_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    class Full:
        @staticmethod
        def lottery(*arguments: object) -> tuple[int, int]:
            return -1, 0

    monkeypatch.setattr(lottery.kernels, "load", Full)
    v, w = table(np.random.default_rng(6), 50, 3, 0), np.ones(3)
    assert_bitwise(solve_lottery(v, w)[0], solve_in_numpy(v, w)[0])


def test_other_threads_run_meanwhile() -> None:
    """A counter goes on counting while the kernel works; with the lock held it would stand still."""
    v, w = table(np.random.default_rng(7), 60_000, 12, 0), np.ones(12)
    counted, done = 0, threading.Event()

    def solve() -> None:
        for _ in range(5):
            solve_lottery(v, w)
        done.set()

    worker = threading.Thread(target=solve)
    worker.start()
    while not done.is_set():
        counted += 1
        time.sleep(0)
    worker.join()
    assert counted > 10


def test_wrong_shapes_are_refused() -> None:
    native = kernels.load()
    good = [np.ones((4, 2)), np.zeros(2), np.ones(2), np.ones(2), 5, np.inf, 0.0, np.empty(4), np.empty(2)]
    assert native.lottery(*good)[0] >= 0
    wrong = {0: np.ones(4), 1: np.zeros(3), 2: None, 3: np.ones((2, 2), np.float32), 4: -1, 7: np.empty(3), 8: "text"}
    for place, value in wrong.items():
        with pytest.raises(ValueError, match="matching shapes"):
            native.lottery(*[value if k == place else x for k, x in enumerate(good)])
    with pytest.raises(ValueError, match="matching shapes"):
        native.lottery(np.ones((0, 2)), *good[1:])
