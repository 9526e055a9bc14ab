"""Solution concepts on single outcomes, without lotteries: look at every outcome and take the best.

Each concept is the largest value of its own objective over the table; ties go to the outcome that comes first.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from nashsolve.core.support import certify_blocked, certify_value
from nashsolve.oracles.base import Proposal

from .base import Agreement, Bargain, numpy_view


def agree(bargain: Bargain, objective: Callable[[Any], Any], needs_gains: bool = True) -> Agreement:
    """The outcome with the largest objective; with `needs_gains`, among those where everybody gains.

    objective : gains (K, n) -> values (K,); NaN counts as worst
    """
    table, d = bargain.problem.payoffs, bargain.disagreement
    gains = table - d
    allowed = (gains > 0).all(axis=1) if needs_gains else np.ones(len(table), dtype=bool)
    if not allowed.any():
        return _blocked(bargain, gains)
    with np.errstate(all="ignore"):
        value = np.asarray(objective(np.where(allowed[:, None], gains, np.nan)), dtype=float)
    value = np.where(np.isnan(value), -np.inf, value)
    k = int(np.argmax(value))
    point = np.zeros(len(table))
    point[k] = 1.0
    with np.errstate(all="ignore"):
        alpha = bargain.weights / gains[k]
    found = Proposal(table[k].copy(), point, alpha, len(table), "enumeration")
    rest = np.delete(value, k)
    upper = max(float(value[k]), float(rest.max()) if len(rest) else -np.inf)
    proof = certify_value(numpy_view(bargain.problem), found.utilities, alpha, float(value[k]), upper, point)
    ties = [int(j) for j in np.flatnonzero(value == value[k])]
    details = {"outcome": bargain.problem.outcome(k)}
    if len(ties) > 1:
        details["ties"] = [bargain.problem.outcome(j) for j in ties[:20]]
    return Agreement(found, proof, details)


def _blocked(bargain: Bargain, gains: Any) -> Agreement:
    least = gains.min(axis=1)
    k = int(np.argmax(least))
    counts = (gains <= 0).sum(axis=0)
    who = ", ".join(
        f"{bargain.problem.player(i)} ({counts[i]} of {len(gains)})" for i in np.argsort(-counts)[:10] if counts[i]
    )
    words = (
        f"No single outcome gives every player more than the disagreement point; outcomes without a gain, by player: "
        f"{who}. The best of them, {bargain.problem.outcome(k)}, leaves the worst player a gain of {least[k]:.4g}. "
        "Lower the disagreement point, or allow lotteries."
    )
    size = np.maximum(abs(gains).max(axis=0), 1e-300)
    proof = certify_blocked(numpy_view(bargain.problem), np.ones(bargain.n), min(float(least[k]), 0.0), size)
    # enumeration is the proof here; no weights on the players need exist without lotteries
    proof = replace(proof, simplex=np.full(bargain.n, np.nan))
    nan = np.full(bargain.n, np.nan)
    found = Proposal(nan, np.full(len(gains), np.nan), nan, len(gains), "enumeration")
    details = {
        "best_gain": float(least[k]),
        "without_gain": {bargain.problem.player(i): int(c) for i, c in enumerate(counts)},
    }
    return Agreement(found, proof, details, words)
