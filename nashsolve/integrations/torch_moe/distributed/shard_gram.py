"""A rank's part of a Gram: over the columns that it has, or that others send it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from nashsolve.tall import gram_of_differences

from ..experts import Expert
from .exchange import exchange, rounds_of
from .layout import Layout
from .partition import cut, first
from .parts import Held


class PartialGram:
    """Gram of the domain vectors of one or several layers over the columns of this rank; summed up over ranks it is
    the Gram.

    Parameters
    ----------
    layout : of the layers
    products : as `gram_of_differences` takes it
    room : bytes for experts on their way

    Attributes
    ----------
    gram, error, failure : (n, n) float64, its bound, and the first exception of the arithmetic, which must not keep
        this rank from the collectives
    """

    def __init__(self, layout: Layout, layers: int, products: str, room: int, device: torch.device) -> None:
        self._layout, self._products, self._room = layout, products, room // layers
        size = layers * layout.n
        self.gram = torch.zeros(size, size, dtype=torch.float64, device=device)
        self.error = 0.0
        self.failure: Exception | None = None

    def add(self, layers: Sequence[Mapping[str, Held]], names: Sequence[str], base: Expert) -> None:
        """Over some slots; `base` holds the columns of this rank's experts."""
        asked = [name for name in names if self._layout.peers[name] is not None]
        held = [name for name in names if name not in asked and layers[0][name].box.rows == (0, self._layout.n)]
        self._add_columns(layers, held, base)
        for name in asked:
            self._add_exchanged([layer[name] for layer in layers], name, base[name])

    def _add_columns(self, layers: Sequence[Mapping[str, Held]], names: Sequence[str], base: Expert) -> None:
        """Replicas share the columns that they all have."""
        copies, copy = self._layout.copies, self._layout.partition.copy
        vectors: list[list[Tensor]] = [[] for _ in range(len(layers) * self._layout.n)]
        below = []
        for name in names:
            start, stop = cut(first(tuple(base[name].shape)), copy, copies)
            piece = base[name][start:stop]
            if not piece.numel():
                continue
            below.append(piece)
            rows = (row[start:stop] for layer in layers for row in _rows(layer[name]))
            for vector, row in zip(vectors, rows, strict=True):
                vector.append(row)
        if below:
            self._take(vectors, below)

    def _add_exchanged(self, layers: Sequence[Held], name: str, base: Tensor) -> None:
        """Peers with the same columns send each other experts."""
        layout, team = self._layout, self._layout.peers[name]
        share = layout.partition.slots[name]
        assert team is not None
        by_rank = sorted(share.peers, key=lambda k: layout.partition.shards[k])
        held_by = [share.boxes[k].rows for k in by_rank]
        local = layers[0].tensors[0]
        window = cut(first(tuple(base.shape)), layout.partition.copy, layout.copies)
        inner = base.numel() // max(first(tuple(base.shape)), 1)
        rounds = rounds_of(window, inner, layout.n, team.size, local.element_size(), self._room)
        for given in zip(*(exchange(held.tensors[0], held_by, team, rounds) for held in layers), strict=True):
            start, stop = given[0][0]
            if stop > start:
                self._take([[row] for _, part in given for row in part], [base[start:stop]])

    def _take(self, vectors: Sequence[Sequence[Tensor]], base: Sequence[Tensor]) -> None:
        if self.failure is not None:
            return
        try:
            found = gram_of_differences(vectors, base, products=self._products)
        except Exception as error:  # told to the other ranks, then raised
            self.failure = error
            return
        self.gram += found.gram
        # The bounds are relative to sqrt(G_ii G_jj), so that by Cauchy and Schwarz the largest one holds for the sum.
        self.error = max(self.error, found.gram_error + 2.0**-53)


def _rows(held: Held) -> Sequence[Tensor]:
    return list(held.tensors[0]) if held.fused else held.tensors
