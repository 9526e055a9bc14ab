"""Who holds what: shards that cut every expert, shards that cut the expert axis, replicas, and ranks with nothing."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np

from nashsolve.core.errors import InvalidProblem

from .parts import Box, Columns


@dataclass(frozen=True)
class SlotShare:
    """One slot as the ranks of one replica share it.

    boxes : place among the replica's ranks -> what that rank holds
    place : of this rank
    """

    boxes: tuple[Box, ...]
    place: int

    @cached_property
    def by_columns(self) -> dict[Columns, tuple[int, ...]]:
        """Columns -> places of the ranks that hold them, in the order of their experts."""
        found: dict[Columns, list[int]] = defaultdict(list)
        for k in sorted(range(len(self.boxes)), key=lambda k: self.boxes[k].rows):
            if self.boxes[k].numel:
                found[self.boxes[k].columns].append(k)
        return {columns: tuple(places) for columns, places in found.items()}

    @property
    def all_peers(self) -> list[tuple[int, ...]]:
        """Places with the same columns, for all columns."""
        return sorted(self.by_columns.values())

    @property
    def peers(self) -> tuple[int, ...]:
        """Places with the columns of this rank, in the order of the experts: one where shards do not cut the expert
        axis, none for a rank that holds nothing."""
        return self.peers_of(self.place)

    def peers_of(self, place: int) -> tuple[int, ...]:
        """The same for another rank."""
        return self.by_columns.get(self.boxes[place].columns, ()) if self.boxes[place].numel else ()

    def piece(self, place: int) -> tuple[int, int]:
        """First axis [start, stop), within its columns, of what a rank keeps of a base expert."""
        box = self.boxes[place]
        same = self.peers_of(place)
        if not same:  # all of no columns, or no columns without experts
            return (0, 0 if box.rows[0] == box.rows[1] else first(box.size))
        return cut(first(box.size), same.index(place), len(same))

    def piece_box(self, place: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Offset and size, in one whole expert, of the same."""
        box, (start, stop) = self.boxes[place], self.piece(place)
        return (box.offset[0] + start, *box.offset[1:]), (stop - start, *box.size[1:])


@dataclass(frozen=True)
class Partition:
    """How one layer's experts lie over the ranks of a team.

    replicas : for every complete copy of the experts, the ranks' places in the team, in a common order
    copy : the replica of this rank
    place : of this rank in its replica
    slots : name -> share
    """

    replicas: tuple[tuple[int, ...], ...]
    copy: int
    place: int
    slots: dict[str, SlotShare]

    @property
    def shards(self) -> tuple[int, ...]:
        """Places in the team of this replica's ranks."""
        return self.replicas[self.copy]

    @property
    def twins(self) -> tuple[int, ...]:
        """Places in the team of the ranks that hold the same in every replica."""
        return tuple(replica[self.place] for replica in self.replicas)


def first(size: tuple[int, ...]) -> int:
    """Length of the first axis; a number has one."""
    return size[0] if size else 1


def cut(length: int, k: int, parts: int) -> tuple[int, int]:
    """The k-th of nearly equal pieces [start, stop)."""
    return length * k // parts, length * (k + 1) // parts


def make_partition(
    table: Sequence[Mapping[str, Box]], rank: int, whole: Mapping[str, tuple[int, tuple[int, ...]]]
) -> Partition:
    """From what every rank holds.

    Parameters
    ----------
    table : rank of the team -> slot -> box
    rank : this one
    whole : slot -> (number of experts, shape of one)

    Returns
    -------
    Partition

    Raises
    ------
    InvalidProblem
        Where experts are missing, held twice by some ranks only, or cut in overlapping pieces.
    """
    replicas = _replicas(table)
    copy = next(k for k, replica in enumerate(replicas) if rank in replica)
    place = replicas[copy].index(rank)
    slots = {}
    for name, (n, shape) in whole.items():
        slots[name] = SlotShare(tuple(table[r][name] for r in replicas[copy]), place)
        _check_complete(name, slots[name], n, shape)
    return Partition(replicas, copy, place, slots)


def _replicas(table: Sequence[Mapping[str, Box]]) -> tuple[tuple[int, ...], ...]:
    """Ranks by replica: the k-th rank that holds a thing belongs to replica k, those with nothing are dealt out."""
    holders: dict[tuple[tuple[str, Box], ...], list[int]] = defaultdict(list)
    idle = []
    for rank, boxes in enumerate(table):
        if any(box.numel for box in boxes.values()):
            holders[tuple(sorted(boxes.items()))].append(rank)
        else:
            idle.append(rank)
    counts = {len(ranks) for ranks in holders.values()}
    if len(counts) != 1:
        raise InvalidProblem(
            f"some shards of the experts are held by {min(counts)} ranks and others by {max(counts)}; every rank must "
            "hold as many experts as its placement says"
            if counts
            else "no rank holds any part of the experts"
        )
    count = counts.pop()
    if len(idle) % count:
        raise InvalidProblem(f"{len(idle)} ranks without experts cannot be dealt out to {count} replicas")
    share = len(idle) // count
    ordered = [ranks for _, ranks in sorted(holders.items())]
    return tuple(tuple(ranks[k] for ranks in ordered) + tuple(idle[k * share : (k + 1) * share]) for k in range(count))


def _check_complete(name: str, share: SlotShare, n: int, shape: tuple[int, ...]) -> None:
    """Every entry of every expert is held exactly once by this replica; the others hold the same."""
    if not _tiles(list(share.by_columns), shape):
        total = sum(box.numel for box in share.boxes)
        raise InvalidProblem(
            f"the ranks' shards of slot {name!r} hold {total} entries of {n * math.prod(shape)}, or overlap; they must "
            f"be the parts of {n} experts of shape {shape}"
        )
    for columns, places in share.by_columns.items():
        rows = [share.boxes[k].rows for k in places]
        if rows[0][0] != 0 or rows[-1][1] != n or any(a[1] != b[0] for a, b in pairwise(rows)):
            raise InvalidProblem(f"experts are missing or held twice in slot {name!r}, {columns}: ranks hold {rows}")


def _tiles(boxes: Sequence[Columns], shape: tuple[int, ...]) -> bool:
    """Whether boxes cover a tensor, each entry once: counted on the grid of all their edges."""
    edges = []
    for k, length in enumerate(shape):
        starts = {offset[k] for offset, _ in boxes}
        stops = {offset[k] + size[k] for offset, size in boxes}
        edges.append(sorted({0, length} | starts | stops))
    if any(e[0] < 0 or e[-1] > length for e, length in zip(edges, shape, strict=True)):
        return False
    at = [{edge: k for k, edge in enumerate(e)} for e in edges]
    count = np.zeros([len(e) - 1 for e in edges], dtype=np.int64)
    for offset, size in boxes:
        count[tuple(slice(a[o], a[o + s]) for a, o, s in zip(at, offset, size, strict=True))] += 1
    return bool((count == 1).all())
