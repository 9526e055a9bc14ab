"""The tiles of a GPU in the binding (`device`): the answers of `newton`, and bit by bit those of the CUDA kernels."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import nashsolve as ns
from benchmarks import families
from nashsolve import kernels
from tests.asserts import assert_bitwise
from tests.kernels import fake_cupy
from tests.kernels.conftest import forget
from tests.kernels.fake_cupy import DeviceArray, plain

native = kernels.load()
pytestmark = pytest.mark.skipif(native is None, reason=f"the kernel is not built: {kernels.reason()}")


@pytest.fixture
def twin() -> Iterator[None]:
    before = native.instruction_set()
    native.instruction_set("device")
    yield
    native.instruction_set(before)


def gram_of(rows: Any) -> Any:
    found = rows @ rows.swapaxes(-1, -2)
    return 0.5 * found + 0.5 * found.swapaxes(-1, -2)


@pytest.mark.parametrize("n", [2, 5, 8, 9, 16, 17, 32, 33, 64, 65, 130])
def test_families(twin: None, n: int) -> None:
    every = (*families.FEASIBLE.values(), *families.INFEASIBLE.values())
    batch = np.stack([gram_of(make(n, 0)) for make in every])
    found, wanted = ns.solve(batch, solver="compiled"), ns.solve(batch, solver="newton")
    assert found.status.tolist() == wanted.status.tolist()
    good = found.status <= 1
    off = np.abs(found.alpha[good] / wanted.alpha[good] - 1)
    assert (off <= found.error_bound[good] + wanted.error_bound[good]).all()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(n=st.integers(1, 64), seed=st.integers(0, 2**20), weighed=st.booleans())
def test_the_certificate_holds(twin: None, n: int, seed: int, weighed: bool) -> None:
    """Judged by the certificate in Python, which shares no code with the kernel."""
    rng = np.random.default_rng(seed)
    gram = gram_of(rng.standard_normal((n, n + 2)) * 10.0 ** rng.uniform(-5, 5, (n, 1)))
    problem = ns.BargainingProblem(gram=gram, weights=rng.uniform(0.2, 5, n) if weighed else None)
    found = ns.solve(problem, solver="compiled", on_failure="return")
    wanted = ns.solve(problem, solver="newton", on_failure="return")
    assert found.success == wanted.success
    if found.success:
        proof = ns.verify(problem, found.alpha)
        assert (proof.error_bound <= np.maximum(1e-10, 2 * found.error_bound)).all()
        assert (np.abs(found.alpha / wanted.alpha - 1) <= found.error_bound + wanted.error_bound).all()


@pytest.mark.parametrize("how", ["plain", "float32", "placed"])
@pytest.mark.parametrize("n", [1, 6, 8, 9, 16, 30, 64, 65, 100])
def test_bits_of_the_cuda_kernels(cupy: Any, twin: None, n: int, how: str) -> None:
    """The same headers reach the same bits through nash.cu and its launch as through the binding."""
    rng = np.random.default_rng(n)
    given = {"gram": gram_of(rng.standard_normal((5, n, 2 * n + 1))), "weights": rng.uniform(0.2, 5, (5, n))}
    if how == "placed":
        given["disagreement"] = -rng.uniform(0, 1, (5, n))
    options = {"precision": "float32"} if how == "float32" else {}
    here = ns.solve(ns.BargainingProblem(**given, radius=2.0), solver="compiled", **options)
    moved = {name: DeviceArray(value) for name, value in given.items()}
    there = ns.solve(ns.BargainingProblem(**moved, radius=2.0), **options)
    assert here.solver == "compiled" and there.solver == "cupy"
    for name in ("alpha", "gains", "error_bound", "gap", "margin", "n_iter"):
        assert_bitwise(plain(getattr(there, name)), getattr(here, name))


def test_the_width_of_a_panel_changes_no_bit(cupy: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ninety players on a device of little shared memory, and on one that holds a panel of sixteen columns."""
    batch = gram_of(np.random.default_rng(3).standard_normal((2, 90, 100)))
    wide = ns.solve(DeviceArray(batch))
    monkeypatch.setitem(fake_cupy.Device.attributes, "MaxSharedMemoryPerBlockOptin", 8 * (256 + 3 * 90))
    forget()
    assert_bitwise(plain(ns.solve(DeviceArray(batch)).alpha), plain(wide.alpha))
    assert len({shared for name, *_, shared in fake_cupy.log().launches if name == "nash_solve_256"}) == 2
