r"""SMEAR: one merged expert for each row of the router, :math:`\hat E = \sum_i s_iE_i` [smear2023]_."""

from __future__ import annotations

from torch import Tensor

from .affine import evaluate, evaluate_linear
from .call import MergeCall, MergeRule


class SmearRule(MergeRule):
    """All parameters merged with the router's weights; no base expert.

    Per sequence and segment the merged parameters are built; per token the merge is exact at the cost of all experts.
    """

    def forward(self, call: MergeCall) -> Tensor:
        if self.settings.granularity == "linear":
            return self.by_linear(call, lambda part, name: evaluate_linear(part, name, None, self._weights(part)))
        return evaluate(call, self.activation, None, self._weights(call))

    def _weights(self, call: MergeCall) -> Tensor:
        return self.dropped(call.weights(self.settings.selection))
