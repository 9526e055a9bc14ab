"""Choose a solver, run it, certify its answer, hand back."""

from __future__ import annotations

import math
import time
from typing import Any

from array_api_compat import is_numpy_namespace

from . import direct, on_device
from .backends import catalog
from .core import arrays
from .core.arrays import Array
from .core.certificate import certify, certify_point
from .core.errors import InvalidProblem, InvalidType, NoAgreement, SolverFailed
from .core.problem import BargainingProblem
from .core.solution import Solution, build
from .core.solver import RawAnswer, default_goal, read_precision
from .core.status import Status
from .core.verdict import batch_message
from .partial import face
from .problems.family import Family

_ON_FAILURE = ("raise", "return", "face")


def solve(
    problem: Any = None,
    *,
    concept: Any = "nash",
    solver: Any = "auto",
    start: Any = None,
    on_failure: str | None = None,
    **options: Any,
) -> Solution:
    r"""Nash bargaining solution of one problem or a batch, with its certificate.

    .. math:: \max_{\|x\| \le r} \sum_i w_i \log(g_i^\top x - d_i)

    Parameters
    ----------
    problem : BargainingProblem, a problem of another family, or a Gram matrix (..., n, n). Without one, `utilities`,
        `constraints` and the other arguments of ConvexBargainingProblem are among the options.
    concept : "nash", or another solution concept: kalai_smorodinsky, egalitarian, utilitarian, alpha_fairness,
        min_norm, equal_area, raiffa_discrete, raiffa_continuous. Their options go beside it.
    solver : name from the catalog, "auto", or an object that follows the Solver protocol. "auto" picks the
        compiled kernel where it can take the problem (on a CUDA device, `cupy`), else the closed form for a Gram of
        one or two players, else Newton's method; `solution.solver` says which.
    start : (..., n) positive, or a Solution, optional
        Warm start for alpha, such as the solution of a problem nearby; one that is merely bad (not positive, not
        finite, or no better than none) is ignored, a wrong shape raises. Used by newton and ccp.
    on_failure : "raise", "return" or "face"
        Default "raise" for one problem and "return" for a batch. "face" returns, where no agreement exists, the
        partial agreement that holds the blocked players at disagreement (one problem).
    **options
        Options of the solver, such as max_iter, time_limit, rtol, and precision ("float64", or "float32" for the
        iteration alone: its answers are judged in float64 all the same).

    Returns
    -------
    Solution

    Raises
    ------
    InvalidProblem, NoAgreement, SolverFailed, MissingExtra
    """
    if problem is None or concept != "nash" or isinstance(problem, Family):
        return _general(problem, concept, solver, start, on_failure, options)
    if on_failure not in (None, *_ON_FAILURE):
        raise InvalidProblem(f"on_failure is {on_failure!r}; choose one of {', '.join(_ON_FAILURE)}")
    solution = direct.one(problem) if solver == "auto" and start is None and not options else None
    if solution is not None:  # as it mostly is
        return solution
    if options and isinstance(solver, str):
        options = _read_options(options)
    if isinstance(solver, str) and solver in ("auto", "compiled") and options.keys() <= direct.OPTIONS:
        solution = direct.solve(problem, start, lambda part: _by_engine(part, "compiled", None, options), **options)
    if solution is None and solver in ("auto", "cupy") and options.keys() <= on_device.OPTIONS:
        solution = on_device.solve(problem, start, solver, **options)
    if solution is None:
        if not isinstance(problem, BargainingProblem):
            problem = BargainingProblem(gram=problem)
        solution = _by_engine(problem, solver, start, options)
    problem = solution.problem
    policy = on_failure or ("return" if problem.batch_shape else "raise")
    if policy == "face" and problem.batch_shape:
        raise InvalidProblem("on_failure='face' takes one problem; pick an item of the batch")
    if policy != "return" and solver == "auto" and _left_open(solution):
        options.pop("precision", None)
        solution = _by_engine(problem, "newton", start, options)
    if policy == "face" and solution.status is Status.NO_AGREEMENT:
        return face(problem, solution, solve)
    if policy != "return" and not solution.success:
        _raise(solution)
    return solution


def _left_open(solution: Solution) -> bool:
    """Whether one problem met an inactive ball on a device, whose kernel knows active ones only."""
    open_ones = Status.NUMERICAL_ERROR, Status.AMBIGUOUS
    placed = solution.solver == "cupy" and solution.problem.disagreement is not None
    return placed and not solution.problem.batch_shape and solution.status in open_ones


