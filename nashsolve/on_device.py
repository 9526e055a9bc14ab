"""The short way on a CUDA device: a Gram in CuPy or torch goes to the kernel and the Solution comes back unread.

Nothing waits for the device: inputs are checked, statuses set and unanswered items blanked there. Without CuPy, and for
what the kernel does not take, the general path solves on the device by its array library.
"""

from __future__ import annotations

import time
import warnings
from typing import Any

from .backends import cupy_batched
from .core import arrays
from .core.arrays import Array
from .core.errors import InvalidProblem
from .core.planes import from_planes
from .core.problem import BargainingProblem
from .core.solution import Solution
from .core.solver import default_goal, read_precision

OPTIONS = frozenset({"max_iter", "rtol", "precision"})
"""Options of a solve that the short way can take."""

_BOUND, _MULTIPLIER = 4, 0


def solve(problem: Any, start: Any, solver: str, **options: Any) -> Solution | None:
    """The solution of a Gram on a device, or of a problem of gram, weights, radius, disagreement and gram_error.

    None for all else.
    """
    begin = time.perf_counter()
    if not arrays.on_device(problem.gram if isinstance(problem, BargainingProblem) else problem):
        return None
    if not arrays.has_cupy():
        return None
    if not isinstance(problem, BargainingProblem):
        problem = BargainingProblem(gram=problem)
    if not _plain(problem):
        return None
    if start is not None and problem.disagreement is not None:
        return None
    placed, precision = problem.disagreement is not None, options.get("precision", "float64")
    reason = cupy_batched.why_not(problem.n, problem.gram, placed, precision)
    if reason is not None:
        if solver == "auto" and "does not build" in reason:
            warnings.warn(f"engine 'cupy' is left out: {reason}", RuntimeWarning, stacklevel=4)
        return None
    launch = _launch(problem, start, **options)
    launch.run()
    return _solution(problem, launch, begin, precision)


class Prepared:
    """A solve to be repeated: its inputs stay where they are and are read anew by every `run`.

    gram : (..., n, n) CuPy array or CUDA tensor, at least one leading axis, float64 and contiguous; n <= 1024
    weights : (..., n) or (n,), radius : (...), disagreement : (..., n) or (n,), on the same device, optional
    start : (..., n) contiguous float64 on the same device, or a Solution, optional; at zero disagreement
    gram_error, max_iter, rtol, precision : as for BargainingProblem and solve

    `run` starts two kernels on the current stream and allocates nothing, so a CUDA graph can hold it: overwrite the
    inputs in place, replay, and read `solution`.
    """

    def __init__(
        self,
        gram: Array,
        *,
        weights: Any = None,
        radius: Any = None,
        disagreement: Any = None,
        start: Any = None,
        gram_error: float = 0.0,
        max_iter: int = 64,
        rtol: float | None = None,
        precision: str = "float64",
    ) -> None:
        if not arrays.on_device(gram):
            raise InvalidProblem("gram is not on a CUDA device; solve() needs no preparation elsewhere")
        self.problem = BargainingProblem(
            gram=gram, weights=weights, radius=radius, disagreement=disagreement, gram_error=gram_error
        )
        start = start.alpha if isinstance(start, Solution) else start
        if start is not None and disagreement is not None:
            raise InvalidProblem("start is for zero disagreement here; solve() takes one at any")
        given = {"gram": gram, "weights": weights, "radius": radius, "disagreement": disagreement, "start": start}
        _refuse_copies(self.problem, **given)
        self._precision = read_precision(precision)
        reason = cupy_batched.why_not(self.problem.n, gram, disagreement is not None, precision)
        if reason is not None:
            raise InvalidProblem(f"solver 'cupy' cannot take this problem: {reason}")
        self._launch = _launch(self.problem, start, max_iter=max_iter, rtol=rtol, precision=precision)

    def run(self) -> None:
        """Solve on the current stream of the library of `gram`; returns before the device is done."""
        self._launch.run()

    @property
    def alpha(self) -> Array:
        """(..., n) multipliers as the last run left them: always the same memory."""
        return self._launch.lines[0]

    @property
    def status(self) -> Array:
        """(...) codes of Status as the last run left them: always the same memory."""
        return self._launch.status

    @property
    def solution(self) -> Solution:
        """Views of the results: a later run changes them."""
        return _solution(self.problem, self._launch, time.perf_counter(), self._precision)


