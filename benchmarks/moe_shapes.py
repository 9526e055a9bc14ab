"""Shapes of published mixture-of-experts models, and stacks of layers built to them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from nashsolve.integrations.torch_moe import MoE, MoEConfig
from nashsolve.integrations.torch_moe.small_transformer import SmallTransformer


@dataclass(frozen=True)
class Shape:
    """One model: widths, experts, and how many of its layers are built here.

    layers : built here; `of` is how many layers with experts the model has
    """

    d_model: int
    d_hidden: int
    heads: int
    experts: int
    layers: int
    of: int
    activation: str
    n_shared: int = 0

    @property
    def per_expert(self) -> int:
        """Parameters of one expert."""
        return self.d_model * self.d_hidden * (3 if self.activation == "swiglu" else 2)

    def scaled(self, width: float, layers: int | None) -> Shape:
        """With all widths multiplied (heads keep an even width), and another number of layers."""
        head = max(2, 2 * round(self.d_model * width / self.heads / 2))
        wide = replace(self, d_model=head * self.heads, d_hidden=max(8, round(self.d_hidden * width)))
        return wide if layers is None else replace(wide, layers=layers)


SHAPES = {
    "t5-base": Shape(768, 3072, 12, 8, 12, 12, "relu"),
    "qwen1.5-moe": Shape(2048, 1408, 16, 60, 2, 24, "swiglu", n_shared=4),
    "deepseek-moe": Shape(2048, 1408, 16, 64, 2, 27, "swiglu", n_shared=2),
    "olmoe-7b": Shape(2048, 1024, 16, 64, 2, 16, "swiglu"),
    "wikitext-small": Shape(128, 128, 8, 16, 3, 3, "relu"),
    "wikitext-medium": Shape(352, 352, 8, 16, 6, 6, "relu"),
}
"""Name -> shape. The large ones are built with two layers: one step of the chain, all steps being alike."""


def build(shape: Shape, system: str, vocab: int, **settings: Any) -> SmallTransformer:
    """A transformer of that shape with a system's layers."""
    config = MoEConfig.preset(
        system,
        d_model=shape.d_model,
        d_hidden=shape.d_hidden,
        n_experts=shape.experts,
        activation=shape.activation,
        n_shared=shape.n_shared,
        **settings,
    )
    return SmallTransformer(vocab, shape.d_model, shape.layers, shape.heads, lambda: MoE(config), causal=False)
