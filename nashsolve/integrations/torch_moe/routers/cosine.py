"""Cosine router: angles between projected tokens and expert vectors, with a learned temperature."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from nashsolve.core.errors import InvalidProblem

from .base import linear
from .checks import whole
from .softmax import SoftmaxRouter

MAX_LOG_SCALE = math.log(100)


class CosineRouter(SoftmaxRouter):
    r"""Cosine scores as in Tutel and Swin-MoE.

    .. math:: z_e = \cos(Px + b_P,\, S_e)\, e^{\min(t, \ln 100)}

    Parameters
    ----------
    d_model, n_experts, top_k : as in Router
    projection : rows of P
    temperature : in (0, inf); t starts at ln(1 / temperature) and is learned
    **gate : options of SoftmaxRouter

    Notes
    -----
    Source: [tutel2023]_
    """

    def __init__(
        self,
        d_model: int,
        n_experts: int,
        top_k: int | None = None,
        *,
        projection: int = 256,
        temperature: float = 0.5,
        **gate: Any,
    ) -> None:
        super().__init__(d_model, n_experts, top_k, **gate)
        if not 0 < temperature < float("inf"):
            raise InvalidProblem(f"temperature is {temperature}; it must be positive and finite")
        self.projector = nn.Linear(d_model, whole("projection", projection))
        self.centroids = nn.Parameter(torch.empty(n_experts, projection).normal_(0, 0.01))
        self.log_scale = nn.Parameter(torch.tensor(math.log(1 / temperature)))

    def score(self, hidden: Tensor) -> Tensor:
        """Scaled cosines."""
        token = nn.functional.normalize(linear(hidden, self.projector.weight, self.projector.bias), dim=-1)
        expert = nn.functional.normalize(self.centroids.to(hidden.dtype), dim=-1)
        return token @ expert.T * self.log_scale.to(hidden.dtype).clamp(max=MAX_LOG_SCALE).exp()
