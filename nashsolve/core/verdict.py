"""What a certificate means: the status of every problem, what limits its accuracy, and the words for a batch."""

from __future__ import annotations

from typing import Any

from . import arrays
from .arrays import Array
from .certificate import Certificate
from .problem import BargainingProblem
from .status import Status


def decide(
    problem: BargainingProblem, proof: Certificate, worst: Array, rtol: float, stopped: str
) -> tuple[Array, str]:
    """Worst news last: each `where` overrides what stands."""
    xp = problem.xp
    if problem.n == 0:
        return xp.zeros(problem.batch_shape, dtype=xp.int64, device=arrays.device(worst)), ""
    sure = (proof.margin_lower > 0) & (worst <= rtol)
    if problem.invalid is None and bool(xp.all(sure) if sure.ndim else sure):
        return xp.zeros(worst.shape, dtype=xp.int64, device=arrays.device(worst)), ""
    rough = stopped == "precision"
    floor = proof.at_floor | _beyond_float32(problem, proof) if rough else proof.at_floor
    feasible = proof.margin_lower > 0
    near = feasible & (worst < 1) & ((worst <= 1e3 * rtol) | floor)
    reasons = {"max_iter": Status.MAX_ITER, "time": Status.MAX_TIME, "precision": Status.AMBIGUOUS}
    codes = xp.full(
        worst.shape,
        int(reasons.get(stopped, Status.NUMERICAL_ERROR)),
        dtype=xp.int64,
        device=arrays.device(worst),
    )
    codes = xp.where(near, 0 * codes + int(Status.SOLVED_INACCURATE), codes)
    codes = xp.where(floor & feasible & ~near, 0 * codes + int(Status.AMBIGUOUS), codes)
    vague = (proof.margin <= 10 * proof.resolution) & ~sure
    codes = xp.where(vague, 0 * codes + int(Status.AMBIGUOUS), codes)
    codes = xp.where(sure, 0 * codes, codes)
    none = proof.margin <= 0.32 * proof.resolution
    if problem.gram_error and problem.noise > problem.rounding:  # what is known to be wrong proves little
        share = (problem.rounding / problem.noise) ** 0.5
        opposed = xp.abs(proof.margin) <= 0.32 * share * proof.resolution
        none = opposed | (proof.margin <= -proof.resolution)
    codes = xp.where(none & ~feasible, 0 * codes + int(Status.NO_AGREEMENT), codes)
    if problem.invalid is not None:
        codes = xp.where(xp.broadcast_to(problem.invalid, codes.shape), 0 * codes + int(Status.INVALID_INPUT), codes)
    inaccurate = bool(xp.any(codes == int(Status.SOLVED_INACCURATE)))
    limited = "" if not inaccurate else ("gram_error" if problem.gram_error else "precision")
    if inaccurate and not bool(xp.any(floor & (codes == int(Status.SOLVED_INACCURATE)))):
        limited = ""
    if rough and bool(xp.any((codes == int(Status.SOLVED_INACCURATE)) | (codes == int(Status.AMBIGUOUS)))):
        limited = "precision"
    return codes, limited


def _beyond_float32(problem: BargainingProblem, proof: Certificate) -> Array:
    """Whether the residuals are such as float32 cannot see: of its rounding over the squared margin."""
    xp, w = problem.xp, problem.power
    off = xp.abs(proof.alpha * proof.gains - w)
    w = w if problem.mask is None else xp.where(problem.mask, w, 0 * w)
    off = off if problem.mask is None else xp.where(problem.mask, off, 0 * off)
    seen = xp.max(off, axis=-1) * proof.margin**2
    return seen <= (problem.n + 3) * 2.0**-23 * xp.sum(w, axis=-1)


def solved(n_iter: Any) -> dict[str, Any]:
    """How one solve ended that is SOLVED."""
    return {"status": _SOLVED, "limited_by": "", "n_iter": int(n_iter), "message": _ADVICE}


_SOLVED, _ADVICE = Status.SOLVED, Status.SOLVED.advice


def batch_message(codes: Array, problem: BargainingProblem) -> str:
    """How many items ended in each status, and what is wrong with the first invalid one."""
    import numpy as np

    values, counts = np.unique(arrays.to_numpy(codes), return_counts=True)
    parts = [f"{count} {Status(int(v)).name}" for v, count in zip(values, counts, strict=True)]
    text = f"{int(counts.sum())} problems: {', '.join(parts)}."
    return f"{text} First invalid item: {problem.invalid_reason}" if problem.invalid_reason else text


def ends(problem: BargainingProblem, codes: Any, n_iter: Any, floor: Any, rough: bool = False) -> dict[str, Any]:
    """How a solve ended, read by the host; rough: whether it ran in float32."""
    single = codes.ndim == 0
    status: Any = Status(int(codes)) if single else codes
    limited = ""
    if (codes if single else codes.any()) and bool(((codes == 1) & (floor != 0)).any()):
        limited = "gram_error" if problem.gram_error else "precision"
    if rough and bool(((codes == int(Status.SOLVED_INACCURATE)) | (codes == int(Status.AMBIGUOUS))).any()):
        limited = "precision"
    return {
        "status": status,
        "limited_by": limited,
        "n_iter": int(n_iter) if single and not isinstance(n_iter, int) else n_iter,
        "message": status.advice if single else batch_message(codes, problem),
    }
