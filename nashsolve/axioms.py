"""The axioms of bargaining theory as functions: does a concept satisfy them on this problem, and if not, where.

Each check builds the changed problem that its axiom speaks of, solves it by the same concept, and compares utilities.
A failure comes with its counter-example. A pass says that this problem holds no counter-example of the kinds tried.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from .concepts import catalog
from .concepts.base import Bargain
from .core.arrays import to_numpy
from .core.errors import InvalidProblem, NashSolveError
from .core.problem import BargainingProblem
from .core.solution import Solution
from .oracles.make import oracle, rows_of
from .problems.convex import ConvexBargainingProblem
from .problems.family import Family, nearest
from .problems.outcomes import OutcomeBargainingProblem
from .solve import solve

_RTOL = 1e-5
"""Relative difference of utilities that counts as one: well above what the certificates leave open."""


@dataclass(frozen=True)
class Finding:
    """One axiom on one problem.

    holds : True, False, or None where the axiom says nothing here
    why : a sentence
    example : the changed problem on which the concept breaks the axiom, and its solution; None if it holds
    """

    axiom: str
    holds: bool | None
    why: str
    example: Any = None


@dataclass(frozen=True)
class Report:
    """All findings for one concept; `report["symmetry"].holds`."""

    concept: str
    findings: tuple[Finding, ...]

    def __getitem__(self, axiom: str) -> Finding:
        for finding in self.findings:
            if finding.axiom == axiom:
                return finding
        raise KeyError(axiom)

    @property
    def failed(self) -> tuple[str, ...]:
        """Names of the axioms with a counter-example."""
        return tuple(f.axiom for f in self.findings if f.holds is False)

    def __str__(self) -> str:
        words = {True: "holds", False: "FAILS", None: "says nothing"}
        lines = [f"Axioms of {self.concept} on this problem"]
        lines += [f"{f.axiom:<26}  {words[f.holds]:<12}  {f.why}" for f in self.findings]
        return "\n".join(line.rstrip() for line in lines)

    __repr__ = __str__


@dataclass(frozen=True)
class _Case:
    """A problem with its solution by the concept under test."""

    problem: Any
    concept: str
    options: dict[str, Any]
    solution: Solution
    utilities: Any
    size: Any

    def again(self, problem: Any) -> Any:
        """Utilities of the changed problem, None where it has no certified solution."""
        try:
            found = solve(problem, concept=self.concept, on_failure="return", **self.options)
        except NashSolveError:
            return None
        return to_numpy(found.utilities).astype(float) if found.success else None

    def same(self, found: Any, wanted: Any, size: Any = None) -> bool:
        scale = self.size if size is None else size
        return bool((abs(found - wanted) <= _RTOL * scale).all())


def check(problem: Any, concept: str = "nash", axioms: Sequence[str] | None = None, **options: Any) -> Report:
    """Test the axioms on a concrete problem.

    Parameters
    ----------
    problem : a ball problem, a table of outcomes with lotteries, or a convex problem with linear utilities or functions
    concept : name, with its `options`
    axioms : some of NAMES, all by default

    Returns
    -------
    Report

    Raises
    ------
    InvalidProblem, NoAgreement, SolverFailed
    """
    chosen = list(NAMES) if axioms is None else list(axioms)
    for name in chosen:
        if name not in NAMES:
            raise nearest(name, NAMES, "axiom")
    if not isinstance(problem, BargainingProblem | Family):
        problem = BargainingProblem(gram=problem)
    if getattr(problem, "lotteries", True) is False:
        raise InvalidProblem("the axioms speak of convex sets: allow lotteries")
    catalog.row(concept)
    found = solve(problem, concept=concept, **options)
    u = to_numpy(found.utilities).astype(float)
    d = _disagreement(problem)
    size = np.maximum(abs(u - d), 1e-3 * float(abs(u - d).max()))
    case = _Case(problem, concept, options, found, u, size)
    return Report(concept, tuple(_TESTS[name](case) for name in chosen))


def _disagreement(problem: Any) -> Any:
    return np.zeros(problem.n) if problem.disagreement is None else to_numpy(problem.disagreement).astype(float)


def pareto_efficiency(case: _Case) -> Finding:
    """Nobody can gain without another one losing: the largest total improvement is computed."""
    asked = oracle(case.problem)
    name = "pareto_efficiency"
    found = asked.linear(1 / case.size, case.utilities)
    if not np.isfinite(found.utilities).all():
        return Finding(name, True, "no point is at least as good for everybody but the agreement itself")
    more = float(((found.utilities - case.utilities) / case.size).max())
    if more <= 30 * _RTOL:
        return Finding(name, True, "no feasible point is better for somebody and as good for the others")
    i = int(np.argmax((found.utilities - case.utilities) / case.size))
    who = case.problem.player(i)
    why = f"{who} could have {found.utilities[i]:.4g} instead of {case.utilities[i]:.4g}, and nobody would lose"
    return Finding(name, False, why, found.utilities)


def individual_rationality(case: _Case) -> Finding:
    """Nobody gets less than without agreement."""
    lost = case.utilities - _disagreement(case.problem)
    i = int(np.argmin(lost / case.size))
    if lost[i] >= -_RTOL * case.size[i]:
        return Finding("individual_rationality", True, "everybody gets at least the disagreement utility")
    why = f"{case.problem.player(i)} gets {-lost[i]:.4g} less than without agreement"
    return Finding("individual_rationality", False, why, case.utilities)


def symmetry(case: _Case) -> Finding:
    """Where two players can be exchanged without changing the problem, they gain the same."""
    name = "symmetry"
    w, d = to_numpy(case.problem.power), _disagreement(case.problem)
    pairs = [
        (i, j)
        for i in range(case.problem.n)
        for j in range(i)
        if w[i] == w[j] and d[i] == d[j] and _exchangeable(case.problem, i, j)
    ]
    if not pairs:
        return Finding(name, None, "no two players can be exchanged without changing the problem")
    for i, j in pairs:
        if abs(case.utilities[i] - case.utilities[j]) > _RTOL * max(case.size[i], case.size[j]):
            who = f"{case.problem.player(j)} and {case.problem.player(i)}"
            why = f"{who} can be exchanged, but get {case.utilities[j]:.4g} and {case.utilities[i]:.4g}"
            return Finding(name, False, why, (j, i))
    return Finding(name, True, f"{len(pairs)} exchangeable pair{'s' if len(pairs) > 1 else ''} gain the same")


def scale_covariance(case: _Case) -> Finding:
    """Other units of a player's utility change that player's numbers and nothing else."""
    name = "scale_covariance"
    for i in range(case.problem.n):
        for factor in (10.0, 0.2):
            c = np.ones(case.problem.n)
            c[i] = factor
            changed = _scaled(case.problem, c)
            found = case.again(changed)
            if found is not None and not case.same(found, c * case.utilities, c * case.size):
                who = case.problem.player(i)
                why = (
                    f"with the utility of {who} measured in units {1 / factor:g} times as large, the agreement gives "
                    f"{_list(found / c)} in the old units instead of {_list(case.utilities)}"
                )
                return Finding(name, False, why, changed)
    return Finding(name, True, "other units for one player at a time change nothing else")


def independence(case: _Case) -> Finding:
    """Taking away points that were not agreed upon does not change the agreement."""
    name = "independence"
    for changed, words in _smaller(case):
        found = case.again(changed)
        if found is not None and not case.same(found, case.utilities):
            why = f"without {words} the agreement moves from {_list(case.utilities)} to {_list(found)}"
            return Finding(name, False, why, changed)
    return Finding(name, True, "taking away points that were not chosen changes nothing")


def monotonicity(case: _Case) -> Finding:
    """A larger set in which only one player's best grows does not harm that player (individual monotonicity)."""
    name = "monotonicity"
    for changed, i, words in _larger(case):
        found = case.again(changed)
        if found is not None and found[i] < case.utilities[i] - _RTOL * case.size[i]:
            who = case.problem.player(i)
            why = f"with {words}, {who} gets {found[i]:.4g} instead of {case.utilities[i]:.4g}"
            return Finding(name, False, why, changed)
    return Finding(name, True, "more for one player, with the others' best unchanged, never harms that player")


