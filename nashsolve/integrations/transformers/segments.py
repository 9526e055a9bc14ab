"""Where the tokens of a call lie in segments: padding does not count, and segments may have begun before."""

from __future__ import annotations

import torch
from torch import Tensor


class Segments:
    """Segments of one call of a stack; they are cut by real tokens, so that padding moves no border.

    Parameters
    ----------
    batch, length : of the call's hidden states
    size : real tokens in a segment
    mask : (batch, length) bool, False for padding, or None
    begun : (batch,) int64, real tokens already in the current segment, or None for zero
    """

    def __init__(self, batch: int, length: int, size: int, mask: Tensor | None, begun: Tensor | None) -> None:
        self.batch, self.length, self.size, self.mask = batch, length, size, mask
        self.begun = begun
        self.slot: Tensor | None = None
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
            rank = torch.argsort(torch.argsort((~self.mask).int(), dim=1, stable=True), dim=1)
        return rank if self.begun is None else rank + self.begun[:, None]

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