def _by_engine(problem: BargainingProblem, solver: Any, start: Any, options: dict[str, Any]) -> Solution:
    """One engine's answer, judged; differentiable where the problem's tensors are."""
    begin = time.perf_counter()
    engine, picked = _engine(problem, solver, options)
    reason = engine.why_not(problem)
    if reason:
        raise InvalidProblem(f"solver {engine.name!r} cannot take this problem: {reason}")
    raw = engine.solve(problem, _read_start(problem, start))
    solution = judge(problem, raw, engine.rtol, solver=picked, begin=begin)
    if problem.sources:
        from .autograd import attach

        solution = attach(solution)
    return solution


def solve_discrete(payoffs: Any, *, lotteries: bool = True, **options: Any) -> Solution:
    """Solution of a table of outcomes, array or DataFrame (outcomes, players), in one call.

    `weights`, `disagreement`, `names` and `labels` are those of OutcomeBargainingProblem; other options go to `solve`.
    """
    from .problems.outcomes import OutcomeBargainingProblem

    own = ("weights", "disagreement", "names", "labels")
    given = {name: options.pop(name) for name in own if name in options}
    return solve(OutcomeBargainingProblem(payoffs, lotteries=lotteries, **given), **options)


def _general(
    problem: Any, concept: str, solver: Any, start: Any, on_failure: str | None, options: dict[str, Any]
) -> Solution:
    """Every other concept and family; their room is loaded when it is needed."""
    from .concepts.answer import answer

    if solver != "auto" or start is not None:
        name = "start" if solver == "auto" else "solver"
        raise InvalidProblem(f"{name} has no effect here: there is one way to solve this; leave it out")
    if problem is not None and not isinstance(problem, BargainingProblem | Family):
        problem = BargainingProblem(gram=problem)
    return answer(problem, concept, on_failure, **_read_options(options))


def judge(problem: BargainingProblem, raw: RawAnswer, rtol: float | None, solver: str, begin: float) -> Solution:
    """Certificate and status of a raw answer, on the unscaled problem."""
    goal = rtol if rtol is not None else default_goal(problem.kind)
    short = direct.judge(problem, raw, goal, solver, begin)
    if short is not None:
        return short
    with arrays.quiet(problem.xp):
        inside = raw.details.get("constrained")
        if inside is None:
            proof = certify(problem, raw.alpha, raw.coefficients)
        else:
            proof = certify_point(problem, inside["point"], inside["support"])
        return build(
            problem,
            proof,
            goal,
            raw.stopped,
            n_iter=raw.n_iter,
            solver=solver,
            solve_time=time.perf_counter() - begin,
            details=raw.details,
        )


def nash_weights(gram: Array, weights: Any = None, **options: Any) -> Array:
    """The lean path of training loops: Gram (..., n, n) in, alpha (..., n) out; raises unless every item is certified.

    Where the compiled kernel takes the arrays, this is its answer under the same certificate as solve()'s, in
    microseconds. One check is lighter: that the Gram has no negative eigenvalue costs a factorisation, so here only
    its pairs of players are tested, ``A_ij**2 <= A_ii A_jj``; alpha solves ``A alpha = w / alpha`` in any case.

    Parameters
    ----------
    gram : (..., n, n) real, symmetric and positive semidefinite
    weights : (..., n) positive, optional
        Ones by default.
    **options
        As for solve(); with any of them the call takes the general path.

    Raises
    ------
    InvalidProblem, NoAgreement, SolverFailed
    """
    if not options and type(gram).__module__.startswith("torch"):
        from . import autograd

        if autograd.takes_over(gram, weights):
            return autograd.nash_weights(gram, weights)
    alpha = None if options else direct.weights(gram, weights)
    if alpha is not None:
        return alpha
    return solve(BargainingProblem(gram=gram, weights=weights), on_failure="raise", **options).alpha


