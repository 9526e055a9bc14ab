r"""A router in the style of ACMoE: every expert measures similarity along the features in which its tokens agree.

.. math:: z_e = \sum_q \frac{x_q\,E_{eq}}{s_{eq}}, \qquad s_{eq} \propto \text{mean over tokens of expert } e
   \text{ of } |x_q - \mu_{eq}|

The scales are normalised to mean one for each expert. ACMoE's own code is not public: there the clusters are those of
the layer before, here they are the expert's own tokens of earlier steps, a running mean.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ...torch_moe.router_output import RouterOutput
from ...torch_moe.routers import ROUTERS
from ...torch_moe.routers.base import Rows
from ...torch_moe.routers.softmax import SoftmaxRouter

NAME = "adaptive_cluster"


class AdaptiveClusterRouter(SoftmaxRouter):
    """See the module.

    Parameters
    ----------
    d_model, n_experts, top_k : as in Router
    decay : of the running means, in [0, 1)
    floor : smallest scale, > 0, so that no feature decides alone
    **gate : options of SoftmaxRouter
    """

    mean: Tensor
    spread: Tensor

    def __init__(
        self,
        d_model: int,
        n_experts: int,
        top_k: int | None = None,
        *,
        decay: float = 0.9,
        floor: float = 0.1,
        **gate: Any,
    ) -> None:
        super().__init__(d_model, n_experts, top_k, **gate)
        self.decay, self.floor = decay, floor
        self.gate = nn.Linear(d_model, n_experts, bias=False)
        self.register_buffer("mean", torch.zeros(n_experts, d_model))
        self.register_buffer("spread", torch.ones(n_experts, d_model))

    def score(self, hidden: Tensor) -> Tensor:
        """Similarity to each expert in its own metric, (rows, N)."""
        scale = self.spread / self.spread.mean(dim=-1, keepdim=True)
        return hidden @ (self.gate.weight / scale.clamp(min=self.floor)).to(hidden.dtype).mT

    def route(self, rows: Rows) -> RouterOutput:
        """Route, then in training learn where the tokens of each expert lie."""
        output = super().route(rows)
        if self.training:
            self._follow(rows.hidden.detach().to(self.mean.dtype), output.topk_index[:, 0])
        return output

    @torch.no_grad()
    def _follow(self, hidden: Tensor, chosen: Tensor) -> None:
        member = nn.functional.one_hot(chosen, self.n_experts).to(hidden.dtype)
        count = _summed(member.sum(dim=0)[:, None])
        mean = _summed(member.mT @ hidden) / count.clamp(min=1)
        spread = _summed(member.mT @ (hidden - mean[chosen]).abs()) / count.clamp(min=1)
        # Experts without a token in this batch keep what they know.
        weight = (1 - self.decay) * (count > 0).to(hidden.dtype)
        self.mean.lerp_(mean, weight)
        self.spread.lerp_(spread, weight)


def _summed(found: Tensor) -> Tensor:
    """Over data-parallel ranks, which together see a batch."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.all_reduce(found)
    return found


ROUTERS.setdefault(NAME, AdaptiveClusterRouter)
