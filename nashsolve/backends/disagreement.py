r"""Interior point method for a non-zero disagreement point, where the ball may be active or inactive.

With A = L L' the problem is max sum w log(Lz - d) over |z| <= 1 (lengths in units of the radius). The
optimality conditions, with s = Lz - d and t = (1 - |z|^2) / 2, are

    L' beta = mu z,   beta s = w,   mu t = 0,   s, t, beta, mu >= 0,

followed by a primal-dual path with Mehrotra's predictor and corrector. Where the ball turns out active,
Newton's method on (beta, mu) through the Gram itself takes the answer to working accuracy.
"""

from __future__ import annotations

import time
from typing import Any

from nashsolve.core.arrays import EPS64, Array, device, matvec, to_numpy
from nashsolve.core.problem import BargainingProblem
from nashsolve.core.solver import RawAnswer

from .warm_start import active_step, near_active_ball


def solve_with_disagreement(
    problem: BargainingProblem, start: Array | None, max_iter: int, deadline: float | None
) -> RawAnswer:
    """Answer for every item of the batch; alpha = w / gains in the units of the problem."""
    if start is None:
        return _solve_cold(problem, max_iter, deadline)
    xp = problem.xp
    radius = problem.ball_radius
    ones = xp.ones((*problem.batch_shape, problem.n), dtype=xp.float64, device=device(problem.unit_gram))
    d = problem.unit_disagreement / radius[..., None] * ones
    beta = start / problem.scale * radius[..., None] * ones
    beta, mu, used, solved = near_active_ball(beta, problem.unit_gram, d, problem.power * ones, max_iter, xp)
    if bool(xp.any(solved)) and problem.unit_vectors is not None:
        beta, _ = polish(beta, mu, problem.unit_gram, problem.unit_vectors, d, problem.power * ones, xp)
    alpha = beta * problem.scale / radius[..., None]
    if bool(xp.all(solved)):
        return RawAnswer(alpha, used)
    cold = _solve_cold(problem, max_iter, deadline)
    c = cold.coefficients
    return RawAnswer(
        xp.where(solved[..., None], alpha, cold.alpha),
        xp.where(solved, used, cold.n_iter),
        cold.stopped,
        coefficients=None if c is None else xp.where(solved[..., None], xp.nan, c),
    )


def _solve_cold(problem: BargainingProblem, max_iter: int, deadline: float | None) -> RawAnswer:
    """By the central path, from its own start."""
    xp = problem.xp
    n, batch = problem.n, problem.batch_shape
    radius = problem.ball_radius
    ones = xp.ones((*batch, n), dtype=xp.float64, device=device(problem.unit_gram))
    w = problem.power * ones
    d = problem.unit_disagreement / radius[..., None] * ones
    rows = _factor(problem, xp)
    beta, mu, z, n_iter, stopped, blocked = _path(rows, d, w, max_iter, deadline, xp)
    beta, z = _polish_inside(beta, mu, z, rows, d, w, xp)
    beta, mu = polish(beta, mu, problem.unit_gram, problem.unit_vectors, d, w, xp)
    utility = matvec(rows, z, xp)
    inactive = _inactive(mu, w, xp) & ~blocked
    coefficients = None
    if bool(xp.any(inactive)):
        c = matvec(xp.linalg.pinv(problem.unit_gram), utility, xp)
        coefficients = xp.where(inactive[..., None], c, xp.nan) * problem.scale * radius[..., None]
    if bool(xp.any(blocked)):
        y = _blocking(rows * ones[..., None], d, blocked, beta)
        force = matvec(xp.matrix_transpose(rows), y, xp)
        k_value = xp.sqrt(xp.sum(force * force, axis=-1)) - xp.sum(y * d, axis=-1)
        proved = blocked & (k_value <= 1e-12 * xp.sum(y, axis=-1))
        beta = xp.where(proved[..., None], y, beta)
    alpha = beta * problem.scale / radius[..., None]
    return RawAnswer(alpha, n_iter, stopped, coefficients=coefficients)


