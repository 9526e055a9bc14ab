"""Sigmoid router with a bias that balances without a loss."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor, nn

from nashsolve.core.errors import InvalidProblem

from ..balance.loss_free import bias_update
from ..balance.losses import expert_counts
from ..router_output import RouterOutput
from .base import Router, Rows, linear
from .checks import not_negative, whole
from .dropping import check_capacity, drop

_FORGOTTEN = 1000


class SigmoidRouter(Router):
    r"""Sigmoid scores; a bias takes part in the choice, not in the weights.

    .. math:: s = \sigma(Wx), \qquad T = \mathrm{topk}(s + b), \qquad g_T = \kappa\, s_T / \textstyle\sum s_T

    With groups, only the `top_groups` groups whose two best s + b have the largest sum are eligible. `after_step` moves
    b by `bias_rate` towards balance; call it once per optimizer step, or use `follow`.

    Parameters
    ----------
    d_model, n_experts, top_k : as in Router
    normalize : divide the weights by their sum
    scale : kappa > 0
    bias_rate : u >= 0; zero keeps the bias where it is
    n_groups, top_groups : equal groups of experts, and how many of them are eligible
    capacity_factor, drop_order : as in SoftmaxRouter

    Notes
    -----
    `probs` is s divided by its sum over all experts. Sources: [deepseekv3]_, [wang2024lossfree]_
    """

    bias: Tensor
    counts: Tensor

    def __init__(
        self,
        d_model: int,
        n_experts: int,
        top_k: int | None = None,
        *,
        normalize: bool = True,
        scale: float = 1.0,
        bias_rate: float = 1e-3,
        n_groups: int = 1,
        top_groups: int | None = None,
        capacity_factor: float | None = None,
        drop_order: str = "arrival",
    ) -> None:
        super().__init__(d_model, n_experts, top_k)
        self.normalize = normalize
        self.scale = not_negative("scale", scale)
        self.bias_rate = not_negative("bias_rate", bias_rate)
        self.n_groups = whole("n_groups", n_groups)
        self.top_groups = n_groups if top_groups is None else whole("top_groups", top_groups)
        self._check_groups()
        self.capacity_factor = check_capacity(capacity_factor, drop_order)
        self.drop_order = drop_order
        self.gate = nn.Linear(d_model, n_experts, bias=False)
        self.register_buffer("bias", torch.zeros(n_experts))
        self.register_buffer("counts", torch.zeros(n_experts))
        self._calls = 0

    def route(self, rows: Rows) -> RouterOutput:
        """Score, choose with the bias, weigh without it, count."""
        logits = linear(rows.hidden, self.gate.weight)
        score = logits.sigmoid()
        index = self._eligible(score.detach() + self.bias.to(score.dtype)).topk(self.top_k, dim=-1).indices
        weight = score.gather(-1, index)
        if self.normalize:
            weight = weight / (weight.sum(-1, keepdim=True) + 1e-20)
        probs = score / score.sum(-1, keepdim=True)
        if self.training:
            self._count(index, rows.mask)
        output = RouterOutput(
            probs, index, weight * self.scale, logits, row_mask=rows.mask, n_sequences=rows.n_sequences
        )
        return drop(output, self.capacity_factor, self.drop_order)

    @torch.no_grad()
    def after_step(self) -> None:
        """Move the bias against the load counted since the last call, summed over data-parallel ranks."""
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.all_reduce(self.counts)
        self.bias.copy_(bias_update(self.bias, self.counts, self.bias_rate))
        self.counts.zero_()
        self._calls = 0

    def _check_groups(self) -> None:
        if self.n_experts % self.n_groups:
            raise InvalidProblem(f"n_groups is {self.n_groups}; it must divide the {self.n_experts} experts")
        if self.top_groups > self.n_groups:
            raise InvalidProblem(f"top_groups is {self.top_groups}, but there are only {self.n_groups} groups")
        if self.top_groups * (self.n_experts // self.n_groups) < self.top_k:
            raise InvalidProblem(f"top_groups={self.top_groups} leaves fewer than top_k={self.top_k} experts")

    def _eligible(self, score: Tensor) -> Tensor:
        """Scores with -inf outside the best groups."""
        if self.top_groups == self.n_groups:
            return score
        grouped = score.unflatten(-1, (self.n_groups, -1))
        strength = grouped.topk(min(2, grouped.shape[-1]), dim=-1).values.sum(-1)
        best = strength.topk(self.top_groups, dim=-1).indices
        closed = torch.ones_like(strength, dtype=torch.bool).scatter(-1, best, False)
        return grouped.masked_fill(closed[..., None], float("-inf")).flatten(-2)

    @torch.no_grad()
    def _count(self, index: Tensor, mask: Tensor | None) -> None:
        """Count choices; a forward repeated by activation checkpointing counts twice, which no sign notices."""
        self.counts.add_(expert_counts(index, self.n_experts, mask))
        self._calls += 1
        if self._calls == _FORGOTTEN and self.bias_rate:
            warnings.warn(
                f"{_FORGOTTEN} training passes without after_step(): the loss-free bias of this router never moves; "
                "call it after optimizer.step(), or use routers.follow(optimizer, model)",
                UserWarning,
                stacklevel=2,
            )
