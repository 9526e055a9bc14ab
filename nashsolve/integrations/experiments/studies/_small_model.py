"""A causal byte model small enough to train in seconds, shared by the studies that compare many short trainings."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn

from ...torch_moe import MoE, MoEConfig
from ...torch_moe.small_transformer import SmallTransformer
from ..data.library_text import VOCAB, Part, draw, library_bytes, spread
from ..pairing import paired_model
from ..study import Strict
from ..systems import moe_config

REDUCED: dict[str, int] = {
    "d_model": 16,
    "d_hidden": 16,
    "layers": 2,
    "experts": 4,
    "batch": 2,
    "length": 32,
    "segment": 16,
    "windows": 2,
}
"""Sizes for dry runs and tests."""


class Sizes(Strict):
    """Sizes of the model and of its data.

    Attributes
    ----------
    d_model, d_hidden, layers, heads, experts : of the transformer
    batch, length : windows of a step and their bytes
    segment : bytes that share one merged expert
    eta : step from the base expert to the merged expert
    windows : of held-out files, at equal distances
    """

    d_model: int = 64
    d_hidden: int = 128
    layers: int = Field(default=4, ge=2)
    heads: int = 4
    experts: int = Field(default=8, ge=2)
    batch: int = 8
    length: int = 128
    segment: int = 32
    eta: float = Field(default=0.5, gt=0)
    windows: int = Field(default=64, ge=1)

    @property
    def widths(self) -> dict[str, int]:
        """Of one layer."""
        return {"d_model": self.d_model, "d_hidden": self.d_hidden, "n_experts": self.experts}


def system_layer(system: str, sizes: Sizes, **changes: Any) -> MoEConfig:
    """One layer of a system; changes are those of `moe_config`."""
    level = {"level": "segment", "segment_length": sizes.segment}
    return moe_config(system, **{"level": level, "eta": sizes.eta, **sizes.widths, **changes})


def transformer(layer: MoEConfig, sizes: Sizes) -> SmallTransformer:
    """The transformer with one kind of layer, drawn from PyTorch's global generator."""
    return SmallTransformer(VOCAB, sizes.d_model, sizes.layers, sizes.heads, lambda: MoE(layer))


def small_model(system: str, sizes: Sizes, seed: int, **changes: Any) -> SmallTransformer:
    """A model that begins with the same numbers as SMEAR's wherever both have them; changes are the system's own."""

    def build(name: str) -> nn.Module:
        return transformer(system_layer(name, sizes, **(changes if name == system else {})), sizes)

    model = paired_model(build, system, seed)
    assert isinstance(model, SmallTransformer)
    return model


def next_byte_loss(model: nn.Module, sizes: Sizes, device: str = "cpu") -> Callable[[torch.Generator], Tensor]:
    """What `training.train` asks for: cross entropy (nats per byte) of a batch that the generator draws."""
    data = library_bytes("train")

    def loss_of(generator: torch.Generator) -> Tensor:
        x, y = (part.to(device) for part in draw(data, sizes.batch, sizes.length, generator))
        return nn.functional.cross_entropy(model(x).flatten(0, 1), y.flatten())

    return loss_of


@torch.no_grad()
def held_out_bits(model: nn.Module, sizes: Sizes, device: str = "cpu", part: Part = "test") -> Tensor:
    """Bits per byte of every held-out window (windows,), the same windows for every model."""
    rows = spread(library_bytes(part), sizes.windows, sizes.length)
    found = []
    for some in rows.split(16):
        some = some.to(device)
        logits = model(some[:, :-1]).mT
        found.append(nn.functional.cross_entropy(logits, some[:, 1:], reduction="none").mean(1).cpu())
    return torch.cat(found) / math.log(2)
