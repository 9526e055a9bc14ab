"""A group of ranks that never wait for ever: collectives with a timeout, counted, and a word about who failed."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import torch.distributed as dist
from torch import Tensor

from nashsolve.core.errors import InvalidProblem

from .errors import InvalidShards, RankFailed, RanksDisagree
from .voice import Voice

_PATIENCE = 0.5
"""Seconds between two looks for word of a rank that failed, while waiting."""

# Renamed in PyTorch 2.13.
_all_gather = getattr(dist, "all_gather_single", dist.all_gather_into_tensor)
_reduce_scatter = getattr(dist, "reduce_scatter_single", dist.reduce_scatter_tensor)
_made: dict[tuple[int, ...], int] = {}
"""How many teams of these ranks were made in this process."""


@dataclass
class Traffic:
    """What was sent, by kind of collective.

    calls, bytes, seconds : kind -> number, bytes of this rank's buffers, seconds on the host
    """

    calls: dict[str, int] = field(default_factory=dict)
    bytes: dict[str, int] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)

    def add(self, kind: str, size: int, seconds: float) -> None:
        self.calls[kind] = self.calls.get(kind, 0) + 1
        self.bytes[kind] = self.bytes.get(kind, 0) + size
        self.seconds[kind] = self.seconds.get(kind, 0.0) + seconds

    def clear(self) -> None:
        for total in (self.calls, self.bytes, self.seconds):
            total.clear()


class Team:
    """Ranks with a process group of their own.

    Parameters
    ----------
    ranks : of the default group; None: all
    timeout : seconds that one collective may take
    whole : the team that this one is a part of, whose count of collectives and whose voice it uses

    Attributes
    ----------
    ranks, rank, size : its members in ascending order, this process' place among them, and their number
    traffic : collectives counted
    voice : word of failures
    outside : whether there are ranks that take no part, not even in making groups
    """

    def __init__(self, ranks: Sequence[int] | None = None, timeout: float = 60.0, whole: Team | None = None) -> None:
        everyone = tuple(range(dist.get_world_size()))
        self.ranks = everyone if ranks is None else tuple(sorted(ranks))
        if dist.get_rank() not in self.ranks:
            raise InvalidProblem(f"rank {dist.get_rank()} is none of the ranks {self.ranks} that hold these layers")
        self.rank, self.size, self.timeout = self.ranks.index(dist.get_rank()), len(self.ranks), timeout
        outside = self.ranks != everyone if whole is None else whole.outside
        self.outside: bool = outside
        self.group = _new_group(self.ranks, timeout, outside)
        self.traffic: Traffic = Traffic() if whole is None else whole.traffic
        self.voice: Voice = self._own_voice() if whole is None else whole.voice
        self._parts: dict[tuple[tuple[int, ...], ...], Team | None] = {(self.ranks,): self if self.size > 1 else None}

    def split(self, sets: Iterable[Sequence[int]]) -> Team | None:
        """The team of this rank among disjoint sets of ranks, which every rank of this team must name alike; None for
        a rank alone, or in none of them."""
        named = tuple(sorted({tuple(sorted(ranks)) for ranks in sets}))
        if named not in self._parts:
            self._parts[named] = self._make(named)
        return self._parts[named]

    def _make(self, named: tuple[tuple[int, ...], ...]) -> Team | None:
        """Ranks make as many groups as each other, which PyTorch's names for groups count on."""
        me = self.ranks[self.rank]
        mine = next((ranks for ranks in named if me in ranks), (me,))
        if all(len(ranks) == 1 for ranks in named):
            return None
        if self.outside:
            found = Team(mine, self.timeout, self)
            return found if found.size > 1 else None
        team = None
        for ranks in named:
            if ranks == mine and len(ranks) > 1:
                team = Team(ranks, self.timeout, self)
            else:
                _new_group(ranks, self.timeout, False)
        return team

    def close(self) -> None:
        """Leave the process groups; the team cannot be used any more."""
        parts = [part for part in self._parts.values() if part is not None and part is not self]
        for part in (*parts, self):
            dist.destroy_process_group(part.group)

    def _own_voice(self) -> Voice:
        # Ranks make their teams in the same order, so that the count tells teams of the same ranks apart.
        _made[self.ranks] = _made.get(self.ranks, 0) + 1
        name = f"nashsolve/{digest(self.ranks, _made[self.ranks]).hex()}"
        return Voice(name, self.ranks, self.ranks[self.rank])

    def all_reduce(self, values: Tensor) -> None:
        """Sum over the ranks, in place; the same bytes everywhere."""
        self._do("all_reduce", values, lambda wait: dist.all_reduce(values, group=self.group, async_op=wait))

    def all_gather(self, out: Tensor, values: Tensor) -> None:
        """Equal pieces one after another."""
        self._do("all_gather", out, lambda w: _all_gather(out, values, group=self.group, async_op=w))

    def reduce_scatter(self, out: Tensor, values: Tensor) -> None:
        """The sum's equal pieces, one a rank."""
        self._do("reduce_scatter", values, lambda w: _reduce_scatter(out, values, group=self.group, async_op=w))

    def all_to_all(self, out: Tensor, values: Tensor, into: list[int], given: list[int]) -> None:
        """Pieces of the lengths `given` to every rank, of the lengths `into` from every rank."""
        self._do(
            "all_to_all",
            values,
            lambda w: dist.all_to_all_single(out, values, into, given, group=self.group, async_op=w),
        )

    def share(self, value: Any) -> list[Any]:
        """Small Python values of all ranks; for beginnings and failures, not for the hot path."""
        found: list[Any] = [None] * self.size
        self._do("all_gather_object", None, lambda _: dist.all_gather_object(found, value, group=self.group))
        return found

    def from_first(self, value: Any) -> Any:
        """The Python value of the first rank."""
        box = [value]
        self._do(
            "broadcast_object", None, lambda _: dist.broadcast_object_list(box, src=self.ranks[0], group=self.group)
        )
        return box[0]

    def check_same(self, what: dict[str, Any]) -> None:
        """Raise RanksDisagree on every rank unless all of them say the same, naming the entries and the odd ranks."""
        said = self.share({name: repr(value) for name, value in what.items()})
        for name in what:
            values = [entry.get(name, "nothing") for entry in said]
            if len(set(values)) > 1:
                usual = max(sorted(set(values)), key=values.count)
                odd = tuple(r for r, v in zip(self.ranks, values, strict=True) if v != usual)
                other = values[self.ranks.index(odd[0])]
                raise RanksDisagree(
                    f"ranks differ in {name}: rank {', '.join(map(str, odd))} has {_short(other)}, the others have "
                    f"{_short(usual)}; give every rank the same model and settings",
                    odd,
                )

    @contextmanager
    def guard(self) -> Iterator[None]:
        """Around a training loop: an exception in it is told to the other ranks, which raise RankFailed at once."""
        try:
            yield
        except BaseException as error:
            if not isinstance(error, RankFailed):
                self.voice.failed(error, self.voice.epoch + 1)
            raise

    @contextmanager
    def work(self) -> Iterator[None]:
        """Around a piece of common work: the same, for what this rank alone runs into."""
        self.voice.epoch += 1
        try:
            yield
        except BaseException as error:
            if not isinstance(error, RankFailed | InvalidShards):
                self.voice.failed(error, self.voice.epoch)
            raise

    def _do(self, kind: str, values: Tensor | None, call: Callable[[bool], Any]) -> None:
        begin = time.perf_counter()
        on_host = values is not None and values.device.type == "cpu"
        try:
            work = call(on_host)
            if on_host:
                self._wait(work)
        except RankFailed:
            raise
        except RuntimeError as error:
            raise self._explained(kind, error) from error
        size = 0 if values is None else values.numel() * values.element_size()
        self.traffic.add(kind, size, time.perf_counter() - begin)

    def _wait(self, work: Any) -> None:
        """To the end of the work, or until a rank is known to have failed."""
        end = time.monotonic() + self.timeout
        while True:
            left = end - time.monotonic()
            try:
                work.wait(timedelta(seconds=max(min(_PATIENCE, left), 1e-3)))
                return
            except RuntimeError:
                if work.is_completed() or left <= 0:
                    raise
                if failed := self.voice.find_failed():
                    raise RankFailed(_sentence(failed), tuple(failed)) from None

    def _explained(self, kind: str, error: RuntimeError) -> RankFailed:
        """The error of a collective with the ranks that caused it."""
        failed, silent = self.voice.find_silent(self.timeout)
        if failed:
            return RankFailed(_sentence(failed), tuple(failed))
        who = f"rank {', '.join(map(str, silent))} did not answer" if silent else "every rank is still there"
        return RankFailed(f"{kind} failed within {self.timeout:g} s: {who} ({str(error).splitlines()[0]})", silent)


def _new_group(ranks: Sequence[int], timeout: float, outside: bool) -> Any:
    limit = timedelta(seconds=timeout)
    return dist.new_group(list(ranks), timeout=limit, use_local_synchronization=outside)


def _sentence(failed: dict[int, str]) -> str:
    return "; ".join(f"rank {rank} failed: {text}" for rank, text in failed.items())


def _short(text: str) -> str:
    return text if len(text) < 200 else text[:200] + " ..."


def digest(*values: Any) -> bytes:
    """64 bits of what is printed of the values, and of bytes as they are."""
    found = hashlib.blake2b(digest_size=8)
    for value in values:
        found.update(value if isinstance(value, bytes) else repr(value).encode())
        found.update(b"\0")
    return found.digest()
