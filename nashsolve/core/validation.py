"""Checks of a problem's data: each finding names the argument, the index and the value."""

from __future__ import annotations

import math
from typing import Any

from . import arrays
from .arrays import EPS64, Array
from .errors import InvalidProblem, InvalidType

Finding = tuple[Array, str] | None
"""Bad items (..., bool) and the sentence for the first of them; None when all is well."""


def flag(problem: Any, finding: Finding, batch: tuple[int, ...]) -> None:
    """Raise for one problem; in a batch mark the items and go on."""
    if finding is None:
        return
    bad, sentence = finding
    if batch == ():
        raise InvalidProblem(sentence)
    bad = problem.xp.broadcast_to(bad, batch)
    known = problem.invalid
    object.__setattr__(problem, "invalid", bad if known is None else known | bad)
    if not problem.invalid_reason:
        object.__setattr__(problem, "invalid_reason", sentence)


def _first(bad: Array, value: Array, name: str, what: str) -> str:
    import numpy as np

    where = tuple(int(i) for i in np.argwhere(arrays.to_numpy(bad))[0])
    place = f"{name}[{', '.join(map(str, where))}]" if where else name
    return f"{place} is {float(arrays.to_numpy(value)[where])}; {what}"


def _finding(bad: Array, value: Array, name: str, what: str, item_axes: int, xp: Any) -> Finding:
    if not bool(xp.any(bad)):
        return None
    axes = tuple(range(bad.ndim - item_axes, bad.ndim))
    return (xp.any(bad, axis=axes) if axes else bad), _first(bad, value, name, what)


def check_finite(value: Array, name: str, xp: Any, item_axes: int = 2) -> Finding:
    """Every entry finite. One sum settles the usual case: it is finite only if all entries are."""
    if math.isfinite(float(value.sum() if hasattr(value, "sum") else xp.sum(value))):
        return None
    return _finding(~xp.isfinite(value), value, name, "every entry must be finite", item_axes, xp)


def check_positive(value: Array, name: str, xp: Any, item_axes: int, strict: bool = True) -> Finding:
    """Finite and positive (or not negative)."""
    good = xp.isfinite(value) & (value > 0 if strict else value >= 0)
    what = "it must be positive and finite" if strict else "it must not be negative"
    return _finding(~good, value, name, what, item_axes, xp)


def check_gram(unit: Array, problem: Any, xp: Any) -> tuple[Finding, Array, bool]:
    """Symmetric and positive semidefinite within rounding, judged on the unit-diagonal scale.

    Returns the finding, the mean of both halves, and whether they were equal already.
    """
    if not bool(xp.isfinite(xp.sum(unit))):
        finite = xp.all(xp.isfinite(unit), axis=(-2, -1))
        eye = xp.eye(unit.shape[-1], dtype=xp.float64, device=arrays.device(unit))
        unit = xp.where(finite[..., None, None], unit, eye)
    other = xp.matrix_transpose(unit)
    gap = xp.max(xp.abs(unit - other), axis=(-2, -1))
    limit = 32 * arrays.roundoff(problem.kind) + problem.gram_error
    finding: Finding = None
    bad = gap > limit
    if not problem.symmetrize and bool(xp.any(bad)):
        worst = float(arrays.to_numpy(xp.max(gap)))
        finding = (
            bad,
            (
                f"gram is not symmetric: the largest |A_ij - A_ji| / sqrt(A_ii A_jj) is {worst:.3g}, "
                f"beyond rounding ({limit:.1g}); pass symmetrize=True to use the mean of both halves"
            ),
        )
    even = not bool(xp.any(gap > 0))
    unit = unit if even else (unit + other) / 2
    if finding is None:
        finding = _check_psd(unit, problem, xp)
    return finding, unit, even


def _check_psd(unit: Array, problem: Any, xp: Any) -> Finding:
    n = unit.shape[-1]
    shift = 16 * n * EPS64 + 4 * n * problem.gram_error
    if arrays.cholesky_succeeds(unit, shift, xp):
        return None
    lowest = xp.min(xp.linalg.eigvalsh(unit), axis=-1)
    bad = lowest < -2 * shift
    if not bool(xp.any(bad)):
        return None
    value = float(arrays.to_numpy(xp.min(lowest)))
    return bad, (
        f"gram is not positive semidefinite: the smallest eigenvalue of its unit-diagonal form is {value:.3g}, "
        f"below the rounding allowance {-2 * shift:.1g}; no vectors have this Gram matrix"
    )


