r"""Nash bargaining over lotteries, by a primal-dual interior point method with one small system a step.

With :math:`V_{ki} = U_{ki} - d_i` the optimality conditions are :math:`V \alpha + z = W`, :math:`V^\top \pi = s`,
:math:`\alpha s = w`, :math:`\pi z = 0`: the multiplier of :math:`\sum \pi = 1` is the total weight W, so it needs no
unknown. Eliminating :math:`\pi` and z leaves n equations, n the number of players, however many outcomes there are.
"""

from __future__ import annotations

import math
import time
from typing import Any

import numpy as np
from scipy.linalg import qr, solve_triangular
from scipy.linalg.lapack import dpotrf, dpotrs

from nashsolve import kernels

_LIMIT = 80
_STOPS = ("", "max_iter", "time", "blocked", "numerical")
_DIRECT = 15
"""Outcomes per player up to which a table is solved as it is."""
_ROUNDS = 40
_CLOSE = 1e-3
"""Excess below which the outcomes that are played are guessed and solved for directly."""
_BEGUN = 0.09
"""Share of the total weight that the products of probabilities and reduced payoffs must fall below before an iterate is
judged; they start at 0.1."""
_RANK = 1e-13
"""Length of what an outcome adds to those before it, relative, below which it depends on them."""
_DONE = 2e-15
"""Largest excess of a reduced payoff over W, relative, below which more steps only move rounding."""


def solve_lottery(
    payoffs: Any,
    w: Any,
    max_iter: int = _LIMIT,
    time_limit: float | None = None,
    rtol: float = 0.0,
    shift: Any = None,
    scale: Any = None,
) -> tuple[Any, Any, int, str]:
    """Lottery (K,) and gains (n,) for the table ``(payoffs - shift) * scale``, zero and one where they are not given.

    In that table, (K, n), every column has a positive entry, and none above one. Stops at a certified excess of
    ``rtol**2 / 2`` relative to the total weight w (n,), or at rounding. Returns also the number of steps and why they
    stopped early: "", "max_iter", "time", "blocked" or "numerical".

    Few outcomes are ever played, so a long table is solved on the promising ones first; those that the multipliers find
    to be worth more than all weights together come in, until there are none. In the compiled kernel where there is one,
    else here, by the same steps.
    """
    many, n = payoffs.shape
    shift = np.zeros(n) if shift is None else shift
    scale = np.ones(n) if scale is None else scale
    native = kernels.load()
    if native is not None:
        pi, gains = np.empty(many), np.empty(n)
        table, limit = np.ascontiguousarray(payoffs), min(max_iter, kernels.MOST_ITERATIONS)
        wait = math.inf if time_limit is None else time_limit
        stop, steps = native.lottery(table, shift, scale, w, limit, wait, rtol, pi, gains)
        if stop >= 0:  # there was memory for it
            return pi, gains, steps, _STOPS[stop]
    return solve_in_numpy((payoffs - shift) * scale, w, max_iter, time_limit, rtol)


def solve_in_numpy(
    v: Any, w: Any, max_iter: int = _LIMIT, time_limit: float | None = None, rtol: float = 0.0
) -> tuple[Any, Any, int, str]:
    """The method of solve_lottery without the kernel."""
    many, n = v.shape
    if many <= _DIRECT * n:
        return _interior(np.asfortranarray(v), w, max_iter, time_limit, rtol)
    begin = time.perf_counter()
    total = w.sum()
    chosen = _promising(v, w)
    used = 0
    for _ in range(_ROUNDS):
        left = None if time_limit is None else time_limit - (time.perf_counter() - begin)
        part, gains, steps, stopped = _interior(np.asfortranarray(v[chosen]), w, max_iter - used, left, rtol)
        used += steps
        if stopped in ("max_iter", "time"):
            break
        with np.errstate(all="ignore"):
            # a subset that nobody can agree on shows by the weights that block it which outcomes are missing
            worth = v @ (gains if stopped == "blocked" else w / gains)
        missing = worth > (0.0 if stopped == "blocked" else total * (1 + 1e-14))
        missing[chosen] = False
        new = np.flatnonzero(missing)
        if not len(new):
            break
        if len(new) > 10 * n:
            new = new[np.argpartition(-worth[new], 10 * n)[: 10 * n]]
        chosen = np.concatenate([chosen, new])
    else:
        left = None if time_limit is None else time_limit - (time.perf_counter() - begin)
        pi, gains, steps, stopped = _interior(np.asfortranarray(v), w, max_iter - used, left, rtol)
        return pi, gains, used + steps, stopped
    pi = np.zeros(many)
    pi[chosen] = part
    return pi, gains, used, stopped


