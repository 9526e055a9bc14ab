"""Newton needs few iterations on every feasible instance family of the benchmarks."""

from __future__ import annotations

import numpy as np
import pytest

import nashsolve as ns
from benchmarks.families import FEASIBLE
from tests.asserts import assert_success

MOST = 15
MEDIAN = 6
SIZES = (2, 3, 8, 16, 64, 128)
COUNTS: dict[tuple[str, int], list[int]] = {}


def iterations(family: str, n: int, seed: int) -> int:
    key = (family, n)
    known = COUNTS.setdefault(key, [])
    while len(known) <= seed:
        solution = ns.solve(ns.BargainingProblem(vectors=FEASIBLE[family](n, len(known))), solver="newton")
        assert_success(solution)
        known.append(int(solution.n_iter))
    return known[seed]


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("family", FEASIBLE)
def test_at_most_15_iterations(family: str, n: int) -> None:
    seeds = 4 if n <= 16 else 1
    counts = [iterations(family, n, seed) for seed in range(seeds)]
    assert max(counts) <= MOST, f"{family}, n = {n}: {counts}"


def test_median_at_most_6() -> None:
    counts = [iterations(family, n, seed) for family in FEASIBLE for n in SIZES[:4] for seed in range(2)]
    counts += [iterations(family, n, 0) for family in FEASIBLE for n in SIZES[4:]]
    assert np.median(counts) <= MEDIAN


@pytest.mark.slow
@pytest.mark.parametrize("n", [256, 1024])
@pytest.mark.parametrize("family", ["b1e2", "b1e12", "d1e-1", "d1e-6", "dl1e-2", "dl1e-4", "e_low", "e_dup"])
def test_at_most_15_iterations_with_many_players(family: str, n: int) -> None:
    if family == "e_dup":  # 50 columns a player would take gigabytes; the Gram of the family is what matters
        half = np.random.default_rng(n).standard_normal((n // 2, 2 * n))
        vectors = np.repeat(half, 2, axis=0)
    else:
        vectors = FEASIBLE[family](n, 0)
    solution = ns.solve(ns.BargainingProblem(vectors=vectors), solver="newton")
    assert_success(solution)
    assert int(solution.n_iter) <= MOST


@pytest.mark.parametrize("exponent", [2, 4, 6, 8, 10, 12])
def test_at_most_15_iterations_with_extreme_weights(exponent: int) -> None:
    vectors = FEASIBLE[f"b1e{exponent}"](8, 0)
    for seed in range(5):
        weights = 10.0 ** np.random.default_rng(seed).uniform(-2, 2, 8)
        solution = ns.solve(ns.BargainingProblem(vectors=vectors, weights=weights), solver="newton")
        assert_success(solution)
        assert int(solution.n_iter) <= MOST
