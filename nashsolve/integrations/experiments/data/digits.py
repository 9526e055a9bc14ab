"""Handwritten digits (1,797 images of 8 by 8) with shifts, noise, occlusion and unknown classes as robust sets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from nashsolve.core.errors import MissingExtra


@dataclass(frozen=True)
class Digits:
    """Images in [0, 1], float32 (count, 8, 8), and labels, int64, by part.

    train, test : of the known classes
    unknown : images of the classes that are never trained on
    """

    train: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]
    unknown: Tensor
    n_classes: int


def load_digits(held_out: Sequence[int] = (), test_share: float = 0.3, split_seed: int = 0) -> Digits:
    """Scikit-learn's digits, split once for all systems and seeds.

    Parameters
    ----------
    held_out : classes that become `unknown`; the others are numbered anew, in order
    test_share : of the known classes' images, in (0, 1)
    split_seed : of the split
    """
    try:
        from sklearn.datasets import load_digits as load
    except ImportError:
        raise MissingExtra("scikit-learn", "experiments") from None
    found = load()
    images, labels = torch.tensor(found.images / 16.0, dtype=torch.float32), torch.tensor(found.target)
    known = [c for c in range(10) if c not in held_out]
    number = torch.full((10,), -1)
    number[known] = torch.arange(len(known))
    labels = number[labels]
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(split_seed))
    order = order[labels[order] >= 0]
    cut = round(len(order) * test_share)
    test, train = order[:cut], order[cut:]
    return Digits((images[train], labels[train]), (images[test], labels[test]), images[labels < 0], len(known))


def shifted(images: Tensor, pixels: int = 1) -> Tensor:
    """Every image moved by `pixels` in one of four directions, in turn; what comes in is empty."""
    moved = torch.zeros_like(images)
    for k, (dy, dx) in enumerate(((pixels, 0), (-pixels, 0), (0, pixels), (0, -pixels))):
        part = torch.roll(images[k::4], (dy, dx), dims=(1, 2))
        if dy:
            part[:, slice(0, dy) if dy > 0 else slice(dy, None), :] = 0
        if dx:
            part[:, :, slice(0, dx) if dx > 0 else slice(dx, None)] = 0
        moved[k::4] = part
    return moved


def noisy(images: Tensor, deviation: float = 0.3, seed: int = 0) -> Tensor:
    """Gaussian noise, the same for every system."""
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(seed))
    return (images + deviation * noise).clamp(0, 1)


def occluded(images: Tensor, side: int = 3, seed: int = 0) -> Tensor:
    """A black square of `side` pixels somewhere in every image."""
    rng = np.random.default_rng(seed)
    hidden = images.clone()
    for image, (y, x) in zip(hidden, rng.integers(0, images.shape[-1] - side + 1, (len(images), 2)), strict=True):
        image[y : y + side, x : x + side] = 0
    return hidden


def aupr(unknown: Tensor, known: Tensor) -> float:
    """Area under precision and recall for finding unknown images by a score that should be higher for them.

    Parameters
    ----------
    unknown, known : scores (count,)
    """
    scores = torch.cat([unknown, known])
    wanted = torch.cat([torch.ones_like(unknown), torch.zeros_like(known)])
    hits = wanted[scores.argsort(descending=True, stable=True)]
    precision = hits.cumsum(0) / torch.arange(1, len(hits) + 1, device=hits.device)
    return float((precision * hits).sum() / hits.sum())
