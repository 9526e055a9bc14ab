"""The axioms of bargaining theory as functions: does a concept satisfy them on this problem, and if not, where.

Each check builds the changed problem that its axiom speaks of, solves it by the same concept, and compares utilities.
A failure comes with its counter-example. A pass says that this problem holds no counter-example of the kinds tried.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .concepts import catalog
from .concepts.base import Bargain
from .concepts.ideal import ideal_point
from .concepts.variations import disagreement_of, exchangeable, points_of, scaled, smaller
from .core.arrays import to_numpy
from .core.errors import InvalidProblem, NashSolveError
from .core.problem import BargainingProblem
from .core.solution import Solution
from .oracles.make import oracle
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
    d = disagreement_of(problem)
    size = np.maximum(abs(u - d), 1e-3 * float(abs(u - d).max()))
    case = _Case(problem, concept, options, found, u, size)
    return Report(concept, tuple(_TESTS[name](case) for name in chosen))


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
    lost = case.utilities - disagreement_of(case.problem)
    i = int(np.argmin(lost / case.size))
    if lost[i] >= -_RTOL * case.size[i]:
        return Finding("individual_rationality", True, "everybody gets at least the disagreement utility")
    why = f"{case.problem.player(i)} gets {-lost[i]:.4g} less than without agreement"
    return Finding("individual_rationality", False, why, case.utilities)


def symmetry(case: _Case) -> Finding:
    """Where two players can be exchanged without changing the problem, they gain the same."""
    name = "symmetry"
    w, d = to_numpy(case.problem.power), disagreement_of(case.problem)
    pairs = [
        (i, j)
        for i in range(case.problem.n)
        for j in range(i)
        if w[i] == w[j] and d[i] == d[j] and exchangeable(case.problem, i, j)
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
            changed = scaled(case.problem, c)
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
    for changed, words in smaller(case.problem, case.utilities, case.size):
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


def _larger(case: _Case) -> Any:
    """Larger sets: one more point, better for one player and no better than the ideal for the others."""
    table, d = points_of(case.problem, case.size), disagreement_of(case.problem)
    w = to_numpy(case.problem.power)
    bargain = Bargain.of(case.problem, oracle(case.problem))
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
