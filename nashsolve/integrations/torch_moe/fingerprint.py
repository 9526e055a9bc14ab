"""Have parameters changed since? What caches of functions of parameters ask."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor


class Fingerprint:
    """Where tensors were stored, and their version counters, at one moment.

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
    return [(t.data_ptr(), t.device, t.dtype, t.shape, t._version) for t in tensors]
