"""Swin-MoE-S: transformers' Swin with experts in ten feed-forwards of two shapes, as published."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from nashsolve.core.errors import InvalidProblem, MissingExtra

EVERY_SECOND = {2: tuple(range(1, 18, 2)), 3: (1,)}
"""Stage -> blocks with experts: nine in the third stage and one in the fourth."""


def swin_config(**changes: Any) -> Any:
    """The configuration of Swin-S at 192 pixels with windows of 12; `changes` for small ones."""
    try:
        from transformers import SwinConfig
    except ImportError:
        raise MissingExtra("transformers", "experiments", "Swin") from None
    sizes = {"embed_dim": 96, "depths": [2, 2, 18, 2], "num_heads": [3, 6, 12, 24], "window_size": 12}
    return SwinConfig(**{**sizes, "image_size": 192, "drop_path_rate": 0.2, "num_labels": 1000, **changes})


class SwinMoE(nn.Module):
    """Swin for image classification with other feed-forwards in some blocks.

    Parameters
    ----------
    config : of `swin_config`
    make_feed_forward : called with the width for each of these blocks; None leaves Swin as it is
    blocks : stage -> numbers of the blocks
    """

    def __init__(
        self,
        config: Any,
        make_feed_forward: Callable[[int], nn.Module] | None,
        blocks: dict[int, tuple[int, ...]] | None = None,
    ) -> None:
        super().__init__()
        from transformers import SwinForImageClassification

        self.swin = SwinForImageClassification(config)
        stages: Any = self.swin.swin.encoder.layers
        if make_feed_forward is None:
            return
        for stage, numbers in (EVERY_SECOND if blocks is None else blocks).items():
            for number in numbers:
                block = stages[stage].blocks[number]
                width = config.embed_dim * 2**stage
                if not hasattr(block, "mlp"):
                    raise InvalidProblem(
                        "Swin of this version of transformers has no block.mlp; 5.20 or newer is needed"
                    )
                block.mlp = make_feed_forward(width)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (batch, classes) of images (batch, 3, side, side)."""
        return self.swin(pixel_values=images).logits

    @torch.no_grad()
    def upcycle_from(self, dense: Any, jitter: float, generator: torch.Generator | None = None) -> None:
        """Take a dense Swin's weights: everything, and copies of its feed-forwards with jitter for the experts.

        Parameters
        ----------
        dense : SwinForImageClassification of the same sizes
        jitter : as `FusedExperts.upcycle` takes it
        generator : of the noise
        """
        from ...torch_moe.layer import MoE

        given = dense.state_dict()
        self.swin.load_state_dict({k: t for k, t in given.items() if k in self.swin.state_dict()}, strict=False)
        for name, layer in self.swin.named_modules():
            if isinstance(layer, MoE):
                there = {"up_proj": "fc1.weight", "up_proj_bias": "fc1.bias"}
                there |= {"down_proj": "fc2.weight", "down_proj_bias": "fc2.bias"}
                layer.experts.upcycle({slot: given[f"{name}.{k}"] for slot, k in there.items()}, jitter, generator)
