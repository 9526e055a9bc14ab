"""One process or many: the few collective steps of a merge, and who does what."""

from __future__ import annotations

import os
from datetime import timedelta
from typing import Any

import numpy as np

from nashsolve.core.errors import MissingExtra

Array = np.ndarray[Any, Any]


class Alone:
    """A single process."""

    rank = 0
    size = 1

    def all_sum(self, values: Array) -> Array:
        """The sum over ranks, in float64."""
        return values

    def share(self, value: Any) -> Any:
        """Rank 0's value, everywhere."""
        return value

    def wait(self) -> None:
        """Until every rank is here."""

    def close(self) -> None:
        """Leave."""


class Gloo(Alone):
    """Processes started by torchrun, over gloo.

    Sums are exact repetitions of what one process computes: every rank adds to slots of its own, the others hold zeros
    there, and adding zero changes no bit.
    """

    def __init__(self, minutes: float = 30) -> None:
        try:
            import torch
            import torch.distributed as distributed
        except ImportError:
            raise MissingExtra("torch", "moe", "a merge over several processes") from None
        distributed.init_process_group("gloo", timeout=timedelta(minutes=minutes))
        self._torch = torch
        self._distributed = distributed
        self.rank = distributed.get_rank()
        self.size = distributed.get_world_size()

    def all_sum(self, values: Array) -> Array:
        """One all_reduce."""
        tensor = self._torch.from_numpy(np.ascontiguousarray(values))
        self._distributed.all_reduce(tensor)
        return np.asarray(tensor.numpy())

    def share(self, value: Any) -> Any:
        """One broadcast of a Python value that this process made itself."""
        box = [value]
        self._distributed.broadcast_object_list(box, src=0)
        return box[0]

    def wait(self) -> None:
        """A barrier."""
        self._distributed.barrier()

    def close(self) -> None:
        """Leave the group."""
        self._distributed.destroy_process_group()


def join() -> Alone:
    """The group that torchrun describes in the environment, or this process alone."""
    return Gloo() if int(os.environ.get("WORLD_SIZE", "1")) > 1 else Alone()
