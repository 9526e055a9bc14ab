"""The compiled kernel on a CUDA device, by CuPy: the steps of `newton`, one launch for a whole batch.

A tile of 8 to 64 threads solves a problem in shared memory, a block of 256 a larger one in global memory: iteration,
certificate, status. Nothing waits for the device. CuPy arrays and torch CUDA tensors are used where they lie, on the
caller's stream.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from nashsolve.core.arrays import EPS64, Array, namespace_of, on_device, quiet
from nashsolve.core.problem import BargainingProblem
from nashsolve.core.solver import BLUR32, RawAnswer, default_goal, read_precision
from nashsolve.core.status import Status
from nashsolve.kernels import cuda

from .at_zero import solve_at_zero
from .disagreement import solve_with_disagreement

LINES, NUMBERS = 7, 11
"""Planes of `Line` and `Number` in kernels/certificate.hpp."""

_WITHOUT_ASKING = 48 * 1024
"""Bytes of shared memory that any kernel may have."""


@dataclass(frozen=True)
class CupyBatched:
    """Newton's method on a CUDA device for up to 1024 players; with a disagreement point, the path to the active ball.

    max_iter : iterations allowed, >= 0
    rtol : relative accuracy of alpha; None is 1e-10 in float64 and 1e-5 in float32
    precision : numbers of the iteration, "float64" or "float32"; its answer is judged in float64 either way
    """

    max_iter: int = 64
    rtol: float | None = None
    precision: str = "float64"
    name: str = "cupy"

    def __post_init__(self) -> None:
        if read_precision(self.precision) != "float64" and self.rtol is None:
            object.__setattr__(self, "rtol", default_goal("float64", self.precision))

    def why_not(self, problem: BargainingProblem) -> str | None:
        data = problem.gram if problem.vectors is None else problem.vectors
        return why_not(problem.n, data, problem.disagreement is not None, self.precision)

    def solve(self, problem: BargainingProblem, start: Array | None = None) -> RawAnswer:
        if problem.n == 0 or 0 in problem.batch_shape:
            shape = (*problem.batch_shape, problem.n)
            return RawAnswer(problem.xp.zeros(shape, dtype=problem.xp.float64, device=problem.scale.device), 0)
        rough = self.precision != "float64"
        with quiet(problem.xp):
            if problem.disagreement is None:
                return solve_at_zero(problem, start, self._steps, BLUR32 if rough else 0.0)
            found = self._at_disagreement(problem)
            return solve_with_disagreement(problem, start, self.max_iter, None) if found is None else found

    def _at_disagreement(self, problem: BargainingProblem) -> RawAnswer | None:
        """By the kernel on the equilibrated Gram; None where an item stays open, or the vectors know more digits."""
        if problem.unit_vectors is not None:
            return None
        xp, shape, radius = problem.xp, (*problem.batch_shape, problem.n), problem.ball_radius
        run = Launch(
            xp.broadcast_to(problem.unit_gram, (*shape, problem.n)),
            xp.broadcast_to(problem.power, shape),
            xp.broadcast_to(radius, shape[:-1]),
            None,
            0.0,
            np.inf,
            1e-3,  # the core judges by its own goal
            self.max_iter,
            disagreement=xp.broadcast_to(problem.unit_disagreement, shape),
            precision=self.precision,
        )
        run.run()
        if bool(xp.any(run.status > Status.SOLVED_INACCURATE)):
            return None
        used = int(run.n_iter) if not shape[:-1] else run.n_iter
        return RawAnswer(run.lines[0] * problem.scale, used, "precision" if self.precision != "float64" else "")

    def _steps(self, b: Array, w: Array, a: Array, total: Array, noise: float, cold: bool) -> tuple[Array, Any, str]:
        xp, shape, n = namespace_of(a), tuple(a.shape), a.shape[-1]
        gram, power = xp.broadcast_to(b, (*shape, n)), xp.broadcast_to(w, shape)
        error = max(0.0, noise - n * (EPS64 if self.precision == "float64" else EPS64 + BLUR32))
        first = None if cold else a
        run = Launch(
            gram, power, None, first, error, np.inf, 1e-10, self.max_iter, last_word=False, precision=self.precision
        )
        run.run()
        known = xp.all(xp.isfinite(run.lines[0]), axis=-1)
        alpha = xp.where(known[..., None], run.lines[0], a)
        if shape[:-1]:
            rest = "" if self.precision == "float64" else "precision"
            return alpha, run.n_iter, "max_iter" if bool(xp.any(run.status == Status.MAX_ITER)) else rest
        code = int(run.status) if bool(known) else int(Status.NUMERICAL_ERROR)
        if self.precision != "float64" and code != int(Status.MAX_ITER):
            return alpha, int(run.n_iter), "precision"
        stopped = {int(Status.MAX_ITER): "max_iter", int(Status.NUMERICAL_ERROR): "numerical"}
        return alpha, int(run.n_iter), stopped.get(code, "")


def why_not(n: int, like: Array, placed: bool = False, precision: str = "float64") -> str | None:
    """None where problems of n players in the library and on the device of `like` can go to the kernel."""
    if not on_device(like):
        return "it takes CuPy arrays and torch tensors on a CUDA device"
    if n > cuda.LARGEST:
        return f"it takes at most {cuda.LARGEST} players; newton takes {n}, on a device as well"
    index = _index(like)
    failure = build_failure(index, cuda.variant(n, _shared_limit(index), placed, precision != "float64"))
    return f"its kernel does not build: {failure}" if failure else None


class Launch:
    """One batch on its device: inputs, results, and what starts the kernels.

    gram : (..., n, n), weights : (..., n) or (n,), radius : (...) or (), start : (..., n), float64 on one device
    limit : largest difference of the halves of a Gram, on the scale of its players
    last_word : whether statuses are final and unanswered items hold NaN; else alpha stays as the iteration left it
    disagreement : (..., n) or (n,), which needs a radius
    precision : numbers of the iteration, "float64" or "float32"

    `lines` (7, ..., n), `numbers` (11, ...), `status` and `n_iter` (...) are of the caller's library. `run` writes them
    and allocates nothing, so a CUDA graph can hold it.
    """

    def __init__(
        self,
        gram: Array,
        weights: Array | None,
        radius: Array | None,
        start: Array | None,
        gram_error: float,
        limit: float,
        rtol: float,
        max_iter: int,
        last_word: bool = True,
        disagreement: Array | None = None,
        precision: str = "float64",
    ) -> None:
        import cupy as cp

        self._gram, shape = gram, tuple(gram.shape[:-1])
        n, count = shape[-1], int(np.prod(shape[:-1], dtype=np.int64))
        self.lines, self.numbers = self._empty((LINES, *shape)), self._empty((NUMBERS, *shape[:-1]))
        self.status, self.n_iter = self._empty(shape[:-1], whole=True), self._empty(shape[:-1], whole=True)
        even, index, placed = self._empty(tuple(gram.shape)), _index(gram), disagreement is not None
        limited = _shared_limit(index)
        kind = cuda.variant(n, limited, placed, precision != "float64")
        shaped = cuda.launch(kind, n, count, limited, _processors(index))
        scratch = self._empty((shaped.blocks * cuda.doubles_of(n, placed),)) if shaped.held else None
        results = even, self.lines, self.numbers, self.status, self.n_iter
        with on_stream(gram):
            given, w, r, d, first, mean, *out = (
                None if v is None else cp.ascontiguousarray(_borrow(v))
                for v in (gram, weights, radius, disagreement, start, *results)
            )
            rest = () if scratch is None else (_borrow(scratch), np.int32(shaped.held))
        steps = [0 if v is None or v.ndim == k else n**k for v, k in ((w, 1), (r, 0), (d, 1))]
        self._read = (given, mean, np.float64(limit), np.int64(count), np.int32(n))
        self._solve = (
            *(mean, _pointer(w), np.int64(steps[0]), _pointer(r), np.int64(steps[1]), _pointer(d), np.int64(steps[2])),
            _pointer(first),
            *(np.float64(gram_error), np.float64(rtol), np.int32(max_iter), np.int32(last_word)),
            *(np.int64(count), np.int32(n), *out, *rest),
        )
        self._scratch = scratch
        self._reader, self._solver = _kernels(index, kind, shaped.shared)
        self._grid, self._block, self._shared = (shaped.blocks,), (shaped.threads,), shaped.shared
        self._entries = -(-count * n * n // 256)

    def _empty(self, shape: tuple[int, ...], whole: bool = False) -> Array:
        if not _of_torch(self._gram):
            import cupy

            with on_stream(self._gram):
                return cupy.empty(shape, dtype=np.int64 if whole else np.float64)
        import torch

        return torch.empty(shape, dtype=torch.int64 if whole else torch.float64, device=self._gram.device)

    def run(self) -> None:
        """Start the kernels on the current stream of the caller's library; returns before they end."""
        with on_stream(self._gram):
            self._reader((self._entries,), (256,), self._read)
            self._solver(self._grid, self._block, self._solve, shared_mem=self._shared)


