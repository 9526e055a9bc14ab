r"""Primal-dual Newton with corrector and radial rescaling: the default engine, on any array library.

Solves :math:`a \circ (Ba) = w` for the equilibrated Gram B. Each iteration factors
:math:`\mathrm{diag}(a) B \mathrm{diag}(a) + \mathrm{diag}(a u)` once, takes a Newton step and one second-order
correction in a and u = w / a, then puts a back on the optimum of its ray, where ``a' B a = sum w``.
Over the feasible instance families, `python -m benchmarks.newton_variants` counts a median of 4 and at most 12
iterations, against 22 for the same step without the rescaling and 17 for primal steps with an exact line search.
[nesterov_nemirovskii1994]_, [spinu2013]_
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from functools import partial
from typing import Any

from array_api_compat import is_numpy_namespace

from nashsolve.core.arrays import (
    EPS64,
    Array,
    device,
    inversion,
    matvec,
    put_rows,
    quiet,
    set_diagonal,
    spd_factor,
    spd_solve,
)
from nashsolve.core.problem import BargainingProblem
from nashsolve.core.solver import RawAnswer

from .at_zero import solve_at_zero
from .disagreement import solve_with_disagreement

_FRACTION = 0.9
"""How far towards the boundary of the positive orthant one step may go."""
_TINY = 3e-8
"""A step of this relative size leaves an error of its square, so it is the last."""
_NEAR = 2e-4
"""After a step of this size the same factors correct what is left: their error is its size, times the correction's."""
_STALL = 1e-4
_BLOCK = 2**16
"""Entries of the Grams that NumPy iterates on at once: a few arrays of this size lie in the cache of a core."""
_FAR = 0.1
"""Only a step of at least this size can belong to a sequence that diverges."""


@dataclass(frozen=True)
class Newton:
    """Batched Newton's method; zero and non-zero disagreement, active and inactive ball.

    max_iter : iterations allowed, >= 0
    time_limit : seconds, checked every iteration
    rtol : relative accuracy of alpha; None is 1e-10 in float64 and 1e-5 in float32
    """

    max_iter: int = 64
    time_limit: float | None = None
    rtol: float | None = None
    name: str = "newton"

    def why_not(self, problem: BargainingProblem) -> str | None:
        return None

    def solve(self, problem: BargainingProblem, start: Array | None = None) -> RawAnswer:
        deadline = None if self.time_limit is None else time.perf_counter() + self.time_limit
        xp = problem.xp
        if problem.n == 0:
            empty = xp.zeros((*problem.batch_shape, 0), dtype=xp.float64, device=device(problem.unit_gram))
            return RawAnswer(empty, 0)
        with quiet(xp):
            if problem.disagreement is not None:
                return solve_with_disagreement(problem, start, self.max_iter, deadline)
            alone = problem.batch_shape == () and is_numpy_namespace(xp)
            steps = _iterate_one if alone else _iterate_batch
            return solve_at_zero(problem, start, partial(steps, max_iter=self.max_iter, deadline=deadline, xp=xp))


