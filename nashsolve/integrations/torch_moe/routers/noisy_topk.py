"""Noisy top-k router: learned noise decides near ties, so that every expert is tried."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from nashsolve.core.errors import InvalidProblem

from .base import linear
from .checks import not_negative
from .softmax import SoftmaxRouter


class NoisyTopKRouter(SoftmaxRouter):
    r"""Linear scores with learned noise in training.

    .. math:: \tilde z = xW_g + n \cdot (\mathrm{softplus}(xW_n) + \epsilon), \qquad n \sim N(0, 1)

    followed by a softmax over the chosen experts. Both matrices start at zero, so that noise alone chooses at first.

    Parameters
    ----------
    d_model, n_experts, top_k : as in Router
    epsilon : least standard deviation, >= 0
    softmax : "after" (as published) or "before"
    **gate : other options of SoftmaxRouter; `noise` is refused, since the noise is learned

    Notes
    -----
    Source: [shazeer2017]_
    """

    def __init__(
        self,
        d_model: int,
        n_experts: int,
        top_k: int | None = None,
        *,
        epsilon: float = 0.01,
        softmax: Any = "after",
        **gate: Any,
    ) -> None:
        if "noise" in gate:
            raise InvalidProblem("noise is learned by noisy_topk; set its floor by epsilon")
        super().__init__(d_model, n_experts, top_k, softmax=softmax, **gate)
        self.epsilon = not_negative("epsilon", epsilon)
        self.gate_weight = nn.Parameter(torch.zeros(n_experts, d_model))
        self.noise_weight = nn.Parameter(torch.zeros(n_experts, d_model))

    def score(self, hidden: Tensor) -> Tensor:
        """x W_g."""
        return linear(hidden, self.gate_weight)

    def noise_scale(self, hidden: Tensor) -> Tensor:
        """softplus(x W_n) + epsilon."""
        return nn.functional.softplus(linear(hidden, self.noise_weight)) + self.epsilon