def _factor(problem: BargainingProblem, xp: Any) -> Array:
    """L with L L' the unit Gram, from the vectors where they are known; directions without length are zero."""
    rows = problem.unit_vectors
    if rows is not None:
        if rows.shape[-1] > rows.shape[-2]:
            rows = xp.matrix_transpose(xp.linalg.qr(xp.matrix_transpose(rows), mode="reduced")[1])
        left, values, _ = xp.linalg.svd(rows, full_matrices=False)
        tiny = 4 * problem.n * EPS64 * values[..., :1]
        return left * xp.where(values > tiny, values, 0 * values)[..., None, :]
    values, basis = xp.linalg.eigh(problem.unit_gram)
    tiny = 4 * problem.n * EPS64 * values[..., -1:]
    return basis * xp.sqrt(xp.where(values > tiny, values, 0 * values))[..., None, :]


def _path(
    rows: Array, d: Array, w: Array, max_iter: int, deadline: float | None, xp: Any
) -> tuple[Array, Array, Array, Array, str, Array]:
    """Follow the central path of every item; finished items stand still."""
    across = xp.matrix_transpose(rows)
    k = rows.shape[-1]
    total = xp.sum(w, axis=-1)
    eye = xp.eye(k, dtype=xp.float64, device=device(d))
    z = xp.zeros((*d.shape[:-1], k), dtype=xp.float64, device=device(d))
    s = xp.where(-d > 0.3, -d, xp.full_like(d, 0.3))
    beta, mu, t = w / s, total, xp.full_like(total, 0.5)
    n_iter = xp.zeros(total.shape, dtype=xp.int64, device=device(d))
    live = xp.ones(total.shape, dtype=xp.bool, device=device(d))
    blocked, done = ~live, ~live
    size = xp.sqrt(xp.sum(rows * rows, axis=-1)) + xp.abs(d)
    best, stalled = xp.full_like(mu, xp.inf), xp.zeros_like(mu)
    stopped = ""
    for iteration in range(max_iter + 1):
        rp = matvec(rows, z, xp) - d - s
        rt = (1 - xp.sum(z * z, axis=-1)) / 2 - t
        force = matvec(across, beta, xp)
        rz = force - mu[..., None] * z
        spread = xp.sum(beta * size, axis=-1)
        length = xp.sqrt(xp.sum(force * force, axis=-1))
        k_value = length - xp.sum(beta * d, axis=-1)
        now_blocked = live & (k_value < -1e-9 * spread)
        rc = w - beta * s
        error = xp.maximum(xp.max(xp.abs(rc) / w, axis=-1), xp.max(xp.abs(rp) / s, axis=-1))
        error = xp.maximum(error, xp.sqrt(xp.sum(rz * rz, axis=-1)) / spread)
        error = xp.maximum(error, xp.maximum(xp.abs(rt), mu * t / total))
        stalled = xp.where(error > 0.5 * best, stalled + 1, 0 * stalled)
        best = xp.minimum(best, error)
        settled = (t < 1e-5) & (mu > 1e-5 * total)
        settled = settled | ((t > 1e-3) & (mu < 1e-8 * total))
        solved = (error < 1e-13) | ((error < 1e-6) & settled) | ((error < 1e-9) & (stalled >= 2))
        blocked = blocked | now_blocked
        done = done | (live & solved)
        live = live & ~solved & ~now_blocked & (spread < 1e14 * total)
        if not bool(xp.any(live)):
            break
        if iteration == max_iter:
            stopped = "max_iter"
            break
        if deadline is not None and time.perf_counter() > deadline:
            stopped = "time"
            break
        n_iter = xp.where(live, n_iter + 1, n_iter)
        system = _System(xp, rows, across, z, s, beta, mu, t, rp, rt, rz, live, eye)
        h, (dz, ds, db, dt, dm) = system.direction(rc)
        going = live & system.sound & xp.isfinite(h + dm + dt)
        live = live & going
        z = xp.where(going[..., None], z + h[..., None] * dz, z)
        s = xp.where(going[..., None], s + h[..., None] * ds, s)
        beta = xp.where(going[..., None], beta + h[..., None] * db, beta)
        mu = xp.where(going, mu + h * dm, mu)
        t = xp.where(going, t + h * dt, t)
    return beta, mu, z, n_iter, stopped, blocked | ~done


