"""Where the tokens of a call lie in segments: padding does not count, segments may have begun before, and no segment
reaches from one packed sequence into the next."""

from __future__ import annotations

import torch
from torch import Tensor

from .packing import real_first


class Segments:
    """Segments of one call of a stack; they are cut by real tokens, so that padding moves no border.

    Parameters
    ----------
    batch, length : of the call's hidden states
    size : real tokens in a segment
    mask : (batch, length) bool, False for padding, or None
    begun : (batch,) int64, real tokens already in the current segment, or None for zero
    documents : (batch, length) int64, number of every token's sequence where rows are packed; begun is None then

    Attributes
    ----------
    count : segments of a row
    first : (batch, count) bool, the first segments of packed sequences; None where rows are not packed
    """

    def __init__(
        self,
        batch: int,
        length: int,
        size: int,
        mask: Tensor | None,
        begun: Tensor | None,
        documents: Tensor | None = None,
    ) -> None:
        self.batch, self.length, self.size, self.mask = batch, length, size, mask
        self.begun = begun
        self.slot: Tensor | None = None
        self.first: Tensor | None = None
        if documents is not None:
            self._pack(documents)
            return
        first = 0
        if mask is not None or begun is not None:
            self.slot = self._slots()
            first = 0 if begun is None else int(begun.max())
        self.count = -(-(first + length) // size)

    def _slots(self) -> Tensor:
        """Place of every token (batch, length): real ones in their order, padding after them."""
        if self.mask is None:
            assert self.begun is not None
            rank = torch.arange(self.length, device=self.begun.device).expand(self.batch, -1)
        else:
            rank = torch.argsort(real_first(self.mask), dim=1)
        return rank if self.begun is None else rank + self.begun[:, None]

    def _pack(self, documents: Tensor) -> None:
        """Places of tokens where every packed sequence begins a segment; padding after the last one."""
        rank = torch.arange(self.length, device=documents.device).expand(self.batch, -1)
        if self.mask is not None:
            rank = torch.argsort(real_first(self.mask), dim=1)
        real = torch.ones_like(documents) if self.mask is None else self.mask.to(documents.dtype)
        counts = documents.new_zeros(self.batch, int(documents.max()) + 1).scatter_add(1, documents, real)
        pieces = (counts + self.size - 1) // self.size
        start, before = pieces.cumsum(1) - pieces, counts.cumsum(1) - counts
        self.slot = start.gather(1, documents) * self.size + rank - before.gather(1, documents)
        self.count = int(self.slot.max()) // self.size + 1
        begins = torch.zeros(self.batch, self.count + 1, dtype=torch.bool, device=documents.device)
        # Rows may have fewer sequences than others: what they lack begins in a column that is cut off.
        at = torch.where(counts > 0, start, self.count)
        self.first = begins.scatter(1, at, torch.ones_like(at, dtype=torch.bool))[:, :-1]

    @property
    def real(self) -> Tensor | int:
        """Real tokens of every sequence in this call."""
        return self.length if self.mask is None else self.mask.sum(dim=1)

    def grouped(self, x: Tensor) -> Tensor:
        """(batch, length, d) as (batch * segments, tokens of a segment, d), filled with zeros."""
        width = x.shape[-1]
        if self.count == 1:
            return x
        if self.slot is None:
            x = torch.nn.functional.pad(x, (0, 0, 0, self.count * self.size - self.length))
        else:
            room = x.new_zeros(self.batch, self.count * self.size, width)
            x = room.scatter(1, self.slot[..., None].expand(-1, -1, width), x)
        return x.reshape(-1, self.size, width)

    def ungrouped(self, y: Tensor) -> Tensor:
        """Back from groups to (batch, length, d)."""
        if self.count == 1:
            return y
        y = y.reshape(self.batch, -1, y.shape[-1])
        if self.slot is None:
            return y[:, : self.length]
        return y.gather(1, self.slot[..., None].expand(-1, -1, y.shape[-1]))

    def per_token(self, rows: Tensor) -> Tensor:
        """(batch * segments, ...) as one value for every token, (batch * length, ...)."""
        if self.slot is None:
            index = torch.arange(self.length, device=rows.device).expand(self.batch, -1) // self.size
        else:
            index = self.slot // self.size
        start = torch.arange(self.batch, device=rows.device)[:, None] * self.count
        return rows[(start + index).reshape(-1)]

    def totals(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Sums over the real tokens of every segment, (batch, segments, d), and their numbers (batch, segments)."""
        real = self.mask if self.mask is not None else torch.ones(x.shape[:2], dtype=torch.bool, device=x.device)
        kept = torch.where(real[..., None], x, x.new_zeros(()))
        shape = (self.batch, self.count, -1, x.shape[-1])
        counts = self.grouped(real[..., None].to(x.dtype)).reshape(*shape[:3], 1)
        return self.grouped(kept).reshape(shape).sum(dim=2), counts.sum(dim=(2, 3))
