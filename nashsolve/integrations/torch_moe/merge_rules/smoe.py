r"""Sparse mixture of experts: outputs of the top-k experts, weighted, :math:`y = \sum_{i\in T} s_if_i(x)`.

Whether the softmax comes before or after the choice is the router's option `softmax`. After it, k = 1 has weight one
whatever the logits, so that the router of the published top-1 baseline is never trained.
"""

from __future__ import annotations

from torch import Tensor

from .call import MergeCall, MergeRule
from .dispatch import mix, selected_outputs


class SmoeRule(MergeRule):
    """Top-k mixture of outputs; at the levels of sequences and segments all their tokens go to the same experts."""

    def forward(self, call: MergeCall) -> Tensor:
        x = call.hidden.reshape(-1, call.hidden.shape[-1])
        outputs = selected_outputs(x, call.per_token(call.output.topk_index), call.experts)
        return mix(outputs, call.per_token(call.output.topk_weight)).reshape(call.hidden.shape)
