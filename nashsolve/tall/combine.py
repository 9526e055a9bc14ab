"""Base expert plus a combination of domain vectors, with the momentum of a chain, in one pass over the parameters."""

from __future__ import annotations

import cmath
import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch

from nashsolve.core.errors import InvalidProblem, InvalidType

from . import fused, native
from .combine_blocked import Momentum, combine_blocked
from .methods import METHODS, check_choice, choose
from .parts import Experts, Part, as_tensor, check_like_first, is_array, read_experts, tensors_of, to_numpy


class Combined(NamedTuple):
    """The combined expert, and the momentum buffers for the next call."""

    point: Any
    buffers: tuple[Any, ...]


def combine(
    base: Any,
    experts: Any,
    coefficients: Any,
    *,
    step: float | complex = 1.0,
    momentum: float | complex | Sequence[float] | None = None,
    buffers: Sequence[Any] | None = None,
    out: Any = None,
    buffers_out: Sequence[Any] | None = None,
    method: str = "auto",
) -> Any:
    r"""Base expert plus the combined domain vectors, fused with the momentum buffers.

    .. math:: \Delta = \sum_i c_i (E_i - b), \qquad \mu' = \beta \mu + \Delta, \qquad
              x = b + \mathrm{Re}(\gamma \mu')

    Without momentum ``x = b + gamma * Delta``.

    Parameters
    ----------
    base : tensor or NumPy array, or a sequence of them; None for zero
    experts : as for `gram_of_differences`
    coefficients : (n,) real, any sequence, array or tensor
        A tensor on the experts' device stays there: the call does not wait for it.
    step : float or complex
        gamma; complex only with complex momentum.
    momentum : float, complex, or (a, b, c, d), optional
        beta. Four numbers are the quaternion a + bi + cj + dk, whose real-valued dynamics are those of its complex
        twin ``a + i |(b, c, d)|``: two buffers are enough.
    buffers : 1 (real) or 2 (complex, quaternion) entries shaped like `base`, optional
        Real and imaginary part of mu, float32 (float64 for float64 data); zeros by default. Not written to.
    out : like `base`, optional
        Where the result goes; it may be `base` itself.
    buffers_out : like `buffers`, optional
        Where the new buffers go; they may be `buffers` themselves.
    method : "auto", "torch", "compiled" or "triton"
        As for `gram_of_differences`.

    Returns
    -------
    tensor or list of tensors shaped and typed like `base` (like an expert where base is None), or with momentum
    Combined(point, buffers)

    Raises
    ------
    InvalidProblem
        For shapes, dtypes, devices or numbers that do not fit, with the place.

    Notes
    -----
    Arithmetic is float32, float64 where an expert or `base` is; the result is rounded once. Parameters are read, not
    differentiated.
    """
    check_choice("method", method, METHODS)
    read = read_experts(experts, base)
    beta = _read_momentum(momentum, step)
    c = _read_coefficients(coefficients, read)
    count = 0 if beta is None else beta.buffers
    olds = _read_buffers(buffers, "buffers", count, read)
    news = _read_buffers(buffers_out, "buffers_out", count, read)
    targets = None if out is None else _like_first(out, "out", read)
    points: list[torch.Tensor] = []
    states: list[list[torch.Tensor]] = [[] for _ in range(count)]
    for k, part in enumerate(read.parts):
        model = part.experts[0] if part.base is None else part.base
        point = torch.empty_like(model) if targets is None else targets[k]
        before = [] if olds is None else [old[k] for old in olds]
        after = (
            [torch.empty_like(model, dtype=part.wide) for _ in range(count)]
            if news is None
            else [new[k] for new in news]
        )
        arguments = (part, c, complex(step), beta, before, [point, *after])
        choose(
            method,
            read.device,
            partial(_run, combine_blocked, *arguments),
            compiled=(native.why_not(read), partial(_run, native.combine_compiled, *arguments)),
            triton=(fused.why_not_combine(read), partial(_run, fused.combine_fused, *arguments)),
        )
        points.append(point)
        for state, buffer in zip(states, after, strict=True):
            state.append(buffer)
    point = _pack(points, out, read)
    if beta is None:
        return point
    given = [None] * count if buffers_out is None else buffers_out
    return Combined(point, tuple(_pack(s, g, read) for s, g in zip(states, given, strict=True)))


