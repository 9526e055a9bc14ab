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
from .affine import apply_linear, evaluate, evaluate_linear, mixed_feed_forward, mixed_linear
from .call import MergeCall, MergeRule
from .curved_merge import curved_merge


class CamexRule(MergeRule):
    """Merging over the base expert; per token at the cost of all experts."""

    def __init__(self, config: MoEConfig) -> None:
        super().__init__(config)
        self.eta = float(config.merge.eta or 0.0)

    def forward(self, call: MergeCall) -> Tensor:
        if self.settings.granularity == "linear":
            return self.by_linear(call, self._linear)
        if self._plain(call):
            return evaluate(call, self.activation, None, call.output.dense())
        s = self._weights(call)
        if not self._curved(call):
            return evaluate(call, self.activation, 1 - s.sum(-1), s)
        if call.level == "token":
            x, view = call.hidden.reshape(-1, call.hidden.shape[-1]), self._domain(call, call.view, s)
            y = mixed_feed_forward(x, view, call.base, torch.ones_like(s[:, 0]), s, self.activation)
            return y.reshape(call.hidden.shape)
        experts = {slot.name: self._merge(call, slot, s) for slot in call.view.slots}
        return call.ungrouped(feed_forward(call.grouped(), experts, self.activation))

    def _linear(self, call: MergeCall, name: str) -> Tensor:
        """One linear layer, by the answer of its own router."""
        if self._plain(call):
            return evaluate_linear(call, name, None, call.output.dense())
        s = self._weights(call)
        if not self._curved(call):
            return evaluate_linear(call, name, 1 - s.sum(-1), s)
        view = call.view.only((name, f"{name}_bias"))
        if call.level == "token":
            x, domain = call.hidden.reshape(-1, call.hidden.shape[-1]), self._domain(call, view, s)
            y = mixed_linear(x, domain, call.base, name, torch.ones_like(s[:, 0]), s)
            return y.reshape(*call.hidden.shape[:-1], y.shape[-1])
        return apply_linear(call, {slot.name: self._merge(call, slot, s) for slot in view.slots}, name)

    def _plain(self, call: MergeCall) -> bool:
        """Whether so few experts are selected that the published code sums them up."""
        few = 2 * call.output.topk_index.shape[-1] < call.output.probs.shape[-1]
        return self.settings.few_selected == "plain_sum" and few

    def _curved(self, call: MergeCall) -> bool:
        return call.curvature is not None or self.settings.mask == "ties"

    def _weights(self, call: MergeCall) -> Tensor:
        return self.eta * self.dropped(call.weights(self.settings.selection))

    def _merge(self, call: MergeCall, slot: Slot, weights: Tensor, over_base: bool = True) -> Tensor:
        curvature = None if call.curvature is None else call.curvature.slot(slot.name)
        return curved_merge(slot, call.base[slot.name], weights, curvature, self.settings.mask == "ties", over_base)

    def _domain(self, call: MergeCall, view: ExpertView, s: Tensor) -> ExpertView:
        """Curved domain vectors, once for all tokens, for a combination of linear layers for each."""
        eye = torch.eye(s.shape[-1], dtype=s.dtype, device=s.device)
        return ExpertView.of({slot.name: self._merge(call, slot, eye, over_base=False) for slot in view.slots})
