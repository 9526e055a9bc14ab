"""Long vectors by the block: experts on disk, with their neurons permuted where asked, and bases in scratch files."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from . import disk, memory
from .adapters import MoeLayer, Segment, whole
from .dtypes import ITEMSIZE, all_finite, decode, first_bad
from .errors import CheckpointRefused
from .header import TensorInfo, show
from .reader import Reader

Array = np.ndarray[Any, Any]
Parts = tuple[tuple[str, int], ...]
"""Names and sizes of the consecutive parts of a vector."""


class Vector(Protocol):
    """A vector in named parts that is read by the block."""

    def read(self, part: str, start: int, count: int, check: bool = True) -> Array:
        """float32 or float64 values of `count` entries; `check` refuses those that are not finite."""


@dataclass(frozen=True)
class Stored:
    """Segments of a checkpoint; `order` picks neurons: rows of gate and up, columns of down."""

    reader: Reader
    segments: Mapping[str, Segment]
    order: Array | None = None

    def read(self, part: str, start: int, count: int, check: bool = True) -> Array:
        """Decoded values, refused where one is not finite."""
        segment = self.segments[part]
        if self.order is None:
            return self._decoded(segment, start, count, check)
        width = len(self.order) if part == "down" else segment.columns
        first, last = start // width, -(-(start + count) // width)
        if part == "down":
            block = self._decoded(segment, first * segment.columns, (last - first) * segment.columns, check)
            block = block.reshape(-1, segment.columns)[:, self.order]
        else:
            rows = [self._decoded(segment, int(r) * width, width, check) for r in self.order[first:last]]
            block = np.stack(rows)
        inside = start - first * width
        return block.reshape(-1)[inside : inside + count]

    def fill(self, part: str, start: int, target: memoryview) -> None:
        """Raw bytes from entry `start` on, without a look at them; not for permuted neurons."""
        segment = self.segments[part]
        self.reader.read_into(segment.tensor, segment.start + start, target, segment.source)

    def whole(self, part: str) -> Array:
        """The matrix (rows, columns) of a part."""
        segment = self.segments[part]
        return self.read(part, 0, segment.size).reshape(segment.rows, segment.columns)

    def _decoded(self, segment: Segment, start: int, count: int, check: bool) -> Array:
        raw = self.reader.read(segment.tensor, segment.start + start, count, segment.source)
        if check:
            check_finite(raw, segment, start)
        return decode(raw, segment.tensor.dtype)


def check_finite(raw: Array, segment: Segment, start: int) -> None:
    """NaN and infinity are refused with the tensor, their number and the first place."""
    tensor = segment.tensor
    stored = raw.view(f"<u{ITEMSIZE[tensor.dtype]}") if tensor.dtype == "BF16" else raw.view(_CODES[tensor.dtype])
    if not all_finite(stored, tensor.dtype):
        count, first = first_bad(stored, tensor.dtype)
        raise CheckpointRefused(
            f"tensor {show(tensor.name)} holds {count} values that are NaN or infinite in the {len(stored)} entries "
            f"from {segment.start + start} on, the first at entry {segment.start + start + first}; repair the input"
        )


_CODES = {"F16": "<f2", "F32": "<f4", "F64": "<f8"}


@dataclass(frozen=True)
class Scratch:
    """A float32 vector in a file of the working folder, parts one after another."""

    path: Path
    parts: Parts

    def read(self, part: str, start: int, count: int, check: bool = True) -> Array:
        """Values from the file."""
        place = 4 * (self._start(part) + start)
        with disk.told("read", self.path, 4 * count):
            return np.fromfile(self.path, dtype="<f4", count=count, offset=place)

    def _start(self, part: str) -> int:
        place = 0
        for name, size in self.parts:
            if name == part:
                return place
            place += size
        raise KeyError(part)


class ScratchWriter:
    """Writes a `Scratch` in order; durable once closed, gone when the body fails."""

    def __init__(self, path: Path, parts: Parts) -> None:
        self.path = path
        self.parts = parts
        self._aside = disk.temporary(path)
        self._descriptor = disk.create(self._aside, 4 * sum(size for _, size in parts))

    def __enter__(self) -> ScratchWriter:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is not None:
            os.close(self._descriptor)
            self._aside.unlink(missing_ok=True)
            return
        disk.sync_and_close(self._descriptor, self.path)
        disk.replace(self._aside, self.path)

    def put(self, values: Array) -> None:
        """The next values."""
        disk.write_all(self._descriptor, np.ascontiguousarray(values, dtype="<f4").data, self.path)


@dataclass(frozen=True)
class Zero:
    """The zero vector."""

    def read(self, part: str, start: int, count: int, check: bool = True) -> Array:
        """Zeros."""
        return np.zeros(count, dtype=np.float32)


def parts_of(segments: Mapping[str, Segment]) -> Parts:
    """Parts of an expert."""
    return tuple((role, segment.size) for role, segment in segments.items())


def chunks(parts: Parts, size: int = memory.CHUNK) -> list[tuple[str, int, int]]:
    """(part, start, count) of consecutive pieces of at most `size` entries."""
    return [(name, a, min(size, whole - a)) for name, whole in parts for a in range(0, whole, size)]


def combination(
    weights: Sequence[float], vectors: Sequence[Vector], part: str, start: int, count: int, check: bool = True
) -> Array:
    """sum_k weights_k vectors_k of a piece, terms added in order, in float32 unless a vector is float64."""
    total: Array | None = None
    room: Array | None = None
    for weight, vector in zip(weights, vectors, strict=True):
        if weight == 0.0:
            continue
        values = vector.read(part, start, count, check)
        if total is None:
            total = values * values.dtype.type(weight)
            continue
        if values.dtype == np.float64 and total.dtype == np.float32:
            total, room = total.astype(np.float64), None
        room = np.multiply(values, total.dtype.type(weight), out=room, dtype=total.dtype)
        total += room
    return np.zeros(count, dtype=np.float32) if total is None else total


def shared_slice(reader: Reader, layer: MoeLayer) -> Stored:
    """The architecture's shared expert, or its first neurons where it has more than a routed expert."""
    assert layer.shared is not None
    return Stored(reader, layer.shared, np.arange(layer.experts[0]["up"].rows))


def whole_tensor(reader: Reader, tensor: TensorInfo) -> Array:
    """A small tensor in its shape, decoded."""
    return Stored(reader, {"all": whole(tensor)}).read("all", 0, tensor.size).reshape(tensor.shape)
