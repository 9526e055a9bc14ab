r"""SMEAR: one merged expert for each row of the router, :math:`\hat E = \sum_i s_iE_i` [smear2023]_."""

from __future__ import annotations

from torch import Tensor

from .affine import evaluate
from .call import MergeCall, MergeRule


class SmearRule(MergeRule):
    """All parameters merged with the router's weights; no base expert.

    Per sequence and segment the merged parameters are built; per token the merge is exact at the cost of all experts.
    """

    def forward(self, call: MergeCall) -> Tensor:
        return evaluate(call, self.activation, None, call.weights(self.settings.selection))
