"""Which code computes: a fused kernel where it takes the data, plain torch otherwise."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch

from nashsolve.core.errors import InvalidProblem

METHODS = ("auto", "torch", "compiled", "triton")
Result = TypeVar("Result")


def check_choice(name: str, value: object, known: Sequence[str]) -> None:
    """Raise InvalidProblem unless `value` is one of the known words."""
    if value not in known:
        raise InvalidProblem(f"{name} is {value!r}; choose one of {', '.join(known)}")


def choose(
    method: str,
    device: torch.device,
    plain: Callable[[], Result],
    **fused: tuple[str | None, Callable[[], Result]],
) -> Result:
    """The result by `method`, where `fused` holds for each name why it cannot run (None where it can) and its call.

    "auto" takes a fused method that can run on the device. One that fails to build there says so, and torch goes on.
    """
    if method in fused:
        reason, run = fused[method]
        if reason is not None:
            raise InvalidProblem(f"method={method!r} cannot take these experts: {reason}")
        return run()
    own = {"cpu": "compiled", "cuda": "triton"}.get(device.type, "")
    if method == "auto" and own and fused[own][0] is None:
        try:
            return fused[own][1]()
        except torch.OutOfMemoryError:
            return plain()
        except Exception as error:
            warnings.warn(
                f"the {own} kernel failed ({type(error).__name__}: {error}); plain torch computes the same, slower",
                RuntimeWarning,
                stacklevel=4,
            )
    return plain()
