"""What surrounds an iteration at zero disagreement: its start, and what becomes of its end.

The engines that iterate on ``a * (B a) = w`` share it: a start on the optimum of its ray, a diverged direction made
into a certificate that no agreement exists, and corrections through the vectors where they are known.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from array_api_compat import is_numpy_namespace

from nashsolve.core.arrays import EPS64, Array, device, matvec, put_rows, spd_factor, spd_solve
from nashsolve.core.problem import BargainingProblem
from nashsolve.core.solver import RawAnswer

from . import compensated
from .warm_start import prefer

_LOSS = 1e3
"""How much longer the vectors with their multipliers are than their sum, from where plain sums lose too many digits."""

_LEFT = 1e-6
"""Share of the largest below which a projection has left nothing to a player."""

Steps = Callable[[Array, Array, Array, Array, float, bool], tuple[Array, Any, str]]
"""(B, w, a, sum w, squared margin at which to give up, whether a is the cold start) -> (a, iterations, why it stopped
early or "")."""


def solve_at_zero(problem: BargainingProblem, start: Array | None, steps: Steps, grain: float = 0.0) -> RawAnswer:
    """The answer that `steps` finds for the equilibrated Gram, or the direction in which it diverged.

    grain : squared margin, for each player, at which the iteration gives up, where it is coarser than float64
    """
    xp, b, w = problem.xp, problem.unit_gram, problem.power
    if start is None and problem.white is None and problem.batch_shape == () and is_numpy_namespace(xp):
        found = _solve_one(problem, steps, grain)
        if found is not None:
            return found
    total = xp.sum(w, axis=-1)
    a = xp.ones((*problem.batch_shape, problem.n), dtype=xp.float64, device=device(b))
    if start is not None:
        scaled = start / problem.scale
        fine = xp.min(scaled, axis=-1) > 1e-30 * xp.max(scaled, axis=-1)
        a = xp.where(
            (fine & xp.all(xp.isfinite(scaled), axis=-1))[..., None],
            scaled / xp.max(scaled, axis=-1)[..., None],
            a,
        )
    diagonal = xp.linalg.diagonal(b)
    dead = xp.min(diagonal, axis=-1) <= 0
    given = b
    if bool(xp.any(dead)):
        b = xp.where(dead[..., None, None], xp.eye(problem.n, dtype=xp.float64, device=device(b)), b)
    if start is not None:
        a = prefer(_to_ray(a, b, total, xp), _to_ray(xp.ones_like(a), b, total, xp), w, xp)
    noise = problem.n * grain + (problem.noise if problem.white is None else problem.n * EPS64)
    a, n_iter, stopped = steps(b, w, a, total, noise, start is None)
    spread = xp.sum(a * xp.sqrt(diagonal), axis=-1)
    lost = ~(total >= noise * spread**2) | dead
    if bool(xp.any(lost)):
        y = _block(a, given, xp, grain)
        y = y if problem.white is None else _closer(y, problem, xp)
        a = xp.where(lost[..., None], y, a)
    if problem.white is not None and not bool(xp.all(lost)):
        a = _refine(a, lost, problem, xp)
    if start is not None and (stopped == "max_iter" or stopped == "numerical" or bool(xp.any(lost))):
        return solve_at_zero(problem, None, steps, grain)
    alpha = a * problem.scale
    if problem.radius is not None:
        alpha = alpha * (xp.sqrt(xp.sum(problem.present, axis=-1)) / problem.ball_radius)[..., None]
    return RawAnswer(alpha, n_iter, stopped)


def _solve_one(problem: BargainingProblem, steps: Steps, grain: float) -> RawAnswer | None:
    """One Gram in NumPy from the cold start: the same bits in half the calls. None where a player has no length."""
    import numpy as np

    b, w, noise = problem.unit_gram, problem.power, problem.noise + problem.n * grain
    diagonal, total = b.diagonal(), np.add.reduce(w)
    if not np.minimum.reduce(diagonal) > 0:
        return None
    a, n_iter, stopped = steps(b, w, np.ones(problem.n), total, noise, True)
    if not total >= noise * np.add.reduce(a * np.sqrt(diagonal)) ** 2:
        a = _block(a, b, np, grain)
    alpha = a * problem.scale
    if problem.radius is not None:
        alpha = alpha * (np.sqrt(np.add.reduce(problem.present)) / problem.ball_radius)
    return RawAnswer(alpha, n_iter, stopped)


def _to_ray(a: Array, b: Array, total: Array, xp: Any) -> Array:
    """The optimum on the ray of a: a' B a = sum w. Leaves a alone where B is zero along it."""
    q = xp.sum(a * matvec(b, a, xp), axis=-1)
    factor = xp.sqrt(total / q)
    good = xp.isfinite(factor) & (factor > 0)
    return a * xp.where(good, factor, xp.ones_like(factor))[..., None]


