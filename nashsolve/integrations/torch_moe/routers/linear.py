"""Linear router: one score a expert, softmax before or after the choice."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ..router_output import RouterOutput
from .base import Rows, linear
from .checks import not_negative
from .softmax import SoftmaxRouter


class LinearRouter(SoftmaxRouter):
    r"""Linear scores, :math:`z = Wx + b`.

    softmax="after" with bias is the FastMoE router; "before" with noise, normalize and a capacity is Tutel's; "before"
    alone is that of Qwen-MoE; "before" with jitter is that of the Switch Transformer.

    Parameters
    ----------
    d_model, n_experts, top_k : as in Router
    bias : add b
    jitter : epsilon in [0, 1); in training x is multiplied entrywise by draws from U(1 - epsilon, 1 + epsilon)
    **gate : options of SoftmaxRouter

    Notes
    -----
    Sources: [switch2022]_, [fastmoe2021]_, [tutel2023]_
    """

    def __init__(
        self,
        d_model: int,
        n_experts: int,
        top_k: int | None = None,
        *,
        bias: bool = False,
        jitter: float = 0.0,
        **gate: Any,
    ) -> None:
        super().__init__(d_model, n_experts, top_k, **gate)
        self.jitter = not_negative("jitter", jitter)
        self.gate = nn.Linear(d_model, n_experts, bias=bias)

    def score(self, hidden: Tensor) -> Tensor:
        """W x + b."""
        return linear(hidden, self.gate.weight, self.gate.bias)

    def route(self, rows: Rows) -> RouterOutput:
        """Route jittered rows in training."""
        if self.jitter and self.training:
            draw = torch.empty_like(rows.hidden).uniform_(1 - self.jitter, 1 + self.jitter, generator=rows.generator)
            rows = Rows(**(vars(rows) | {"hidden": rows.hidden * draw}))
        return super().route(rows)
