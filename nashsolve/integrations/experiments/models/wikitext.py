"""The word-level transformer of the WikiText-103 experiments, in its three published sizes.

Each layer attends to the `span` tokens before the current one (never to itself), over a cache of hidden states, with a
learned vector for every distance; then comes a mixture of experts with a residual and a norm of its own inside the
layer's residual and norm. The published experts have dropout between their two linear layers; here it acts on the
layer's output.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from pydantic import Field
from torch import Tensor, nn

from ...torch_moe.strict import Strict


class WikiTextSize(Strict):
    """One published size.

    Attributes
    ----------
    d_model : width of the model and of its experts
    n_layers, n_heads, n_experts : counts
    block, span : tokens in a block, and how far back attention reaches
    dropout : of attention, experts and embeddings
    batch : sequences in a step
    warmup, steps : of the constant learning rate 7e-4 with Adam
    vocab : words and the end of a line
    """

    d_model: int = Field(ge=1)
    n_layers: int = Field(ge=1)
    block: int = Field(ge=1)
    span: int = Field(ge=1)
    dropout: float = Field(ge=0, lt=1)
    batch: int = Field(ge=1)
    warmup: int = Field(ge=0)
    steps: int = Field(ge=1)
    n_heads: int = 8
    n_experts: int = 16
    vocab: int = 267_735


SIZES = {
    "small": WikiTextSize(
        d_model=128, n_layers=3, block=256, span=256, dropout=0.7, batch=96, warmup=3000, steps=60_000
    ),
    "medium": WikiTextSize(
        d_model=352, n_layers=6, block=512, span=1024, dropout=0.1, batch=48, warmup=4000, steps=80_000
    ),
    "large": WikiTextSize(
        d_model=512, n_layers=12, block=1024, span=2048, dropout=0.1, batch=24, warmup=5000, steps=80_000
    ),
}
"""70.6, 215.7 and 388.1 million parameters."""


class SequentialAttention(nn.Module):
    """Attention of every token to the `span` tokens before it."""

    def __init__(self, size: WikiTextSize) -> None:
        super().__init__()
        self.n_heads, self.span = size.n_heads, size.span
        self.query, self.key, self.value, self.out = (
            nn.Linear(size.d_model, size.d_model, bias=False) for _ in range(4)
        )
        self.dropout = nn.Dropout(size.dropout)

    def forward(self, x: Tensor, before: Tensor, distance: Tensor) -> Tensor:
        """x (batch, M, d), before (batch, span, d) the cached states, distance (head width, span) learned vectors."""
        every = torch.cat([before, x], dim=1)
        q, k, v = self._heads(self.query(x)), self._heads(self.key(every)), self._heads(self.value(every))
        reach = torch.arange(x.shape[1], device=x.device)[:, None] + torch.arange(self.span, device=x.device)
        index = reach.expand(*q.shape[:2], -1, -1)
        scores = (q @ k.mT).gather(-1, index) + q @ distance
        weights = self.dropout((scores / q.shape[-1] ** 0.5).softmax(dim=-1))
        spread = weights.new_zeros(*q.shape[:3], every.shape[1]).scatter(-1, index, weights)
        return self.out((spread @ v).transpose(1, 2).reshape(x.shape))

    def _heads(self, x: Tensor) -> Tensor:
        return x.view(*x.shape[:2], self.n_heads, -1).transpose(1, 2)


class WikiTextLayer(nn.Module):
    """Attention, then a mixture of experts whose own norm lies inside the layer's."""

    def __init__(self, size: WikiTextSize, feed_forward: nn.Module) -> None:
        super().__init__()
        self.attention, self.feed_forward = SequentialAttention(size), feed_forward
        self.attended, self.inner, self.outer = (nn.LayerNorm(size.d_model) for _ in range(3))
        self.dropout = nn.Dropout(size.dropout)

    def forward(self, x: Tensor, before: Tensor, distance: Tensor) -> Tensor:
        """(batch, M, d) in the same shape."""
        x = self.attended(x + self.attention(x, before, distance))
        mixed = self.inner(x + self.dropout(self.feed_forward(x)))
        return self.outer(x + mixed)


class WikiTextModel(nn.Module):
    """The language model; input and output embeddings are separate.

    Parameters
    ----------
    size : of `SIZES`, or another
    make_feed_forward : called once for every layer
    """

    def __init__(self, size: WikiTextSize, make_feed_forward: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.size = size
        self.embedding = nn.Embedding(size.vocab, size.d_model)
        self.out = nn.Linear(size.d_model, size.vocab)
        self.distance = nn.Parameter(torch.zeros(size.d_model // size.n_heads, size.span))
        self.layers = nn.ModuleList(WikiTextLayer(size, make_feed_forward()) for _ in range(size.n_layers))
        self.dropout = nn.Dropout(size.dropout)

    def cache(self, batch: int) -> list[Tensor]:
        """States before the first token of a text: zeros, one (batch, span, d) for each layer."""
        like = self.embedding.weight
        return [like.new_zeros(batch, self.size.span, self.size.d_model) for _ in self.layers]

    def forward(self, ids: Tensor, cache: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """Logits (batch, M, vocab) of ids (batch, M), and the cache for the next block, without a graph."""
        x, later = self.dropout(self.embedding(ids)), []
        for layer, before in zip(self.layers, cache, strict=True):
            later.append(torch.cat([before, x], dim=1)[:, -self.size.span :].detach())
            x = layer(x, before, self.distance)
        return self.out(x), later
