r"""Usage-weighted averaging: one expert for all, :math:`\hat E = \sum_i u_iE_i` with u the share of use [mcsmoe2024]_.

The router only counts: it gets no gradient from the model, so that the rule suits merging after training, or a router
that a balance loss trains.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..config import MoEConfig
from ..feed_forward import feed_forward
from .call import MergeCall, MergeRule


class UsageRule(MergeRule):
    """Experts averaged by how often the router chooses them; shares start equal and move in `after_step`.

    Attributes
    ----------
    usage : (N,) buffer, sums to one
    pending : (N,) buffer, choices counted in training since the last step
    """

    usage: Tensor
    pending: Tensor

    def __init__(self, config: MoEConfig) -> None:
        super().__init__(config)
        self.register_buffer("usage", torch.full((config.n_experts,), 1 / config.n_experts))
        self.register_buffer("pending", torch.zeros(config.n_experts))

    def forward(self, call: MergeCall) -> Tensor:
        if self.training:
            self._count(call)
        return feed_forward(call.hidden, call.view.merge(self.usage), self.activation)

    @torch.no_grad()
    def _count(self, call: MergeCall) -> None:
        index = call.output.topk_index
        ones = torch.ones_like(index, dtype=self.pending.dtype)
        if call.output.row_mask is not None:
            ones = ones * call.output.row_mask[:, None]
        self.pending.scatter_add_(0, index.reshape(-1), ones.reshape(-1))

    @torch.no_grad()
    def after_step(self) -> None:
        """Let the counted choices into the shares, with weight 1 - usage_decay; nothing without choices."""
        total = self.pending.sum()
        share = torch.where(total > 0, self.pending / total.clamp(min=1), self.usage)
        self.usage.lerp_(share, 1 - self.settings.usage_decay)
        self.pending.zero_()