def _iterate_one(
    b: Array,
    w: Array,
    a: Array,
    total: Array,
    noise: float,
    _cold: bool,
    *,
    max_iter: int,
    deadline: float | None,
    xp: Any,
) -> tuple[Array, int, str]:
    """One problem in NumPy: the batch's steps, operation by operation and so bit by bit, with Python's branches."""
    import numpy as np

    n = len(a)
    invert = inversion(n)
    w_min, best, stalled, limit = min(w.tolist()), math.inf, 0, float(total)
    au = w
    for iteration in range(max_iter + 1):
        ba = b.dot(a)
        q = float(a.dot(ba))
        if q > 0:
            factor = math.sqrt(limit / q)
            a = a * factor
            ba *= factor
            au = au * factor if iteration else au
        r = w - a * ba
        h = b * a
        h *= a[:, None]
        diagonal = h.reshape(-1)[:: n + 1]
        diagonal += au
        diagonal *= 1 + 4 * EPS64
        try:
            inverse = invert(h)
        except np.linalg.LinAlgError:
            return a, iteration, "numerical"
        da = inverse.dot(r)
        power = float(r.dot(da))
        if power != power:
            return a, iteration, "numerical"
        moves = da.tolist()
        low = min(moves)
        size = max(math.sqrt(max(power, 0.0) / w_min), -low, max(moves))
        if size <= _TINY:
            return a * (1 + da), iteration, ""
        stalled = stalled + 1 if size < _STALL and size > 0.3 * best else 0
        best = min(best, size)
        if stalled >= 2 or (size > _FAR and float((b.diagonal() ** 0.5).dot(a)) ** 2 * noise > limit):
            return a, iteration, ""
        if iteration == max_iter:
            break
        if deadline is not None and time.perf_counter() > deadline:
            return a, iteration, "time"
        rest = w / au - 1
        du = rest - da
        both = da * du
        da2 = inverse.dot(r - au * both)
        du2 = rest - both - da2
        low = min(low, *du.tolist())
        low2 = min(*da2.tolist(), *du2.tolist())
        if low2 >= low or low2 >= -_FRACTION:
            da, du, low = da2, du2, low2
        if low < -_FRACTION:
            t = -_FRACTION / low
            da, du = t * da, t * du
        step = 1 + da
        a, au = a * step, au * step * (1 + du)
        if size <= _NEAR:
            da = inverse.dot(w - a * b.dot(a))
            if size * float(np.maximum.reduce(np.abs(da))) <= _TINY**2:
                return a * (1 + da), iteration + 1, ""
    return a, max_iter, "max_iter"


