r"""Starting from the solution of a problem nearby, never worse than from nowhere.

At zero disagreement the objective decides: on the optimum of its ray a start has the objective
:math:`\tfrac12 \sum_i w_i - \sum_i w_i \log a_i`, so that of two the one with the larger :math:`\sum w_i \log a_i` is
nearer to the solution, and a stale start gives way to the cold one. At non-zero disagreement Newton's method on the
optimality conditions of the active ball runs from the start; what does not converge in a few steps, or ends outside,
is left to the cold path. `python -m benchmarks.warm_start` counts the iterations saved.
"""

from __future__ import annotations

from typing import Any

from nashsolve.core.arrays import Array, device, matvec

_STEPS = 6
"""Newton steps that a start may take; one that needs more is not near, and the cold path takes about ten."""
_DONE = 1e-13
_FLOOR = 1e-9
"""The residual below which a step that no longer helps has met rounding, as in the cold path."""
_ACTIVE = 1e-5
"""The smallest multiplier, per weight, at which the ball counts as active."""


def prefer(warm: Array, cold: Array, w: Array, xp: Any) -> Array:
    """Of two starts (..., n) on the optimum of their rays, item by item the one with the better objective."""
    better = xp.sum(w * xp.log(warm), axis=-1) > xp.sum(w * xp.log(cold), axis=-1)
    return xp.where(better[..., None], warm, cold)


def near_active_ball(
    beta: Array, b: Array, d: Array, w: Array, max_iter: int, xp: Any
) -> tuple[Array, Array, Array, Array]:
    """Newton on (beta, mu) for ``beta (B beta / mu - d) = w`` and ``beta' B beta = mu^2``, radius one.

    Returns beta, mu, the steps used, and which items converged with everything positive: those are solved, since
    the conditions have one solution.
    """
    n = beta.shape[-1]
    mu = xp.sqrt(xp.sum(beta * matvec(b, beta, xp), axis=-1))
    live = xp.isfinite(mu) & (mu > 0)
    done = ~live & live
    best = xp.full_like(mu, xp.inf)
    used = xp.zeros(mu.shape, dtype=xp.int64, device=device(beta))
    steps = min(_STEPS, max_iter)
    for step in range(steps + 1):
        first, pull, q = _residual(beta, mu, b, d, w, xp)
        residual = xp.maximum(xp.max(xp.abs(first) / (w + beta * xp.abs(d)), axis=-1), xp.abs(q - 1))
        done = done | (live & ((residual < _DONE) | ((residual < _FLOOR) & (residual > 0.3 * best))))
        best = xp.minimum(best, xp.where(residual == residual, residual, best))
        live = live & ~done & xp.isfinite(residual)
        if step == steps or not bool(xp.any(live)):
            break
        move = active_step(beta, mu, b, w, first, pull, q, live, xp)
        live = live & (xp.min(move, axis=-1) > -0.9)
        used = xp.where(live, step + 1, used)
        move = xp.where(live[..., None], move, 0 * move)
        beta, mu = beta * (1 + move[..., :n]), mu * (1 + move[..., n])
    return beta, mu, used, done & (mu > _ACTIVE * xp.sum(w, axis=-1))


def _residual(beta: Array, mu: Array, b: Array, d: Array, w: Array, xp: Any) -> tuple[Array, Array, Array]:
    y = matvec(b, beta, xp)
    pull = beta * y / mu[..., None]
    return pull - beta * d - w, pull, xp.sum(beta * y, axis=-1) / mu**2


def active_step(
    beta: Array, mu: Array, b: Array, w: Array, first: Array, pull: Array, q: Array, live: Array, xp: Any
) -> Array:
    """Newton's relative step (..., n + 1) in (beta, mu), of least length where singular; zero for items not live."""
    n = beta.shape[-1]
    eye, wide = (xp.eye(k, dtype=xp.float64, device=device(beta)) for k in (n, n + 1))
    top = beta[..., :, None] * b * beta[..., None, :] / mu[..., None, None] + (w + first)[..., None, :] * eye
    corner = xp.concat([pull / mu[..., None], -q[..., None]], axis=-1)[..., None, :]
    matrix = xp.concat([xp.concat([top, -pull[..., :, None]], axis=-1), corner], axis=-2)
    right = xp.concat([-first, (1 - q)[..., None] / 2], axis=-1)
    sound = xp.all(xp.isfinite(matrix), axis=(-2, -1)) & live
    matrix = xp.where(sound[..., None, None], matrix, wide)
    try:
        step = xp.linalg.solve(matrix, right[..., None])[..., 0]
    except Exception as error:
        if "LinAlgError" not in type(error).__name__:
            raise
        step = matvec(xp.linalg.pinv(matrix), right, xp)
    return xp.where(sound[..., None], step, 0 * step)
