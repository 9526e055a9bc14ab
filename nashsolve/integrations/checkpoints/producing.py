"""The bytes of every output tensor, chunk by chunk, from the solved coefficients."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from . import memory
from .adapters import Segment
from .dtypes import FLOATS, decode, encode
from .errors import CheckpointRefused
from .header import show
from .outputs import Copy, Merged, OutTensor, Rows, Task
from .plans import Plan
from .reader import Reader
from .solving import SolvedLayer
from .tasks import SolvedUnit, TaskSolver
from .vectors import Scratch, Stored, Vector, check_finite, chunks, combination, parts_of, shared_slice, whole_tensor

Array = np.ndarray[Any, Any]


class Producer:
    """Computes output tensors; asks the reader for what it needs and keeps nothing."""

    def __init__(
        self,
        plan: Plan,
        reader: Reader,
        work: Path,
        layers: Mapping[int, SolvedLayer],
        units: Mapping[str, SolvedUnit],
        tasks: TaskSolver | None,
    ) -> None:
        self._plan = plan
        self._reader = reader
        self._work = work
        self._layers = layers
        self._units = units
        self._tasks = tasks
        self._orders: tuple[str, Array | None] = ("", None)

    def chunks(self, tensor: OutTensor) -> Iterator[Array]:
        """Arrays whose bytes are the tensor's, in order.

        Raises
        ------
        CheckpointRefused
            A value that is not finite, or does not fit in the format.
        """
        for piece in tensor.pieces:
            if isinstance(piece, Copy):
                yield from self._copied(piece.segment, tensor)
            elif isinstance(piece, Merged):
                yield from self._merged(piece, tensor)
            elif isinstance(piece, Rows):
                yield self._encoded(self._rows(piece), tensor)
            else:
                yield from self._task(piece, tensor)

    def _copied(self, segment: Segment, tensor: OutTensor) -> Iterator[Array]:
        source = segment.tensor
        for _, start, count in chunks((("", segment.size),)):
            raw = self._reader.read(source, segment.start + start, count, segment.source)
            if source.dtype in FLOATS:
                check_finite(raw, segment, start)
            for k in range(1, len(self._plan.sources)):
                self._check_equal(raw, source.name, start, count, k)
            yield raw if source.dtype == tensor.dtype else self._encoded(decode(raw, source.dtype), tensor)

    def _check_equal(self, raw: Array, name: str, start: int, count: int, k: int) -> None:
        """Tensors that are no numbers to merge must be equal in all models."""
        other = self._plan.sources[k]
        if not np.array_equal(raw, self._reader.read(other.tensors[name], start, count, k)):
            raise CheckpointRefused(f"tensor {show(name)} is not floating-point and differs in {other.name}")

    def _merged(self, piece: Merged, tensor: OutTensor) -> Iterator[Array]:
        layer, solved = self._plan.layers[piece.layer], self._layers[piece.layer]
        terms = solved.weights[piece.slot]
        if len(terms) == 1 and terms[0][1] == 1.0 and terms[0][0] < layer.num_experts:
            yield from self._copied(layer.experts[terms[0][0]][piece.role], tensor)
            return
        vectors = [self._vector(piece.layer, row) for row, _ in terms]
        weights = [weight for _, weight in terms]
        for _, start, count in chunks((("", piece.rows * piece.columns),)):
            # Every expert was seen to be finite when its inner products were formed, and files are known not to change.
            values = combination(weights, vectors, piece.role, start, count, check=False)
            yield self._encoded(values, tensor)

    def _vector(self, k: int, row: int) -> Vector:
        layer, solved = self._plan.layers[k], self._layers[k]
        if row < layer.num_experts:
            return Stored(self._reader, layer.experts[row], self._order(solved.order, row, layer.num_experts))
        if solved.base == "shared":
            return shared_slice(self._reader, layer)
        return Scratch(self._work / solved.base, parts_of(layer.experts[0]))

    def _order(self, name: str, row: int, experts: int) -> Array | None:
        if not name:
            return None
        if self._orders[0] != name:
            found = np.fromfile(self._work / name, dtype="<f4").astype(np.int64).reshape(experts, -1)
            self._orders = (name, found)
        assert self._orders[1] is not None
        return np.asarray(self._orders[1][row])

    def _rows(self, piece: Rows) -> Array:
        stored = whole_tensor(self._reader, piece.tensor)
        found = np.zeros((self._plan.experts_out, *stored.shape[1:]))
        for slot, terms in enumerate(self._layers[piece.layer].router):
            for row, weight in terms:
                found[slot] += weight * stored[row].astype(np.float64)
        return found.ravel()

    def _task(self, piece: Task, tensor: OutTensor) -> Iterator[Array]:
        assert self._tasks is not None
        shares = self._units[piece.unit].coefficients
        size = self._plan.sources[0].tensors[piece.name].size
        for _, start, count in chunks((("", size),), memory.CHUNK):
            yield self._encoded(self._tasks.values(piece.name, start, count, shares), tensor)

    def _encoded(self, values: Array, tensor: OutTensor) -> Array:
        try:
            return encode(values, tensor.dtype)
        except FloatingPointError as error:
            raise CheckpointRefused(f"output tensor {show(tensor.name)}: {error}; choose another dtype") from None
