"""Asserts shared by all tests, in NumPy and without the code that they judge; each is shown to fail in test_asserts."""

from __future__ import annotations

from typing import Any

import numpy as np

from nashsolve import Solution, Status
from tests.tolerances import dtype_name, tolerance


def as_numpy(value: Any) -> np.ndarray:
    """Any array of any library as NumPy; float64 where it holds floats."""
    if hasattr(value, "detach"):
        value = value.detach().cpu().numpy()
    value = np.asarray(value)
    return value.astype(np.float64) if value.dtype.kind == "f" else value


def _names(status: Any) -> list[str]:
    codes = np.atleast_1d(as_numpy(status)).ravel()
    return [Status(int(code)).name for code in codes]


def assert_status(solution: Solution, *wanted: Status) -> None:
    """Every problem ended in one of `wanted`."""
    found = _names(solution.status)
    allowed = {status.name for status in wanted}
    assert set(found) <= allowed, f"status {found}, wanted {sorted(allowed)}: {solution.message}"


def assert_success(solution: Solution) -> None:
    """SOLVED or SOLVED_INACCURATE, with numbers that belong to it."""
    assert_status(solution, Status.SOLVED, Status.SOLVED_INACCURATE)
    alpha = as_numpy(solution.alpha)
    assert np.isfinite(alpha).all() and (alpha > 0).all(), f"alpha {alpha} of a solved problem"
    bound = as_numpy(solution.error_bound)
    assert np.isfinite(bound).all() and (bound >= 0).all(), f"error bound {bound} of a solved problem"
    assert (as_numpy(solution.gap) >= 0).all(), f"negative gap {solution.gap}"


def assert_solves(gram: Any, weights: Any, solution: Solution, kind: str = "residual") -> None:
    """alpha (A alpha) = w for zero disagreement and natural radius, componentwise relative to what was summed."""
    assert_success(solution)
    a, w, alpha = as_numpy(gram), as_numpy(weights), as_numpy(solution.alpha)
    terms = alpha[..., :, None] * a * alpha[..., None, :]
    allowed = tolerance(dtype_name(solution.alpha), kind) * (np.abs(terms).sum(-1) + w)
    off = np.abs(terms.sum(-1) - w)
    assert (off <= allowed).all(), f"alpha (A alpha) misses w by {off}, allowed {allowed}"


def assert_within_bound(solution: Solution, exact: Any) -> None:
    """The stated error bound holds for the exact alpha."""
    assert_success(solution)
    off = np.abs(as_numpy(solution.alpha) / as_numpy(exact) - 1)
    allowed = as_numpy(solution.error_bound) + _storage(solution)
    assert (off <= allowed).all(), f"relative error {off} above the stated bound {allowed}"


def assert_same_alpha(one: Solution, other: Solution, factor: Any = 1.0) -> None:
    """alpha of `one` is `factor` times alpha of `other`, to the sum of both error bounds."""
    assert_success(one)
    assert_success(other)
    assert_alpha_near(
        one.alpha,
        as_numpy(one.error_bound) + _storage(one),
        factor * as_numpy(other.alpha),
        as_numpy(other.error_bound) + _storage(other),
    )


def assert_alpha_near(one: Any, one_bound: Any, other: Any, other_bound: Any) -> None:
    """Two alphas with relative bounds to one unknown exact value contradict each other nowhere."""
    a, b = as_numpy(one), as_numpy(other)
    assert a.shape == b.shape, f"shapes {a.shape} and {b.shape}"
    allowed = (1 + as_numpy(one_bound)) * (1 + as_numpy(other_bound)) - 1 + tolerance("float64", "ulp")
    off = np.maximum(np.abs(a / b - 1), np.abs(b / a - 1))
    allowed = allowed / np.maximum(1 - np.maximum(as_numpy(one_bound), as_numpy(other_bound)), 1e-3)
    assert (off <= allowed).all(), f"alphas differ by {off} relative, allowed {allowed}"


def _storage(solution: Solution) -> float:
    """Rounding of alpha to the dtype in which it is handed back."""
    name = dtype_name(solution.alpha)
    return 0.0 if name == "float64" else tolerance(name, "ulp")


def assert_no_agreement_certificate(
    solution: Solution, gram: Any, disagreement: Any = None, radius: float = 1.0
) -> None:
    """NO_AGREEMENT with y >= 0, sum y = 1 and r |G y| <= d'y (to rounding); alpha is NaN."""
    assert_status(solution, Status.NO_AGREEMENT)
    assert np.isnan(as_numpy(solution.alpha)).all(), "alpha is shown although there is no agreement"
    y, a = as_numpy(solution.certificate), as_numpy(gram)
    kind = dtype_name(solution.certificate)
    assert (y >= 0).all(), f"certificate {y} has negative entries"
    assert np.abs(y.sum(-1) - 1).max() <= tolerance(kind, "sum"), f"certificate sums to {y.sum(-1)}"
    norms = np.sqrt(np.diagonal(a, axis1=-2, axis2=-1))
    size = (y * np.where(norms > 0, norms, norms.max())).sum(-1)  # a player without a vector blocks alone
    length = np.sqrt(np.maximum((y[..., :, None] * a * y[..., None, :]).sum((-2, -1)), 0))
    claim = 0.0 if disagreement is None else (as_numpy(disagreement) * y).sum(-1)
    allowed = tolerance(kind, "certificate") * (radius * size + np.abs(claim))
    assert (radius * length - claim <= allowed).all(), f"|G y| = {length} does not block: d'y = {claim}"


def assert_same_kind(found: Any, like: Any, dtype: str | None = None) -> None:
    """Same array library, device and dtype (or the dtype named)."""
    assert type(found) is type(like), f"{type(found)} for {type(like)}"
    wanted = dtype or dtype_name(like)
    assert dtype_name(found) == wanted, f"dtype {dtype_name(found)}, wanted {wanted}"
    if hasattr(like, "device"):
        assert found.device == like.device, f"device {found.device} for {like.device}"


def assert_bitwise(found: Any, wanted: Any) -> None:
    """Same shape and the same bits."""
    a, b = as_numpy(found), as_numpy(wanted)
    assert a.shape == b.shape, f"shapes {a.shape} and {b.shape}"
    assert a.tobytes() == b.tobytes(), f"bits differ: {a} and {b}"


def assert_near(found: Any, wanted: Any, rtol: float, atol: float = 0.0) -> None:
    """|found - wanted| <= atol + rtol |wanted|, entry by entry; NaN is never near."""
    a, b = as_numpy(found), as_numpy(wanted)
    assert a.shape == b.shape, f"shapes {a.shape} and {b.shape}"
    off = np.abs(a - b)
    assert (off <= atol + rtol * np.abs(b)).all(), f"{a} is not {b}: off by {off}"


def assert_message(error: BaseException, *parts: str) -> None:
    """The message is one sentence or two for people that holds every part."""
    text = str(error)
    for part in parts:
        assert part in text, f"{part!r} is not in {text!r}"
    assert "Traceback" not in text
