r"""Nash bargaining over lotteries, by a primal-dual interior point method with one small system a step.

With :math:`V_{ki} = U_{ki} - d_i` the optimality conditions are :math:`V \alpha + z = W`, :math:`V^\top \pi = s`,
:math:`\alpha s = w`, :math:`\pi z = 0`: the multiplier of :math:`\sum \pi = 1` is the total weight W, so it needs no
unknown. Eliminating :math:`\pi` and z leaves n equations, n the number of players, however many outcomes there are.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
from scipy.linalg.lapack import dpotrf, dpotrs

_LIMIT = 80
_DONE = 2e-15
"""Largest excess of a reduced payoff over W, relative, below which more steps only move rounding."""


def solve_lottery(
    v: Any, w: Any, max_iter: int = _LIMIT, time_limit: float | None = None, rtol: float = 0.0
) -> tuple[Any, Any, int, str]:
    """Lottery (K,) and gains (n,) for shifted payoffs v (K, n), every column with a positive entry at most one.

    Stops at a certified excess of ``rtol**2 / 2`` relative to the total weight, or at rounding. Returns also the
    number of steps and why they stopped early: "", "max_iter", "time", "blocked" or "numerical".
    """
    begin = time.perf_counter()
    total = w.sum()
    goal = max(_DONE, 0.5 * rtol * rtol)
    a = 0.9 * w
    z = total - v @ a
    mu = 0.1 * total / len(v)
    pi = mu / z
    s = np.maximum(v.T @ pi, w / a)
    best, found, stalled = np.inf, (pi, s), 0
    stopped = "max_iter"
    step = 0
    for step in range(max_iter + 1):
        gap, played, gains = _judge(v, w, pi, total)
        if gap < 0.9 * best:
            stalled = 0
        else:
            stalled += 1
        if gap <= best:
            best, found = gap, (played, gains)
        if best <= goal or (stalled >= 4 and best < 1e-9):
            stopped = ""
            break
        if z.min() >= total:  # alpha itself proves that nobody can agree: no outcome has a positive weighted payoff
            stopped = "blocked"
            break
        if stalled >= (25 if np.isfinite(best) else 60):
            stopped = "numerical"
            break
        if step == max_iter:
            break
        if time_limit is not None and time.perf_counter() - begin > time_limit:
            stopped = "time"
            break
        moved = _step(v, w, pi, s, a, z)
        if moved is None:
            stopped = "" if best < 1e-9 else "numerical"
            break
        pi, s, a = moved
        z = np.maximum(total - v @ a, 1e-300)
    if found is not None and goal < best < 1e-5:
        for share in (1.0, 1e-3, 1e3):  # which outcomes are played is not always clear from the last step
            if best > goal:
                active = np.flatnonzero(pi * total > share * z * pi.sum())
                found, best = _polish(v, w, found, best, total, active)
        stopped = "" if best < 1e-9 else stopped
    return found[0], found[1], step, stopped


def _polish(v: Any, w: Any, found: Any, best: float, total: float, active: Any) -> tuple[Any, float]:
    """Newton on the outcomes that are played: the full system, whose rounding the eliminated one amplifies."""
    n, rows = len(w), v[active]
    pi, a = found[0][active], w / found[1]
    if not 0 < len(active) <= 4 * n:
        return found, best
    for _ in range(4):
        system = np.zeros((n + len(active), n + len(active)))
        system[:n, :n].flat[:: n + 1] = w / a**2
        system[:n, n:], system[n:, :n] = rows.T, rows
        right = np.concatenate([w / a - rows.T @ pi, total - rows @ a])
        move = np.linalg.lstsq(system, right, rcond=1e-14)[0]
        a, pi = a + move[:n], pi + move[n:]
        if not (a > 0).all() or (pi < -1e-9).any():
            break
        whole = np.zeros(len(v))
        whole[active] = np.maximum(pi, 0)
        gap, played, gains = _judge(v, w, whole, total)
        if gap >= best:
            break
        best, found = gap, (played, gains)
    return found, best


def _judge(v: Any, w: Any, pi: Any, total: float) -> tuple[float, Any, Any]:
    """Excess of the normalized lottery, and its gains; inf while somebody loses."""
    played = pi / pi.sum()
    gains = v.T @ played
    if not (gains > 0).all():
        return np.inf, played, gains
    return float((v @ (w / gains)).max() / total - 1), played, gains


def _step(v: Any, w: Any, pi: Any, s: Any, a: Any, z: Any) -> tuple[Any, Any, Any] | None:
    """Predictor and corrector with one factor; None where rounding has eaten the system."""
    ratio = pi / z
    system = v.T @ (v * ratio[:, None])
    system.flat[:: len(w) + 1] += s / a
    factor, failed = dpotrf(system, lower=1, overwrite_a=1)
    if failed:
        return None
    miss = s - v.T @ pi
    short = w - a * s
    pz = pi * z
    da, ds, dpi, dz = _direction(v, factor, a, s, ratio, miss, short, -pi)
    t = min(1.0, _longest(pi, s, a, z, (da, ds, dpi, dz)))
    mu = pz.sum() / len(pi)
    after = ((pi + t * dpi) @ (z + t * dz)) / len(pi)
    target = mu * max(min(max(after / mu, 0.0), 1.0) ** 3, 0.1 * (1 - t) ** 2)
    push = (target - dpi * dz) / z - pi
    best = _direction(v, factor, a, s, ratio, miss, short - da * ds, push)
    longest = _longest(pi, s, a, z, best)
    if longest < 0.5:  # jammed: aim at the centre, without a correction that rests on a full step
        for share in (0.5, 1.0):
            other = _direction(v, factor, a, s, ratio, miss, short, share * mu / z - pi)
            length = _longest(pi, s, a, z, other)
            if length > longest:
                best, longest = other, length
    t = min(1.0, (0.9995 if longest > 0.9 else 0.9) * longest)
    if not t > 1e-12:
        return None
    da, ds, dpi, _ = best
    return pi + t * dpi, s + t * ds, a + t * da


def _longest(pi: Any, s: Any, a: Any, z: Any, direction: tuple[Any, Any, Any, Any]) -> float:
    """alpha and s are tied by a product, so all move together."""
    da, ds, dpi, dz = direction
    return min(_length(pi, dpi), _length(z, dz), _length(a, da), _length(s, ds))


def _direction(
    v: Any, factor: Any, a: Any, s: Any, ratio: Any, miss: Any, short: Any, push: Any
) -> tuple[Any, Any, Any, Any]:
    """Newton direction; `push` is the part of d pi that does not come through alpha."""
    right = miss + short / a - v.T @ push
    da = dpotrs(factor, right, lower=1)[0]
    dz = -(v @ da)
    ds = (short - s * da) / a
    return da, ds, push - ratio * dz, dz


def _length(x: Any, dx: Any) -> float:
    """Largest step that keeps x + t dx >= 0."""
    lowest = (dx / x).min()
    return float(-1 / lowest) if lowest < 0 else np.inf
