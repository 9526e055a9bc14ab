"""Newton's method on NumPy: batches have the bits of single solves, with the kernel's inversion or without."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest

import nashsolve as ns
from nashsolve import kernels
from nashsolve.backends import newton
from nashsolve.core import arrays
from nashsolve.core.status import Status
from tests.asserts import assert_bitwise


@pytest.fixture(params=["kernel", "without"])
def inversion(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """By the kernel where there is one, and by NumPy."""
    if request.param == "kernel" and kernels.load() is None:
        pytest.skip(kernels.reason())
    if request.param == "without":
        monkeypatch.setattr(kernels, "_try", lambda: (None, "hidden by a test"))
    monkeypatch.setattr(arrays, "inversion", arrays.inversion.__wrapped__)
    monkeypatch.setattr(newton, "inversion", arrays.inversion)
    return str(request.param)


def mixed_batch(n: int) -> Any:
    """Grams of easy players and of players that nearly oppose each other, so that some are finished long before others,
    and one without an agreement."""
    rng = np.random.default_rng(n)
    rows = rng.standard_normal((40, n, 2 * n))
    share = np.where(np.arange(40) % 3 == 0, 0.99, 0.0)
    rows -= share[:, None, None] * rows.mean(axis=1, keepdims=True)
    rows[7] -= rows[7].mean(axis=0)  # whose system is not positive definite once rounding has eaten it
    return rows @ rows.swapaxes(-1, -2)


@pytest.mark.parametrize("block", [1, 16, 40])
@pytest.mark.parametrize("n", [2, 3, 5, 8, 9, 16])
def test_a_batch_item_has_the_bits_of_the_single_solve(
    n: int, block: int, inversion: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(newton, "_BLOCK", block * n * n)
    grams = mixed_batch(n)
    batch = ns.solve(grams, solver="newton", on_failure="return")
    assert Status(int(batch.status[7])) is Status.NO_AGREEMENT
    assert len(set(batch.n_iter.tolist())) > 1
    for i, gram in enumerate(grams):
        single = ns.solve(gram, solver="newton", on_failure="return")
        assert int(batch.status[i]) == int(single.status) and int(batch.n_iter[i]) == int(single.n_iter)
        assert_bitwise(batch.alpha[i], single.alpha)


def test_a_time_limit_holds_for_every_block(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(newton, "_BLOCK", 64)
    stopped = ns.solve(mixed_batch(8), solver="newton", time_limit=0, on_failure="return")
    usual = ns.solve(mixed_batch(8), solver="newton", on_failure="return")
    late = np.asarray(stopped.status) == Status.MAX_TIME
    assert late.any() and not (np.asarray(usual.status) == Status.MAX_TIME).any()


def test_without_numpys_own_inversion_the_wrapper_gives_the_same_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = np.random.default_rng(0).standard_normal((kernels.SIDE_BY_SIDE + 1, 20))
    problem = ns.BargainingProblem(gram=rows @ rows.T)
    usual = ns.solve(problem, solver="newton")
    monkeypatch.setitem(sys.modules, "numpy.linalg._umath_linalg", None)
    arrays.inversion.cache_clear()
    try:
        assert arrays.inversion(len(rows)) is np.linalg.inv
        wrapped = ns.solve(problem, solver="newton")
    finally:
        arrays.inversion.cache_clear()
    assert wrapped.alpha.tobytes() == usual.alpha.tobytes() and wrapped.n_iter == usual.n_iter
