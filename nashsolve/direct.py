"""The short way: a Gram in NumPy or torch on the CPU, solved, certified and judged in one call of the kernel.

It answers only what needs no words. Bad input, and every item that the kernel does not call SOLVED or
SOLVED_INACCURATE, is left to the general path, which says what is wrong or proves that no agreement exists; the
kernel's certificate is the one of `core.certificate` in another language, held to it by the tests.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from . import kernels
from .core.planes import from_planes, replace_items
from .core.problem import BargainingProblem
from .core.solution import Solution
from .core.solver import RawAnswer, default_goal
from .core.status import Status
from .core.verdict import solved

_LINES, _NUMBERS = 7, 11
"""Planes of `Line` and `Number` in kernels/certificate.hpp, which core.planes.from_planes names."""


OPTIONS = frozenset({"max_iter", "rtol", "threads", "precision"})
"""Options of a solve that the short way can take."""


_NONE = (None, None, None, None)
"""Weights, radius, disagreement and start where there are none."""


def readable(value: Any) -> Any:
    """The NumPy array behind an array or a tensor on the CPU, copied only to bring it into C order; None for all else.

    The kernel itself refuses what is not float64.
    """
    if type(value) is np.ndarray:
        return value if value.flags.c_contiguous else np.ascontiguousarray(value)
    kind = type(value)
    if kind.__name__ not in ("Tensor", "Parameter") or not kind.__module__.startswith("torch"):
        return None
    if value.requires_grad or value.device.type != "cpu" or str(value.layout) != "torch.strided":
        return None
    try:
        return np.ascontiguousarray(value.numpy())
    except (RuntimeError, TypeError):  # lazily negated views, bfloat16, subclasses without storage
        return None


def _fits(side: Any, shape: tuple[int, ...], axes: int) -> bool:
    """Whether `side` has the shape of the batch, or of its last axes alone."""
    return side is None or side.shape == shape or side.shape == shape[len(shape) - axes :]


def weights(gram: Any, power: Any) -> Any:
    """alpha of one Gram or a batch where every item is certified, else None."""
    native = kernels.load()
    data = readable(gram)
    if native is None or data is None or data.ndim < 2:
        return None
    if power is not None:
        power = readable(power)
        if power is None or not _fits(power, data.shape[:-1], 1):
            return None
    out = np.empty(data.shape[:-1])
    if 0 <= native.weights(data, power, out) <= Status.SOLVED_INACCURATE:
        return out if type(gram) is np.ndarray else _tensor(out)
    return None


def one(gram: Any) -> Solution | None:
    """The solution of a single Gram in NumPy where it is SOLVED, with everything at its default; None for all else."""
    begin = time.perf_counter()
    native = kernels.load()
    if native is None or type(gram) is not np.ndarray or gram.ndim != 2:
        return None
    n = gram.shape[0]
    lines, numbers, scale, unit = np.empty((_LINES, n)), np.empty(_NUMBERS), np.empty(n), np.empty(gram.shape)
    code, n_iter = np.empty((), dtype=np.int64), np.empty((), dtype=np.int64)
    room = scale, unit
    if native.solve(gram, *_NONE, 0.0, 1e-10, 64, lines, numbers, code, n_iter, room, 1, False) != 0 or numbers[10]:
        return None
    known = BargainingProblem.examined(gram, scale, unit)
    return from_planes(known, lines, numbers, code, n_iter, "compiled", begin, how=solved(n_iter))


def solve(
    problem: Any, start: Any, general: Callable[[BargainingProblem], Solution], **options: Any
) -> Solution | None:
    """The solution of a Gram array, or of a problem of gram, weights, radius, disagreement and gram_error;
    None for all else.

    `general` solves the items of a batch that the kernel does not call solved.
    """
    begin = time.perf_counter()
    native = kernels.load()
    if native is None:
        return None
    known = problem if isinstance(problem, BargainingProblem) else None
    if known is not None and (not known.plain_gram or (start is not None and known.disagreement is not None)):
        return None
    given = problem if known is None else known.gram
    data = readable(given)
    if data is None or data.ndim < 2 or data.size == 0:
        return None
    shape = data.shape[:-1]
    sides = _NONE if known is None and start is None else _sides(known, start, shape)
    if sides is None:
        return None
    single = len(shape) == 1
    lines, numbers = np.empty((_LINES, *shape)), np.empty((_NUMBERS, *shape[:-1]))
    codes, n_iter = np.empty(shape[:-1], dtype=np.int64), np.empty(shape[:-1], dtype=np.int64)
    room = np.empty(shape), np.empty(data.shape)
    worst, rough = _run(native, data, sides, known, (lines, numbers, codes, n_iter, room), options)
    if worst == -1 or (single and not Status.SOLVED <= worst <= Status.SOLVED_INACCURATE):
        return None
    wrap = None if type(given) is np.ndarray else _tensor
    if known is None and worst < 0:
        known = BargainingProblem(gram=given)  # finds the items that are no problem, and says why
    elif known is None:
        uneven = bool(numbers[10]) if single else numbers[10].any()
        even = 0.5 * given + 0.5 * given.swapaxes(-1, -2) if uneven else given
        known = BargainingProblem.examined(even, *(room if wrap is None else map(wrap, room)))
    if worst < 0:
        codes[codes < 0] = Status.INVALID_INPUT
    if known.invalid is not None:
        codes[np.asarray(known.invalid)], worst = Status.INVALID_INPUT, Status.INVALID_INPUT
    solution = from_planes(known, lines, numbers, codes, n_iter, "compiled", begin, wrap, rough=rough)
    if not Status.SOLVED <= worst <= Status.SOLVED_INACCURATE:
        return replace_items(solution, codes > Status.SOLVED_INACCURATE, general, begin)
    return solution


def _sides(known: BargainingProblem | None, start: Any, shape: tuple[int, ...]) -> tuple[Any, ...] | None:
    """Weights, radius, disagreement and start as the kernel reads them; None where one is nothing for it."""
    found = [None, None, None, start.alpha if isinstance(start, Solution) else start]
    if known is not None:
        found[:3] = known.weights, known.radius, known.disagreement
    for k, (wide, axes) in enumerate(((shape, 1), (shape[:-1], 0), (shape, 1), (shape, len(shape)))):
        if found[k] is None:
            continue
        found[k] = readable(found[k])
        if found[k] is None or not _fits(found[k], wide, axes):
            return None
    return tuple(found)


def _run(
    native: Any, data: Any, sides: tuple[Any, ...], known: BargainingProblem | None, out: tuple[Any, ...], options: Any
) -> tuple[int, bool]:
    """The kernel's worst status, and whether it iterated in float32."""
    error = 0.0 if known is None else known.gram_error
    precision = options.get("precision", "float64")
    rough = precision != "float64"
    rtol = options.get("rtol", default_goal("float64", precision))
    max_iter = min(options.get("max_iter", 64), kernels.MOST_ITERATIONS)
    threads = options.get("threads") or (kernels.threads() if data.ndim > 2 else 1)
    return native.solve(data, *sides, error, rtol, max_iter, *out, threads, rough), rough