class _System:
    """The linearized optimality conditions at one point of the path, factored once."""

    def __init__(
        self,
        xp: Any,
        rows: Array,
        across: Array,
        z: Array,
        s: Array,
        beta: Array,
        mu: Array,
        t: Array,
        rp: Array,
        rt: Array,
        rz: Array,
        live: Array,
        eye: Array,
    ) -> None:
        self.xp, self.rows, self.across, self.z = xp, rows, across, z
        self.s, self.beta, self.mu, self.t = s, beta, mu, t
        self.rp, self.rt, self.rz = rp, rt, rz
        inner = xp.matmul(across, (beta / s)[..., None] * rows)
        ridge = mu + 1e-14 * xp.sum(xp.linalg.diagonal(inner), axis=-1)
        inner = inner + ridge[..., None, None] * eye
        self.sound = xp.all(xp.isfinite(inner), axis=(-2, -1)) & live
        self.inverse = xp.linalg.inv(xp.where(self.sound[..., None, None], inner, eye))
        self.pull = matvec(self.inverse, z, xp)
        self.pivot = t / mu + xp.sum(z * self.pull, axis=-1)

    def direction(self, rc: Array) -> tuple[Array, tuple[Array, ...]]:
        """Mehrotra's step, or the one without its second-order term where that goes further."""
        xp, mu, t = self.xp, self.mu, self.t
        predictor = self._step(rc, -mu * t)
        _, ds, db, dt, dm = predictor
        h = self._reach(predictor, 1.0)
        after = (mu + h * dm) * (t + h * dt) / (mu * t)
        centre = xp.where(after > 0, after, 0 * after) ** 3 * mu * t - mu * t
        plain = self._step(rc, centre)
        curved = self._step(rc - ds * db, centre - dm * dt)
        h_plain, h = self._reach(plain, 0.9), self._reach(curved, 0.9)
        worse = h < h_plain
        chosen = [xp.where(worse[..., None], x, y) for x, y in zip(plain[:3], curved[:3], strict=True)]
        chosen += [xp.where(worse, x, y) for x, y in zip(plain[3:], curved[3:], strict=True)]
        return xp.maximum(h, h_plain), tuple(chosen)

    def _step(self, rc: Array, rm: Array) -> tuple[Array, ...]:
        """dz, ds, dbeta, dt, dmu for residuals rc of beta s = w and rm of mu t."""
        xp, z, s, t = self.xp, self.z, self.s, self.t
        right = self.rz + matvec(self.across, (rc - self.beta * self.rp) / s, xp)
        right = right - z * ((rm - self.mu * self.rt) / t)[..., None]
        dz = matvec(self.inverse, right, xp)
        dz = dz - self.pull * (xp.sum(z * dz, axis=-1) / self.pivot)[..., None]
        ds = matvec(self.rows, dz, xp) + self.rp
        dt = self.rt - xp.sum(z * dz, axis=-1)
        return dz, ds, (rc - self.beta * ds) / s, dt, (rm - self.mu * dt) / t

    def _reach(self, step: tuple[Array, ...], fraction: float) -> Array:
        """How far the step may go: `fraction` of the way to where something turns negative."""
        xp = self.xp
        _, ds, db, dt, dm = step
        low = xp.minimum(xp.min(ds / self.s, axis=-1), xp.min(db / self.beta, axis=-1))
        low = xp.minimum(low, xp.minimum(dt / self.t, dm / self.mu))
        return xp.where(low < -fraction, -fraction / low, xp.ones_like(low))


