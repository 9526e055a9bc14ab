r"""CAMEx: domain vectors merged over a base expert [camex2025]_.

.. math:: \hat E = E_m + \eta\sum_i m_i\odot M_i(s_i\tau_i)

Where the base expert comes from is the layer's affair: its own (CAMEx), or the chain's (EP-CAMEx, NAMEx and its
variants). With M the identity, no mask and weights that sum to one, eta = 1 is SMEAR: the base expert cancels.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..config import MoEConfig
from ..experts import ExpertView, Slot
from ..feed_forward import feed_forward
from .affine import evaluate, mixed_feed_forward
from .call import MergeCall, MergeRule
from .curved_merge import curved_merge


class CamexRule(MergeRule):
    """Merging over the base expert; per token at the cost of all experts."""

    def __init__(self, config: MoEConfig) -> None:
        super().__init__(config)
        self.eta = float(config.merge.eta or 0.0)

    def forward(self, call: MergeCall) -> Tensor:
        settings = self.settings
        n = call.output.probs.shape[-1]
        if settings.few_selected == "plain_sum" and 2 * call.output.topk_index.shape[-1] < n:
            return evaluate(call, self.activation, None, call.output.dense())
        s = self.eta * self._dropped(call.weights(settings.selection))
        if call.curvature is None and settings.mask != "ties":
            return evaluate(call, self.activation, 1 - s.sum(-1), s)
        if call.level == "token":
            return self._per_token(call, s)
        experts = {slot.name: self._merge(call, slot, s) for slot in call.view.slots}
        return call.ungrouped(feed_forward(call.grouped(), experts, self.activation))

    def _merge(self, call: MergeCall, slot: Slot, weights: Tensor, over_base: bool = True) -> Tensor:
        curvature = None if call.curvature is None else call.curvature.slot(slot.name)
        return curved_merge(slot, call.base[slot.name], weights, curvature, self.settings.mask == "ties", over_base)

    def _per_token(self, call: MergeCall, s: Tensor) -> Tensor:
        """Curved domain vectors once for all tokens, then a combination of linear layers for each."""
        eye = torch.eye(s.shape[-1], dtype=s.dtype, device=s.device)
        curved = {slot.name: self._merge(call, slot, eye, over_base=False) for slot in call.view.slots}
        x = call.hidden.reshape(-1, call.hidden.shape[-1])
        a = torch.ones_like(s[:, 0])
        y = mixed_feed_forward(x, ExpertView.of(curved), call.base, a, s, self.activation)
        return y.reshape(call.hidden.shape)

    def _dropped(self, weights: Tensor) -> Tensor:
        """Whole experts dropped in training, for each row anew, and the others raised by 1 / (1 - p)."""
        if self.settings.mask != "dropout":
            return weights
        return torch.nn.functional.dropout(weights, self.settings.dropout, self.training)
