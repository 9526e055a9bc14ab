"""The bargaining problem: who the players are, what is feasible, what happens without agreement."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import MISSING, dataclass, field, fields
from functools import cached_property
from typing import TYPE_CHECKING, Any

from .. import kernels
from . import arrays
from .arrays import EPS64, Array
from .errors import InvalidProblem, InvalidType
from .validation import (
    check_finite,
    check_gram,
    check_positive,
    describe,
    flag,
    read_mask,
    read_names,
    whiten,
)

MAX_PLAYERS = 8192
_SMALLEST = 2.0**-800
"""Squared length of vectors from which their products neither vanish nor, by its inverse, overflow."""
_SIDES = ("weights", "disagreement", "radius", "metric", "mask", "names")


@dataclass(frozen=True, eq=False)
class BargainingProblem:
    r"""Players with linear utilities :math:`u_i(x) = g_i^\top x` bargain over x in a ball.

    .. math:: \max_{\|x\|_M \le r} \sum_i w_i \log(g_i^\top x - d_i)

    Parameters
    ----------
    vectors : (..., n, p) real array, optional
        Row i is player i's utility vector :math:`g_i`. Exactly one of `vectors` and `gram` is given.
        Any finite entries (also 1e200); lower precisions are accumulated in float64.
    gram : (..., n, n) real array, optional
        :math:`A_{ij} = g_i^\top g_j`, symmetric and positive semidefinite within rounding.
    weights : (..., n) positive, optional
        Bargaining power; ones by default. They need not sum to one.
    disagreement : (..., n), optional
        Utilities without agreement, zero by default. Anything else needs a `radius`.
    radius : positive float or (...), optional
        Of the ball; None is the natural radius ``sqrt(sum(weights))``, for which ``A @ alpha = weights / alpha``.
    metric : (p,) or (p, p) positive definite, optional
        The feasible set becomes the ellipsoid ``x' M x <= radius**2``; needs `vectors`.
    names : sequence of n distinct strings, optional
        The players, for tables and messages.
    gram_error : float >= 0, optional
        Known relative error of the Gram entries: ``|error_ij| <= gram_error * sqrt(A_ii A_jj)``.
    mask : (..., n) bool, optional
        True where a player takes part; the others are ignored (ragged batches).
    symmetrize : bool
        Accept an asymmetric `gram` and use ``(A + A') / 2``.

    Raises
    ------
    InvalidProblem
        For one problem, with the argument, index and value. In a batch the item is flagged in `invalid`
        and ends as ``Status.INVALID_INPUT`` instead; wrong shapes and dtypes always raise.

    Notes
    -----
    Inputs are never written to. Leading axes are a batch. A Gram on a CUDA device, where CuPy is installed, is checked
    when the checks are first needed, since each waits for the device; the engine `cupy` checks there and never waits.
    [nash1950]_, [harsanyi_selten1972]_
    """

    vectors: Any = None
    gram: Any = None
    weights: Any = None
    disagreement: Any = None
    radius: Any = None
    metric: Array | None = None
    names: Sequence[str] | None = None
    gram_error: float = 0.0
    mask: Array | None = None
    symmetrize: bool = False
    sources: dict[str, Any] = field(init=False, repr=False, default_factory=dict)
    xp: Any = field(init=False, repr=False)
    kind: str = field(init=False, repr=False)
    invalid: Array | None = field(init=False, repr=False)
    invalid_reason: str = field(init=False, repr=False)
    white: Array | None = field(init=False, repr=False, default=None)
    scale: Array = field(init=False, repr=False)
    unit_gram: Array = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if (self.vectors is None) == (self.gram is None):
            raise InvalidProblem("give exactly one of vectors (rows are players) and gram")
        if type(self.gram).__name__ == "ndarray" and all(self.__dict__[name] is None for name in _SIDES):
            self._set(xp=arrays.numpy_namespace(), sources={})
            if self._read_at_once():  # in the kernel, which warns of nothing
                return
        xp = arrays.namespace_of(self.vectors, self.gram, self.weights, self.disagreement)
        named = {name: getattr(self, name) for name in ("vectors", "gram", "weights", "disagreement", "radius")}
        self._set(xp=xp, sources=arrays.requiring_grad(named))
        with arrays.quiet(xp):
            self._read(xp)

    def _set(self, **values: Any) -> None:
        for name, value in values.items():
            object.__setattr__(self, name, value)

    def _read(self, xp: Any) -> None:
        if self._read_at_once():
            return
        self._read_shapes(xp)
        if not self._can_wait():
            self._read_values(xp)

    def _can_wait(self) -> bool:
        """Whether only the device itself need look at the values."""
        extras = (self.metric, self.mask)
        plain = self.gram is not None and all(v is None for v in extras) and not self.symmetrize and not self.sources
        plain = plain and (self.disagreement is None or self.radius is not None)
        return plain and arrays.on_device(self.gram) and arrays.has_cupy()

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            """What was left unread, when it is first asked for."""
            if name not in _READ_LATE or "kind" not in self.__dict__ or "scale" in self.__dict__:
                raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
            try:
                with arrays.quiet(self.xp):
                    self._read_values(self.xp)
            finally:
                if "scale" not in self.__dict__:  # it failed, and shall again for whoever asks next
                    self.__dict__.pop("invalid", None)
            return self.__dict__[name]

    def _read_shapes(self, xp: Any) -> None:
        """Library, dtype and shape of everything; no value is looked at, so nothing waits for a device."""
        main = "gram" if self.gram is not None else "vectors"
        data, kind = arrays.as_float64(getattr(self, main), main, xp)
        if data.ndim < 2:
            raise InvalidProblem(f"{main} has shape {tuple(data.shape)}; at least two axes are needed")
        n = data.shape[-2]
        if main == "gram" and data.shape[-1] != n:
            raise InvalidProblem(f"gram has shape {tuple(data.shape)}; its last two axes must be equal")
        if n > MAX_PLAYERS:
            raise InvalidProblem(
                f"{main} has {n} players; the dense solvers take at most {MAX_PLAYERS}. Group players first."
            )
        self._set(kind=kind, **{main: data})
        self._set(gram_error=self._read_gram_error(main, kind), names=read_names(self.names, n))
        self._set(mask=read_mask(self.mask, n, xp, data))
        self._shape_small(n, xp, data)

    def _read_values(self, xp: Any) -> None:
        """Check every value, and equilibrate."""
        main, data, n = ("gram", self.gram, self.n) if self.gram is not None else ("vectors", self.vectors, self.n)
        self._set(invalid=None, invalid_reason="")
        self._check_small(xp)
        if self.mask is not None:
            weights = xp.ones(n, dtype=xp.float64, device=arrays.device(data)) if self.weights is None else self.weights
            self._set(weights=xp.where(self.mask, weights, xp.ones_like(weights)))
        raw = None
        if main == "vectors" and self.metric is None and self.mask is None:
            raw = self._plain_product(data, xp)
        if raw is None:
            flag(self, check_finite(data, main, xp), self.batch_shape)
        if main == "vectors":
            self._set(white=whiten(self.vectors, self.metric, xp))
        elif self.metric is not None:
            raise InvalidProblem("metric needs vectors: a gram has already lost the space that it measures")
        self._equilibrate(main, xp, raw)

    def _plain_product(self, rows: Array, xp: Any) -> Array | None:
        """The Gram of rows of ordinary size in one pass over them, which also shows that they are finite; else None."""
        raw = xp.matmul(rows, xp.matrix_transpose(rows))
        squares = xp.linalg.diagonal(raw)
        return raw if bool(xp.all((squares > _SMALLEST) & (squares < 1 / _SMALLEST))) else None

    def _read_at_once(self) -> bool:
        """Check and equilibrate plain Grams in NumPy by the kernel, where there is one and it finds nothing to say."""
        native, gram = kernels.load(), self.gram
        if native is None or type(gram).__name__ != "ndarray" or gram.ndim < 2 or self.gram_error != 0:
            return False
        if any(v is not None for v in (self.metric, self.mask, self.names, self.disagreement)) or self.symmetrize:
            return False
        import numpy as np

        n, batch = gram.shape[-1], gram.shape[:-2]
        scale, unit = np.empty(gram.shape[:-1]), np.empty(gram.shape)
        if native.examine(gram, 0.0, scale, unit, kernels.threads() if batch else 1) != 0:
            return False
        self._set(kind="float64", gram_error=0.0, scale=scale, unit_gram=unit, invalid=None, invalid_reason="")
        if self.weights is None and self.radius is None:
            self._set(batch_shape=batch, power=np.ones(n))
        else:
            self._shape_small(n, self.xp, gram)
            self._check_small(self.xp)
        return True

    @classmethod
    def examined(cls, gram: Array, scale: Array, unit_gram: Array) -> BargainingProblem:
        """The problem of a float64 Gram that the kernel has checked and equilibrated already."""
        problem = object.__new__(cls)
        xp = arrays.numpy_namespace() if type(gram).__name__ == "ndarray" else arrays.namespace_of(gram)
        known = {"gram": gram, "xp": xp, "scale": scale, "unit_gram": unit_gram, "sources": {}}
        known["batch_shape"] = tuple(gram.shape[:-2])
        object.__setattr__(problem, "__dict__", _BARE | known)
        return problem

    def also_invalid(self, items: Array | None) -> None:
        """Flag more items, known to be no problems before this one was made of them."""
        if items is not None:
            self._set(invalid=items if self.invalid is None else self.invalid | items)

    @property
    def plain_gram(self) -> bool:
        """Whether there is nothing beside a float64 Gram, weights, radius, disagreement and gram_error."""
        extras = (self.vectors, self.mask)
        return self.kind == "float64" and all(v is None for v in extras) and not self.sources

    def _read_gram_error(self, main: str, kind: str) -> float:
        try:
            error = float(self.gram_error)
        except (TypeError, ValueError):
            raise InvalidType(f"gram_error is {self.gram_error!r}; a number is needed") from None
        if not 0 <= error < 1:
            raise InvalidProblem(f"gram_error is {error}; it must lie in [0, 1)")
        if main == "gram" and kind != "float64":
            error = max(error, arrays.roundoff(kind))
        return error

    def _shape_small(self, n: int, xp: Any, like: Array) -> None:
        """Weights, disagreement and radius as float64 arrays; wrong shapes raise."""
        for name in ("weights", "disagreement"):
            value = getattr(self, name)
            if value is None:
                continue
            value, _ = arrays.as_float64(value, name, xp, like)
            if value.ndim < 1 or value.shape[-1] != n:
                raise InvalidProblem(f"{name} has shape {tuple(value.shape)}; the last axis must be {n} players")
            self._set(**{name: value})
        if isinstance(self.radius, int | float) and arrays.on_device(like):  # a fill; a copy would wait for the device
            self._set(radius=xp.full((), float(self.radius), dtype=xp.float64, device=arrays.device(like)))
        elif self.radius is not None:
            value, _ = arrays.as_float64(self.radius, "radius", xp, like)
            self._set(radius=value)

    def _check_small(self, xp: Any) -> None:
        """Values of weights, disagreement and radius: they raise or flag."""
        batch = self.batch_shape
        if self.weights is not None:
            flag(self, check_positive(self.weights, "weights", xp, 1), batch)
        if self.radius is not None:
            flag(self, check_positive(self.radius, "radius", xp, 0), batch)
        if self.disagreement is not None:
            flag(self, check_finite(self.disagreement, "disagreement", xp, 1), batch)
            if not bool(xp.any(self.disagreement != 0)):
                self._set(disagreement=None)
            elif self.radius is None:
                raise InvalidProblem("disagreement is not zero: give the radius of the ball as well")

    def _equilibrate(self, main: str, xp: Any, raw: Array | None) -> None:
        """Powers of two that bring every player to size about one: exact, so scaling changes no bit.

        raw : the Gram of the vectors where it is safe from overflow and underflow
        """
        if raw is not None:
            norms = xp.sqrt(xp.linalg.diagonal(raw))
        elif main == "vectors":
            rows: Any = self.white
            top = xp.max(xp.abs(rows), axis=-1) if rows.shape[-1] else xp.sum(rows, axis=-1)
            coarse = 1 / arrays.power_of_two_below(top, xp)
            rows = rows * coarse[..., None]
            norms = xp.sqrt(xp.sum(rows * rows, axis=-1)) / coarse
        else:
            diagonal = xp.linalg.diagonal(self.gram)
            flag(self, check_positive(diagonal, "the diagonal of gram", xp, 1, strict=False), self.batch_shape)
            norms = xp.sqrt(xp.where(diagonal > 0, diagonal, xp.zeros_like(diagonal)))
        size = norms
        if self.disagreement is not None and self.radius is not None:
            size = xp.maximum(norms, xp.abs(self.disagreement) / self.radius[..., None])
        if self.mask is not None:
            size = xp.where(self.mask, size, xp.ones_like(size))
        scale = 1 / arrays.power_of_two_below(size, xp)
        if raw is not None:
            unit = (scale[..., :, None] * raw) * scale[..., None, :]
        elif main == "vectors":
            rows = self.white * scale[..., None]
            unit = xp.matmul(rows, xp.matrix_transpose(rows))
        else:
            unit = (scale[..., :, None] * self.gram) * scale[..., None, :]
            if unit.shape[-1]:
                found, unit, even = check_gram(unit, self, xp)
                flag(self, found, self.batch_shape)
                if not even:
                    self._set(gram=0.5 * self.gram + 0.5 * xp.matrix_transpose(self.gram))
        if self.mask is not None:
            here = self.mask[..., :, None] & self.mask[..., None, :]
            eye = xp.eye(self.n, dtype=xp.float64, device=arrays.device(unit))
            unit = xp.where(here, unit, eye if self.disagreement is None else xp.zeros_like(eye))
        if self.invalid is not None:
            eye = xp.eye(self.n, dtype=xp.float64, device=arrays.device(unit))
            unit = xp.where(self.invalid[..., None, None], eye, unit)
            scale = xp.where(self.invalid[..., None], xp.ones_like(scale), scale)
        self._set(scale=scale, unit_gram=unit)

    @property
    def n(self) -> int:
        """Number of players."""
        return int(self._data.shape[-2])

    @property
    def _data(self) -> Array:
        """Whichever was given."""
        return self.gram if self.gram is not None else self.vectors

    @cached_property
    def batch_shape(self) -> tuple[int, ...]:
        """Leading axes of all inputs, broadcast; () for one problem."""
        shapes = [self._data.shape[:-2]]
        shapes += [v.shape[:-1] for v in (self.weights, self.disagreement, self.mask) if v is not None]
        if self.radius is not None:
            shapes.append(self.radius.shape)
        try:
            return broadcast_shapes(shapes)
        except ValueError:
            given = ", ".join(str(tuple(s)) for s in shapes)
            raise InvalidProblem(f"the batch axes {given} of the arguments do not broadcast together") from None

    @cached_property
    def power(self) -> Array:
        """Weights (..., n) in float64, ones where none were given; harmless ones for invalid items."""
        xp = self.xp
        if self.weights is None:
            return xp.ones(self.n, dtype=xp.float64, device=arrays.device(self.unit_gram))
        if self.invalid is None:
            return self.weights
        return xp.where(self.invalid[..., None], xp.ones_like(self.weights), self.weights)

    @cached_property
    def norms(self) -> Array:
        """Lengths of the players' vectors (..., n), in the metric."""
        return self.xp.sqrt(self.xp.linalg.diagonal(self.unit_gram)) / self.scale

    @cached_property
    def present(self) -> Array:
        """Weights with zero for absent players: what sums over players must use."""
        return self.power if self.mask is None else self.xp.where(self.mask, self.power, 0 * self.power)

    @cached_property
    def ball_radius(self) -> Array:
        """The radius (...), natural where none was given."""
        xp = self.xp
        if self.radius is None:
            return xp.sqrt(xp.sum(self.present, axis=-1))
        return self.radius if self.invalid is None else xp.where(self.invalid, xp.ones_like(self.radius), self.radius)

    @cached_property
    def unit_disagreement(self) -> Array | None:
        """Disagreement of the equilibrated players, None for zero."""
        if self.disagreement is None:
            return None
        value = self.disagreement * self.scale
        if self.mask is not None:
            value = self.xp.where(self.mask, value, -self.xp.ones_like(value))
        return (
            value if self.invalid is None else self.xp.where(self.invalid[..., None], self.xp.zeros_like(value), value)
        )

    @cached_property
    def unit_vectors(self) -> Array | None:
        """Equilibrated (and whitened) vectors, None when only a Gram is known."""
        if self.white is None:
            return None
        rows = self.white * self.scale[..., None]
        if self.mask is not None:
            rows = self.xp.where(self.mask[..., None], rows, self.xp.zeros_like(rows))
        if self.invalid is not None:
            rows = self.xp.where(self.invalid[..., None, None], self.xp.zeros_like(rows), rows)
        return rows

    def through_vectors(self, a: Array) -> Array:
        """The equilibrated Gram times a (..., n), by way of the vectors, which are not copied."""
        xp, rows = self.xp, self.white
        if self.mask is not None or self.invalid is not None:
            rows = self.unit_vectors
            return arrays.matvec(rows, arrays.matvec(xp.matrix_transpose(rows), a, xp), xp)
        return self.scale * arrays.matvec(rows, arrays.matvec(xp.matrix_transpose(rows), self.scale * a, xp), xp)

    @property
    def noise(self) -> float:
        """Squared margin below which this data cannot tell agreement from none."""
        if self.white is not None:
            return max(4 * self.n * EPS64, 2 * arrays.roundoff(self.kind) if self.kind != "float64" else 0.0) ** 2
        return self.n * EPS64 + self.gram_error

    @property
    def rounding(self) -> float:
        """Squared margin that rounding alone hides: `noise` without what the caller says the Gram is wrong by."""
        own = arrays.roundoff(self.kind) if self.kind != "float64" else 0.0
        return self.noise if self.white is not None else self.n * EPS64 + min(self.gram_error, own)

    def player(self, i: int) -> str:
        """Name of player i."""
        return self.names[i] if self.names is not None else f"player {i}"

    def __getstate__(self) -> dict[str, Any]:
        """Everything but the module and the autograd graph, which pickle cannot hold."""
        _ = self.unit_gram  # read, where it was left for later
        return {name: value for name, value in self.__dict__.items() if name not in ("xp", "sources")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._set(xp=arrays.namespace_of(self._data), sources={})

    def __repr__(self) -> str:
        return describe(self)


_BARE = {f.name: None if f.default is MISSING else f.default for f in fields(BargainingProblem)}
_BARE |= {"kind": "float64", "invalid_reason": ""}
_READ_LATE = frozenset({"scale", "unit_gram", "invalid", "invalid_reason"})


def broadcast_shapes(shapes: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
    """The shape to which all broadcast; ValueError where there is none."""
    result: list[int] = []
    for axis in range(1, max((len(s) for s in shapes), default=0) + 1):
        sizes = {int(s[-axis]) for s in shapes if len(s) >= axis} - {1}
        if len(sizes) > 1:
            raise ValueError(shapes)
        result.append(sizes.pop() if sizes else 1)
    return tuple(reversed(result))


def gram(vectors: Array, metric: Array | None = None, return_scale: bool = False) -> Any:
    """Gram matrix ``A_ij = g_i' M^-1 g_j`` in float64, from rows (..., n, p) of any real dtype.

    Rows are brought to size one by powers of two before the product, so entries of 1e200 or 1e-200 lose no digits on
    the way. With `return_scale` the result is ``(B, s)``, the Gram of the rows ``s_i g_i`` and those powers of two:
    it is always representable. Without it a Gram beyond the range of float64 raises InvalidProblem.
    """
    problem = BargainingProblem(vectors=vectors, metric=metric)
    xp = problem.xp
    if problem.invalid is not None:
        raise InvalidProblem(problem.invalid_reason)
    if return_scale:
        return problem.unit_gram, problem.scale
    with arrays.quiet(xp):
        result = (problem.unit_gram / problem.scale[..., :, None]) / problem.scale[..., None, :]
    lost = (xp.linalg.diagonal(result) == 0) & (xp.linalg.diagonal(problem.unit_gram) > 0)
    if not bool(xp.all(xp.isfinite(result))) or bool(xp.any(lost)):
        raise InvalidProblem(
            "a Gram entry lies outside the range of float64; pass the vectors to BargainingProblem itself, "
            "or use gram(vectors, return_scale=True)"
        )
    return result
