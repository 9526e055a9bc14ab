"""What the core needs of an array library beyond the array API standard, in one place."""

from __future__ import annotations

import contextlib
import importlib
from functools import cache, lru_cache, partial
from typing import Any

from array_api_compat import array_namespace, is_numpy_namespace, is_torch_namespace
from array_api_compat import device as device

from .. import kernels
from .errors import InvalidType

Array = Any

EPS64 = 2.0**-52
_ROUNDOFF = {"float64": 2.0**-52, "float32": 2.0**-23, "bfloat16": 2.0**-7, "float16": 2.0**-10}


def namespace_of(*values: Any) -> Any:
    """The array namespace of the first value that is an array, NumPy for plain sequences.

    NumPy from 2.1 on follows the standard itself, and without the wrappers of array-api-compat its calls cost less.
    """
    for value in values:
        if hasattr(value, "__array_namespace__") or type(value).__module__.startswith("torch"):
            found = array_namespace(value)
            return numpy_namespace() if is_numpy_namespace(found) else found
    return numpy_namespace()


@lru_cache(maxsize=1)
def numpy_namespace() -> Any:
    """NumPy where it follows the standard, else its wrapper."""
    import array_api_compat.numpy
    import numpy

    modern = tuple(int(part) for part in numpy.__version__.split(".")[:2]) >= (2, 1)
    return numpy if modern else array_api_compat.numpy


def as_float64(value: Any, name: str, xp: Any, like: Array | None = None) -> tuple[Array, str]:
    """Convert to float64 in namespace `xp`; returns the array and the name of the dtype it came in.

    Raises InvalidType for complex, object, string, sparse and masked input.
    """
    if type(value).__name__ == "ndarray" and is_numpy_namespace(xp) and value.dtype == "d":
        return value, "float64"
    if type(value).__name__ == "MaskedArray":
        raise InvalidType(f"{name} is a masked array; fill it or use mask= for absent players")
    if hasattr(value, "tocsr") or getattr(value, "is_sparse", False):
        raise InvalidType(f"{name} is a sparse matrix; pass a dense array")
    if is_numpy_namespace(xp) and type(value).__module__.split(".")[0] not in ("torch", "array_api_strict"):
        import numpy as np

        try:
            value = np.asarray(value)
        except (TypeError, ValueError) as error:
            raise InvalidType(f"{name} cannot be read as an array of numbers: {error}") from None
        if value.dtype.kind not in "biuf":
            raise InvalidType(f"{name} has dtype {value.dtype}; real numbers are needed")
        kind = value.dtype.name if value.dtype.kind == "f" else "float64"
        return np.asarray(value, dtype=np.float64), kind if kind in _ROUNDOFF else "float64"
    if not (hasattr(value, "dtype") and hasattr(value, "shape")):
        value = xp.asarray(value, device=None if like is None else device(like))
    kind = str(value.dtype).rsplit(".", maxsplit=1)[-1]
    if kind.startswith("complex"):
        raise InvalidType(f"{name} has dtype {kind}; real numbers are needed")
    value = xp.astype(value, xp.float64, copy=False)
    if is_torch_namespace(xp):
        value = value.detach().resolve_neg() if value.requires_grad or value.is_neg() else value
    return value, kind if kind in _ROUNDOFF else "float64"


def on_device(value: Any) -> bool:
    """Whether `value` is a CuPy array or a torch tensor on a CUDA device."""
    kind = type(value).__module__.partition(".")[0]
    return kind == "cupy" or (kind == "torch" and getattr(value, "is_cuda", False))


@lru_cache(maxsize=1)
def has_cupy() -> bool:
    """Whether CuPy can be imported; asked once."""
    try:
        importlib.import_module("cupy")
    except ImportError:
        return False
    return True


def requiring_grad(named: dict[str, Any]) -> dict[str, Any]:
    """Those of the arguments that take part in automatic differentiation."""
    return {name: value for name, value in named.items() if getattr(value, "requires_grad", False)}


def roundoff(kind: str) -> float:
    """Unit in the last place of one, for the dtype named `kind`."""
    return _ROUNDOFF[kind]


def output_dtype(kind: str, xp: Any) -> Any:
    """float64 stays; every narrower float comes back as float32."""
    return xp.float64 if kind == "float64" else xp.float32


def quiet(xp: Any) -> contextlib.AbstractContextManager[Any]:
    """Arithmetic without warnings: NaN and Inf are handled by status, not by the user's errstate."""
    if is_torch_namespace(xp):
        return contextlib.nullcontext()
    import numpy as np

    return np.errstate(all="ignore")


def power_of_two_below(x: Array, xp: Any) -> Array:
    """2**floor(log2 x) for positive finite x, exactly; 1 where x is not positive and finite."""
    good = (x > 0) & xp.isfinite(x)
    if is_numpy_namespace(xp):
        import numpy as np

        return np.ldexp(1.0, np.where(good, np.frexp(np.where(good, x, 1.0))[1] - 1, 0))
    exponent = xp.floor(xp.log2(xp.where(good, x, xp.ones_like(x))))
    return _exact_power_of_two(exponent, xp)


