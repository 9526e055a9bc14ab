"""Which code computes: a fused kernel where it takes the data, plain torch otherwise."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch

from nashsolve.core.errors import InvalidProblem

from .parts import Experts

METHODS = ("auto", "torch", "triton")
Result = TypeVar("Result")


def check_choice(name: str, value: object, known: Sequence[str]) -> None:
    """Raise InvalidProblem unless `value` is one of the known words."""
    if value not in known:
        raise InvalidProblem(f"{name} is {value!r}; choose one of {', '.join(known)}")


def choose(
    method: str, reason: str | None, read: Experts, fused: Callable[[], Result], plain: Callable[[], Result]
) -> Result:
    """The result by `method`; "auto" on a GPU tries the kernel and, if that cannot be built, says so and goes on."""
    if method == "triton":
        if reason is not None:
            raise InvalidProblem(f"method='triton' cannot take these experts: {reason}")
        return fused()
    if method == "auto" and reason is None and read.device.type == "cuda":
        try:
            return fused()
        except torch.OutOfMemoryError:
            return plain()
        except Exception as error:
            warnings.warn(
                f"the triton kernel failed ({type(error).__name__}: {error}); plain torch computes the same, slower",
                RuntimeWarning,
                stacklevel=3,
            )
    return plain()
