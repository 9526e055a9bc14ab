"""The gate of most routers: from logits through noise, choice and a softmax to weights."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor

from nashsolve.core.errors import InvalidProblem

from ..router_output import RouterOutput
from .base import Router, Rows
from .checks import choice, not_negative
from .dropping import check_capacity, drop

SoftmaxOrder = Literal["before", "after"]


class SoftmaxRouter(Router):
    r"""A router that turns logits into weights by a softmax; subclasses define `score`.

    Parameters
    ----------
    d_model, n_experts, top_k : as in Router
    softmax : "before" top-k, :math:`p = \mathrm{softmax}(z)`, weights p of the chosen; or "after",
        weights softmax(z of the chosen), which for top_k = 1 is one whatever z, without a gradient for the router
    normalize : divide the weights of the chosen by their sum where top_k > 1 (softmax "before" only)
    noise : nu >= 0; in training :math:`z + (\nu/N)\,n` with normal n chooses and weighs
    capacity_factor : drop choices beyond `expert_capacity`; None drops nothing
    drop_order : "arrival" or "score" (rows with a large top probability are served first)
    """

    def __init__(
        self,
        d_model: int,
        n_experts: int,
        top_k: int | None = None,
        *,
        softmax: SoftmaxOrder = "before",
        normalize: bool = False,
        noise: float = 0.0,
        capacity_factor: float | None = None,
        drop_order: str = "arrival",
    ) -> None:
        super().__init__(d_model, n_experts, top_k)
        self.softmax = choice("softmax", softmax, ("before", "after"))
        if normalize and softmax == "after":
            raise InvalidProblem("normalize changes nothing for softmax='after': its weights sum to one already")
        self.normalize = normalize
        self.noise = not_negative("noise", noise)
        self.capacity_factor = check_capacity(capacity_factor, drop_order)
        self.drop_order = drop_order

    @abstractmethod
    def score(self, hidden: Tensor) -> Tensor:
        """Logits (rows, N) of hidden states (rows, d)."""

    def noise_scale(self, hidden: Tensor) -> Tensor | None:
        """Standard deviation of the noise, (rows, N) or a scalar, None for a router without noise."""
        return hidden.new_tensor(self.noise / self.n_experts) if self.noise else None

    def route(self, rows: Rows) -> RouterOutput:
        """Score, add noise in training, choose, weigh, drop."""
        logits = self.score(rows.hidden)
        scale = self.noise_scale(rows.hidden)
        noisy = logits
        if scale is not None and self.training:
            draw = torch.empty_like(logits).normal_(generator=rows.generator)
            noisy = logits + draw * scale
        index, weight = choose(noisy, self.top_k, self.softmax, self.normalize)
        probs = noisy.softmax(dim=-1)
        output = RouterOutput(probs, index, weight, logits, row_mask=rows.mask, n_sequences=rows.n_sequences)
        if scale is not None:
            output = replace(output, noisy_logits=noisy, noise_std=scale)
        return drop(output, self.capacity_factor, self.drop_order)


def choose(logits: Tensor, k: int, softmax: str, normalize: bool = False) -> tuple[Tensor, Tensor]:
    """Indices of the k largest logits and their weights, (rows, k) each."""
    best, index = logits.topk(k, dim=-1)
    if softmax == "after":
        return index, best.softmax(dim=-1)
    weight = logits.softmax(dim=-1).gather(-1, index)
    if normalize and k > 1:
        weight = weight / weight.sum(-1, keepdim=True)
    return index, weight
