"""Rows B01-B04 and B07-B09 of the fault table: one bad item changes nothing for the others."""

from __future__ import annotations

import tracemalloc
from typing import Any

import numpy as np
import pytest

import nashsolve as ns
from benchmarks.families import FEASIBLE
from nashsolve import Status
from tests.asserts import assert_bitwise, assert_no_agreement_certificate, assert_same_alpha, assert_status
from tests.faults.cases import GRAM, OPPOSED, changed
from tests.helpers import to_library

P = ns.BargainingProblem
LIBRARIES = ("numpy", "torch", "array_api_strict")
NEARLY = np.array([[1.0, -1 + 2.0**-50, 0.0], [-1 + 2.0**-50, 1.0, 0.0], [0.0, 0.0, 1.0]])


def library_or_skip(name: str) -> str:
    pytest.importorskip(name)
    return name


@pytest.mark.parametrize("library", [pytest.param(name, id=f"B01-{name}") for name in LIBRARIES])
@pytest.mark.parametrize("shape", [(0,), (3, 0), (0, 2)])
@pytest.mark.parametrize("kind", ["gram", "vectors", "disagreement"])
def test_empty_batch(library: str, shape: tuple[int, ...], kind: str) -> None:
    library_or_skip(library)
    name = "vectors" if kind == "vectors" else "gram"
    extra: dict[str, Any] = (
        {"disagreement": to_library(library, [0.1, 0.1]), "radius": 1.0} if kind == "disagreement" else {}
    )
    solution = ns.solve(P(**{name: to_library(library, np.zeros((*shape, 2, 2)))}, **extra))
    assert tuple(solution.alpha.shape) == (*shape, 2)
    assert tuple(solution.status.shape) == tuple(solution.gap.shape) == shape
    assert solution.success


def good_batch(count: int, n: int = 3, seed: int = 0) -> np.ndarray:
    rows = np.random.default_rng(seed).standard_normal((count, n, 2 * n))
    return rows @ rows.transpose(0, 2, 1)


@pytest.mark.parametrize(
    ("bad", "status"),
    [
        pytest.param(changed(GRAM, (0, 1), np.nan), Status.INVALID_INPUT, id="B02-nan"),
        pytest.param(changed(GRAM, (2, 2), np.inf), Status.INVALID_INPUT, id="B02-inf"),
        pytest.param(changed(GRAM, (1, 1), -1.0), Status.INVALID_INPUT, id="B02-negative"),
        pytest.param(OPPOSED, Status.NO_AGREEMENT, id="B02-opposed"),
        pytest.param(np.zeros((3, 3)), Status.NO_AGREEMENT, id="B02-zero"),
        pytest.param(NEARLY, Status.AMBIGUOUS, id="B02-ambiguous"),
    ],
)
@pytest.mark.parametrize("library", LIBRARIES)
def test_one_bad_item_among_many(bad: np.ndarray, status: Status, library: str) -> None:
    library_or_skip(library)
    count = 100_000 if library != "array_api_strict" else 2_000
    grams = good_batch(count)
    clean = ns.solve(to_library(library, grams))
    assert clean.success
    where = count // 3
    grams[where] = bad
    found = ns.solve(to_library(library, grams))
    codes = np.asarray(found.status)
    assert codes[where] == status
    others = np.arange(count) != where
    assert (codes[others] == np.asarray(clean.status)[others]).all()
    for name in ("alpha", "error_bound", "gap"):
        assert_bitwise(np.asarray(getattr(found, name))[others], np.asarray(getattr(clean, name))[others])
    assert np.isnan(np.asarray(found.alpha)[where]).all() == (status in (Status.NO_AGREEMENT, Status.INVALID_INPUT))


@pytest.mark.parametrize("library", [pytest.param(name, id=f"B03-{name}") for name in LIBRARIES])
def test_mixed_statuses(library: str) -> None:
    library_or_skip(library)
    grams = np.stack([GRAM, OPPOSED, NEARLY, changed(GRAM, (0, 0), np.nan), np.eye(3), np.zeros((3, 3))])
    found = ns.solve(to_library(library, grams))
    wanted = ["SOLVED", "NO_AGREEMENT", "AMBIGUOUS", "INVALID_INPUT", "SOLVED", "NO_AGREEMENT"]
    assert found.status_names() == wanted
    assert not found.success and np.asarray(found.failed).tolist() == [name != "SOLVED" for name in wanted]
    y = np.asarray(found.certificate)
    assert np.isfinite(y[[1, 2, 5]]).all() and np.isnan(y[[0, 3, 4]]).all()
    assert "1 INVALID_INPUT" in found.message and "gram[3, 0, 0]" in found.message
    with pytest.raises(ns.NashSolveError):
        ns.solve(to_library(library, grams), on_failure="raise")


@pytest.mark.parametrize("library", [pytest.param(name, id=f"B03-disagreement-{name}") for name in LIBRARIES])
def test_mixed_statuses_with_disagreement(library: str) -> None:
    library_or_skip(library)
    d = np.array([[0.1, 0.1, 0.1], [5.0, 5.0, 5.0], [-0.1, -0.2, -0.1], [np.nan, 0.0, 0.0]])
    problem = P(
        gram=to_library(library, np.broadcast_to(GRAM, (4, 3, 3))), disagreement=to_library(library, d), radius=1.0
    )
    found = ns.solve(problem)
    assert found.status_names() == ["SOLVED", "NO_AGREEMENT", "SOLVED", "INVALID_INPUT"]
    for i in (0, 2):
        alone = ns.solve(P(gram=GRAM, disagreement=d[i], radius=1.0))
        bound = np.asarray(found.error_bound)[i] + alone.error_bound
        assert (np.abs(np.asarray(found.alpha)[i] / alone.alpha - 1) <= bound).all()


