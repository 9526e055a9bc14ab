"""How many parameters a model would have, without its memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from .merging import NAME
from .upcycle_config import UpcycleConfig


@dataclass(frozen=True)
class Counts:
    """Parameters of a model; tied ones count once.

    Attributes
    ----------
    before : of the dense model
    model : of the upcycled model without what merging adds beside it
    merging : base experts, curvature, eta, starts of segments
    """

    before: int
    model: int
    merging: int

    @property
    def after(self) -> int:
        """All parameters of the upcycled model."""
        return self.model + self.merging


def count_upcycled(kind: Any, model_config: Any, config: UpcycleConfig | None = None, **settings: Any) -> Counts:
    """Build a model on the device "meta", upcycle it there, and count.

    Parameters
    ----------
    kind : class of transformers, such as T5ForConditionalGeneration
    model_config : its config
    config, **settings : as `upcycle` takes them

    Returns
    -------
    Counts
    """
    from .upcycling import upcycle

    with torch.device("meta"):
        model = kind(model_config)
        before = sum(p.numel() for p in model.parameters())
        upcycle(model, config, show=False, **settings)
    merging = sum(p.numel() for name, p in model.named_parameters() if name.startswith(f"{NAME}."))
    return Counts(before, sum(p.numel() for p in model.parameters()) - merging, merging)
