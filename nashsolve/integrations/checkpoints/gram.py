"""Inner products of long vectors in one pass, the same to the last bit for any memory bound and number of processes."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from . import memory
from .arithmetic import Arithmetic
from .dtypes import STORAGE, widened
from .ranks import Alone
from .vectors import Parts, Stored, Vector, chunks

Array = np.ndarray[Any, Any]

Block = Callable[[int, int], Array]
"""Columns from a to b of what was read, one row a vector."""

LANES = 16
"""Partial sums of a Gram; each adds up its own stretch of the vectors, and lanes are then added as a fixed tree."""


@dataclass(frozen=True)
class CentredGram:
    """Gram (n + 1, n + 1) of n vectors minus the mean of the first `centre` of them, and last the mean itself.

    Inner products of any combinations of the vectors follow from it without the cancellation that a Gram of
    uncentred vectors suffers when they are alike.
    """

    matrix: Array
    centre: int
    norms: Array
    """Lengths of the uncentred vectors (n,)."""

    roundoff: float
    """Relative error of an entry against the lengths of its two vectors."""

    def error_of(self, rows: Array) -> float:
        """Bound on the relative error of the entries of ``of(rows)`` for `BargainingProblem(gram_error=...)`."""
        lengths = np.sqrt(np.diagonal(self.matrix))
        spread = np.abs(rows) @ lengths[:-1] + np.abs(rows.sum(axis=1)) * lengths[-1]
        found = np.sqrt(np.maximum(np.diagonal(self.of(rows)), 0.0))
        moved = found > 0
        return float(self.roundoff * np.max((spread[moved] / found[moved]) ** 2, initial=0.0))

    def of(self, rows: Array) -> Array:
        """Gram of the combinations ``rows @ vectors``; rows (m, n)."""
        total = rows.sum(axis=1, keepdims=True)
        combined = np.concatenate([rows, total], axis=1)
        found = combined @ self.matrix @ combined.T
        return np.asarray(0.5 * (found + found.T))


def centred_gram(
    vectors: Sequence[Vector],
    parts: Parts,
    centre: int,
    itemsize: int,
    arithmetic: Arithmetic,
    group: Alone,
    tick: Callable[[int], None] = lambda n: None,
) -> CentredGram:
    """One pass over the vectors, split over the ranks of `group`.

    Parameters
    ----------
    vectors : n of them
    parts : names and sizes
    centre : how many of the first vectors the mean is taken of
    itemsize : bytes of a stored number, for the size of reads
    tick : told after each read how many bytes it was
    """
    rows = len(vectors)
    width = memory.block_columns(rows)
    lanes = _lanes(parts, width)
    sums = np.zeros((LANES, rows + 1, rows + 1))
    lock = threading.Lock()

    span = width * memory.read_blocks(rows, itemsize)
    fetch = _fetcher(vectors, itemsize)

    def add_up(lane: int) -> None:
        total = arithmetic.zero(rows)
        room = np.empty(0, dtype=np.uint8)
        for part, start, count in _reads(lanes[lane], span):
            block, room = fetch(part, start, count, room)
            for a in range(0, count, width):
                total = arithmetic.add(total, block(a, min(a + width, count)), centre)
            with lock:
                tick(rows * count * itemsize)
        sums[lane] = arithmetic.fetch(total)

    mine = range(group.rank, LANES, group.size)
    with ThreadPoolExecutor(min(memory.workers(), max(1, len(mine)))) as pool:
        list(pool.map(add_up, mine))
    sums = group.all_sum(sums)
    while len(sums) > 1:
        sums = sums[0::2] + sums[1::2]
    whole = sums[0]
    if not np.isfinite(whole).all():
        _find_bad(vectors, parts)
    mean = whole[-1, -1]
    norms = np.sqrt(np.maximum(np.diagonal(whole)[:-1] + 2 * whole[-1, :-1] + mean, 0.0))
    terms = width + max(map(len, lanes)) + LANES + 4
    return CentredGram(whole, centre, norms, terms * 2.0**-53)


def _fetcher(vectors: Sequence[Vector], itemsize: int) -> Callable[[str, int, int, Array], tuple[Block, Array]]:
    """How blocks of all vectors are read: raw bytes into one buffer where all are stored alike, else one by one."""
    stored = [v for v in vectors if isinstance(v, Stored) and v.order is None]
    kinds = {s.tensor.dtype for v in stored for s in v.segments.values()}
    if len(stored) < len(vectors) or len(kinds) != 1:
        return lambda part, start, count, room: (_separately(vectors, part, start, count), room)
    dtype = kinds.pop()

    def together(part: str, start: int, count: int, room: Array) -> tuple[Block, Array]:
        if room.size < len(stored) * count * itemsize:
            room = np.empty(len(stored) * count * itemsize, dtype=np.uint8)
        raw = room[: len(stored) * count * itemsize].reshape(len(stored), -1)
        for row, vector in zip(raw, stored, strict=True):
            vector.fill(part, start, row.data)
        numbers = raw.view(STORAGE[dtype])
        return (lambda a, b: widened(numbers[:, a:b], dtype)), room

    return together


def _separately(vectors: Sequence[Vector], part: str, start: int, count: int) -> Block:
    read = [vector.read(part, start, count, check=False) for vector in vectors]
    kind = np.result_type(*read)

    def block(a: int, b: int) -> Array:
        found = np.empty((len(read), b - a), dtype=kind)
        for row, values in zip(found, read, strict=True):
            row[:] = values[a:b]
        return found

    return block


def _find_bad(vectors: Sequence[Vector], parts: Parts) -> None:
    """Read again with checks: a number that is not finite shows in the sums, but not where it is."""
    for vector in vectors:
        for piece in chunks(parts):
            vector.read(*piece)


def _lanes(parts: Parts, width: int) -> list[list[tuple[str, int, int]]]:
    """Stretches of consecutive blocks, as equal as they can be."""
    blocks = [(name, a, min(width, size - a)) for name, size in parts for a in range(0, size, width)]
    ends = [k * len(blocks) // LANES for k in range(LANES + 1)]
    return [blocks[a:b] for a, b in pairwise(ends)]


def _reads(blocks: list[tuple[str, int, int]], most: int) -> list[tuple[str, int, int]]:
    """Neighbouring blocks joined into reads of at most `most` entries."""
    found: list[tuple[str, int, int]] = []
    for name, start, count in blocks:
        if found and found[-1][0] == name and found[-1][1] + found[-1][2] == start and found[-1][2] + count <= most:
            found[-1] = (name, found[-1][1], found[-1][2] + count)
        else:
            found.append((name, start, count))
    return found
