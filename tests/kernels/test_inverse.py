"""The kernel's small inverses and its reading of batches, against NumPy's."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import nashsolve as ns
from nashsolve import kernels
from tests.asserts import assert_bitwise
from tests.tolerances import tolerance

native = kernels.load()
pytestmark = pytest.mark.skipif(native is None, reason=f"the kernel is not built: {kernels.reason()}")


def matrices(n: int, count: int = 19) -> Any:
    rows = np.random.default_rng(n).standard_normal((count, n, n + 2))
    return rows @ rows.swapaxes(-1, -2) + np.eye(n)


@pytest.mark.parametrize("n", [1, 2, 5, 8, 9, 24])
@pytest.mark.parametrize("build", ["base", "v3", "v4", "device"])
def test_inverses(n: int, build: str) -> None:
    before = native.instruction_set()
    try:
        native.instruction_set(build)
    except ValueError as error:
        pytest.skip(str(error))
    try:
        given = matrices(n)
        found, alone = np.empty(given.shape), np.empty(given.shape)
        native.inverse(given, found)
        for matrix, out in zip(given, alone, strict=True):
            native.inverse(matrix, out)
    finally:
        native.instruction_set(before)
    assert_bitwise(found, alone)
    assert_bitwise(found, found.swapaxes(-1, -2))
    away = np.abs(found @ given - np.eye(n)).max(axis=(-2, -1))
    assert (away <= tolerance("float64", "ulp") * np.linalg.cond(given)).all()


@pytest.mark.parametrize("n", [2, 8])
def test_what_is_not_positive_definite_becomes_nan_and_leaves_its_neighbours_alone(n: int) -> None:
    given = matrices(n)
    whole = np.empty(given.shape)
    native.inverse(given, whole)
    bad = given.copy()
    bad[3] = -bad[3]
    bad[11, 0, 0] = np.nan
    found = np.empty(given.shape)
    native.inverse(bad, found)
    assert np.isnan(found[[3, 11]]).all()
    others = [i for i in range(len(given)) if i not in (3, 11)]
    assert_bitwise(found[others], whole[others])


def test_wrong_arrays_are_refused() -> None:
    with pytest.raises(ValueError, match="matching shapes"):
        native.inverse(np.eye(3), np.empty((2, 2)))
    with pytest.raises(TypeError):
        native.inverse(np.eye(3))


@pytest.mark.parametrize("n", [1, 3, 8, 12])
def test_a_batch_is_read_as_python_reads_it(n: int, monkeypatch: pytest.MonkeyPatch) -> None:
    grams = matrices(n).reshape(1, 19, n, n) * np.exp2(np.arange(19.0) - 9)[:, None, None]
    weights = np.random.default_rng(0).uniform(0.5, 2, (19, n))
    fast = ns.BargainingProblem(gram=grams, weights=weights)
    assert fast.batch_shape == (1, 19) and fast.invalid is None
    monkeypatch.setattr(kernels, "_try", lambda: (None, "hidden by a test"))
    slow = ns.BargainingProblem(gram=grams, weights=weights)
    for name in ("scale", "unit_gram", "power"):
        assert_bitwise(getattr(fast, name), getattr(slow, name))


def test_a_bad_item_of_a_batch_gets_its_words() -> None:
    grams = matrices(4)
    grams[5, 0, 1] += 1.0
    problem = ns.BargainingProblem(gram=grams)
    assert problem.invalid.nonzero()[0].tolist() == [5] and "not symmetric" in problem.invalid_reason
