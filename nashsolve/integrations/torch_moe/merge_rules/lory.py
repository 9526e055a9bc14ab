"""Lory: SMEAR for causal segments, each merged by the router's look at the segment before [lory2024]_."""

from __future__ import annotations

from torch import Tensor

from nashsolve.core.errors import InvalidProblem

from .call import MergeCall
from .smear import SmearRule


class LoryRule(SmearRule):
    """SMEAR that insists on a router of segments (which is causal unless it is told otherwise)."""

    def forward(self, call: MergeCall) -> Tensor:
        if call.level != "segment":
            raise InvalidProblem(
                f"merge rule 'lory' got a router of level {call.level!r}; give the router "
                "options level='segment' and segment_length, or use the rule 'smear'"
            )
        return super().forward(call)