def _polish_inside(beta: Array, mu: Array, z: Array, rows: Array, d: Array, w: Array, xp: Any) -> tuple[Array, Array]:
    """Where the ball is inactive: plain Newton in z, so that L' beta vanishes to working accuracy."""
    inside = _inactive(mu, w, xp)
    if not bool(xp.any(inside)):
        return beta, z
    across = xp.matrix_transpose(rows)
    best = xp.full_like(mu, xp.inf)
    result_z, result = z, beta
    for _ in range(5):
        s = matvec(rows, z, xp) - d
        force = matvec(across, w / s, xp)
        error = xp.max(xp.abs(force), axis=-1)
        better = inside & (error < best) & xp.all(s > 0, axis=-1)
        result_z = xp.where(better[..., None], z, result_z)
        result = xp.where(better[..., None], w / s, result)
        best = xp.where(better, error, best)
        dense = xp.matmul(across, (w / s**2)[..., None] * rows)
        sound = xp.all(xp.isfinite(dense), axis=(-2, -1)) & better
        if not bool(xp.any(sound)):
            break
        inverse = xp.linalg.pinv(xp.where(sound[..., None, None], dense, xp.zeros_like(dense)))
        z = z + matvec(inverse, force, xp)
    return result, result_z


def _inactive(mu: Array, w: Array, xp: Any) -> Array:
    """Whether the path ended with a vanishing multiplier."""
    return mu * 1e7 < xp.sum(w, axis=-1)


def polish(beta: Array, mu: Array, b: Array, vectors: Array | None, d: Array, w: Array, xp: Any) -> tuple[Array, Array]:
    """Newton on beta (B beta / mu - d) = w, beta' B beta = mu^2, kept only where the residual falls."""
    n = beta.shape[-1]

    def product(x: Array) -> Array:
        return matvec(b, x, xp) if vectors is None else matvec(vectors, matvec(xp.matrix_transpose(vectors), x, xp), xp)

    best = xp.full_like(mu, xp.inf)
    result, result_mu = beta, mu
    for _ in range(5):
        y = product(beta)
        q = xp.sum(beta * y, axis=-1) / mu**2
        pull = beta * y / mu[..., None]
        first = pull - beta * d - w
        error = xp.maximum(xp.max(xp.abs(first) / (w + beta * xp.abs(d)), axis=-1), xp.abs(q - 1))
        better = error < best
        result = xp.where(better[..., None], beta, result)
        result_mu = xp.where(better, mu, result_mu)
        best = xp.where(better, error, best)
        if not bool(xp.any(better & (error > EPS64))):
            break
        step = active_step(beta, mu, b, w, first, pull, q, ~_inactive(mu, w, xp), xp)
        step = xp.where((xp.max(xp.abs(step), axis=-1) < 0.5)[..., None], step, 0 * step)
        beta, mu = beta * (1 + step[..., :n]), mu * (1 + step[..., n])
    return result, result_mu


def _blocking(rows: Array, d: Array, blocked: Array, beta: Array) -> Array:
    """The strongest certificate: y maximising d'y / |G y|, by least distance programming (Lawson and Hanson)."""
    import numpy as np
    from array_api_compat import array_namespace
    from scipy.optimize import nnls

    flat_rows = to_numpy(rows).reshape(-1, *rows.shape[-2:])
    flat_d = to_numpy(d).reshape(-1, d.shape[-1])
    result = np.array(to_numpy(beta)).reshape(flat_d.shape)
    for i in np.flatnonzero(to_numpy(blocked)):
        system = np.vstack([flat_rows[i].T, flat_d[i]])
        target = np.zeros(system.shape[0])
        target[-1] = 1.0
        strongest = nnls(system, target)[0]
        barely = nnls(np.vstack([system, np.ones(len(flat_d[i]))]), np.append(0 * target, 1.0))[0]
        found = [y / y.sum() for y in (strongest, barely) if y.any()]
        slack = [np.linalg.norm(flat_rows[i].T @ y) - flat_d[i] @ y for y in found]
        proofs = [y for y, k in zip(found, slack, strict=True) if k <= 1e-12]
        if proofs:
            result[i] = proofs[0]
    return array_namespace(beta).asarray(result.reshape(beta.shape), device=device(beta))
