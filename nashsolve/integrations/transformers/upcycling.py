"""`upcycle`: experts in the place of a dense model's feed-forwards."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from nashsolve.core.errors import InvalidProblem

from ..torch_moe.config import MoEConfig
from ..torch_moe.experts import ExpertView
from .config import MergingConfig
from .conversion import attach, build, check_free, chosen
from .dense import FeedForward, find_dense
from .merging import UPCYCLING, Merging
from .routing import OwnRouter
from .upcycle_config import UpcycleConfig
from .upcycled_block import UpcycledFeedForward


def upcycle(model: Any, config: UpcycleConfig | None = None, *, show: bool = True, **settings: Any) -> Merging:
    r"""Give a dense transformers model experts, in place: its feed-forwards are copied, and merged for every input.

    At the start the model computes what the dense one computed, up to rounding: see `UpcycleConfig` for how that goes
    together with domain vectors that are not all zero. For rules that mix outputs (smoe, token_nash) it holds up to the
    jitter, and only if the weights of the chosen experts sum to one (``router={"options": {"softmax": "after"}}``).

    Parameters
    ----------
    model : a PreTrainedModel with feed-forwards such as those of T5, BERT, GPT-2, ViT, Swin or Llama; on the device
        "meta" only the structure is made, for counting
    config : number of experts, start, merging
    show : print what changed, layer by layer
    **settings : of UpcycleConfig, in place of `config`

    Returns
    -------
    Merging, also ``model.nashsolve``

    Raises
    ------
    InvalidProblem, InvalidType

    Notes
    -----
    Sources: [komatsuzaki2023]_, [camex2025]_
    """
    config = chosen(UpcycleConfig, config, settings)
    check_free(model)
    found = find_dense(model, config.every)
    if getattr(model.config, "chunk_size_feed_forward", 0):
        raise InvalidProblem("config.chunk_size_feed_forward cuts sequences within the feed-forward; set it to 0")
    generator = torch.Generator().manual_seed(config.seed)
    sources = [_Source(dense, config, generator) for dense in found]
    merging = build(model, config, sources)
    for source, layer in zip(sources, merging.members, strict=True):
        source.block.attach(layer)
        _replace(model, source.dense, source.block)
    attach(model, merging)
    if show:
        print(merging.table())
    return merging


class _Source:
    """A dense feed-forward as `build` takes it."""

    way = UPCYCLING
    shared = None

    def __init__(self, dense: FeedForward, config: UpcycleConfig, generator: torch.Generator) -> None:
        self.dense, self.place = dense, dense.place
        self.block = UpcycledFeedForward(dense, config, generator)
        self.experts = self.block.experts
        self.router = OwnRouter(self.block.router)

    def settings(self, config: MergingConfig) -> MoEConfig:
        """Settings of the layer."""
        view = ExpertView.of(self.experts)
        width, hidden = view.shapes["down_proj"]
        return config.layer(
            d_model=width,
            d_hidden=hidden,
            n_experts=self.experts.n_experts,
            activation="swiglu" if self.block.gated else "relu",
            bias="up_proj_bias" in view.shapes,
        )


def _replace(model: nn.Module, dense: FeedForward, block: UpcycledFeedForward) -> None:
    parent, _, name = dense.place.name.rpartition(".")
    block.train(getattr(model.get_submodule(parent), name).training)
    setattr(model.get_submodule(parent), name, block)
    if dense.emptied is not None:
        model.get_submodule(dense.emptied).dense = nn.Identity()
