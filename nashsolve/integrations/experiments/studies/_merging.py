"""A trained layer of routed experts, merged without further training: into one expert, or over a base expert."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...torch_moe import MoE, MoEConfig, domain_gram
from ...torch_moe.bargain import bargain_over_base
from ...torch_moe.config import BargainConfig
from ...torch_moe.small_transformer import SmallTransformer
from ..training import chains_of


def shares_of(how: str, layer: MoE, counts: Tensor) -> Tensor:
    """Shares (N,) of the experts in one merged expert.

    Parameters
    ----------
    how : "mean", "usage" (by the tokens that chose them), or "nash" (bargain over their parameters, from zero)
    layer : trained
    counts : (N,) choices of held-out tokens
    """
    view = layer.expert_view()
    if how == "mean":
        return torch.full((view.n,), 1 / view.n)
    if how == "usage":
        return counts / counts.sum()
    nothing = {name: torch.zeros(shape) for name, shape in view.shapes.items()}
    agreed = bargain_over_base(domain_gram(view, nothing), BargainConfig())
    return torch.from_numpy(agreed.coefficients.astype(np.float32))


@torch.no_grad()
def into_one(model: SmallTransformer, how: str, counts: list[Tensor]) -> SmallTransformer:
    """A copy whose layers hold one merged expert in the place of every expert, so that routing changes nothing."""
    merged = copy.deepcopy(model)
    for layer, seen in zip(merged.layers(), counts, strict=True):
        shares = shares_of(how, layer, seen)
        for parameter in layer.experts.parameters():
            parameter.copy_(torch.tensordot(shares, parameter, dims=1).expand_as(parameter).clone())
    return merged


@torch.no_grad()
def over_base(model: SmallTransformer, bargain: Any, eta: float, seed: int) -> SmallTransformer:
    """A copy that merges the selected experts of every token over a propagated base expert, with the trained router.

    The first base expert is the mean of the first layer's experts with a tenth of its size as noise: exactly at the
    mean no agreement exists.
    """
    changed = copy.deepcopy(model)
    for k, (block, old) in enumerate(zip(changed.blocks, model.layers(), strict=True)):
        merge = {"rule": "camex", "eta": eta, "selection": "selected"}
        given = old.config.model_dump(exclude_unset=True) | {"merge": merge, "base": {"init": "given"}, "balance": {}}
        layer = MoE(MoEConfig(**given, chain={"bargain": bargain}))
        layer.load_state_dict(old.state_dict(), strict=False)
        if k == 0:
            generator = torch.Generator().manual_seed(seed)
            means = {name: tensor.mean(0) for name, tensor in old.experts.named_parameters()}
            noise = {name: torch.randn(m.shape, generator=generator) * 0.1 * m.std() for name, m in means.items()}
            layer.set_base({name: mean + noise[name] for name, mean in means.items()})
        block.feed_forward = layer
    chains_of(changed)
    return changed.eval()
