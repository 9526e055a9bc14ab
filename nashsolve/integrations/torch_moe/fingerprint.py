"""Have parameters changed since? What caches of functions of parameters ask."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor
from torch.optim.optimizer import register_optimizer_step_post_hook

_FUSED_STEPS = [0]


def _count(optimizer: Any, args: Any, kwargs: Any) -> None:
    if any(group.get("fused") for group in optimizer.param_groups):
        _FUSED_STEPS[0] += 1


# Fused optimizers, which transformers' Trainer chooses by default, write parameters without raising their version
# counters. So every step of one, of any model, counts as a change of all parameters.
register_optimizer_step_post_hook(_count)


def versions(tensors: Sequence[Tensor]) -> list[int]:
    """Version counters of tensors, and the number of steps of fused optimizers that the counters do not show."""
    return [*(tensor._version for tensor in tensors), _FUSED_STEPS[0]]


class Fingerprint:
    """Where tensors were stored, and their `versions`, at one moment.

    The storages are kept alive as long as the fingerprint: a later tensor at the same address would look the same.
    Edits through ``tensor.data`` do not count.
    """

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        self._kept = [tensor.detach() for tensor in tensors]
        self._found = _read(tensors)

    def matches(self, tensors: Sequence[Tensor]) -> bool:
        """Whether these are the same storages, unchanged."""
        return self._found == _read(tensors)


def _read(tensors: Sequence[Tensor]) -> list[tuple[Any, ...]]:
    return [(t.data_ptr(), t.device, t.dtype, t.shape) for t in tensors] + [tuple(versions(tensors))]
