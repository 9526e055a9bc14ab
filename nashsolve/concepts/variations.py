"""Changed problems, of which the axioms speak: other units, subsets, and players who can be exchanged."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from nashsolve.core.arrays import to_numpy
from nashsolve.core.problem import BargainingProblem
from nashsolve.oracles.make import oracle, rows_of
from nashsolve.problems.convex import ConvexBargainingProblem
from nashsolve.problems.outcomes import OutcomeBargainingProblem


def disagreement_of(problem: Any) -> Any:
    """(n,) in NumPy, zeros where none was given."""
    return np.zeros(problem.n) if problem.disagreement is None else to_numpy(problem.disagreement).astype(float)


def exchangeable(problem: Any, i: int, j: int) -> bool:
    """Whether the data themselves are unchanged by the exchange: sufficient, and decidable."""
    order = np.arange(problem.n)
    order[[i, j]] = j, i
    if isinstance(problem, OutcomeBargainingProblem):
        swapped, table = problem.payoffs[:, order], problem.payoffs
        return bool((swapped[np.lexsort(swapped.T)] == table[np.lexsort(table.T)]).all())
    if isinstance(problem, BargainingProblem):
        gram = to_numpy(problem.unit_gram) / np.outer(to_numpy(problem.scale), to_numpy(problem.scale))
        return bool((abs(gram[np.ix_(order, order)] - gram) <= 1e-12 * abs(gram).max()).all())
    if isinstance(problem, ConvexBargainingProblem) and problem.form == "linear":
        return _same_polytope(problem, order)
    return False


def _same_polytope(problem: ConvexBargainingProblem, order: Any) -> bool:
    """Utilities are the coordinates, and the constraints do not tell the two apart."""
    p, d = problem.n, problem.constraints
    if problem.utilities.shape != (p, p) or not (problem.utilities == np.eye(p)).all():
        return False
    rows = np.column_stack([d.matrix, d.limit])
    swapped = np.column_stack([d.matrix[:, order], d.limit])
    equal = np.column_stack([d.equal, d.total])
    turned = np.column_stack([d.equal[:, order], d.total])
    return bool(
        (d.lower[order] == d.lower).all()
        and (d.upper[order] == d.upper).all()
        and (rows[np.lexsort(rows.T)] == swapped[np.lexsort(swapped.T)]).all()
        and (equal[np.lexsort(equal.T)] == turned[np.lexsort(turned.T)]).all()
    )


def scaled(problem: Any, c: Any) -> Any:
    """The problem with every utility and disagreement multiplied by c."""
    d = c * disagreement_of(problem)
    if isinstance(problem, OutcomeBargainingProblem):
        return replace(problem, payoffs=problem.payoffs * c, disagreement=d)
    if isinstance(problem, BargainingProblem):
        rows = rows_of(problem) * c[:, None]
        return _ball_of(problem, rows, d)
    if problem.form == "linear":
        return replace(problem, utilities=problem.utilities * c[:, None], offset=problem.offset * c, disagreement=d)
    scaled = [_times(u, float(k)) for u, k in zip(problem.utilities, c, strict=True)]
    limits = problem.constraints if problem.form == "functions" else list(problem.constraints)
    return replace(problem, utilities=scaled, constraints=limits, disagreement=d)


def _times(utility: Any, factor: float) -> Any:
    if callable(utility) and not type(utility).__module__.startswith("cvxpy"):
        return lambda x: factor * utility(x)
    return factor * utility


def _ball_of(problem: BargainingProblem, rows: Any, d: Any) -> BargainingProblem:
    return BargainingProblem(
        vectors=rows,
        weights=to_numpy(problem.power),
        disagreement=d,
        radius=float(problem.ball_radius),
        names=problem.names,
    )


def points_of(problem: Any, size: Any, many: int = 24) -> Any:
    """Points (K, n) of the feasible set: the outcomes, or where it is supported in seeded directions, and d."""
    if isinstance(problem, OutcomeBargainingProblem):
        return problem.payoffs
    rng = np.random.default_rng(0)
    directions = [*np.eye(problem.n), *(rng.dirichlet(np.ones(problem.n), many) / size)]
    asked = oracle(problem)
    found = [asked.linear(np.asarray(y)).utilities for y in directions]
    return np.array([u for u in found if np.isfinite(u).all()])


def smaller(problem: Any, utilities: Any, size: Any) -> Any:
    """Subsets that keep the agreement and d: cuts below the agreement's best alternatives, one player at a time."""
    table, d = points_of(problem, size), disagreement_of(problem)
    for i in range(problem.n):
        top = float(table[:, i].max())
        for share in (0.02, 0.5, 0.999):
            cap = utilities[i] + share * (top - utilities[i])
            if not cap > utilities[i] + 1e-9 * size[i] or cap < d[i]:
                continue
            changed = _capped(problem, utilities, table, i, cap)
            yield changed, f"what gives {problem.player(i)} more than {cap:.4g}"


def _capped(problem: Any, utilities: Any, table: Any, i: int, cap: float) -> Any:
    """The hull of known points, the agreement and d, cut at u_i <= cap."""
    d, w = disagreement_of(problem), to_numpy(problem.power)
    points = np.vstack([table, utilities, d])
    keep = points[:, i] <= cap
    cut = [points[keep]]
    for outside in points[~keep]:
        inner = points[keep]
        t = (cap - inner[:, i]) / (outside[i] - inner[:, i])
        cut.append(inner + t[:, None] * (outside - inner))
    return OutcomeBargainingProblem(np.vstack(cut), weights=w, disagreement=d, names=problem.names)