def _iterate_batch(
    b: Array,
    w: Array,
    a: Array,
    total: Array,
    noise: float,
    _cold: bool,
    *,
    max_iter: int,
    deadline: float | None,
    xp: Any,
) -> tuple[Array, Array, str]:
    """A batch on any array library; in NumPy by blocks that stay in the processor's cache."""
    shape, n = a.shape, a.shape[-1]
    a = xp.reshape(a, (-1, n))
    b = xp.reshape(xp.broadcast_to(b, (*shape[:-1], n, n)), (-1, n, n))
    w = xp.reshape(xp.broadcast_to(w, shape), (-1, n))
    total = xp.reshape(xp.broadcast_to(total, shape[:-1]), (-1,))
    count = a.shape[0]
    block = max(1, _BLOCK // n**2) if is_numpy_namespace(xp) else max(1, count)
    parts = [(a, xp.zeros(0, dtype=xp.int64, device=device(a)), "")] if count == 0 else []
    for k in (slice(i, i + block) for i in range(0, count, block)):
        parts.append(_iterate_block(b[k, ...], w[k, ...], a[k, ...], total[k], noise, max_iter, deadline, xp))
    a, n_iter = (xp.concat([part[k] for part in parts]) if len(parts) > 1 else parts[0][k] for k in (0, 1))
    stopped = next((why for why in ("time", "max_iter") if any(part[2] == why for part in parts)), "")
    return xp.reshape(a, shape), xp.reshape(n_iter, shape[:-1]), stopped


def _iterate_block(
    b: Array, w: Array, a: Array, total: Array, noise: float, max_iter: int, deadline: float | None, xp: Any
) -> tuple[Array, Array, str]:
    """All items side by side: those that are finished are frozen by a mask, and leave once they are many."""
    count, where = a.shape[0], device(a)
    items = xp.arange(count, device=where)
    norms, w_min = xp.sqrt(xp.linalg.diagonal(b)), xp.min(w, axis=-1)
    used = xp.zeros(count, dtype=xp.int64, device=where)
    done_a, done_used, au = a, used, w
    best = xp.full_like(total, xp.inf)
    stalled = xp.zeros_like(total)
    live = xp.ones(count, dtype=xp.bool, device=where)
    left, late = count, False
    for iteration in range(max_iter + 1):
        if left <= 0.7 * live.shape[0]:
            done_a, done_used = put_rows(done_a, items, a, xp), put_rows(done_used, items, used, xp)
            keep = xp.nonzero(live)[0]
            items, used, a, w, b, total, norms, w_min, best, stalled, au, live = (
                xp.take(v, keep, axis=0) for v in (items, used, a, w, b, total, norms, w_min, best, stalled, au, live)
            )
        ba = matvec(b, a, xp)
        factor = xp.sqrt(total / xp.linalg.vecdot(a, ba))
        factor = xp.where(live & (factor > 0) & xp.isfinite(factor), factor, xp.ones_like(factor))[:, None]
        a, ba = a * factor, ba * factor
        au = au * factor if iteration else au
        r = w - a * ba
        h, sound = _system(a, b, au, xp)
        factored = spd_factor(h, xp)
        da = spd_solve(factored, r, xp)
        rest = w / au - 1
        du = rest - da
        low = xp.min(xp.minimum(da, du), axis=-1)
        power = xp.linalg.vecdot(r, da)
        size = xp.sqrt(xp.where(power > 0, power, 0 * power) / w_min)
        size = xp.maximum(size, xp.max(xp.abs(da), axis=-1))
        stalled = xp.where((size < _STALL) & (size > 0.3 * best), stalled + 1, 0 * stalled)
        best = xp.minimum(best, xp.where(size == size, size, best))
        diverged = (size > _FAR) & (xp.linalg.vecdot(norms, a) ** 2 * noise > total)
        stop = ~sound | (size != size) | (size <= _TINY) | (stalled >= 2) | diverged
        a = xp.where((live & (size <= _TINY))[:, None], a * (1 + da), a)
        used = xp.where(live, iteration + xp.astype(~stop, xp.int64), used)
        live = live & ~stop
        left = int(xp.count_nonzero(live))
        late = deadline is not None and time.perf_counter() > deadline
        if left == 0 or iteration == max_iter or late:
            break
        both = da * du
        da2 = spd_solve(factored, r - au * both, xp)
        du2 = rest - both - da2
        low2 = xp.min(xp.minimum(da2, du2), axis=-1)
        better = ((low2 >= low) | (low2 >= -_FRACTION))[:, None]
        da, du = xp.where(better, da2, da), xp.where(better, du2, du)
        low = xp.where(better[:, 0], low2, low)
        t = xp.where(low < -_FRACTION, -_FRACTION / low, xp.ones_like(low))[:, None]
        da, du = t * da, t * du
        step = 1 + da
        a, au = xp.where(live[:, None], a * step, a), au * step * (1 + du)
        near = live & (size <= _NEAR)
        if bool(xp.any(near)):
            da = spd_solve(factored, w - a * matvec(b, a, xp), xp)
            near = near & (size * xp.max(xp.abs(da), axis=-1) <= _TINY**2)
            a = xp.where(near[:, None], a * (1 + da), a)
            live = live & ~near
            left = int(xp.count_nonzero(live))
            if left == 0:
                break
    done_a, done_used = put_rows(done_a, items, a, xp), put_rows(done_used, items, used, xp)
    stopped = "" if left == 0 else ("time" if late else "max_iter")
    return done_a, xp.where(done_used > max_iter, max_iter, done_used), stopped


def _system(a: Array, b: Array, au: Array, xp: Any) -> tuple[Array, Array]:
    """diag(a) B diag(a) + diag(a u), whose diagonal is raised by rounding so that elimination never meets a zero, and
    which items are finite, as all entries are where the diagonal is; the others get the identity."""
    h = a[:, :, None] * (b * a[:, None, :])
    diagonal = (xp.linalg.diagonal(h) + au) * (1 + 4 * EPS64)
    h = set_diagonal(h, diagonal, xp)
    sound = xp.isfinite(xp.sum(diagonal, axis=-1))
    if not bool(xp.all(sound)):
        eye = xp.eye(h.shape[-1], dtype=xp.float64, device=device(h))
        h = xp.where(sound[:, None, None], h, eye)
    return h, sound
