"""Paired comparisons of systems over seeds, and when a difference is noise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

from nashsolve.core.errors import InvalidProblem


@dataclass(frozen=True)
class Paired:
    r"""The mean difference of two systems over the same seeds, with Student's interval.

    .. math:: \bar\delta \pm t_{n-1,\,1-(1-c)/2}\; s_\delta / \sqrt n

    Attributes
    ----------
    mean, sd : of the differences; sd with n - 1
    low, high : ends of the interval
    p : of the two-sided t test; None for differences that are all the same
    n : seeds
    """

    mean: float
    sd: float
    low: float
    high: float
    p: float | None
    n: int

    @property
    def noise(self) -> bool:
        """Whether the interval holds zero: the seeds cannot tell the two systems apart."""
        return self.low <= 0.0 <= self.high

    def __str__(self) -> str:
        return f"{self.mean:+.4g} [{self.low:+.4g}, {self.high:+.4g}]"


def paired(ours: Sequence[float], theirs: Sequence[float], confidence: float = 0.95) -> Paired:
    """Compare two systems that ran on the same seeds.

    Parameters
    ----------
    ours, theirs : one number a seed, in the same order; the difference is ours minus theirs
    confidence : of the interval, in (0, 1)

    Raises
    ------
    InvalidProblem
        For fewer than two seeds, different lengths or numbers that are not finite.
    """
    one, other = np.asarray(ours, dtype=float), np.asarray(theirs, dtype=float)
    if one.shape != other.shape or one.size < 2 or not np.isfinite(one - other).all():
        raise InvalidProblem(f"a paired comparison needs two or more finite pairs; got {one.size} and {other.size}")
    delta = one - other
    mean, sd = float(delta.mean()), float(delta.std(ddof=1))
    half = float(stats.t.ppf(0.5 + confidence / 2, delta.size - 1)) * sd / np.sqrt(delta.size)
    p = None if sd == 0.0 else float(stats.ttest_1samp(delta, 0.0).pvalue)
    return Paired(mean, sd, mean - half, mean + half, p, int(delta.size))


def mean_sd(values: Sequence[float]) -> tuple[float, float]:
    """Mean and sample standard deviation (zero for one value)."""
    array = np.asarray(values, dtype=float)
    return float(array.mean()), float(array.std(ddof=1)) if array.size > 1 else 0.0


def by_system(records: Sequence[Mapping[str, Any]], number: str, system: str = "system") -> dict[str, dict[int, float]]:
    """System -> seed -> number, of the records that have all three."""
    found: dict[str, dict[int, float]] = {}
    for record in records:
        if system in record and "seed" in record and record.get(number) is not None:
            found.setdefault(str(record[system]), {})[int(record["seed"])] = float(record[number])
    return found


def compare(table: Mapping[str, Mapping[int, float]], ours: str, theirs: str) -> Paired | None:
    """`paired` over the seeds that both systems have; None where they share fewer than two."""
    one, other = table.get(ours, {}), table.get(theirs, {})
    seeds = sorted(set(one) & set(other))
    if len(seeds) < 2:
        return None
    return paired([one[s] for s in seeds], [other[s] for s in seeds])
