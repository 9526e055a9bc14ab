"""What arguments of routers must be."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from nashsolve.core.errors import InvalidProblem, InvalidType

from ..strict import nearest

CONTEXT = ("token_mask", "input_ids", "generator")


def check_call(hidden: Any, context: dict[str, Any], d_model: int) -> None:
    """Raise for a call that no router can answer."""
    for key in context:
        if key not in CONTEXT:
            raise InvalidProblem(f"a router has no context {key!r}; {nearest(key, list(CONTEXT))}")
    if not isinstance(hidden, Tensor) or not hidden.is_floating_point():
        raise InvalidType(f"hidden is {type(hidden).__name__}; a floating tensor is needed")
    if hidden.ndim not in (2, 3) or hidden.shape[-1] != d_model:
        raise InvalidProblem(f"hidden has shape {tuple(hidden.shape)}; (batch, length, {d_model}) is needed")
    for name, dtypes in (("token_mask", (torch.bool,)), ("input_ids", (torch.int64, torch.int32))):
        value = context.get(name)
        if value is None:
            continue
        if not isinstance(value, Tensor) or value.dtype not in dtypes:
            raise InvalidType(f"{name} is {value!r}; a tensor of {dtypes[0]} is needed")
        if value.shape != hidden.shape[:-1]:
            raise InvalidProblem(f"{name} has shape {tuple(value.shape)}; {tuple(hidden.shape[:-1])} is needed")


def whole(name: str, value: Any) -> int:
    """A whole number >= 1."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise InvalidType(f"{name} is {value!r}; a whole number is needed")
    if value < 1:
        raise InvalidProblem(f"{name} is {value}; at least 1 is needed")
    return value


def not_negative(name: str, value: Any) -> float:
    """A finite number >= 0."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InvalidType(f"{name} is {value!r}; a number is needed")
    if not 0 <= value < float("inf"):
        raise InvalidProblem(f"{name} is {value}; it must be finite and not negative")
    return float(value)


def choice(name: str, value: Any, allowed: tuple[str, ...]) -> Any:
    """One of the allowed words."""
    if value not in allowed:
        raise InvalidProblem(f"{name} is {value!r}; {nearest(str(value), list(allowed))}")
    return value