def _list(values: Any) -> str:
    return "(" + ", ".join(f"{v:.4g}" for v in values) + ")"


def _exchangeable(problem: Any, i: int, j: int) -> bool:
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


def _scaled(problem: Any, c: Any) -> Any:
    """The problem with every utility and disagreement multiplied by c."""
    d = c * _disagreement(problem)
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


def _as_table(case: _Case, many: int = 24) -> Any:
    """Points (K, n) of the feasible set: the outcomes, or where it is supported in seeded directions, and d."""
    problem = case.problem
    if isinstance(problem, OutcomeBargainingProblem):
        return problem.payoffs
    rng = np.random.default_rng(0)
    directions = [*np.eye(problem.n), *(rng.dirichlet(np.ones(problem.n), many) / case.size)]
    asked = oracle(problem)
    found = [asked.linear(np.asarray(y)).utilities for y in directions]
    return np.array([u for u in found if np.isfinite(u).all()])


def _smaller(case: _Case) -> Any:
    """Subsets that keep the agreement and d: cuts below the agreement's best alternatives, one player at a time."""
    table, d = _as_table(case), _disagreement(case.problem)
    for i in range(case.problem.n):
        top = float(table[:, i].max())
        for share in (0.02, 0.5, 0.999):
            cap = case.utilities[i] + share * (top - case.utilities[i])
            if not cap > case.utilities[i] + 1e-9 * case.size[i] or cap < d[i]:
                continue
            changed = _capped(case, table, i, cap)
            yield changed, f"what gives {case.problem.player(i)} more than {cap:.4g}"


