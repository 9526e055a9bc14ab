"""What a router says about each row: a token, a segment or a sequence."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass
class RouterOutput:
    """Answer of a router; rows are tokens (batch * length), segments (batch, S) or sequences (batch).

    Attributes
    ----------
    probs : (rows, N), rows sum to one, over all experts
    topk_index : (rows, k) int64, the chosen experts, best first
    topk_weight : (rows, k) multipliers of the chosen ones; zero for a choice dropped by capacity; they need
        not sum to one
    logits : (rows, N) without noise
    losses : name -> scalar, losses of this router's own, already multiplied by their coefficients
    noisy_logits, noise_std : (rows, N) and (rows, N) or scalar, for routers with noise, else None
    row_mask : (rows,) bool, False for rows of padding, else None
    n_sequences : how many sequences the rows belong to, None where unknown
    balance_temperature : of the softmax within the balance loss "fastmoe"
    """

    probs: Tensor
    topk_index: Tensor
    topk_weight: Tensor
    logits: Tensor
    losses: dict[str, Tensor] = field(default_factory=dict)
    noisy_logits: Tensor | None = None
    noise_std: Tensor | None = None
    row_mask: Tensor | None = None
    n_sequences: int | None = None
    balance_temperature: float = 1.0

    def dense(self) -> Tensor:
        """The multipliers scattered over all experts (rows, N), zero for those not chosen."""
        return torch.zeros_like(self.probs).scatter_add(-1, self.topk_index, self.topk_weight.to(self.probs.dtype))
