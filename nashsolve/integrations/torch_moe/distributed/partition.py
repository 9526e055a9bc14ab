"""Who holds what: shards that cut every expert, shards that cut the expert axis, replicas, and ranks with nothing."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from nashsolve.core.errors import InvalidProblem

from .parts import Box


@dataclass(frozen=True)
class SlotShare:
    """One slot as the ranks of one replica share it.

    boxes : place among the replica's ranks -> what that rank holds
    peers : places of the ranks that hold the same columns of other experts, in the order of the experts; one place
        where shards do not cut the expert axis; empty for a rank that holds nothing
    """

    boxes: tuple[Box, ...]
    peers: tuple[int, ...]

    @property
    def all_peers(self) -> list[tuple[int, ...]]:
        """The same for every rank that holds anything."""
        held = [k for k, box in enumerate(self.boxes) if box.numel]
        return sorted({columns_of(self.boxes, k) for k in held})

    def piece(self, place: int) -> tuple[int, int]:
        """First axis [start, stop), within its columns, of what a rank keeps of a base expert."""
        box = self.boxes[place]
        same = columns_of(self.boxes, place)
        if place not in same:  # all of no columns, or no columns without experts
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


def columns_of(boxes: Sequence[Box], place: int) -> tuple[int, ...]:
    """Places that hold the same columns as one of them, in the order of their experts."""
    mine = boxes[place]
    same = [k for k, box in enumerate(boxes) if box.numel and (box.offset, box.size) == (mine.offset, mine.size)]
    return tuple(sorted(same, key=lambda k: boxes[k].rows))


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
        for replica in replicas:
            _check_complete(name, [table[r][name] for r in replica], n, shape)
        boxes = tuple(table[r][name] for r in replicas[copy])
        slots[name] = SlotShare(boxes, columns_of(boxes, place) if boxes[place].numel else ())
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


def _check_complete(name: str, boxes: Sequence[Box], n: int, shape: tuple[int, ...]) -> None:
    """Every entry of every expert is held exactly once."""
    held = [box for box in boxes if box.numel]
    total = sum(box.numel for box in held)
    wanted = n
    for length in shape:
        wanted *= length
    if total != wanted or any(_overlap(a, b) for k, a in enumerate(held) for b in held[:k]):
        raise InvalidProblem(
            f"the ranks' shards of slot {name!r} hold {total} entries of {wanted}, or overlap; they must be the parts "
            f"of {n} experts of shape {shape}"
        )
    for k, box in enumerate(held):
        peers = [held[j] for j in columns_of(held, k)]
        if sum(p.rows[1] - p.rows[0] for p in peers) != n:
            raise InvalidProblem(f"the ranks' shards of slot {name!r} cut different experts differently: {box}")


def _overlap(a: Box, b: Box) -> bool:
    spans = [(a.rows, b.rows)]
    spans += [((p, p + m), (q, q + n)) for p, m, q, n in zip(a.offset, a.size, b.offset, b.size, strict=True)]
    return all(max(x[0], y[0]) < min(x[1], y[1]) for x, y in spans)