def _capped(case: _Case, table: Any, i: int, cap: float) -> Any:
    """The hull of known points, the agreement and d, cut at u_i <= cap."""
    d, w = _disagreement(case.problem), to_numpy(case.problem.power)
    points = np.vstack([table, case.utilities, d])
    keep = points[:, i] <= cap
    cut = [points[keep]]
    for outside in points[~keep]:
        inner = points[keep]
        t = (cap - inner[:, i]) / (outside[i] - inner[:, i])
        cut.append(inner + t[:, None] * (outside - inner))
    return OutcomeBargainingProblem(np.vstack(cut), weights=w, disagreement=d, names=case.problem.names)


def _larger(case: _Case) -> Any:
    """Larger sets: one more point, better for one player and no better than the ideal for the others."""
    table, d = _as_table(case), _disagreement(case.problem)
    w = to_numpy(case.problem.power)
    bargain = Bargain.of(case.problem, oracle(case.problem))
    from .concepts.ideal import ideal_point

    ideal = ideal_point(bargain)
    small = OutcomeBargainingProblem(
        np.vstack([table, case.utilities, d]), weights=w, disagreement=d, names=case.problem.names
    )
    base = case.again(small)
    if base is None or not case.same(base, case.utilities):
        return  # the sampled points do not carry the agreement: nothing can be concluded from them
    for i in range(case.problem.n):
        for j in range(case.problem.n):
            if i == j:
                continue
            for share in (0.3, 0.6, 1.0):
                point = case.utilities + 0.0
                point[j] = ideal[j]
                point[i] = case.utilities[i] + (share - 0.5) * (ideal[i] - case.utilities[i])
                point = np.where(np.arange(case.problem.n) == i, point, np.minimum(point, ideal))
                if point[i] <= d[i]:
                    continue
                yield (
                    OutcomeBargainingProblem(
                        np.vstack([small.payoffs, point]), weights=w, disagreement=d, names=case.problem.names
                    ),
                    i,
                    f"the point {_list(point)} as well",
                )


_TESTS: dict[str, Callable[[_Case], Finding]] = {
    "pareto_efficiency": pareto_efficiency,
    "individual_rationality": individual_rationality,
    "symmetry": symmetry,
    "scale_covariance": scale_covariance,
    "independence": independence,
    "monotonicity": monotonicity,
}
NAMES = tuple(_TESTS)