def _engine(problem: BargainingProblem, solver: Any, options: dict[str, Any]) -> tuple[Any, str]:
    """The engine and how to call it in reports: auto says what it picked."""
    if not isinstance(solver, str):
        if options:
            raise InvalidProblem("options go into the solver object itself, not beside it")
        if not hasattr(solver, "solve") or not hasattr(solver, "why_not"):
            raise InvalidType(f"solver is {solver!r}; a name or an object with why_not() and solve() is needed")
        return solver, solver.name
    if solver != "auto":
        return catalog.make(solver, **options), solver
    formula = problem.vectors is None and problem.n in (1, 2) and not options and problem.mask is None
    picked = "closed_form" if formula and problem.disagreement is None else "newton"
    fits = options.keys() <= direct.OPTIONS and not catalog.missing("compiled")
    if fits and catalog.make("compiled").why_not(problem) is None:
        picked = "compiled"
    data = problem.gram if problem.vectors is None else problem.vectors
    if arrays.on_device(data) and arrays.has_cupy() and options.keys() <= on_device.OPTIONS:
        picked = "cupy" if catalog.make("cupy").why_not(problem) is None else picked
    return catalog.make(picked, **options), picked


def _read_options(options: dict[str, Any]) -> dict[str, Any]:
    """The numbers among the options checked, whole ones as int, and what is None left to its default."""
    found = {name: value for name, value in options.items() if value is not None}
    if "precision" in found:
        read_precision(found["precision"])
    for name in ("max_iter", "time_limit", "rtol", "threads"):
        if name not in found:
            continue
        value = found[name]
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise InvalidType(f"{name} is {value!r}; a number is needed")
        if not math.isfinite(value) or value < 0:
            raise InvalidProblem(f"{name} is {value}; it must be finite and not negative")
        if name in ("max_iter", "threads"):
            if value != int(value):
                raise InvalidProblem(f"{name} is {value}; a whole number is needed")
            found[name] = int(value)
        if name == "threads" and value < 1:
            raise InvalidProblem("threads is 0; at least one is needed, and None means every core")
    return found


def _read_start(problem: BargainingProblem, start: Any) -> Array | None:
    if start is None:
        return None
    xp = problem.xp
    value = start.alpha if isinstance(start, Solution) else start
    value, _ = arrays.as_float64(value, "start", xp, problem.unit_gram)
    if value.ndim < 1 or value.shape[-1] != problem.n:
        raise InvalidProblem(f"start has shape {tuple(value.shape)}; the last axis must be {problem.n} players")
    with arrays.quiet(xp):
        good = xp.isfinite(value) & (value > 0)
        if is_numpy_namespace(xp) and value.ndim == 1:
            return value if bool(good.all()) else None
        fine = xp.all(good, axis=-1)[..., None]
        return xp.where(fine, value, problem.scale * xp.ones_like(value))


def _raise(solution: Solution) -> None:
    if solution.status is Status.NO_AGREEMENT:
        raise NoAgreement(explain(solution), solution)
    raise SolverFailed(f"{solution.solver}: {explain(solution)}", solution)


def explain(solution: Solution) -> str:
    """The outcome in words: who blocks, what proves it, what to change."""
    problem = solution.problem
    status = solution.status
    if not isinstance(problem, BargainingProblem) or solution.concept != "nash":
        return solution.message
    if not isinstance(status, Status):
        return batch_message(status, problem)
    if status is not Status.NO_AGREEMENT:
        return f"{status.name}. {status.advice}{_advice_details(solution)}"
    y = arrays.to_numpy(solution.certificate).astype(float)
    who = [i for i in range(problem.n) if y[i] > 1e-9 * y.max()]
    shown = sorted(who, key=lambda i: (-round(y[i], 6), i))[:10]
    terms = " + ".join(f"{y[i]:.4g} * {problem.player(i)}" for i in shown) + (" + ..." if len(who) > 10 else "")
    if problem.disagreement is None:
        fact = (
            f"No agreement exists: {terms} = 0 (to {float(solution.margin):.1e} of their length), so whatever helps "
            "one of these players hurts another of them."
        )
        change = "Drop or change a blocking player, or use on_failure='face' to hold them at disagreement."
    else:
        need = float(solution.radius_needed)
        fact = (
            f"No agreement exists: weighing the players as {terms}, no point of the ball reaches the disagreement "
            "utilities of all of them."
        )
        if math.isfinite(need):
            change = f"A radius above {need:.6g} or a lower disagreement point is needed."
        else:
            change = "No radius is large enough: lower the disagreement point."
    return f"{fact} {change}"


def _advice_details(solution: Solution) -> str:
    reason = solution.details.get("reason")
    return f" ({reason})" if reason else ""