def _run(
    run: Callable[..., None],
    part: Part,
    c: torch.Tensor,
    step: complex,
    beta: Momentum | None,
    before: Sequence[torch.Tensor],
    targets: Sequence[torch.Tensor],
) -> None:
    """One part; results for targets that have no flat view are copied back."""
    experts, base, others = part.flat(*before, *targets)
    old, results = others[: len(before)], others[len(before) :]
    run(experts, base, c.to(part.wide), step, beta, old, results, part.wide)
    for target, result in zip(targets, results, strict=True):
        if target.numel() and result.data_ptr() != target.data_ptr():
            target.copy_(result.view(target.shape))


def _read_momentum(momentum: Any, step: Any) -> Momentum | None:
    for name, value in (("step", step), ("momentum", momentum)):
        parts = value if isinstance(value, Sequence) else (value,)
        for part in () if value is None else parts:
            if isinstance(part, bool) or not isinstance(part, int | float | complex):
                raise InvalidType(f"{name} is {value!r}; a number is needed, or four for a quaternion momentum")
            if not cmath.isfinite(part):
                raise InvalidProblem(f"{name} is {value!r}; it must be finite")
    if isinstance(step, Sequence) or (isinstance(step, complex) and not isinstance(momentum, complex)):
        raise InvalidProblem(f"step is {step!r}; it is one real number unless the momentum is complex")
    if momentum is None:
        return None
    if isinstance(momentum, Sequence):
        if len(momentum) != 4 or any(isinstance(part, complex) for part in momentum):
            raise InvalidProblem(f"momentum is {momentum!r}; a quaternion is four real numbers (a, b, c, d)")
        return Momentum(float(momentum[0]), math.hypot(*momentum[1:]), 2)
    if isinstance(momentum, complex):
        return Momentum(momentum.real, momentum.imag, 2)
    return Momentum(float(momentum), 0.0, 1)


def _read_coefficients(coefficients: Any, read: Experts) -> torch.Tensor:
    """(n,) in float64 on the experts' device; a tensor that is there already is not waited for."""
    if is_array(coefficients):
        c = as_tensor(coefficients, "coefficients")
        if c.device != read.device and c.device.type != "cpu":
            raise InvalidProblem(f"coefficients are on {c.device}, the experts on {read.device}; move one of them")
    else:
        try:
            c = torch.tensor([float(x) for x in coefficients], dtype=torch.float64)
        except (TypeError, ValueError):
            raise InvalidType(f"coefficients are {coefficients!r}; {read.n} real numbers are needed") from None
    if tuple(c.shape) != (read.n,):
        raise InvalidProblem(f"coefficients have shape {tuple(c.shape)} for {read.n} experts; ({read.n},) is needed")
    return c.to(read.device, torch.float64)


def _read_buffers(given: Any, name: str, count: int, read: Experts) -> list[list[torch.Tensor]] | None:
    if given is None:
        return None
    if count == 0:
        raise InvalidProblem(f"{name} without momentum change nothing; give momentum as well, or drop them")
    if not isinstance(given, Sequence) or len(given) != count:
        raise InvalidProblem(f"{name} must hold {count} entries, one for each real buffer of this momentum")
    found = [_like_first(item, f"{name}[{b}]", read) for b, item in enumerate(given)]
    for b, buffer in enumerate(found):
        for tensor, part in zip(buffer, read.parts, strict=True):
            if tensor.dtype != part.wide:
                raise InvalidType(f"{name}[{b}] has dtype {tensor.dtype}; the buffers of these experts are {part.wide}")
    return found


def _like_first(value: Any, name: str, read: Experts) -> list[torch.Tensor]:
    tensors = tensors_of(value, name)
    check_like_first(name, tensors, [part.experts[0] for part in read.parts])
    return tensors


def _pack(tensors: Sequence[torch.Tensor], given: Any, read: Experts) -> Any:
    """Results shaped as one expert was given; the caller's own objects where there are any."""
    if given is not None:
        return given
    arrays = [to_numpy(t) if read.numpy else t for t in tensors]
    return arrays if read.nested else arrays[0]