@pytest.mark.parametrize("library", [pytest.param(name, id=f"B04-{name}") for name in LIBRARIES])
@pytest.mark.parametrize("kind", ["gram", "vectors", "disagreement"])
def test_ragged_batch_by_mask(library: str, kind: str) -> None:
    library_or_skip(library)
    rng = np.random.default_rng(3)
    rows = rng.standard_normal((5, 4, 6))
    mask = np.array([[1, 1, 1, 1], [1, 0, 1, 1], [0, 0, 1, 0], [0, 0, 0, 0], [1, 1, 0, 0]], dtype=bool)
    w, d = rng.uniform(0.5, 2, (5, 4)), -rng.uniform(0.1, 1, (5, 4))
    rows[1, 1] = 1e30  # what an absent player holds must not matter
    name = "vectors" if kind == "vectors" else "gram"
    data = rows if kind == "vectors" else rows @ rows.transpose(0, 2, 1)
    data = to_library(library, data)
    extra = {"disagreement": to_library(library, d), "radius": 2.0} if kind == "disagreement" else {}
    found = ns.solve(P(**{name: data}, weights=to_library(library, w), mask=to_library(library, mask, "bool"), **extra))
    assert found.success, found.status_names()
    alpha, bound = np.asarray(found.alpha), np.asarray(found.error_bound)
    for i in range(5):
        here = mask[i]
        assert not alpha[i][~here].any() and not np.asarray(found.gains)[i][~here].any()
        if here.any():
            part = {"disagreement": d[i][here], "radius": 2.0} if kind == "disagreement" else {}
            alone = ns.solve(P(vectors=rows[i][here], weights=w[i][here], **part))
            assert (np.abs(alpha[i][here] / alone.alpha - 1) <= bound[i][here] + alone.error_bound).all()


@pytest.mark.parametrize("library", [pytest.param(name, id=f"B07-{name}") for name in LIBRARIES])
def test_few_hard_items_do_not_change_easy_ones(library: str) -> None:
    library_or_skip(library)
    easy = good_batch(200, 6)
    hard = np.stack([v @ v.T for v in (FEASIBLE["b1e8"](6, s) for s in range(3))])
    clean = ns.solve(to_library(library, easy))
    mixed = ns.solve(to_library(library, np.concatenate([easy, hard])))
    assert_bitwise(np.asarray(mixed.alpha)[:200], np.asarray(clean.alpha))
    assert_bitwise(np.asarray(mixed.n_iter)[:200], np.asarray(clean.n_iter))
    assert np.asarray(clean.n_iter).max() < np.asarray(mixed.n_iter)[200:].max() <= 15


@pytest.mark.parametrize("what", [pytest.param("gram", id="B08-gram"), pytest.param("weights", id="B08-weights")])
def test_broadcast_input(what: str) -> None:
    count, n = 2_000, 16
    gram = good_batch(1, n)[0]
    grams = np.broadcast_to(gram, (count, n, n)) if what == "gram" else good_batch(count, n)
    weights = np.random.default_rng(0).uniform(0.5, 2, (count, n)) if what == "gram" else np.ones(n)
    w_all = np.broadcast_to(weights, (count, n))
    tracemalloc.start()
    problem = P(gram=gram if what == "gram" else grams, weights=weights if what == "gram" else w_all)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    if what == "gram":
        assert peak < grams.nbytes / 2, "building the problem copied a broadcast Gram"
    else:
        assert problem.weights.strides[0] == 0
    found = ns.solve(problem)
    assert found.success and found.alpha.shape == (count, n)
    alone = ns.solve(P(gram=grams[7], weights=w_all[7]))
    assert (np.abs(found.alpha[7] / alone.alpha - 1) <= found.error_bound[7] + alone.error_bound).all()


@pytest.mark.parametrize("after", [pytest.param(k, id=f"B09-{k}") for k in (1, 3)])
def test_interrupt_mid_batch(after: int, monkeypatch: pytest.MonkeyPatch) -> None:
    import nashsolve.backends.newton as newton

    real, calls = newton.spd_factor, []

    def interrupted(*args: Any) -> Any:
        calls.append(1)
        if len(calls) == after:
            raise KeyboardInterrupt
        return real(*args)

    monkeypatch.setattr(newton, "spd_factor", interrupted)
    grams = good_batch(10)
    before = grams.tobytes()
    result = None
    with pytest.raises(KeyboardInterrupt):
        result = ns.solve(grams, solver="newton")
    assert result is None and grams.tobytes() == before
    monkeypatch.undo()
    assert_status(ns.solve(grams), Status.SOLVED)


@pytest.mark.parametrize("solver", [pytest.param("newton", id="B02-certificate")])
def test_certificates_of_batch_items(solver: str) -> None:
    grams = np.stack([OPPOSED, GRAM])
    found = ns.solve(grams, solver=solver)
    alone = ns.solve(OPPOSED, solver=solver, on_failure="return")
    assert_no_agreement_certificate(alone, OPPOSED)
    y = found.certificate[0]
    assert_bitwise(np.sign(y), np.sign(alone.certificate))
    assert_same_alpha(ns.solve(GRAM), ns.solve(grams[1]))