def _plain(problem: BargainingProblem) -> bool:
    extras = (problem.vectors, problem.mask)
    batch = problem.n > 0 and 0 not in problem.batch_shape
    return batch and all(v is None for v in extras) and not problem.sources


def _refuse_copies(problem: BargainingProblem, **given: Any) -> None:
    """A copy would hide from later runs what the caller writes."""
    if not problem.batch_shape:
        raise InvalidProblem("gram is one problem; prepare a batch, gram[None], whose status nobody waits for")
    shape = (*problem.batch_shape, problem.n)
    side = [shape, shape[-1:]]
    fit = {"gram": [(*shape, problem.n)], "weights": side, "disagreement": side, "radius": [shape[:-1], ()]}
    fit["start"] = [shape]
    for name, value in given.items():
        if value is None or isinstance(value, int | float):
            continue
        if not arrays.on_device(value) or tuple(value.shape) not in fit[name]:
            raise InvalidProblem(
                f"{name} must be an array on the device, of shape {fit[name][0]}, to be read by each run"
            )
        flat = value.is_contiguous() if hasattr(value, "is_contiguous") else value.flags.c_contiguous
        if "float64" not in str(value.dtype) or not flat:
            raise InvalidProblem(f"{name} must be float64 and contiguous; each run reads it in place")


def _launch(
    problem: BargainingProblem,
    start: Any,
    max_iter: int | None = None,
    rtol: float | None = None,
    precision: str = "float64",
) -> cupy_batched.Launch:
    xp, shape = problem.xp, (*problem.batch_shape, problem.n)
    if start is not None:
        start, _ = arrays.as_float64(start.alpha if isinstance(start, Solution) else start, "start", xp, problem.gram)
        if start.ndim < 1 or start.shape[-1] != problem.n:
            raise InvalidProblem(f"start has shape {tuple(start.shape)}; the last axis must be {problem.n} players")
    sides = {"weights": problem.weights, "radius": problem.radius, "start": start}
    sides["disagreement"] = problem.disagreement
    for name, value in sides.items():
        if value is not None and value.device != problem.gram.device:
            raise InvalidProblem(f"{name} is on {value.device} and gram on {problem.gram.device}; move one of them")

    def spread(value: Array | None, wide: tuple[int, ...], narrow: int | None) -> Array | None:
        return value if value is None or value.ndim == narrow else xp.broadcast_to(value, wide)

    if rtol is None:
        rtol = default_goal(problem.kind, precision)
    return cupy_batched.Launch(
        xp.broadcast_to(problem.gram, (*shape, problem.n)),
        spread(problem.weights, shape, 1),
        spread(problem.radius, shape[:-1], 0),
        spread(start, shape, None),
        problem.gram_error,
        32 * arrays.roundoff(problem.kind) + problem.gram_error,
        rtol,
        64 if max_iter is None else int(max_iter),
        disagreement=spread(problem.disagreement, shape, 1),
        precision=precision,
    )


def _solution(problem: BargainingProblem, launch: cupy_batched.Launch, begin: float, precision: str) -> Solution:
    lines, numbers = list(launch.lines), list(launch.numbers)
    if problem.kind != "float64":
        xp = problem.xp
        lines = [v if k == _BOUND else xp.astype(v, xp.float32) for k, v in enumerate(lines)]
        numbers[_MULTIPLIER] = xp.astype(numbers[_MULTIPLIER], xp.float32)
    return from_planes(
        problem, lines, numbers, launch.status, launch.n_iter, "cupy", begin, unread=True, rough=precision != "float64"
    )