def _promising(v: Any, w: Any) -> Any:
    """Numbers of the outcomes with the largest weighted sums, and of every player's best ones."""
    n = len(w)
    best = np.argpartition(-(v @ w), 8 * n)[: 8 * n]
    tops = np.argpartition(-v, 3, axis=0)[:3].ravel()
    return np.unique(np.concatenate([best, tops]))


def _interior(v: Any, w: Any, max_iter: int, time_limit: float | None, rtol: float) -> tuple[Any, Any, int, str]:
    """The method itself; where it stops as "blocked", the weights that block stand in place of the gains.

    x holds the lottery and the gains, y the reduced payoffs and alpha: at the solution x y is 0 and w.
    """
    begin = time.perf_counter()
    many = len(v)
    total = float(w.sum())
    goal = max(_DONE, 0.5 * rtol * rtol)
    target = np.concatenate([np.zeros(many), w])
    y = np.concatenate([total - 0.9 * (v @ w), 0.9 * w])
    pi = (0.1 * total / many) / y[:many]
    x = np.concatenate([pi, np.maximum(pi @ v, w / y[many:])])
    best, found, stalled, tried = np.inf, (x[:many] / x[:many].sum(), x[many:]), 0, np.inf
    stopped = "max_iter"
    step = 0
    for step in range(max_iter + 1):
        product = x * y
        rest = float(product[:many].sum())
        if rest < _BEGUN * total or step == max_iter:  # before that no iterate is near
            gap, played, gains = _judge(v, w, x[:many], total)
            stalled = 0 if gap < 0.9 * best else stalled + 1
            if gap <= best:
                best, found = gap, (played, gains)
            if goal < best < min(_CLOSE, 0.03 * tried):
                tried = best
                found, best = _polish_all(v, w, found, best, total, goal, x[:many], y[:many])
        else:
            stalled += 1
        if best <= goal or (stalled >= 4 and best < 1e-9):
            stopped = ""
            break
        if y[:many].min() >= total:  # alpha itself proves that nobody can agree: no outcome is worth anything
            return x[:many] / x[:many].sum(), y[many:] / y[many:].sum(), step, "blocked"
        if stalled >= (25 if np.isfinite(best) else 60):
            stopped = "numerical"
            break
        if step == max_iter:
            break
        if time_limit is not None and time.perf_counter() - begin > time_limit:
            stopped = "time"
            break
        moved = _step(v, target, x, y, product, rest, total)
        if moved is None:
            stopped = "" if best < 1e-9 else "numerical"
            break
        x, y = moved
    if goal < best < 1e-5:
        found, best = _polish_all(v, w, found, best, total, goal, x[:many], y[:many])
        stopped = "" if best < 1e-9 else stopped
    return found[0], found[1], step, stopped


def _polish_all(
    v: Any, w: Any, found: Any, best: float, total: float, goal: float, pi: Any, z: Any
) -> tuple[Any, float]:
    """Which outcomes are played is not always clear from the iterate, so several guesses are tried."""
    for share in (1.0, 1e-3, 1e3):
        if best > goal:
            active = np.flatnonzero(pi * total > share * z * pi.sum())
            found, best = _polish(v, w, found, best, total, goal, active)
    return found, best


def _polish(v: Any, w: Any, found: Any, best: float, total: float, goal: float, active: Any) -> tuple[Any, float]:
    """Newton on the outcomes that are played, without the rounding that the eliminated system amplifies."""
    n, rows = len(w), v[active]
    pi, a = found[0][active], w / found[1]
    if not 0 < len(active) <= 4 * n:
        return found, best
    for _ in range(4):
        move, shift = _bordered(rows, w, a, pi, total)
        a, pi = a + move, pi + shift
        if not (a > 0).all() or (pi < -1e-9).any():
            break
        whole = np.zeros(len(v))
        whole[active] = np.maximum(pi, 0)
        gap, played, gains = _judge(v, w, whole, total)
        if gap >= best:
            break
        best, found = gap, (played, gains)
        if best <= goal:
            break
    return found, best


