r"""The partial agreement where no full one exists: blocked players are held at disagreement.

Let S be the players with a positive entry in some y >= 0 with G y = 0 (and d'y = 0). Every feasible point leaves
them at their disagreement utility, and some point gives all others a gain. So the others bargain over the part of
the space that S does not care about, in the ball that is left.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from .core import arrays
from .core.problem import BargainingProblem
from .core.solution import Solution


def face(problem: BargainingProblem, none: Solution, solve: Callable[..., Solution]) -> Solution:
    """Solution of the players who can gain; the blocked ones have gain zero and alpha NaN.

    `none` is the NO_AGREEMENT answer and `solve` what solves the problem of those who are left. `none` is returned
    unchanged where the blocked players cannot even be held at disagreement, or nobody is left.
    `details["blocked"]` lists the blocked players, and the certificate stays in the answer.
    """
    import numpy as np

    rows, d = _rows(problem), _disagreement(problem)
    radius = float(problem.ball_radius)
    blocked = _blocked(rows, d)
    free = ~blocked
    if not blocked.any() or not free.any():
        return none
    held, rest = rows[blocked], rows[free]
    values, basis = np.linalg.eigh(held @ held.T)
    keep = values > 1e-12 * max(values[-1], 1e-300)
    span = held.T @ basis[:, keep] / np.sqrt(values[keep])
    base = np.linalg.lstsq(held, d[blocked], rcond=None)[0] if held.any() else np.zeros(rows.shape[1])
    if np.abs(held @ base - d[blocked]).max() > 1e-9 or np.linalg.norm(base) >= radius:
        return none
    inner = rest - (rest @ span) @ span.T
    w = arrays.to_numpy(problem.power)
    part = solve(
        BargainingProblem(
            vectors=inner,
            weights=w[free],
            disagreement=d[free] - rest @ base,
            radius=float(np.sqrt(radius**2 - base @ base)),
        ),
        on_failure="return",
    )
    if not part.success:
        return none
    point = base + arrays.to_numpy(part.point)
    return _assemble(problem, none, part, rows, point, blocked)


def _assemble(
    problem: BargainingProblem, none: Solution, part: Solution, rows: Any, point: Any, blocked: Any
) -> Solution:
    import numpy as np

    xp, scale = problem.xp, arrays.to_numpy(problem.scale)
    free = ~blocked
    like = none.alpha

    def back(x: Any) -> Any:
        return xp.asarray(x, dtype=like.dtype, device=arrays.device(like))

    def spread(x: Any, fill: float) -> Any:
        out = np.full(problem.n, fill)
        out[free] = arrays.to_numpy(x)
        return out

    coefficients = np.linalg.lstsq(rows.T, point, rcond=None)[0] * scale
    gains = spread(part.gains, 0.0) / scale
    d = 0.0 if problem.disagreement is None else arrays.to_numpy(problem.disagreement)
    who = [problem.player(int(i)) for i in np.flatnonzero(blocked)]
    return replace(
        none,
        alpha=back(spread(part.alpha, np.nan) * scale),
        ball_multiplier=back(arrays.to_numpy(part.ball_multiplier)),
        coefficients=back(coefficients),
        utilities=back(gains + d),
        gains=back(gains),
        gap=part.gap,
        error_bound=xp.asarray(spread(part.error_bound, np.nan), device=arrays.device(like)),
        effective_weights=back(spread(part.effective_weights, 0.0)),
        message=f"Partial agreement: {', '.join(who)} held at disagreement; the others share what is left.",
        details={"blocked": np.flatnonzero(blocked).tolist(), "partial_status": part.status.name},
    )


def _blocked(rows: Any, d: Any) -> Any:
    """Players whom no feasible direction helps: one linear program, max sum t with rows x >= t, 0 <= t <= 1."""
    import numpy as np
    from scipy.optimize import linprog

    n, k = rows.shape
    extended = np.hstack([rows, -d[:, None]])
    cost = np.concatenate([np.zeros(k + 1), -np.ones(n)])
    bounds = [(None, None)] * k + [(0, None)] + [(0, 1)] * n
    if not d.any():
        extended = np.hstack([rows, np.zeros((n, 1))])
    found = linprog(cost, np.hstack([-extended, np.eye(n)]), np.zeros(n), bounds=bounds, method="highs")
    return found.x[k + 1 :] < 0.5 if found.status == 0 else np.zeros(n, dtype=bool)


def _rows(problem: BargainingProblem) -> Any:
    """Equilibrated players as rows: the vectors, or a square root of their Gram."""
    import numpy as np

    if problem.unit_vectors is not None:
        rows = arrays.to_numpy(problem.unit_vectors)
        return rows if rows.shape[1] <= rows.shape[0] else np.linalg.qr(rows.T, mode="reduced")[1].T
    values, basis = np.linalg.eigh(arrays.to_numpy(problem.unit_gram))
    return basis * np.sqrt(np.where(values > 4 * problem.n * arrays.EPS64 * values[-1], values, 0.0))


def _disagreement(problem: BargainingProblem) -> Any:
    import numpy as np

    d = problem.unit_disagreement
    return np.zeros(problem.n) if d is None else arrays.to_numpy(d)
