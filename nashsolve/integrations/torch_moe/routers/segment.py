"""One decision for each segment of a sequence; causal models decide by the segment before."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from nashsolve.core.errors import InvalidProblem

from ..router_output import RouterOutput
from .base import Router, Rows
from .checks import choice, whole
from .pooled import PooledRouter

First = Literal["learned", "zero", "own"]


class SegmentRouter(PooledRouter):
    r"""Routes means of segments of `length` tokens: row s holds the weights that segment s uses.

    For causal models segment s is routed by the mean of segment s - 1, so that no token influences an earlier one. The
    first segment has none before it: it is routed by a learned vector, or by zeros. The published choice, its own mean
    with detached weights ("own"), lets later tokens of the first segment reach earlier logits, and with a single
    segment leaves the router without any gradient from the model; it is kept for comparison only.

    Parameters
    ----------
    inner, norm, count_padding : as in PooledRouter
    length : tokens in a segment; the last one may be shorter
    causal : True routes by the segment before, False by the segment itself (encoders)
    first : "learned", "zero", or "own" (leaks); read where causal

    Notes
    -----
    Sources: [lory2024]_, [camex2025]_
    """

    level = "segment"

    def __init__(
        self,
        inner: Router,
        *,
        length: int,
        causal: bool = True,
        first: First = "learned",
        norm: bool = False,
        count_padding: bool = False,
    ) -> None:
        super().__init__(inner, norm=norm, count_padding=count_padding)
        self.segment_length = self.length = whole("length", length)
        self.causal = causal
        self.first = choice("first", first, ("learned", "zero", "own"))
        if not causal and first != "learned":
            raise InvalidProblem("first changes nothing for causal=False: every segment is routed by itself")
        self.start = nn.Parameter(torch.empty(self.d_model).normal_(0, 0.02)) if causal and first == "learned" else None

    def rows(self, hidden: Tensor, context: dict[str, Any]) -> Rows:
        """One mean a segment, shifted by one segment where causal."""
        batch, length, _ = hidden.shape
        n_segments = -(-length // self.length)
        mask = context.get("token_mask")
        real = mask if mask is not None else torch.ones(batch, length, dtype=torch.bool, device=hidden.device)
        counted = torch.ones_like(real) if self.count_padding else real
        windows, counts = (self._cut(x, n_segments) for x in (hidden, counted))
        # The filling of a last, shorter segment never counts, whatever count_padding says about the batch's padding.
        total = torch.where(counts[..., None], windows, windows.new_zeros(())).sum(dim=1)
        mean = (total / counts.sum(dim=1, keepdim=True).clamp(min=1)).reshape(batch, n_segments, -1)
        used = self._cut(real, n_segments).any(dim=-1)
        ids = context.get("input_ids")
        ids = None if ids is None else self._cut(ids, n_segments)
        if self.causal:
            mean = torch.cat([self._first(mean), mean[:, :-1]], dim=1)
            ids, counts = self._shift_ids(ids, counts, batch)
        return Rows(
            mean.flatten(0, 1),
            mask=None if mask is None else used,
            ids=ids,
            ids_mask=counts,
            generator=context.get("generator"),
            n_sequences=batch,
        )

    def route(self, rows: Rows) -> RouterOutput:
        """As inner; for first="own" the first rows carry no gradient."""
        output = super().route(rows)
        if not (self.causal and self.first == "own") or rows.n_sequences is None:
            return output
        position = torch.arange(output.probs.shape[0], device=output.probs.device)
        head = (position % (output.probs.shape[0] // rows.n_sequences) == 0)[:, None]

        def cut(value: Tensor) -> Tensor:
            return torch.where(head, value.detach(), value)

        return replace(output, probs=cut(output.probs), topk_weight=cut(output.topk_weight), logits=cut(output.logits))

    def _cut(self, value: Tensor, n_segments: int) -> Tensor:
        """(batch, length, ...) as (batch * S, segment length, ...), filled with zeros at the end."""
        fill = n_segments * self.length - value.shape[1]
        if fill:
            value = torch.cat([value, value.new_zeros(value.shape[0], fill, *value.shape[2:])], dim=1)
        return value.reshape(-1, self.length, *value.shape[2:])

    def _first(self, mean: Tensor) -> Tensor:
        """What the first segments are routed by, (batch, 1, d)."""
        if self.first == "own":
            return mean[:, :1]
        start = mean.new_zeros(self.d_model) if self.start is None else self.start.to(mean.dtype)
        return start.expand(mean.shape[0], 1, -1)

    def _shift_ids(self, ids: Tensor | None, counts: Tensor, batch: int) -> tuple[Tensor | None, Tensor]:
        """Token ids and their mask one segment later; the first segment has none, unless it looks at its own."""

        def shift(value: Tensor) -> Tensor:
            value = value.reshape(batch, -1, self.length)
            head = value[:, :1] if self.first == "own" else torch.zeros_like(value[:, :1])
            return torch.cat([head, value[:, :-1]], dim=1).reshape(-1, self.length)

        return None if ids is None else shift(ids), shift(counts)
