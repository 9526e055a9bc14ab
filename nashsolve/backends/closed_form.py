r"""Exact formulas: one player, two players, diagonal Gram. The oracle of the other engines.

Two players of unit length with correlation rho and k = w1 / w2: t = alpha1 / alpha2 is the positive root of
t^2 + rho (1 - k) t - k = 0, and alpha2 = sqrt(w2 / (1 + rho t)). It is solved for t and for t - 1,
and 1 + rho t is written as t (t + rho) / k where t > 1, so that nothing cancels for players who are nearly opposed.
"""

from __future__ import annotations

from dataclasses import dataclass

from nashsolve.core.arrays import Array, device, quiet
from nashsolve.core.problem import BargainingProblem
from nashsolve.core.solver import RawAnswer


@dataclass(frozen=True)
class ClosedForm:
    """Formulas for zero disagreement; no options that change an answer."""

    rtol: float | None = None
    name: str = "closed_form"

    def why_not(self, problem: BargainingProblem) -> str | None:
        if problem.disagreement is not None:
            return "it knows zero disagreement only"
        if problem.n <= 2:
            return None
        xp, b = problem.xp, problem.unit_gram
        off = b - xp.linalg.diagonal(b)[..., None] * xp.eye(problem.n, dtype=xp.float64, device=device(b))
        return "more than two players, and the Gram is not diagonal" if bool(xp.any(off != 0)) else None

    def solve(self, problem: BargainingProblem, start: Array | None = None) -> RawAnswer:
        xp, b, w = problem.xp, problem.unit_gram, problem.power
        with quiet(xp):
            norm = xp.sqrt(xp.linalg.diagonal(b))
            every = xp.ones((*problem.batch_shape, problem.n), dtype=xp.float64, device=device(b))
            alpha = xp.sqrt(w) / norm * every
            if problem.n == 2:
                rho = b[..., 0, 1] / (norm[..., 0] * norm[..., 1])
                k = w[..., 0] / w[..., 1]
                half, product = (rho * (k - 1) - 2) / 2, (1 + rho) * (1 - k)
                root = xp.sqrt(half * half - product)
                above = xp.where(half > 0, half + root, product / (half - root))
                tilt = rho * (k - 1) / 2
                far = xp.sqrt(tilt * tilt + k)
                t = xp.where(tilt > 0, tilt + far, k / (far - tilt))
                gain = xp.where(above > 0, t * (above + (1 + rho)) / k, (1 + rho) + rho * above)
                second = xp.sqrt(w[..., 1] / gain)
                opposed = ~(gain > 0) | ~(1 + rho > 0) | ~(t > 0) | (norm[..., 0] * norm[..., 1] == 0)
                alpha = xp.stack([t * second, second], axis=-1) / norm
                block = xp.stack([norm[..., 1], norm[..., 0]], axis=-1)
                block = xp.where(xp.max(block, axis=-1)[..., None] > 0, block, xp.ones_like(block))
                alpha = xp.where(opposed[..., None], block, alpha)
            elif problem.n:
                dead = xp.any(norm == 0, axis=-1)[..., None]
                alpha = xp.where(dead, xp.astype(norm == 0, xp.float64), alpha)
            alpha = alpha * problem.scale
            if problem.radius is not None:
                alpha = alpha * (xp.sqrt(xp.sum(problem.present, axis=-1)) / problem.ball_radius)[..., None]
        return RawAnswer(alpha, 0)
