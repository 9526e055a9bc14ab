"""Word of a failure, from rank to rank, beside the collectives: through the store that the ranks met in."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress

import torch.distributed as dist

_GRACE = 2.0
"""Seconds that ranks have for saying that they are still there, after a failure."""


class Voice:
    """What the ranks of a team say when something went wrong; silent otherwise.

    Attributes
    ----------
    epoch : number of the piece of common work that is under way; the same on every rank
    """

    def __init__(self, name: str, ranks: Sequence[int], rank: int) -> None:
        self._name, self._ranks, self._rank = name, tuple(ranks), rank
        self._store = dist.distributed_c10d._get_default_store()
        self.epoch = 0

    def failed(self, error: BaseException, epoch: int) -> None:
        """This rank takes no part in the work of that epoch, or goes no further in it."""
        self._say(f"failed {epoch} {type(error).__name__}: {error}")
        self._set("any", "failed")

    def find_failed(self) -> dict[int, str]:
        """Rank -> error, of those that failed in this epoch or before it came; one look where nobody ever did."""
        with suppress(RuntimeError):
            if self._store.check([f"{self._name}/any"]):
                return self._heard("failed")
        return {}

    def find_silent(self, timeout: float) -> tuple[dict[int, str], tuple[int, ...]]:
        """After a failure: ranks that say why they failed, else those that say nothing within a moment."""
        self._say(f"here {self.epoch} ")
        end = time.monotonic() + min(_GRACE, timeout)
        while True:
            if failed := self.find_failed():
                return failed, ()
            here = self._heard("here")
            if len(here) == len(self._ranks) or time.monotonic() > end:
                return {}, tuple(rank for rank in self._ranks if rank not in here)
            time.sleep(0.05)

    def _say(self, text: str) -> None:
        self._set(str(self._rank), text)

    def _set(self, key: str, text: str) -> None:
        with suppress(RuntimeError):  # the store may be gone with its host
            self._store.set(f"{self._name}/{key}", text)

    def _heard(self, kind: str) -> dict[int, str]:
        found = {}
        with suppress(RuntimeError):
            for rank in self._ranks:
                key = f"{self._name}/{rank}"
                if self._store.check([key]):
                    said, epoch, text = self._store.get(key).decode().split(" ", 2)
                    if said == kind and int(epoch) >= self.epoch:
                        found[rank] = text
        return found
