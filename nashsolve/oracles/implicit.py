r"""Derivatives of the Nash solution by its optimality conditions.

On the ball with multiplier :math:`\lambda` the conditions are :math:`A \alpha / \lambda = d + w / \alpha` and
:math:`\alpha^\top A \alpha = \lambda^2 r^2`. Elsewhere, with the constraints G that hold with equality, they are
:math:`J^\top (w / s) = G^\top \nu` and :math:`G x = b`; both are differentiated and solved for the movement of x.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from nashsolve.core.arrays import to_numpy
from nashsolve.core.problem import BargainingProblem
from nashsolve.core.solution import Solution
from nashsolve.problems.convex import ConvexBargainingProblem
from nashsolve.problems.outcomes import OutcomeBargainingProblem

from .make import oracle

_ACTIVE = 1e-7
"""Slack, relative, below which a constraint counts as tight, and multipliers below which it counts as idle."""


@dataclass(frozen=True)
class Derivatives:
    """Derivatives of the utilities (n,).

    disagreement, weights : (n, n), entry [i, j] for u_i by player j's number
    data : by name, n and the shape of the data: "gram" and "vectors", "payoffs", or "utilities" and "limit"
    smooth : False in a kink, where the derivatives hold on one side only
    method : "implicit" or "differences"
    """

    disagreement: Any
    weights: Any
    data: dict[str, Any]
    smooth: bool
    method: str = "implicit"


def ball_derivatives(problem: BargainingProblem, solution: Solution) -> Derivatives:
    """By the bordered system of alpha and lambda, on equilibrated players."""
    n = problem.n
    scale = to_numpy(problem.scale).astype(float)
    gram = to_numpy(problem.unit_gram).astype(float)
    w, radius = to_numpy(problem.power).astype(float), float(problem.ball_radius)
    a = to_numpy(solution.alpha).astype(float) / scale
    multiplier = float(solution.ball_multiplier)
    pull = gram @ a
    system = np.zeros((n + 1, n + 1))
    system[:n, :n] = gram / multiplier + np.diag(w / a**2)
    system[:n, n] = -pull / multiplier**2
    system[n, :n] = pull
    system[n, n] = -multiplier * radius**2
    inverse = np.linalg.inv(system)
    slope = -w / a**2
    move = slope[:, None] * inverse[:n]  # what a right-hand side does to w / alpha
    by_d = (np.eye(n) + move[:, :n]) * scale / scale[:, None]
    by_w = (np.diag(1 / a) + move[:, :n] / a) / scale[:, None]
    free_radius = problem.radius is None
    if free_radius:  # the natural radius moves with the weights
        by_w += move[:, n][:, None] * (multiplier**2 / 2) / scale[:, None]
    # d gram enters as -dA a / lambda above and -a' dA a / 2 below
    outer = -np.einsum("ip,q->ipq", move[:, :n], a) / multiplier - move[:, n][:, None, None] * np.outer(a, a) / 2
    by_gram = (outer + outer.transpose(0, 2, 1)) / 2 * np.outer(scale, scale) / scale[:, None, None]
    data = {"gram": by_gram}
    if problem.vectors is not None and problem.metric is None:
        data["vectors"] = 2 * by_gram @ to_numpy(problem.vectors).astype(float)
    return Derivatives(by_d, by_w, data, smooth=True)


def table_derivatives(problem: OutcomeBargainingProblem, solution: Solution) -> Derivatives:
    """On the outcomes that are played; the others do not matter for small changes."""
    pi = to_numpy(solution.point)
    s, w = problem_gains(solution), to_numpy(problem.power)
    reduced = w.sum() - problem_shift(problem) @ (w / s)
    played = pi > _ACTIVE
    idle = ~played & (reduced < _ACTIVE * w.sum())
    rows = problem.payoffs[played]
    solve = _system(rows.T, w / s**2, np.zeros((len(rows), len(rows))), np.ones((1, len(rows))))
    by_d, by_w = _by_players(solve, rows.T, w, s)
    n = problem.n
    by_data = np.zeros((n, *problem.payoffs.shape))
    for place, k in enumerate(np.flatnonzero(played)):
        for j in range(n):
            e = np.zeros(len(rows))
            e[place] = w[j] / s[j]
            e -= rows[:, j] * (w[j] / s[j] ** 2) * pi[k]
            du = rows.T @ solve(e, np.zeros(1))
            du[j] += pi[k]
            by_data[:, k, j] = du
    return Derivatives(by_d, by_w, {"payoffs": by_data}, smooth=not idle.any())


def problem_gains(solution: Solution) -> Any:
    """Gains in float64."""
    return to_numpy(solution.gains).astype(float)


def problem_shift(problem: OutcomeBargainingProblem) -> Any:
    """Payoffs above disagreement."""
    return problem.payoffs - problem.disagreement


def domain_derivatives(problem: ConvexBargainingProblem, solution: Solution) -> Derivatives:
    """With the bounds, rows and ball that hold with equality at the agreement."""
    asked: Any = oracle(problem)
    domain, x = problem.constraints, to_numpy(solution.point)
    w, s = to_numpy(problem.power), problem_gains(solution)
    _, jac, bend = asked._utilities(x)
    curve = np.zeros((len(x), len(x))) if bend is None else -bend(w / s)
    duals = solution.duals
    tight, smooth = [], True
    top = max(float(np.max(v, initial=0.0)) for v in (duals["matrix"], duals["lower"], duals["upper"], [duals["ball"]]))
    eye = np.eye(len(x))
    groups = (
        ("matrix", domain.matrix, domain.limit - domain.matrix @ x, duals["matrix"], abs(domain.limit)),
        ("lower", -eye, x - domain.lower, duals["lower"], abs(x)),
        ("upper", eye, domain.upper - x, duals["upper"], abs(x)),
    )
    rows, limit_of = [domain.equal], {}
    count = len(domain.equal)
    for name, normals, slack, y, size in groups:
        near = slack <= _ACTIVE * (1 + np.where(np.isfinite(size), size, 0.0))
        held = near & (y > _ACTIVE * top)
        smooth = smooth and not bool((near & ~held).any())
        rows.append(normals[held])
        if name == "matrix":
            limit_of = {int(k): count + i for i, k in enumerate(np.flatnonzero(held))}
        count += int(held.sum())
        tight.append(held)
    if duals["ball"] > _ACTIVE * top and domain.radius is not None:
        curve = curve + duals["ball"] * eye
        rows.append(x[None, :])
        count += 1
    normals = np.vstack(rows)
    solve = _system(jac, w / s**2, curve, normals)
    by_d, by_w = _by_players(solve, jac, w, s, count)
    n = problem.n
    by_limit = np.zeros((n, len(domain.limit)))
    for k, place in limit_of.items():
        e = np.zeros(count)
        e[place] = 1.0
        by_limit[:, k] = jac @ solve(np.zeros(len(x)), e)
    data = {"limit": by_limit}
    if problem.form == "linear":
        data["utilities"] = _by_utilities(solve, jac, w, s, x, count)
    return Derivatives(by_d, by_w, data, smooth)


def _by_utilities(solve: Any, jac: Any, w: Any, s: Any, x: Any, count: int) -> Any:
    n, p = jac.shape
    found = np.zeros((n, n, p))
    for j in range(n):
        for k in range(p):
            e = -jac[j] * (w[j] / s[j] ** 2) * x[k]
            e[k] += w[j] / s[j]
            du = jac @ solve(e, np.zeros(count))
            du[j] += x[k]
            found[:, j, k] = du
    return found


def _by_players(solve: Any, jac: Any, w: Any, s: Any, count: int = 1) -> tuple[Any, Any]:
    zero = np.zeros(count)
    by_d = np.column_stack([jac @ solve(jac[j] * w[j] / s[j] ** 2, zero) for j in range(len(w))])
    by_w = np.column_stack([jac @ solve(jac[j] / s[j], zero) for j in range(len(w))])
    return by_d, by_w


def _system(jac: Any, weight: Any, curve: Any, normals: Any) -> Any:
    """Movement of x when the gradient of the welfare grows by `push` and the right-hand sides of the rows by `shift`.

    Least squares, since x need not be unique where the utilities are.
    """
    p, k = jac.shape[1], len(normals)
    hessian = (jac.T * weight) @ jac + curve
    size = np.sqrt(max(float(abs(hessian).max()), 1e-300))
    whole = np.block([[hessian / size**2, normals.T], [normals, np.zeros((k, k))]])
    inverse = np.linalg.pinv(whole, rcond=1e-12)

    def solve(push: Any, shift: Any) -> Any:
        return (inverse @ np.concatenate([push / size**2, shift]))[:p]

    return solve
