"""Tokens to their selected experts and back: sorted by expert, so that each expert runs once."""

from __future__ import annotations

import torch
from torch import Tensor

from ..feed_forward import FusedExperts, feed_forward


def selected_outputs(x: Tensor, index: Tensor, experts: FusedExperts) -> Tensor:
    """Outputs of every token's selected experts.

    Parameters
    ----------
    x : (T, d)
    index : (T, k) experts of each token
    experts : of the layer

    Returns
    -------
    (T, k, d)
    """
    tokens, k = index.shape
    if tokens == 0:
        return x.new_zeros(0, k, x.shape[-1])
    flat = index.reshape(-1)
    order = torch.argsort(flat, stable=True)
    rows = x[order // k]
    counts = torch.bincount(flat, minlength=experts.n_experts).tolist()
    parts = [
        feed_forward(part, experts.expert(i), experts.activation)
        for i, part in enumerate(rows.split(counts))
        if counts[i]
    ]
    back = torch.empty_like(order)
    back[order] = torch.arange(len(order), device=order.device)
    return torch.cat(parts)[back].reshape(tokens, k, -1)


def all_outputs(x: Tensor, experts: FusedExperts) -> Tensor:
    """Outputs of all experts for every token: (T, d) -> (T, N, d)."""
    outputs = [feed_forward(x, experts.expert(i), experts.activation) for i in range(experts.n_experts)]
    return torch.stack(outputs, dim=1)


def mix(outputs: Tensor, weights: Tensor) -> Tensor:
    """``sum_k w_tk y_tk`` for outputs (T, k, d) and weights (T, k), in the dtype of the outputs."""
    return torch.matmul(weights.to(outputs.dtype)[:, None, :], outputs)[:, 0]
