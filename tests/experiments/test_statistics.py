"""Paired intervals against textbook numbers, and verdicts that follow from them."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from nashsolve.core.errors import InvalidProblem
from nashsolve.integrations.experiments.judging import better, flat
from nashsolve.integrations.experiments.statistics import by_system, compare, paired
from tests.tolerances import tolerance


def test_interval_is_scipys() -> None:
    rng = np.random.default_rng(0)
    ours, theirs = rng.normal(size=8), rng.normal(size=8)
    found = paired(ours.tolist(), theirs.tolist())
    wanted = stats.ttest_rel(ours, theirs)
    low, high = wanted.confidence_interval(0.95)
    assert (found.low, found.high, found.p) == pytest.approx(
        (low, high, wanted.pvalue), rel=tolerance("float64", "rtol")
    )
    assert found.noise == (wanted.pvalue > 0.05)


def test_pairing_sees_what_means_do_not() -> None:
    seeds = np.arange(10.0)
    jitter = 0.01 * np.random.default_rng(0).normal(size=10)
    assert not paired((10 * seeds + 0.1 + jitter).tolist(), (10 * seeds).tolist()).noise
    assert stats.ttest_ind(10 * seeds + 0.1, 10 * seeds).pvalue > 0.9


@pytest.mark.parametrize(("ours", "theirs"), [([1.0], [2.0]), ([1.0, 2.0], [1.0]), ([1.0, float("nan")], [1.0, 2.0])])
def test_refused(ours: list[float], theirs: list[float]) -> None:
    with pytest.raises(InvalidProblem, match="finite pairs"):
        paired(ours, theirs)


def test_seeds_that_one_system_lacks_are_left_out() -> None:
    records = [{"system": s, "seed": k, "x": k + (s == "a")} for s in "ab" for k in range(3) if (s, k) != ("b", 1)]
    found = compare(by_system(records, "x"), "a", "b")
    assert found is not None and found.n == 2 and found.mean == 1.0 and found.p is None
    assert compare(by_system(records, "x"), "a", "c") is None


@pytest.mark.parametrize(
    ("shift", "direction", "verdict", "because"),
    [
        (-1.0, "lower", "reproduced", "leaves zero out"),
        (-1.0, "higher", "not reproduced", "the other way round"),
        (0.0, "lower", "not reproduced", "noise"),
    ],
)
def test_better(shift: float, direction: str, verdict: str, because: str) -> None:
    noise = np.random.default_rng(1).normal(size=6) * 0.1
    table = {"namex": {k: shift + noise[k] for k in range(6)}, "smear": dict.fromkeys(range(6), 0.0)}
    claim = better(table, "namex", "smear", "loss", direction, "table 1")
    assert claim is not None and claim.verdict == verdict and because in claim.reason
    assert better(table, "namex", "camex", "loss", direction, "table 1") is None


def test_flat_corrects_for_the_number_of_comparisons() -> None:
    rng = np.random.default_rng(0)
    table = {f"s{k}": {i: float(x) for i, x in enumerate(rng.normal(size=5))} for k in range(20)}
    single = [k for k in table if (c := compare(table, k, "s0")) is not None and c.p is not None and c.p < 0.05]
    claim = flat(table, list(table), "s0", "x", "nothing matters", "table 6")
    assert single and claim is not None and claim.verdict == "reproduced"
    table["far"] = {i: x + 100 for i, x in table["s0"].items()} | {0: table["s0"][0] + 101}
    claim = flat(table, list(table), "s0", "x", "nothing matters", "table 6")
    assert claim is not None and claim.verdict == "not reproduced" and claim.reason.endswith("far")