@contextmanager
def on_stream(like: Array) -> Iterator[None]:
    """CuPy on the device of `like` and on the caller's stream: CuPy's current one, or torch's for a tensor."""
    import cupy

    with ExitStack() as stack:
        stack.enter_context(cupy.cuda.Device(_index(like)))
        if _of_torch(like):
            stack.enter_context(_torch_stream(like.device))
        yield


def _torch_stream(device: Any) -> Any:
    import cupy
    import torch

    stream = torch.cuda.current_stream(device)
    if hasattr(cupy.cuda.Stream, "from_external") and hasattr(stream, "__cuda_stream__"):
        return cupy.cuda.Stream.from_external(stream)
    return cupy.cuda.ExternalStream(stream.cuda_stream, device.index)


@cache
def build_failure(index: int, kind: cuda.Variant) -> str:
    """Why the kernels of a variant do not build for device `index`, empty where they do; tried once."""
    import cupy

    try:
        with cupy.cuda.Device(index):
            _module(index, kind).get_function("nash_read")
    except Exception as error:  # whatever CuPy, NVRTC or the driver raise: the other engines do not need them
        return f"{type(error).__name__}: {(str(error).strip() or 'no message').splitlines()[0]}"
    return ""


@cache
def _module(index: int, kind: cuda.Variant) -> Any:
    import cupy

    return cupy.RawModule(code=cuda.source(), options=(*cuda.FLAGS, *kind.flags), backend="nvrtc")


