"""What a merge rule is asked: hidden states, the router's answer, experts and base expert; and how rows meet tokens."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from ..config import MoEConfig
from ..curvature import KroneckerCurvature
from ..experts import ExpertView
from ..feed_forward import Activation, FusedExperts, activate
from ..router_output import RouterOutput


@dataclass(frozen=True)
class MergeCall:
    """One call of a merge rule.

    hidden : (batch, length, d), or (tokens, d) at level "token"
    output : the router's; its rows are tokens, sequences or segments by `level`
    experts : of the layer
    base : base expert, name -> tensor; empty for rules that read none
    curvature : None for the identity
    route_hidden : asks the second linear layer's own router about the hidden units, where there is one
    """

    hidden: Tensor
    output: RouterOutput
    level: str
    segment_length: int | None
    experts: FusedExperts
    base: Mapping[str, Tensor]
    curvature: KroneckerCurvature | None
    route_hidden: Callable[[Tensor], RouterOutput] | None = None

    @property
    def view(self) -> ExpertView:
        return ExpertView.of(self.experts)

    def grouped(self) -> Tensor:
        """Hidden states by rows of the router: (rows, tokens of a row, d); the last segment is filled with zeros."""
        x = self.hidden
        if self.level == "sequence":
            return x
        if self.level == "token":
            return x.reshape(-1, 1, x.shape[-1])
        length, width = x.shape[1:]
        size = self.segment_length or length
        fill = -length % size
        if fill:
            x = nn.functional.pad(x, (0, 0, 0, fill))
        return x.reshape(-1, size, width)

    def ungrouped(self, y: Tensor) -> Tensor:
        """Results by rows back in the shape of the hidden states."""
        if self.level == "segment":
            batch, length, _ = self.hidden.shape
            y = y.reshape(batch, -1, y.shape[-1])[:, :length]
        return y.reshape(*self.hidden.shape[:-1], y.shape[-1])

    def per_token(self, rows: Tensor) -> Tensor:
        """One value for each of the flattened tokens from one for each row: (rows, ...) -> (tokens, ...)."""
        if self.level == "token":
            return rows
        batch, length, _ = self.hidden.shape
        size = self.segment_length or length
        spread = rows.repeat_interleave(size, dim=0).reshape(batch, -1, *rows.shape[1:])
        return spread[:, :length].reshape(batch * length, *rows.shape[1:])

    def weights(self, selection: str) -> Tensor:
        """Weights (rows, N): probabilities of all experts, or the multipliers of the selected ones."""
        return self.output.probs if selection == "all" else self.output.dense()


class MergeRule(nn.Module):
    """A rule that turns a `MergeCall` into the layer's output; subclasses define `forward`.

    Parameters
    ----------
    config : of the layer
    """

    def __init__(self, config: MoEConfig) -> None:
        super().__init__()
        self.settings = config.merge
        self.activation: Activation = config.activation

    def by_linear(self, call: MergeCall, evaluate: Callable[[MergeCall, str], Tensor]) -> Tensor:
        """The feed-forward whose linear layers are merged one by one, each by its own router's answer."""
        assert call.route_hidden is not None
        hidden = activate(evaluate(call, "up_proj"), self.activation)
        return evaluate(replace(call, hidden=hidden, output=call.route_hidden(hidden)), "down_proj")

    def dropped(self, weights: Tensor) -> Tensor:
        """Weights (rows, N) with whole experts dropped in training, for each row anew."""
        settings = self.settings
        if settings.mask != "dropout" or not self.training:
            return weights
        if settings.dropped == "raised":
            return nn.functional.dropout(weights, settings.dropout)
        kept = weights * (torch.rand_like(weights) >= settings.dropout)
        left = kept.sum(-1, keepdim=True)
        # A row that lost all its weight keeps it.
        return torch.where(left > 0, kept * (weights.sum(-1, keepdim=True) / torch.where(left > 0, left, 1.0)), weights)

    @abstractmethod
    def forward(self, call: MergeCall) -> Tensor:
        """Output in the shape of the hidden states."""

    def after_step(self) -> None:
        """What happens once after every optimizer step; nothing for most rules."""