def _block(a: Array, b: Array, xp: Any, grain: float) -> Array:
    """Sharpen a diverged direction into a certificate: its projection on the null space of its own players.

    An iteration of coarser `grain` gives up earlier, and its direction still holds players who do not belong: those to
    whom the projection leaves nothing go, and the others are projected once more.
    """
    hat = a / xp.max(a, axis=-1)[..., None]
    zero = xp.linalg.diagonal(b) <= 0
    hat = xp.where(xp.any(zero, axis=-1)[..., None], xp.astype(zero, xp.float64), hat)
    hat = xp.where(hat == hat, hat, xp.zeros_like(hat))
    y = xp.where(hat > 1e-5, hat, xp.zeros_like(hat))
    sharp, fine = _project(y, b, xp)
    if grain > 0.0 and not bool(xp.all(fine)):
        few = xp.where(sharp > _LEFT * xp.max(sharp, axis=-1)[..., None], y, xp.zeros_like(y))
        again, good = _project(few, b, xp)
        sharp, fine = xp.where(fine[..., None], sharp, again), fine | good
    return xp.where(fine[..., None], sharp, y)


def _closer(y: Array, problem: BargainingProblem, xp: Any) -> Array:
    """A certificate y >= 0 moved by its last digits to where the vectors themselves, not their Gram, cancel."""
    strong = y > 0
    both = strong[..., :, None] & strong[..., None, :]
    b = problem.unit_gram
    off = xp.where(strong, problem.through_vectors(y), xp.zeros_like(y))
    step = matvec(xp.linalg.pinv(xp.where(both, b, xp.zeros_like(b)), rtol=1e-12), off, xp)
    step = xp.where(strong, step, xp.zeros_like(step))
    small = xp.max(xp.abs(step), axis=-1) <= _LEFT * xp.min(xp.where(strong, y, xp.ones_like(y)), axis=-1)
    return xp.where(small[..., None], y - step, y)


def _project(y: Array, b: Array, xp: Any) -> tuple[Array, Array]:
    """y >= 0 on the null space of the players that it holds, and whether they all keep something."""
    strong = y > 0
    both = strong[..., :, None] & strong[..., None, :]
    eye = xp.eye(b.shape[-1], dtype=xp.float64, device=device(b))
    values, basis = xp.linalg.eigh(xp.where(both, b * xp.ones_like(both, dtype=xp.float64), eye))
    null = xp.astype(values <= 1e-12, xp.float64)
    inner = matvec(xp.matrix_transpose(basis), y, xp) * null
    sharp = matvec(basis, inner, xp)
    fine = xp.all(xp.where(strong, sharp > 0, True), axis=-1) & (xp.sum(null, axis=-1) > 0)
    return xp.where(strong, sharp, xp.zeros_like(sharp)), fine


def _refine(a: Array, lost: Array, problem: BargainingProblem, xp: Any) -> Array:
    """Newton corrections with the residual taken through the vectors: their accuracy, not that of their Gram.

    Where the vectors nearly cancel, the residual is computed with compensated products. The steps are judged by their
    size.
    """
    b, w = problem.unit_gram, problem.power
    eye = xp.eye(problem.n, dtype=xp.float64, device=device(b))
    h = a[..., :, None] * b * a[..., None, :] + w[..., None, :] * eye
    factor = spd_factor(xp.where(lost[..., None, None], eye, h), xp)
    best = xp.full_like(a[..., 0], 0.5)
    opposed = ~lost & (xp.sum(a, axis=-1) > _LOSS * xp.sqrt(xp.sum(w, axis=-1)))
    opposed = opposed if bool(xp.any(opposed)) else None
    for _ in range(4):
        residual = w - a * problem.through_vectors(a)
        if opposed is not None:
            residual = _sharper(residual, opposed, problem.unit_vectors, a, w, xp)
        if problem.mask is not None:
            residual = xp.where(problem.mask, residual, xp.zeros_like(residual))
        step = spd_solve(factor, residual, xp)
        size = xp.max(xp.abs(step), axis=-1)
        better = (size < 0.5 * best) & ~lost
        a = xp.where(better[..., None], a * (1 + step), a)
        best = xp.where(better, size, 0 * best)
        if not bool(xp.any(better & (size > 4 * EPS64))):
            break
    return a


def _sharper(residual: Array, items: Array, rows: Array, a: Array, w: Array, xp: Any) -> Array:
    """The residual (..., n) with that of some items, a mask (...), as if in twice the working precision."""
    shape, n = tuple(a.shape), a.shape[-1]
    w = xp.broadcast_to(w, shape)
    if len(shape) == 1:
        return compensated.residual(rows, a, w, xp)
    some = xp.nonzero(xp.reshape(items, (-1,)))[0]
    rows = xp.reshape(xp.broadcast_to(rows, (*shape, rows.shape[-1])), (-1, n, rows.shape[-1]))
    mine, power = (xp.take(xp.reshape(v, (-1, n)), some, axis=0) for v in (a, w))
    fresh = compensated.residual(xp.take(rows, some, axis=0), mine, power, xp)
    return xp.reshape(put_rows(xp.reshape(residual, (-1, n)), some, fresh, xp), shape)
