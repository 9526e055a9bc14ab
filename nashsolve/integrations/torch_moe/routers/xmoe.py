"""XMoE router: expert vectors on a sphere in a low-dimensional space, against collapse of the representation."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ..router_output import RouterOutput
from .base import Rows, linear
from .checks import whole
from .softmax import SoftmaxRouter

CENTROID_NORM = 1.5
BALANCE_TEMPERATURE = 0.3


class XMoERouter(SoftmaxRouter):
    r"""Scores by expert vectors of fixed length in a projected space.

    .. math:: y = W_r x, \qquad z_e = y^\top e / \|e\|

    As in the published training code the token is not normalized, and `after_step` brings the vectors e back to norm
    1.5 (which changes no score, only how far a gradient step turns them).

    Parameters
    ----------
    d_model, n_experts, top_k : as in Router
    projection : dimension of y; None scores x itself, which that code calls its StableMoE router
    normalize_token : divide y by its norm, as the paper writes it
    softmax : "after" (as published) or "before"
    **gate : other options of SoftmaxRouter

    Notes
    -----
    Source: [chi2022xmoe]_
    """

    def __init__(
        self,
        d_model: int,
        n_experts: int,
        top_k: int | None = None,
        *,
        projection: int | None = 8,
        normalize_token: bool = False,
        softmax: Any = "after",
        **gate: Any,
    ) -> None:
        super().__init__(d_model, n_experts, top_k, softmax=softmax, **gate)
        self.normalize_token = normalize_token
        self.projector = None if projection is None else nn.Linear(d_model, whole("projection", projection), bias=False)
        self.centroids = nn.Parameter(torch.empty(n_experts, projection or d_model))
        nn.init.orthogonal_(self.centroids, gain=0.32)
        self.after_step()

    def score(self, hidden: Tensor) -> Tensor:
        """Inner products with unit expert vectors."""
        token = hidden if self.projector is None else linear(hidden, self.projector.weight)
        if self.normalize_token:
            token = nn.functional.normalize(token, dim=-1)
        return token @ nn.functional.normalize(self.centroids.to(hidden.dtype), dim=-1).T

    def route(self, rows: Rows) -> RouterOutput:
        """As every softmax router, with the temperature of this router's balance loss."""
        output = super().route(rows)
        output.balance_temperature = BALANCE_TEMPERATURE
        return output

    @torch.no_grad()
    def after_step(self) -> None:
        """Rescale the expert vectors to norm 1.5."""
        self.centroids.mul_(CENTROID_NORM / self.centroids.norm(dim=-1, keepdim=True).clamp(min=1e-12))
