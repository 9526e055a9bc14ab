"""The compiled kernel: the steps of `newton` in C++, for NumPy arrays and for torch tensors on the CPU.

Problems of up to eight players stand side by side in vector registers, larger ones use them within the problem; a batch
is shared among threads, and no result depends on how. From nine players on coordinate sweeps come before Newton and
often finish alone. `nashsolve.kernels` holds the source. [griveau2013]_
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from array_api_compat import is_numpy_namespace, is_torch_namespace

from nashsolve import kernels
from nashsolve.core.arrays import Array, device, matvec, quiet
from nashsolve.core.problem import BargainingProblem
from nashsolve.core.solver import BLUR32, RawAnswer, default_goal, read_precision
from nashsolve.core.status import Status

from .at_zero import solve_at_zero
from .disagreement import polish, solve_with_disagreement

_STOPPED = {1: "max_iter", 2: "numerical"}


@dataclass(frozen=True)
class Compiled:
    """Newton's method in C++; with a disagreement point, Mehrotra's path to the active ball.

    max_iter : iterations allowed, >= 0; sweeps are not counted against it
    rtol : relative accuracy of alpha; None is 1e-10 in float64 and 1e-5 in float32
    threads : for a batch; None is every core this process may use, or OMP_NUM_THREADS
    precision : numbers of the iteration, "float64" or "float32"; its answer is judged in float64 either way
    """

    max_iter: int = 64
    rtol: float | None = None
    threads: int | None = None
    precision: str = "float64"
    name: str = "compiled"

    def __post_init__(self) -> None:
        if read_precision(self.precision) != "float64" and self.rtol is None:
            object.__setattr__(self, "rtol", default_goal("float64", self.precision))

    def why_not(self, problem: BargainingProblem) -> str | None:
        xp = problem.xp
        if is_numpy_namespace(xp):
            return None
        if is_torch_namespace(xp) and str(device(problem.unit_gram)) == "cpu":
            return None
        return "it takes NumPy arrays and torch tensors on the CPU"

    def solve(self, problem: BargainingProblem, start: Array | None = None) -> RawAnswer:
        if problem.n == 0 or 0 in problem.batch_shape:
            return RawAnswer(problem.xp.zeros((*problem.batch_shape, problem.n), dtype=problem.xp.float64), 0)
        with quiet(problem.xp):
            if problem.disagreement is not None:
                found = self._at_disagreement(problem)
                return solve_with_disagreement(problem, start, self.max_iter, None) if found is None else found
            return solve_at_zero(problem, start, self._steps, BLUR32 if self._rough else 0.0)

    def _at_disagreement(self, problem: BargainingProblem) -> RawAnswer | None:
        """By the kernel on the equilibrated Gram, then corrected through the vectors; None for what it leaves open."""
        xp, shape = problem.xp, (*problem.batch_shape, problem.n)
        radius = problem.ball_radius

        def plain(value: Array, wide: tuple[int, ...]) -> Any:
            return np.ascontiguousarray(np.broadcast_to(np.asarray(value), wide))

        gram = plain(problem.unit_gram, (*shape, problem.n))
        w, d = plain(problem.power, shape), plain(problem.unit_disagreement, shape)
        lines, numbers = np.empty((7, *shape)), np.empty((11, *shape[:-1]))
        codes, n_iter = np.empty(shape[:-1], dtype=np.int64), np.empty(shape[:-1], dtype=np.int64)
        room = np.empty(shape), np.empty(gram.shape)
        goal = 1e-3  # near enough for the correction through the vectors; the core judges by its own goal
        worst = kernels.load().solve(
            gram, w, plain(radius, shape[:-1]), d, None, 0.0, goal, self._limit, lines, numbers, codes, n_iter, room,
            self.threads or kernels.threads(), self._rough,
        )  # fmt: skip
        if worst > (Status.SOLVED_INACCURATE if self._rough else Status.SOLVED) or worst < 0:
            return None
        back = (lambda x: x) if is_numpy_namespace(xp) else xp.asarray
        beta = back(lines[0]) * radius[..., None]
        if problem.unit_vectors is not None:
            unit, ones = problem.unit_gram, xp.ones(shape, dtype=xp.float64)
            mu = xp.sqrt(xp.sum(beta * matvec(unit, beta, xp), axis=-1))
            apart = problem.unit_disagreement * ones / radius[..., None]
            beta, _ = polish(beta, mu, unit, problem.unit_vectors, apart, problem.power * ones, xp)
        used = int(n_iter) if n_iter.ndim == 0 else back(n_iter)
        return RawAnswer(beta * problem.scale / radius[..., None], used, "precision" if self._rough else "")

    @property
    def _rough(self) -> bool:
        return self.precision != "float64"

    @property
    def _limit(self) -> int:
        return min(int(self.max_iter), kernels.MOST_ITERATIONS)

    def _steps(self, b: Array, w: Array, a: Array, total: Array, noise: float, cold: bool) -> tuple[Array, Any, str]:
        shape, n = tuple(a.shape), a.shape[-1]
        gram = np.ascontiguousarray(np.broadcast_to(np.asarray(b), (*shape, n)))
        power = np.ascontiguousarray(np.broadcast_to(np.asarray(w), shape))
        start = None if cold else np.ascontiguousarray(np.asarray(a))
        out, stop, n_iter = np.empty(shape), np.empty(shape[:-1], dtype=np.int64), np.empty(shape[:-1], dtype=np.int64)
        threads = self.threads or kernels.threads()
        noise -= n * BLUR32 if self._rough else 0.0  # which the kernel counts itself
        kernels.load().newton(gram, power, start, noise, self._limit, out, stop, n_iter, threads, self._rough)
        worst = 1 if (stop == 1).any() else (int(stop) if stop.ndim == 0 else 0)
        stopped = _STOPPED.get(worst, "")
        if self._rough and stopped != "max_iter":
            stopped = "precision"
        if isinstance(a, np.ndarray):
            return out, int(n_iter) if n_iter.ndim == 0 else n_iter, stopped
        import torch

        return torch.from_numpy(out), int(n_iter) if n_iter.ndim == 0 else torch.from_numpy(n_iter), stopped