def read_names(names: Any, n: int) -> tuple[str, ...] | None:
    """n distinct strings."""
    if names is None:
        return None
    names = tuple(names)
    for i, name in enumerate(names):
        if not isinstance(name, str):
            raise InvalidType(f"names[{i}] is {name!r}; a string is needed")
    if len(names) != n:
        raise InvalidProblem(f"names has {len(names)} entries for {n} players")
    if len(set(names)) != n:
        twice = next(x for x in names if names.count(x) > 1)
        raise InvalidProblem(f"names has {twice!r} twice; every player needs a name of its own")
    return tuple(str(name) for name in names)


def read_mask(mask: Any, n: int, xp: Any, like: Array) -> Array | None:
    """Boolean (..., n)."""
    if mask is None:
        return None
    mask = xp.asarray(mask, device=arrays.device(like))
    if mask.dtype != xp.bool:
        raise InvalidType(f"mask has dtype {mask.dtype}; booleans are needed")
    if mask.ndim < 1 or mask.shape[-1] != n:
        raise InvalidProblem(f"mask has shape {tuple(mask.shape)}; the last axis must be {n} players")
    return mask


def whiten(vectors: Array, metric: Any, xp: Any) -> Array:
    """Rows in coordinates where the ellipsoid x' M x <= r^2 is a ball."""
    if metric is None:
        return vectors
    metric, _ = arrays.as_float64(metric, "metric", xp, vectors)
    p = vectors.shape[-1]
    if tuple(metric.shape) not in ((p,), (p, p)):
        raise InvalidProblem(f"metric has shape {tuple(metric.shape)}; ({p},) or ({p}, {p}) is needed")
    found = check_finite(metric, "metric", xp, metric.ndim)
    if metric.ndim == 1:
        found = found or check_positive(metric, "metric", xp, 1)
        if found is None:
            return vectors / xp.sqrt(metric)
        raise InvalidProblem(found[1])
    if found is not None:
        raise InvalidProblem(found[1])
    values, basis = xp.linalg.eigh((metric + metric.T) / 2)
    asymmetry = float(xp.max(xp.abs(metric - metric.T)))
    if asymmetry > 32 * EPS64 * float(xp.max(xp.abs(metric))):
        raise InvalidProblem(f"metric is not symmetric: the largest |M_ij - M_ji| is {asymmetry:.3g}")
    if float(values[0]) <= p * EPS64 * float(values[-1]):
        raise InvalidProblem(
            f"metric is not positive definite: its smallest eigenvalue is {float(values[0]):.3g}, so some utilities "
            "would be unbounded"
        )
    return xp.matmul(vectors, basis) / xp.sqrt(values)


def unwhiten(point: Array, metric: Any, xp: Any) -> Array:
    """Back from the coordinates of `whiten` to those of the vectors."""
    if metric is None:
        return point
    metric, _ = arrays.as_float64(metric, "metric", xp, point)
    if metric.ndim == 1:
        return point / xp.sqrt(metric)
    values, basis = xp.linalg.eigh((metric + metric.T) / 2)
    return arrays.matvec(basis, point / xp.sqrt(values), xp)


def describe(problem: Any) -> str:
    """One line for people."""
    data = problem.gram if problem.gram is not None else problem.vectors
    kind = "gram" if problem.gram is not None else "vectors"
    parts = [f"{problem.n} players", f"{kind} {tuple(data.shape)}"]
    if problem.batch_shape:
        parts.insert(0, f"batch {problem.batch_shape}")
    parts += [name for name in ("weights", "disagreement", "metric") if getattr(problem, name) is not None]
    if problem.radius is not None and problem.radius.ndim == 0:
        parts.append(f"radius {float(problem.radius):g}")
    return f"BargainingProblem({', '.join(parts)})"
