"""The library path stays on the device of its input: array-api-strict refuses to mix the arrays of two devices."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import nashsolve as ns
from benchmarks import families
from nashsolve.backends import disagreement
from nashsolve.core import arrays

strict = pytest.importorskip("array_api_strict", reason="array-api-strict is not installed")
DEVICE = strict.Device("device1")


def gram(seed: int = 0, n: int = 4) -> Any:
    rows = np.random.default_rng(seed).standard_normal((3, n, 9))
    return rows @ rows.swapaxes(-1, -2)


def opposed() -> Any:
    rows = families.INFEASIBLE["f_opp"](4, 0)
    return np.stack([rows @ rows.T, np.eye(4)])


def with_nan() -> Any:
    batch = gram()
    batch[1] = np.nan
    return batch


def with_zero() -> Any:
    batch = gram()
    batch[0, 0] = batch[0, :, 0] = 0
    return batch


ROWS = np.random.default_rng(1).standard_normal((3, 4, 9))
HERE = np.array([True, True, False, True])
CASES: dict[str, dict[str, Any]] = {
    "gram": {"gram": gram()},
    "one gram": {"gram": gram()[0]},
    "an invalid item": {"gram": with_nan()},
    "a player of length zero": {"gram": with_zero()},
    "no agreement": {"gram": opposed()},
    "halves apart": {"gram": gram() + 1e-17 * np.tri(4)},
    "float32": {"gram": gram().astype(np.float32)},
    "two players": {"gram": gram(n=2)},
    "diagonal": {"gram": np.eye(4) * np.ones((3, 1, 1))},
    "weights": {"gram": gram(), "weights": np.array([1.0, 2.0, 3.0, 4.0])},
    "radii": {"gram": gram(), "radius": np.array([1.0, 2.0, 3.0])},
    "one radius": {"gram": gram(), "radius": 2.0},
    "vectors": {"vectors": ROWS},
    "one set of vectors": {"vectors": ROWS[0]},
    "metric": {"vectors": ROWS, "metric": np.diag(np.linspace(1, 2, 9))},
    "mask": {"gram": gram(), "mask": HERE},
    "disagreement": {"gram": gram(), "disagreement": -np.ones((3, 4)), "radius": 5.0},
    "disagreement and mask": {"gram": gram(), "disagreement": -np.ones((3, 4)), "radius": 5.0, "mask": HERE},
    "inactive ball": {"vectors": ROWS, "disagreement": -100 * np.ones((3, 4)), "radius": 5.0},
    "out of reach": {"gram": gram(), "disagreement": 100 * np.ones((3, 4)), "radius": 5.0},
}


def to_numpy(value: Any) -> Any:
    """What the core does for CuPy and torch by their own names."""
    return np.asarray(
        value.to_device(strict.Device("CPU_DEVICE")) if isinstance(value, type(strict.ones(1))) else value
    )


@pytest.mark.parametrize("name", CASES)
def test_everything_stays_on_the_device(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrays, "to_numpy", to_numpy)
    monkeypatch.setattr(disagreement, "to_numpy", to_numpy)
    given = {k: strict.asarray(v, device=DEVICE) if isinstance(v, np.ndarray) else v for k, v in CASES[name].items()}
    problem = ns.BargainingProblem(**given)
    wanted = ns.solve(ns.BargainingProblem(**CASES[name]), solver="newton", on_failure="return")
    for solver in ("newton", "auto"):
        found = ns.solve(problem, solver=solver, on_failure="return")
        for field in ("alpha", "coefficients", "gains", "gap", "error_bound", "certificate", "margin"):
            assert getattr(found, field).device == DEVICE, field
        assert np.array_equal(np.asarray(to_numpy(found.status)), np.asarray(wanted.status))
        again = ns.solve(problem, solver=solver, start=found, on_failure="return")
        assert again.alpha.device == DEVICE


def test_mixed_devices_are_refused() -> None:
    with pytest.raises(ValueError, match="different devices"):
        strict.ones(1, device=DEVICE) + strict.ones(1)
