"""A small pre-norm transformer whose feed-forwards the caller chooses: for examples, benchmarks and tests."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from nashsolve.core.errors import InvalidProblem

from .layer import MoE


class SelfAttention(nn.Module):
    """Multi-head self-attention with rotary positions.

    Parameters
    ----------
    d_model : width
    n_heads : divides d_model into heads of even width
    causal : hide later tokens
    """

    def __init__(self, d_model: int, n_heads: int, causal: bool = True) -> None:
        super().__init__()
        if d_model % (2 * n_heads):
            raise InvalidProblem(f"d_model is {d_model}; a multiple of 2 * n_heads = {2 * n_heads} is needed")
        self.n_heads, self.causal = n_heads, causal
        self.inward = nn.Linear(d_model, 3 * d_model, bias=False)
        self.outward = nn.Linear(d_model, d_model, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, length, d) in the same shape."""
        batch, length, width = x.shape
        q, k, v = self.inward(x).view(batch, length, 3, self.n_heads, -1).permute(2, 0, 3, 1, 4)
        q, k = rotated(q), rotated(k)
        mixed = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=self.causal)
        return self.outward(mixed.transpose(1, 2).reshape(batch, length, width))


def rotated(x: Tensor) -> Tensor:
    """Queries or keys (..., length, width), turned by angles that grow with the position."""
    length, width = x.shape[-2:]
    frequency = 10_000.0 ** (-torch.arange(0, width, 2, device=x.device) / width)
    angle = torch.arange(length, device=x.device)[:, None] * frequency
    cos, sin = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
    one, other = x[..., : width // 2], x[..., width // 2 :]
    return torch.cat([one * cos - other * sin, one * sin + other * cos], dim=-1)


class Block(nn.Module):
    """Attention and feed-forward, each behind a layer norm and within a residual."""

    def __init__(self, attention: SelfAttention, feed_forward: nn.Module, d_model: int) -> None:
        super().__init__()
        self.attention, self.feed_forward = attention, feed_forward
        self.first_norm, self.second_norm = nn.LayerNorm(d_model), nn.LayerNorm(d_model)

    def forward(self, x: Tensor, input_ids: Tensor | None) -> Tensor:
        """(batch, length, d) in the same shape; input_ids for routers that distil from them."""
        x = x + self.attention(self.first_norm(x))
        normed = self.second_norm(x)
        moe = isinstance(self.feed_forward, MoE)
        return x + (self.feed_forward(normed, input_ids=input_ids) if moe else self.feed_forward(normed))


class SmallTransformer(nn.Module):
    """Language model over token ids, input and output embeddings shared.

    Parameters
    ----------
    vocab_size, d_model, n_layers, n_heads : sizes
    make_feed_forward : called once for every layer; a `MoE` or any module from (batch, length, d) to the same
    causal : hide later tokens
    """

    def __init__(
        self,
        vocab_size: int,
        d_model: int,
        n_layers: int,
        n_heads: int,
        make_feed_forward: Callable[[], nn.Module],
        causal: bool = True,
    ) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocab_size, d_model)
        nn.init.normal_(self.embedding.weight, std=d_model**-0.5)
        self.blocks = nn.ModuleList(
            Block(SelfAttention(d_model, n_heads, causal), make_feed_forward(), d_model) for _ in range(n_layers)
        )
        self.norm = nn.LayerNorm(d_model)

    def forward(self, input_ids: Tensor) -> Tensor:
        """Logits (batch, length, vocab) of (batch, length) int64."""
        return nn.functional.linear(self.features(input_ids), self.embedding.weight)

    def features(self, input_ids: Tensor) -> Tensor:
        """What the logits are computed from, (batch, length, d)."""
        x = self.embedding(input_ids)
        for block in self.blocks:
            x = block(x, input_ids)
        return self.norm(x)

    def layers(self) -> list[MoE]:
        """The feed-forwards that are `MoE` layers."""
        return [block.feed_forward for block in self.blocks if isinstance(block.feed_forward, MoE)]

    def auxiliary_loss(self) -> Tensor:
        """Sum over the layers' balance losses of the last call."""
        return sum((layer.auxiliary_loss() for layer in self.layers()), self.embedding.weight.new_zeros(()))
