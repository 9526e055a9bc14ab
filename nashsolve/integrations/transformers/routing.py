"""A model's own router, asked about rows of any kind."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from ..torch_moe.router_output import RouterOutput


class ModelRouter:
    """The router of a block; it is called past its hooks, so that outputs that transformers records stay its own.

    Parameters
    ----------
    gate : module that answers (logits, weights, indices) for rows, or the router of Switch with its ``classifier``
    scoring : "softmax" or "sigmoid", of the probabilities of all experts
    """

    def __init__(self, gate: Any, scoring: Literal["softmax", "sigmoid"]) -> None:
        self.module: Any = gate
        self.scoring = scoring
        self.plain = hasattr(gate, "classifier")

    def route(self, rows: Tensor) -> RouterOutput:
        """Answer for rows (R, d)."""
        if self.plain:
            logits = at_least_float32(self.module.classifier(rows.to(self.module.classifier.weight.dtype)))
            weight, index = logits.softmax(-1).max(dim=-1, keepdim=True)
        else:
            logits, weight, index = self.module.forward(rows.to(self.module.weight.dtype))
        return RouterOutput(self._probabilities(logits), index, at_least_float32(weight), logits)

    def _probabilities(self, logits: Tensor) -> Tensor:
        logits = at_least_float32(logits)
        if self.scoring == "softmax":
            return logits.softmax(dim=-1)
        score = logits.sigmoid()
        return score / score.sum(-1, keepdim=True)


class OwnRouter:
    """A router of torch_moe that upcycling added.

    Parameters
    ----------
    router : decides per token; it is asked about rows
    """

    def __init__(self, router: Any) -> None:
        self.module = router

    def route(self, rows: Tensor) -> RouterOutput:
        """Answer for rows (R, d)."""
        output: RouterOutput = self.module(rows)
        return output


def at_least_float32(rows: Tensor) -> Tensor:
    """float16 and bfloat16 as float32, others as they are."""
    return rows if rows.dtype in (torch.float32, torch.float64) else rows.float()
