"""Routing of whole sequences or segments: any router, asked about the mean of many tokens."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor, nn

from nashsolve.core.errors import InvalidProblem

from ..router_output import RouterOutput
from .base import Router, Rows, at_least_float32
from .checks import check_call


class PooledRouter(Router):
    """Asks a token router about means of tokens; subclasses say which tokens.

    Parameters
    ----------
    inner : the router that decides
    norm : layer norm of the mean before it is routed
    count_padding : let padding take part in the mean, as published code does, instead of leaving it out
    """

    def __init__(self, inner: Router, *, norm: bool = False, count_padding: bool = False) -> None:
        super().__init__(inner.d_model, inner.n_experts, inner.top_k)
        if inner.level != "token":
            raise InvalidProblem(f"inner decides per {inner.level}; a router that decides per token is needed")
        self.inner = inner
        self.norm = nn.LayerNorm(inner.d_model) if norm else None
        self.count_padding = count_padding

    def forward(self, hidden: Tensor, **context: Any) -> RouterOutput:
        """Route hidden states (batch, length, d); context as in Router."""
        check_call(hidden, context, self.d_model)
        if hidden.ndim != 3:
            raise InvalidProblem(
                f"hidden has shape {tuple(hidden.shape)}; routing per {self.level} needs (batch, length, d)"
            )
        with torch.autocast(device_type=hidden.device.type, enabled=False):
            return self.route(self.rows(at_least_float32(hidden), context))

    @abstractmethod
    def rows(self, hidden: Tensor, context: dict[str, Any]) -> Rows:
        """The means that are routed."""

    def route(self, rows: Rows) -> RouterOutput:
        """Let the inner router decide."""
        if self.norm is not None:
            weight, bias = self.norm.weight.to(rows.hidden.dtype), self.norm.bias.to(rows.hidden.dtype)
            hidden = nn.functional.layer_norm(rows.hidden, (self.d_model,), weight, bias, self.norm.eps)
            rows = Rows(**(vars(rows) | {"hidden": hidden}))
        return self.inner.route(rows)

    def after_step(self) -> None:
        """As inner."""
        self.inner.after_step()

    def mean(self, windows: Tensor, mask: Tensor | None) -> Tensor:
        """Mean over tokens: windows (rows, tokens, d), mask (rows, tokens) or None; zero where no token counts."""
        if mask is None or self.count_padding:
            return windows.mean(dim=1)
        zero = torch.zeros((), dtype=windows.dtype, device=windows.device)
        total = torch.where(mask[..., None], windows, zero).sum(dim=1)
        return total / mask.sum(dim=1, keepdim=True).clamp(min=1)
