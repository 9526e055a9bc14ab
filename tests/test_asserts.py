"""Every shared assert fails on what it must refuse."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import nashsolve as ns
from nashsolve import Status
from tests import asserts

GRAM = np.array([[2.0, 0.5], [0.5, 1.0]])
WEIGHTS = np.array([1.0, 2.0])
OPPOSED = np.array([[1.0, -1.0], [-1.0, 1.0]])


@pytest.fixture
def good():
    return ns.solve(ns.BargainingProblem(gram=GRAM, weights=WEIGHTS))


@pytest.fixture
def none():
    return ns.solve(OPPOSED, on_failure="return")


def refuses(check, *args, **kwargs):
    with pytest.raises(AssertionError):
        check(*args, **kwargs)


def test_assert_status_refuses_another_status(good):
    asserts.assert_status(good, Status.SOLVED)
    refuses(asserts.assert_status, good, Status.MAX_ITER, Status.NO_AGREEMENT)


@pytest.mark.parametrize(
    "change",
    [
        {"status": Status.AMBIGUOUS},
        {"alpha": np.array([1.0, np.nan])},
        {"alpha": np.array([1.0, -1.0])},
        {"error_bound": np.array([np.inf, 0.0])},
        {"gap": np.array(-1.0)},
    ],
)
def test_assert_success_refuses(good, change):
    asserts.assert_success(good)
    refuses(asserts.assert_success, replace(good, **change))


def test_assert_solves_refuses_other_weights_and_a_small_error(good):
    asserts.assert_solves(GRAM, WEIGHTS, good)
    refuses(asserts.assert_solves, GRAM, WEIGHTS[::-1], good)
    refuses(asserts.assert_solves, GRAM, WEIGHTS, replace(good, alpha=good.alpha * (1 + 1e-9)))


def test_assert_within_bound_refuses_an_error_beyond_it(good):
    asserts.assert_within_bound(good, good.alpha)
    refuses(asserts.assert_within_bound, good, good.alpha * (1 + 1e-9))


def test_assert_same_alpha_refuses_a_difference_and_a_shape(good):
    asserts.assert_same_alpha(good, good)
    asserts.assert_same_alpha(replace(good, alpha=2 * good.alpha), good, 2.0)
    refuses(asserts.assert_same_alpha, good, replace(good, alpha=good.alpha * (1 + 1e-9)))
    refuses(asserts.assert_same_alpha, good, good, 2.0)
    refuses(asserts.assert_alpha_near, np.ones(2), 0.0, np.ones(3), 0.0)


def test_assert_alpha_near_refuses_nan():
    refuses(asserts.assert_alpha_near, np.array([np.nan]), 1.0, np.ones(1), 1.0)


@pytest.mark.parametrize(
    "change",
    [
        {"status": Status.SOLVED},
        {"alpha": np.ones(2)},
        {"certificate": np.array([1.5, -0.5])},
        {"certificate": np.array([0.4, 0.4])},
        {"certificate": np.array([0.7, 0.3])},
        {"certificate": np.array([np.nan, np.nan])},
    ],
)
def test_assert_no_agreement_certificate_refuses(none, change):
    asserts.assert_no_agreement_certificate(none, OPPOSED)
    refuses(asserts.assert_no_agreement_certificate, replace(none, **change), OPPOSED)


def test_assert_no_agreement_certificate_refuses_a_reachable_disagreement():
    d = np.array([0.8, 0.7])
    found = ns.solve(ns.BargainingProblem(gram=np.eye(2), disagreement=d, radius=1.0), on_failure="return")
    asserts.assert_no_agreement_certificate(found, np.eye(2), d, 1.0)
    refuses(asserts.assert_no_agreement_certificate, found, np.eye(2), d, 2.0)


def test_assert_same_kind_refuses_library_and_dtype():
    torch = pytest.importorskip("torch")
    asserts.assert_same_kind(np.ones(2), np.zeros(3))
    refuses(asserts.assert_same_kind, np.ones(2), torch.ones(2, dtype=torch.float64))
    refuses(asserts.assert_same_kind, np.ones(2, dtype=np.float32), np.ones(2))
    refuses(asserts.assert_same_kind, np.ones(2), np.ones(2), "float32")


def test_assert_same_kind_refuses_another_device():
    strict = pytest.importorskip("array_api_strict")
    here = strict.ones(2)
    refuses(asserts.assert_same_kind, strict.ones(2, device=strict.Device("device1")), here)


def test_assert_bitwise_refuses_one_ulp_and_a_shape():
    asserts.assert_bitwise(np.ones(2), np.ones(2))
    refuses(asserts.assert_bitwise, np.ones(2), np.nextafter(np.ones(2), 2))
    refuses(asserts.assert_bitwise, np.ones(2), np.ones((2, 1)))


def test_assert_near_refuses_distance_nan_and_shape():
    asserts.assert_near(np.ones(2), np.ones(2), 0.0)
    refuses(asserts.assert_near, np.ones(2), 1.01 * np.ones(2), 1e-3)
    refuses(asserts.assert_near, np.full(2, np.nan), np.ones(2), 1.0)
    refuses(asserts.assert_near, np.ones(2), np.ones(3), 1.0)


def test_assert_message_refuses_a_missing_part():
    asserts.assert_message(ValueError("weights[1] is -1.0"), "weights[1]", "-1.0")
    refuses(asserts.assert_message, ValueError("bad"), "weights[1]")


def test_every_assert_is_shown_to_fail():
    import inspect
    import sys

    text = inspect.getsource(sys.modules[__name__])
    for name in vars(asserts):
        if name.startswith("assert_"):
            assert f"refuses(asserts.{name}" in text, f"{name} is never shown to fail"