def _exact_power_of_two(exponent: Array, xp: Any) -> Array:
    """2**exponent for whole exponents, by repeated squaring, since exp2 may be off by an ulp."""
    result = xp.ones_like(exponent)
    negative = exponent < 0
    left = xp.abs(exponent)
    factor = 2.0
    for _ in range(10):
        odd = left - 2 * xp.floor(left / 2) == 1
        result = xp.where(odd, result * factor, result)
        left = xp.floor(left / 2)
        factor = factor * factor if factor < 2.0**512 else 1.0
    return xp.where(negative, 1 / result, result)


def to_numpy(x: Array) -> Any:
    """A float64 or bool NumPy copy on the CPU, for messages and small host work."""
    import numpy as np

    if hasattr(x, "detach"):
        x = x.detach().cpu().numpy()
    elif hasattr(x, "get"):
        x = x.get()
    return np.asarray(x)


def largest(x: Array, xp: Any) -> Array:
    """Over the last axis; the method of a NumPy array costs less than the function."""
    return x.max(axis=-1) if type(x).__name__ == "ndarray" else xp.max(x, axis=-1)


def matvec(a: Array, x: Array, xp: Any) -> Array:
    """`a @ x` over leading batch axes: (..., n, m) by (..., m)."""
    return xp.matmul(a, x[..., None])[..., 0]


@cache
def inversion(n: int) -> Any:
    """How symmetric positive definite NumPy matrices (..., n, n) in C order are inverted; to NaN where they are not.

    By the compiled kernel for a few players, where there is one: that takes a fraction of the time of LAPACK. Else by
    what is behind NumPy's `linalg.inv`, whose wrapper takes longer than the work for one matrix of a few players, or
    by the wrapper, which raises LinAlgError for singular ones, where a release hides that. One matrix and a batch of
    them get the same bits.
    """
    import numpy as np

    native = kernels.load()
    if native is not None and 0 < n <= kernels.SIDE_BY_SIDE:

        def by_kernel(matrices: Any) -> Any:
            out = np.empty(matrices.shape)
            native.inverse(np.ascontiguousarray(matrices), out)
            return out

        return by_kernel
    try:
        from numpy.linalg._umath_linalg import inv
    except ImportError:
        return np.linalg.inv
    return partial(inv, signature="d->d")


def spd_factor(h: Array, xp: Any) -> Array:
    """What `spd_solve` needs of symmetric positive definite (..., n, n) matrices: an array, one row a matrix."""
    if is_torch_namespace(xp):
        return xp.linalg.cholesky_ex(h)[0]
    if is_numpy_namespace(xp) and h.size:
        return inversion(h.shape[-1])(h)
    return xp.linalg.inv(h)


def spd_solve(factor: Array, b: Array, xp: Any) -> Array:
    """Solve with factored matrices for right-hand sides (..., n)."""
    return xp.cholesky_solve(b[..., None], factor)[..., 0] if is_torch_namespace(xp) else matvec(factor, b, xp)


def set_diagonal(h: Array, diagonal: Array, xp: Any) -> Array:
    """Matrices (..., n, n), which nobody else may hold, with another diagonal (..., n)."""
    n = h.shape[-1]
    if is_numpy_namespace(xp) and h.flags.c_contiguous:
        h.reshape(*h.shape[:-2], n * n)[..., :: n + 1] = diagonal
        return h
    here = xp.eye(n, dtype=xp.bool, device=device(h))
    return xp.where(here, diagonal[..., :, None], h)


def cholesky_succeeds(a: Array, shift: float, xp: Any) -> bool:
    """Whether every `a + shift I` of the batch (..., n, n) factors, that is, is positive definite."""
    shifted = a + shift * xp.eye(a.shape[-1], dtype=xp.float64, device=device(a))
    if is_torch_namespace(xp):
        return not bool(xp.any(xp.linalg.cholesky_ex(shifted)[1]))
    try:
        factor = xp.linalg.cholesky(shifted)
    except Exception as error:
        if type(error).__name__ == "LinAlgError":
            return False
        raise
    return bool(xp.all(xp.isfinite(factor)))


def put_rows(target: Array, items: Array, values: Array, xp: Any) -> Array:
    """`target` with `values` at rows `items` (ascending), without item assignment."""
    if items.shape[0] == target.shape[0]:
        return values
    row = xp.cumulative_sum(xp.astype(_member(items, target.shape[0], xp), xp.int64)) - 1
    inside = _member(items, target.shape[0], xp)
    picked = xp.take(values, xp.where(inside, row, 0 * row), axis=0)
    inside = inside if target.ndim == 1 else inside[:, None]
    return xp.where(inside, picked, target)


def _member(items: Array, count: int, xp: Any) -> Array:
    everyone = xp.arange(count, device=device(items))
    place = xp.searchsorted(items, everyone)
    place = xp.where(place < items.shape[0], place, 0 * place)
    return xp.take(items, place) == everyone