def _bordered(rows: Any, w: Any, a: Any, pi: Any, total: float) -> tuple[Any, Any]:
    r"""Steps of a (n,) and pi (p,) that solve
    :math:`w / a^2\,da + R^\top d\pi = w / a - R^\top \pi,\ R\,da = W - R a` for rows R (p, n).

    By a QR factorisation with pivots of :math:`\mathrm{diag}(a / \sqrt w) R^\top`, which squares neither weights nor
    rows; outcomes that depend on others stay.
    """
    size = a / np.sqrt(w)
    q, r, order = qr(size[:, None] * rows.T, pivoting=True, check_finite=False)
    length = abs(r.diagonal())
    rank = int((np.minimum.accumulate(length) > _RANK * length[0]).sum())
    top, order = r[:rank, :rank], order[:rank]
    c = (size * (w / a - pi @ rows)) @ q
    u = np.concatenate([solve_triangular(top, (total - rows @ a)[order], trans=1), c[rank:]])
    move = np.zeros(len(pi))
    move[order] = solve_triangular(top, (c - u)[:rank])
    return size * (q @ u), move


def _judge(v: Any, w: Any, pi: Any, total: float) -> tuple[float, Any, Any]:
    """Excess of the normalized lottery, and its gains; inf while somebody loses."""
    played = pi / pi.sum()
    gains = v.T @ played
    if not (gains > 0).all():
        return np.inf, played, gains
    alpha = w / gains
    return (float((v @ alpha).max() / total - 1) if np.isfinite(alpha).all() else np.inf), played, gains


def _step(v: Any, target: Any, x: Any, y: Any, product: Any, rest: float, total: float) -> tuple[Any, Any] | None:
    """Predictor and corrector with one factor; None where rounding has eaten the system."""
    many, n = v.shape
    ratio = x / y
    pull = ratio[:many]
    system = (v * pull[:, None]).T @ v
    system.flat[:: n + 1] += ratio[many:]
    factor, failed = dpotrf(system, lower=1, overwrite_a=1)
    if failed:
        return None
    miss = x[many:] - x[:many] @ v

    def direction(aim: Any) -> tuple[Any, Any]:
        push = aim / y
        right = miss + push[many:] - push[:many] @ v
        dy = np.empty_like(y)
        dy[many:] = dpotrs(factor, right, lower=1)[0]
        np.dot(v, -dy[many:], out=dy[:many])
        return push - ratio * dy, dy

    short = target - product
    dx, dy = direction(short)
    t = min(1.0, _longest(x, y, dx, dy))
    mu = rest / many
    after = float((x[:many] + t * dx[:many]) @ (y[:many] + t * dy[:many])) / rest
    aim = short - dx * dy
    aim[:many] += mu * max(min(max(after, 0.0), 1.0) ** 3, 0.1 * (1 - t) ** 2)
    dx, dy = direction(aim)
    longest = _longest(x, y, dx, dy)
    if longest < 0.2:  # jammed: aim at the centre, without a correction that rests on a full step
        for share in (0.5, 1.0):
            aim = short.copy()
            aim[:many] += share * mu
            other, other_y = direction(aim)
            length = _longest(x, y, other, other_y)
            if length > longest:
                dx, dy, longest = other, other_y, length
    t = min(1.0, (0.9995 if longest > 0.9 else 0.9) * longest)
    if not t > 1e-12:
        return None
    x, y = x + t * dx, y + t * dy
    y[:many] = np.maximum(total - v @ y[many:], 1e-300)  # so that no rounding gathers in the reduced payoffs
    return x, y


def _longest(x: Any, y: Any, dx: Any, dy: Any) -> float:
    """Largest step that keeps all positive; alpha and the gains are tied by a product, so all move together."""
    lowest = min(np.minimum.reduce(dx / x), np.minimum.reduce(dy / y))
    return float(-1 / lowest) if lowest < 0 else np.inf
