"""Max-min of scaled gains, then the next smallest, and so on: what egalitarian and Kalai-Smorodinsky share."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from nashsolve.core.support import certify_value
from nashsolve.oracles.base import Proposal

from .base import Agreement, Bargain, no_agreement, numpy_view, support_at

_GAIN = 1e-6
_TIGHT = 1e-6
"""Share of the largest multiplier above which a player is held back in every optimum."""


def agree(bargain: Bargain, scale: Any, refine: bool) -> Agreement:
    """Maximize the least of ``gains / scale``; with `refine`, lift the players whom that leaves room.

    The first stage is certified: no feasible point passes ``(h(y) - y'd) / y'scale`` for its multipliers y.
    """
    d, oracle = bargain.disagreement, bargain.oracle
    first = oracle.maxmin(d, scale)
    with np.errstate(invalid="ignore"):
        value = float(((first.utilities - d) / scale).min())
    y = np.where(np.isfinite(first.multipliers), np.maximum(first.multipliers, 0.0), 0.0)
    if not value > 0 or not y.sum() > 0:
        none = no_agreement(bargain)
        if none is not None:
            return none
    with np.errstate(all="ignore"):
        upper = (support_at(bargain, y, first) - float(y @ d)) / float(y @ scale)
    best, stages = (first, 1) if not refine else _refine(bargain, scale, first, y, value)
    if not oracle.feasible(best):
        upper = np.inf
    reached = float(((best.utilities - d) / scale).min())
    proof = certify_value(numpy_view(bargain.problem), best.utilities, y, reached, upper, best.point)
    best = replace(best, multipliers=y)
    return Agreement(best, proof, {"value": reached, "stages": stages})


def _refine(bargain: Bargain, scale: Any, first: Proposal, y: Any, value: float) -> tuple[Proposal, int]:
    """Hold the players whom the multipliers show to be tight, lift the others, and repeat."""
    d, oracle = bargain.disagreement, bargain.oracle
    floor = np.full(bargain.n, -np.inf)
    best, steps = first, first.n_iter
    stage = 1
    while stage < bargain.n:
        tight = (y * scale > _TIGHT * (y * scale).max()) & ~np.isfinite(floor)
        if not tight.any():
            break
        floor = np.where(tight, d + scale * value, floor)
        free = ~np.isfinite(floor)
        if not free.any():
            break
        found = oracle.maxmin(d, np.where(free, scale, 0.0), floor)
        steps += found.n_iter
        if not np.isfinite(found.utilities).all():
            break
        held = (floor - found.utilities)[~free]
        size = np.maximum(abs(best.utilities), abs(scale * value))
        if (held > 1e-8 * size[~free]).any():
            break
        now = float(((found.utilities - d) / scale)[free].min())
        before = float(((best.utilities - d) / scale)[free].min())
        if now < before - 1e-9 * abs(now):
            break
        if now > before + _GAIN * abs(before):
            best = found  # less than that is the width of a set that is held from all sides
        value, y = now, np.where(free, np.maximum(found.multipliers, 0.0), 0.0)
        stage += 1
        if not y.max() > 0:
            break
    return replace(best, n_iter=steps), stage
