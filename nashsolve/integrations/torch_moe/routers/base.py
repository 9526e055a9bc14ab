"""What every router shares: how it is called, what it is asked, what happens after a step."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from nashsolve.core.errors import InvalidProblem

from ..router_output import RouterOutput
from .checks import check_call, whole


@dataclass
class Rows:
    """What a router decides about: one row a token, a segment or a sequence.

    Attributes
    ----------
    hidden : (rows, d), at least float32
    mask : (rows,) bool, False for padding, or None
    ids : (rows, width) int64 token ids that a row stands for, or None
    ids_mask : (rows, width) bool, or None
    generator : of the noise, or None
    n_sequences : sequences that the rows belong to, or None
    """

    hidden: Tensor
    mask: Tensor | None = None
    ids: Tensor | None = None
    ids_mask: Tensor | None = None
    generator: torch.Generator | None = None
    n_sequences: int | None = None


class Router(nn.Module):
    """Chooses and weighs experts for every token; subclasses define `route`.

    Called as ``router(hidden, **context)``. Everything is computed in float32 or better, also under autocast.

    Parameters
    ----------
    d_model : width of the hidden states
    n_experts : N
    top_k : chosen experts per row, 1..N

    Attributes
    ----------
    level : "token"; `pooled` routers decide per "sequence" or "segment"
    segment_length : tokens in a segment, None for other levels
    """

    level: Literal["token", "sequence", "segment"] = "token"
    segment_length: int | None = None

    def __init__(self, d_model: int, n_experts: int, top_k: int | None = None) -> None:
        super().__init__()
        self.d_model = whole("d_model", d_model)
        self.n_experts = whole("n_experts", n_experts)
        self.top_k = self.n_experts if top_k is None else whole("top_k", top_k)
        if self.top_k > self.n_experts:
            raise InvalidProblem(f"top_k is {self.top_k}, but there are only {self.n_experts} experts")

    def forward(self, hidden: Tensor, **context: Any) -> RouterOutput:
        """Route hidden states.

        Parameters
        ----------
        hidden : (batch, length, d) or (tokens, d), floating
        token_mask : (batch, length) or (tokens,) bool, optional; True for real tokens
        input_ids : (batch, length) or (tokens,) int64, optional; for routers that distil from token ids
        generator : torch.Generator, optional; for routers with noise

        Returns
        -------
        RouterOutput, rows in the order of the tokens (or of segments, or sequences)

        Raises
        ------
        InvalidProblem, InvalidType
        """
        check_call(hidden, context, self.d_model)
        with torch.autocast(device_type=hidden.device.type, enabled=False):
            return self.route(self.rows(at_least_float32(hidden), context))

    def rows(self, hidden: Tensor, context: dict[str, Any]) -> Rows:
        """The rows of one call: here every token."""
        mask, ids = context.get("token_mask"), context.get("input_ids")
        return Rows(
            hidden.reshape(-1, self.d_model),
            mask=None if mask is None else mask.reshape(-1),
            ids=None if ids is None else ids.reshape(-1, 1),
            generator=context.get("generator"),
            n_sequences=hidden.shape[0] if hidden.ndim == 3 else None,
        )

    @abstractmethod
    def route(self, rows: Rows) -> RouterOutput:
        """Decide about rows."""

    def after_step(self) -> None:
        """What happens once after every optimizer step; nothing for most routers."""


def at_least_float32(value: Tensor) -> Tensor:
    """float16 and bfloat16 as float32, others as they are."""
    return value if value.dtype in (torch.float32, torch.float64) else value.float()


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x W' + b in the dtype of x, whatever the parameters are stored in."""
    return nn.functional.linear(x, weight.to(x.dtype), None if bias is None else bias.to(x.dtype))
