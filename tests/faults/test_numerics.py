"""Rows N01-N07 and N11-N13 of the fault table: certificates, noise, repeatability."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest

import nashsolve as ns
from benchmarks.families import FEASIBLE, INFEASIBLE
from benchmarks.truth import true_alpha
from nashsolve import Status
from nashsolve.backends.newton import Newton
from nashsolve.core.solver import RawAnswer
from tests.asserts import (
    assert_bitwise,
    assert_no_agreement_certificate,
    assert_same_alpha,
    assert_status,
    assert_success,
    assert_within_bound,
)
from tests.faults.cases import GRAM, VECTORS
from tests.test_oracles import blocked_exactly
from tests.tolerances import tolerance

P = ns.BargainingProblem


@dataclass(frozen=True)
class Faulty:
    """Newton, whose answer is damaged before it is handed back."""

    damage: Any
    rtol: float | None = None
    name: str = "faulty"

    def why_not(self, problem: P) -> str | None:
        return None

    def solve(self, problem: P, start: Any = None) -> RawAnswer:
        raw = Newton().solve(problem, start)
        return replace(raw, alpha=self.damage(np.array(raw.alpha)))


def flip(bit: int) -> Any:
    """One flipped bit of the second entry."""

    def damage(alpha: np.ndarray) -> np.ndarray:
        alpha.view(np.uint64)[..., 1] ^= np.uint64(1) << np.uint64(bit)
        return np.abs(alpha)

    return damage


@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param({"gram": GRAM}, id="N01-gram"),
        pytest.param({"vectors": VECTORS, "weights": [1.0, 5.0, 0.1]}, id="N01-vectors"),
        pytest.param({"gram": GRAM, "disagreement": [0.1, 0.2, -0.1], "radius": 1.0}, id="N01-disagreement"),
        pytest.param({"vectors": VECTORS, "metric": [1.0, 2.0, 3.0]}, id="N01-metric"),
    ],
)
def test_verify_agrees_with_the_solution(arguments: dict) -> None:
    solution = ns.solve(P(**arguments))
    proof = ns.verify(solution.problem, solution.alpha)
    for name in (
        "gap",
        "error_bound",
        "backward_error",
        "margin",
        "margin_lower",
        "utilities",
        "gains",
        "coefficients",
    ):
        assert_bitwise(getattr(proof, name), getattr(solution, name))
    worse = ns.verify(solution.problem, solution.alpha * np.array([1.0, 1.001, 1.0]))
    assert float(worse.gap) > float(proof.gap) and (worse.error_bound > proof.error_bound).all()


@pytest.mark.parametrize(
    "alpha", [pytest.param([1.0, -1.0, 1.0], id="N01-negative"), pytest.param([1.0, 1.0], id="N01-shape")]
)
def test_verify_refuses_what_is_no_alpha(alpha: list[float]) -> None:
    with pytest.raises(ns.InvalidProblem, match="alpha"):
        ns.verify(P(gram=GRAM), alpha)


@pytest.mark.parametrize("family", [pytest.param(name, id=f"N02-{name}") for name in FEASIBLE])
@pytest.mark.parametrize("n", [2, 4, 7])
def test_bound_holds_against_50_digits(family: str, n: int) -> None:
    for seed in range(4):
        vectors = FEASIBLE[family](n, seed)[:, : 3 * n]
        w = 10 ** np.random.default_rng(seed).uniform(-1, 1, n)
        exact = true_alpha(vectors, w)
        for engine in ("newton", Faulty(lambda alpha: alpha * (1 + 1e-7 * np.cos(np.arange(alpha.shape[-1]))))):
            solution = ns.solve(P(vectors=vectors, weights=w), solver=engine, on_failure="return")
            off = np.abs(solution.alpha / exact - 1)
            assert (off <= solution.error_bound).all()


@pytest.mark.parametrize("seed", [pytest.param(s, id=f"N03-{s}") for s in range(8)])
def test_no_false_refusal_on_small_integers(seed: int) -> None:
    rng = np.random.default_rng(seed)
    counts = {True: 0, False: 0}
    for _ in range(60):
        rows = rng.integers(-2, 3, (rng.integers(1, 6), rng.integers(1, 4)))
        blocked = blocked_exactly(rows.tolist())
        counts[blocked] += 1
        solution = ns.solve(P(vectors=rows.astype(float)), on_failure="return")
        if blocked:
            assert_no_agreement_certificate(solution, rows @ rows.T)
        else:
            assert_success(solution)
    assert min(counts.values()) > 5


@pytest.mark.parametrize("bit", [pytest.param(b, id=f"N04-bit-{b}") for b in (25, 35, 45, 51, 52, 55, 60, 62)])
@pytest.mark.parametrize("family", ["a", "b1e4", "d1e-2"])
def test_bit_flip_in_the_iterate_lowers_the_status(bit: int, family: str) -> None:
    vectors = FEASIBLE[family](6, 0)
    exact = true_alpha(vectors[:, :12] if family == "a" else vectors)
    problem = P(vectors=vectors[:, :12] if family == "a" else vectors)
    assert_status(ns.solve(problem), Status.SOLVED)
    solution = ns.solve(problem, solver=Faulty(flip(bit)), on_failure="return")
    assert solution.status is not Status.SOLVED
    if solution.success:
        assert_within_bound(solution, exact)
    with np.errstate(over="ignore"):
        off = np.abs(solution.alpha / exact - 1)
    assert (off <= solution.error_bound).all()


@pytest.mark.parametrize(
    "entry", [pytest.param(np.nan, id="N04-nan"), pytest.param(np.inf, id="N04-inf"), pytest.param(0.0, id="N04-zero")]
)
def test_a_damaged_answer_is_never_success(entry: float) -> None:
    def damage(alpha: np.ndarray) -> np.ndarray:
        alpha[..., 1] = entry
        return alpha

    solution = ns.solve(P(gram=GRAM), solver=Faulty(damage), on_failure="return")
    assert_status(solution, Status.NUMERICAL_ERROR)


@pytest.mark.parametrize("power", [pytest.param(p, id=f"N05-1e-{p}") for p in (2, 3, 4, 5, 6)])
def test_small_margin_reaches_the_floor(power: int) -> None:
    for seed in range(3):
        vectors = FEASIBLE[f"d1e-{power}"](8, seed)
        solution = ns.solve(P(vectors=vectors))
        assert_success(solution)
        assert int(solution.n_iter) <= 15
        floor = 4 * (8 + 4) * tolerance("float64", "ulp")
        assert float(solution.backward_error) <= floor
        from_gram = ns.solve(P(gram=vectors @ vectors.T), on_failure="return")
        assert float(from_gram.backward_error) <= floor and int(from_gram.n_iter) <= 20


@pytest.mark.parametrize("after", [pytest.param(k, id=f"N06-{k}") for k in (0, 1, 2)])
def test_nan_in_mid_iteration(after: int, monkeypatch: pytest.MonkeyPatch) -> None:
    real, calls = np.linalg.inv, []

    def broken(h: Any) -> Any:
        calls.append(1)
        return real(h) * np.nan if len(calls) > after else real(h)

    monkeypatch.setattr("nashsolve.backends.newton.inversion", lambda n: broken)
    problem = P(gram=GRAM * np.outer([1, 3, 9], [1, 3, 9]), weights=[1.0, 20.0, 0.1])
    solution = ns.solve(problem, solver="newton", on_failure="return")
    assert calls
    assert_status(solution, Status.NUMERICAL_ERROR)
    assert np.isfinite(solution.alpha).all() and (solution.alpha > 0).all()
    with pytest.raises(ns.SolverFailed, match="NUMERICAL_ERROR"):
        ns.solve(problem, solver="newton")


@pytest.mark.parametrize("power", [pytest.param(p, id=f"N07-1e-{p}") for p in (5, 6)])
def test_float32_gram_with_too_small_a_margin(power: int) -> None:
    vectors = FEASIBLE[f"d1e-{power}"](6, 0)
    gram = (vectors @ vectors.T).astype(np.float32)
    solution = ns.solve(gram, on_failure="return")
    assert_status(solution, Status.AMBIGUOUS, Status.NO_AGREEMENT)
    assert not solution.success
    assert_status(ns.solve(P(vectors=vectors)), Status.SOLVED, Status.SOLVED_INACCURATE)


@pytest.mark.parametrize("n", [pytest.param(n, id=f"N07-bound-{n}") for n in (2, 5)])
def test_float32_gram_states_its_error(n: int) -> None:
    for seed in range(5):
        vectors = FEASIBLE["d1e-1"](n, seed)
        exact = true_alpha(vectors)
        solution = ns.solve((vectors @ vectors.T).astype(np.float32), on_failure="return")
        assert (
            np.abs(solution.alpha.astype(float) / exact - 1) <= solution.error_bound + tolerance("float32", "ulp")
        ).all()


@pytest.mark.parametrize("family", [pytest.param(f, id=f"N11-{f}") for f in ("a", "b1e8", "d1e-3", "f_cen")])
def test_repeats_are_bitwise_equal(family: str) -> None:
    vectors = {**FEASIBLE, **INFEASIBLE}[family](9, 0)
    first = ns.solve(P(vectors=vectors), on_failure="return")
    for _ in range(100):
        again = ns.solve(P(vectors=vectors.copy()), on_failure="return")
        assert_bitwise(again.alpha, first.alpha)
        assert_bitwise(again.certificate, first.certificate)
        assert again.status == first.status


@pytest.mark.parametrize("threads", [pytest.param(t, id=f"N12-{t}") for t in (1, 2)])
def test_thread_count_changes_nothing_beyond_the_bounds(threads: int) -> None:
    code = (
        "import sys, numpy as np, nashsolve as ns\n"
        "rows = np.random.default_rng(5).standard_normal((200, 300))\n"
        "sys.stdout.buffer.write(ns.solve(ns.BargainingProblem(vectors=rows)).alpha.tobytes())\n"
    )
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    env = os.environ | dict.fromkeys(names, str(threads))
    found = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, check=True, timeout=120)
    here = ns.solve(P(vectors=np.random.default_rng(5).standard_normal((200, 300))))
    assert_same_alpha(replace(here, alpha=np.frombuffer(found.stdout)), here)


@pytest.mark.parametrize("library", [pytest.param("numpy", id="N13-numpy"), pytest.param("torch", id="N13-torch")])
@pytest.mark.parametrize("kind", ["gram", "vectors"])
@pytest.mark.parametrize("n", [1, 2, 5, 16])
def test_batch_item_has_the_bits_of_the_single_solve(library: str, kind: str, n: int) -> None:
    rng = np.random.default_rng(n)
    vectors = rng.standard_normal((7, n, n + 3))
    vectors[..., 0] = np.abs(vectors[..., 0]) + 0.5
    data = vectors if kind == "vectors" else vectors @ vectors.transpose(0, 2, 1)
    if library == "torch":
        data = pytest.importorskip("torch").from_numpy(data)
    batch = ns.solve(P(**{kind: data}))
    assert batch.success
    for i in range(7):
        single = ns.solve(P(**{kind: data[i]}))
        if library == "numpy":
            assert_bitwise(batch.alpha[i], single.alpha)
        else:  # PyTorch does not promise equal bits for a batch and its slice, so neither do we
            assert_same_alpha(replace(single, alpha=batch.alpha[i]), single)
