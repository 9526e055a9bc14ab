"""A small vision transformer in stages: patches, blocks, and between stages half as many tokens a side, wider."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from nashsolve.core.errors import InvalidProblem

from ...torch_moe.small_transformer import Block, SelfAttention


class PatchMerging(nn.Module):
    """Four neighbouring tokens become one: (batch, side * side, d) to (batch, side * side / 4, wider)."""

    def __init__(self, side: int, width: int, wider: int) -> None:
        super().__init__()
        self.side = side
        self.norm = nn.LayerNorm(4 * width)
        self.reduction = nn.Linear(4 * width, wider, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        batch, _, width = x.shape
        grid = x.view(batch, self.side // 2, 2, self.side // 2, 2, width).permute(0, 1, 3, 2, 4, 5)
        return self.reduction(self.norm(grid.reshape(batch, -1, 4 * width)))


MEAN, DEVIATION = 0.3, 0.375
"""Of the pixels of scikit-learn's digits, to two digits; inputs are standardised by them."""
POSITION = 0.5
"""Deviation of the learned positions at the start. Patches embed with about the same; far smaller ones, as are usual
for large models, leave the mean over the tokens blind to where a stroke is, and few steps do not repair it."""


class SmallVision(nn.Module):
    """Classifier of small grey images.

    Parameters
    ----------
    image, patch : sides in pixels
    widths, depths : of each stage; two widths make two shapes of experts
    n_heads : of every block
    n_classes : of the answer
    make_feed_forward : called with the width for every block
    """

    def __init__(
        self,
        image: int,
        patch: int,
        widths: Sequence[int],
        depths: Sequence[int],
        n_heads: int,
        n_classes: int,
        make_feed_forward: Callable[[int], nn.Module],
    ) -> None:
        super().__init__()
        side = image // patch
        if image % patch or side % 2 ** (len(widths) - 1) or len(widths) != len(depths):
            raise InvalidProblem(f"{side} patches a side do not halve {len(widths) - 1} times, or depths do not fit")
        self.patch = nn.Conv2d(1, widths[0], patch, stride=patch)
        self.position = nn.Parameter(torch.empty(side * side, widths[0]).normal_(0, POSITION))
        layers: list[nn.Module] = []
        for stage, (width, depth) in enumerate(zip(widths, depths, strict=True)):
            if stage:
                layers.append(PatchMerging(side, widths[stage - 1], width))
                side //= 2
            for _ in range(depth):
                layers.append(Block(SelfAttention(width, n_heads, causal=False), make_feed_forward(width), width))
        self.layers = nn.ModuleList(layers)
        self.norm = nn.LayerNorm(widths[-1])
        self.head = nn.Linear(widths[-1], n_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (batch, classes) of images (batch, side, side)."""
        x = self.patch((images[:, None] - MEAN) / DEVIATION).flatten(2).mT + self.position
        for layer in self.layers:
            x = layer(x, None) if isinstance(layer, Block) else layer(x)
        return self.head(self.norm(x).mean(dim=1))
