"""What a solution concept receives and hands back."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from nashsolve.core.arrays import to_numpy
from nashsolve.core.certificate import Certificate
from nashsolve.core.errors import InvalidProblem
from nashsolve.core.problem import BargainingProblem
from nashsolve.core.support import certify_blocked
from nashsolve.oracles.base import Oracle, Proposal


@dataclass(frozen=True)
class Bargain:
    """A problem as concepts see it: players with weights and disagreement, and questions to the feasible set."""

    problem: Any
    oracle: Oracle
    weights: Any
    disagreement: Any

    @classmethod
    def of(cls, problem: Any, oracle: Oracle) -> Bargain:
        d = problem.disagreement
        return cls(
            problem,
            oracle,
            np.asarray(to_numpy(problem.power), dtype=float),
            np.zeros(problem.n) if d is None else np.asarray(to_numpy(d), dtype=float),
        )

    @property
    def n(self) -> int:
        return len(self.weights)

    @property
    def single(self) -> bool:
        """Single outcomes only, no lotteries."""
        return getattr(self.problem, "lotteries", True) is False


@dataclass(frozen=True)
class Agreement:
    """A proposal with the proof that it is what the concept asks for, or that there is nothing to ask for."""

    proposal: Proposal
    proof: Certificate
    details: dict[str, Any] = field(default_factory=dict)
    message: str = ""


def support_at(bargain: Bargain, direction: Any, found: Proposal) -> float:
    """The oracle's bound for a point that obeys the constraints, infinite for any other."""
    return bargain.oracle.support(direction, found) if bargain.oracle.feasible(found) else np.inf


def numpy_view(problem: Any) -> Any:
    """What the judge reads of a problem, in NumPy."""
    return _View(problem)


class _View:
    def __init__(self, problem: Any) -> None:
        self.n = problem.n
        self.power = np.asarray(to_numpy(problem.power), dtype=float)
        d = problem.disagreement
        self.disagreement = None if d is None else np.asarray(to_numpy(d), dtype=float)


def no_agreement(bargain: Bargain) -> Agreement | None:
    """The proof that no point gives everybody a gain, with the words for it; None where one does."""
    d, oracle = bargain.disagreement, bargain.oracle
    found = oracle.maxmin(d, np.ones(bargain.n))
    if found.stopped in ("infeasible", "unbounded"):
        raise InvalidProblem(f"the feasible set is {'empty' if found.stopped == 'infeasible' else 'unbounded'}")
    least = float((found.utilities - d).min())
    y = np.where(np.isfinite(found.multipliers), np.maximum(found.multipliers, 0.0), 0.0)
    if not y.sum() > 0 or not np.isfinite(least):
        return None
    y = np.where(y > 1e-9 * y.max(), y, 0.0)
    y = y / y.sum()
    y, found = _sharpened(bargain, y, found)
    upper = oracle.support(y, _scaled(found, float(np.maximum(found.multipliers, 0.0).sum()))) - float(y @ d)
    size = np.maximum(abs(found.utilities) + abs(d), oracle.spread())
    size = np.where(size > 0, size, max(float(size.max()), 1e-300))
    proof = certify_blocked(numpy_view(bargain.problem), y, upper, size, oracle.resolution)
    if float(proof.margin) > 10 * float(proof.resolution):
        return None
    if least > 0 and float(proof.margin) > 0.32 * float(proof.resolution):
        return Agreement(found, proof, {"best_gain": least}, "")
    least = 0.0 if abs(least) <= 1e-9 * float(size.max()) else least
    who = ", ".join(f"{y[i]:.4g} * {bargain.problem.player(i)}" for i in np.argsort(-y, kind="stable")[:10] if y[i] > 0)
    tight = ", ".join(bargain.problem.player(i) for i in range(bargain.n) if y[i] > 0)
    more = f" by more than {-least:.4g}{' each' if (y > 0).sum() > 1 else ''}" if least < 0 else ""
    words = (
        f"No feasible point gives every player more than the disagreement point: the largest gain that all can have at "
        f"once is {least:.4g}, limited by {tight}. The multipliers {who} prove it: weighed so, no feasible point gains "
        f"more than {upper:.4g} in sum. Lower the disagreement of {tight}{more}, or allow more."
    )
    details = {"best_gain": least, "at": found.utilities}
    return Agreement(found, proof, details, words)


def _sharpened(bargain: Bargain, y: Any, found: Proposal) -> tuple[Any, Proposal]:
    """On the ball with d = 0 the blocking weights solve a small least-squares problem, to rounding."""
    from scipy.optimize import nnls

    problem = bargain.problem
    if not isinstance(problem, BargainingProblem) or bargain.disagreement.any():
        return y, found
    rows = to_numpy(problem.unit_gram)
    values, basis = np.linalg.eigh(rows)
    unit = (basis * np.sqrt(values.clip(0))).T
    better = nnls(np.vstack([unit, np.ones((1, bargain.n))]), np.append(np.zeros(len(unit)), 1.0))[0]
    better = better * to_numpy(problem.scale)
    if not better.sum() > 0:
        return y, found
    return better / better.sum(), replace(found, evidence={})


def _scaled(found: Proposal, total: float) -> Proposal:
    """The proposal with its evidence brought to multipliers that sum to one."""
    duals = found.evidence.get("duals")
    if duals is None or isinstance(duals, list) or not total > 0:
        return found
    smaller = replace(
        duals,
        matrix=duals.matrix / total,
        equal=duals.equal / total,
        lower=duals.lower / total,
        upper=duals.upper / total,
        ball=duals.ball / total,
    )
    return replace(found, evidence={**found.evidence, "duals": smaller})


def refuse_finite(bargain: Bargain, concept: str) -> None:
    """Concepts that need a frontier do not work on single outcomes."""
    if bargain.single:
        raise InvalidProblem(f"{concept} needs a convex set: allow lotteries, or choose another concept")


def refuse_more_than_two(bargain: Bargain, concept: str) -> None:
    """Constructions on the frontier of two players."""
    refuse_finite(bargain, concept)
    if bargain.n != 2:
        raise InvalidProblem(f"{concept} is defined for two players; this problem has {bargain.n}")