@cache
def _kernels(index: int, kind: cuda.Variant, shared: int) -> tuple[Any, Any]:
    """`nash_read`, and the solver of a variant allowed `shared` bytes of shared memory, on device `index`."""
    import cupy

    with cupy.cuda.Device(index):
        module = _module(index, kind)
        reader, solver = module.get_function("nash_read"), module.get_function(kind.kernel)
        if shared > _WITHOUT_ASKING:
            solver.max_dynamic_shared_size_bytes = shared
    return reader, solver


@cache
def _shared_limit(index: int) -> int:
    import cupy

    return int(cupy.cuda.Device(index).attributes["MaxSharedMemoryPerBlockOptin"])


@cache
def _processors(index: int) -> int:
    import cupy

    return int(cupy.cuda.Device(index).attributes["MultiProcessorCount"])


def _of_torch(value: Array) -> bool:
    return type(value).__module__.partition(".")[0] == "torch"


def _borrow(value: Array) -> Array:
    """The CuPy array of the same memory."""
    import cupy

    return cupy.from_dlpack(value.detach()) if _of_torch(value) else value


def _pointer(value: Array | None) -> Any:
    return np.uint64(0) if value is None else value


def _index(like: Array) -> int:
    """Number of the device."""
    where = like.device
    return int(where.id if hasattr(where, "id") else where.index or 0)
