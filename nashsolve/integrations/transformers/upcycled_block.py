"""What takes the place of a dense feed-forward: experts, a router, and what was around its linear layers."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ..torch_moe.feed_forward import FusedExperts
from ..torch_moe.routers import make_router
from .dense import FeedForward
from .layer import MergingLayer
from .upcycle_config import UpcycleConfig


class Between:
    """What a dense feed-forward does between its linear layers.

    Parameters
    ----------
    act : non-linearity
    dropout : after it, or None
    gated : the hidden units hold gate and up one after the other
    """

    def __init__(self, act: Any, dropout: nn.Module | None, gated: bool) -> None:
        self.act, self.dropout, self.gated = act, dropout, gated

    def __call__(self, hidden: Tensor) -> Tensor:
        """Hidden units (..., h), or (..., 2h) where gated, as (..., h)."""
        if self.gated:
            gate, up = hidden.chunk(2, dim=-1)
            hidden = self.act(gate) * up
        else:
            hidden = self.act(hidden)
        return hidden if self.dropout is None else self.dropout(hidden)

    def __repr__(self) -> str:
        return f"{'gated ' if self.gated else ''}{self.act}"


class UpcycledFeedForward(nn.Module):
    """Experts in the place of a dense feed-forward, with its own non-linearity and dropout.

    Parameters
    ----------
    dense : the feed-forward that it replaces
    config : number of experts, router, start
    generator : of the jitter
    """

    def __init__(self, dense: FeedForward, config: UpcycleConfig, generator: torch.Generator) -> None:
        super().__init__()
        held = dense.tensors()
        width, hidden = held["down_proj"].shape
        self.gated = len(dense.up) == 2
        self.act, self.inner, self.after = dense.act, dense.inner, dense.after
        like = held["up_proj"]
        with torch.device(like.device):
            named = "swiglu" if self.gated else "relu"
            self.experts = FusedExperts(config.experts, width, hidden, named, "up_proj_bias" in held).to(like.dtype)
            self.router = make_router(
                config.router.name, d_model=width, n_experts=config.experts, **config.router.options
            )
        self.experts.activation = Between(self.act, self.inner, self.gated)  # type: ignore[assignment]
        if like.device.type != "meta":
            self._fill(held, config, generator)
        # In a tuple, which nn.Module does not look into: the layer belongs to the merging.
        self._held: tuple[MergingLayer, ...] = ()

    @torch.no_grad()
    def _fill(self, dense: dict[str, Tensor], config: UpcycleConfig, generator: torch.Generator) -> None:
        """Copies of the dense feed-forward, with noise that sums to zero over the experts."""
        jitter = config.jitter if config.start == "jitter" else 0.0
        self.experts.upcycle(dense, jitter, generator)
        if jitter:
            for name, tensor in self.experts.named_parameters():
                tensor.add_(dense[name] - tensor.mean(dim=0))
            gate = getattr(self.router, "gate", None)
            if isinstance(gate, nn.Linear) and config.merge.rule in ("camex", "smear", "lory"):
                nn.init.zeros_(gate.weight)

    def attach(self, layer: MergingLayer) -> None:
        """The layer that merges these experts."""
        self._held = (layer,)

    def forward(self, hidden_states: Tensor) -> Any:
        """Output of the merged experts, in the shape of the hidden states (batch, length, d)."""
        y = self._held[0](hidden_states)
        return y if self.after is None else self.after(y)