def judge(problem: BargainingProblem, raw: RawAnswer, rtol: float, solver: str, begin: float) -> Solution | None:
    """The judged answer of any engine for a Gram in NumPy where every item is solved, else None."""
    native = kernels.load()
    gram, alpha = problem.gram, raw.alpha
    plain = native is not None and problem.plain_gram and problem.invalid is None and not raw.details
    if (
        not plain
        or raw.coefficients is not None
        or type(alpha) is not np.ndarray
        or gram.shape[:-1] != alpha.shape
        or not alpha.size
    ):
        return None
    sides = problem.weights, problem.radius, problem.disagreement
    items = alpha.shape[:-1]
    if not (_fits(sides[0], alpha.shape, 1) and _fits(sides[1], items, 0) and _fits(sides[2], alpha.shape, 1)):
        return None
    lines, numbers = np.empty((_LINES, *alpha.shape)), np.empty((_NUMBERS, *alpha.shape[:-1]))
    codes = np.empty(alpha.shape[:-1], dtype=np.int64)
    worst = native.certify(gram, *sides, alpha, problem.gram_error, rtol, lines, numbers, codes)
    most = Status.SOLVED if raw.stopped == "precision" else Status.SOLVED_INACCURATE
    if not Status.SOLVED <= worst <= most:
        return None
    return from_planes(problem, lines, numbers, codes, raw.n_iter, solver, begin)


def _tensor(array: Any) -> Any:
    import torch

    return torch.from_numpy(array)
