"""From a problem and the name of a concept to a certified Solution."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import numpy as np

from nashsolve.core import arrays
from nashsolve.core.certificate import Certificate
from nashsolve.core.errors import InvalidProblem, NoAgreement, SolverFailed
from nashsolve.core.problem import BargainingProblem
from nashsolve.core.solution import Solution, build
from nashsolve.core.status import Status
from nashsolve.oracles.make import oracle, rows_of
from nashsolve.problems.convex import ConvexBargainingProblem

from . import catalog
from .base import Agreement, Bargain

_POLICIES = ("raise", "return")
_ENGINE = ("max_iter", "time_limit")


def answer(problem: Any, concept: str, on_failure: str | None = None, **options: Any) -> Solution:
    """What `nashsolve.solve` does for every concept but Nash on a ball, and for every other family.

    Parameters
    ----------
    problem : any problem of this package; None with `utilities` and the other arguments of ConvexBargainingProblem
        among the options
    concept : name from the catalog
    on_failure : "raise" (default) or "return"
    **options : of the concept; and max_iter, time_limit, rtol
    """
    begin = time.perf_counter()
    if on_failure not in (None, *_POLICIES):
        raise InvalidProblem(
            f"on_failure is {on_failure!r}; choose one of {', '.join(_POLICIES)} ('face' is for Nash on a ball)"
        )
    if problem is None:
        problem, options = _from_arguments(options)
    rtol = options.pop("rtol", None)
    own, engine = catalog.split_options(concept, options, _ENGINE)
    asked = oracle(problem, engine)
    with arrays.quiet(np):
        found = catalog.load(concept)(Bargain.of(problem, asked), **own)
        seconds = time.perf_counter() - begin
        solution = _solution(problem, concept, found, asked.rtol if rtol is None else rtol, seconds)
    if solution.success and not isinstance(problem, BargainingProblem):
        priced = concept in ("nash", "alpha_fairness")  # elsewhere the multipliers are in other units
        duals = found.proposal.evidence.get("duals") if priced else None
        solution.details.update(problem.interpret(found.proposal.point, duals))
    if (on_failure or "raise") == "raise" and not solution.success:
        _raise(solution)
    return solution


def _from_arguments(options: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    keys = ("utilities", "constraints", "disagreement", "weights", "names", "offset", "describe")
    if "utilities" not in options:
        raise InvalidProblem("give a problem, or utilities= and constraints=")
    given = {k: options[k] for k in keys if k in options}
    return ConvexBargainingProblem(**given), {k: v for k, v in options.items() if k not in keys}


def _raise(solution: Solution) -> None:
    if solution.status is Status.NO_AGREEMENT:
        raise NoAgreement(solution.message, solution)
    raise SolverFailed(f"{solution.concept} by {solution.solver}: {solution.message}", solution)


def _solution(problem: Any, concept: str, found: Agreement, rtol: float, seconds: float) -> Solution:
    proof, details = found.proof, dict(found.details)
    proposal = found.proposal
    duals = proposal.evidence.get("duals")
    if isinstance(problem, BargainingProblem):
        proof = _in_the_ball(problem, proof, proposal)
        details["duals"] = None if duals is None else {"ball": duals.ball}
    elif duals is not None:
        details["duals"] = duals if isinstance(duals, list) else duals.to_dict()
    stopped = proposal.stopped if proposal.stopped in ("max_iter", "time") else ""
    solution = build(
        problem,
        proof,
        rtol,
        stopped,
        n_iter=proposal.n_iter,
        solver=proposal.solver,
        solve_time=seconds,
        details=details,
        concept=concept,
    )
    return replace(solution, message=found.message) if found.message else solution


def _in_the_ball(problem: BargainingProblem, proof: Certificate, proposal: Any) -> Certificate:
    """Point and coefficients in the caller's space, everything in the caller's array library."""
    rows = rows_of(problem)
    x = np.asarray(proposal.point, dtype=float)
    scale = arrays.to_numpy(problem.scale)
    unit = rows * scale[:, None]
    coefficients = (
        np.linalg.lstsq(unit.T, x, rcond=None)[0] * scale if np.isfinite(x).all() else np.full(problem.n, np.nan)
    )
    xp, device = problem.xp, arrays.device(problem.unit_gram)
    values = {
        name: value if value is None or name == "point" else xp.asarray(np.asarray(value), device=device)
        for name, value in vars(proof).items()
    }
    multiplier = proposal.evidence["duals"].ball if "duals" in proposal.evidence else np.nan
    values |= {
        "coefficients": xp.asarray(coefficients, device=device),
        "point": None,
        "ball_multiplier": xp.asarray(np.float64(multiplier), device=device),
        "radius_needed": xp.asarray(np.float64(np.nan), device=device),
    }
    return Certificate(**values)
