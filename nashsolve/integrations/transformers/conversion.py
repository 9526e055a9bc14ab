"""`convert`: merging in a model that has experts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from nashsolve.core.errors import InvalidProblem, InvalidType

from ..torch_moe.config import MoEConfig
from .config import ConvertConfig, MergingConfig
from .experts import SharedSlices
from .finding import Block, find_blocks
from .layer import MergingLayer
from .merging import NAME, Bases, Merging
from .saving import save_beside
from .spread import check_spread, share_start
from .stack import Stack
from .ways import MergingBlock, use_block, use_function


def convert(model: Any, config: ConvertConfig | None = None, *, show: bool = True, **settings: Any) -> Merging:
    r"""Merge the experts of a transformers model, in place.

    In each block :math:`\hat E = E_m + \eta\sum_i M_i(s_i\tau_i)` (or another rule) takes the place of the routed
    experts. Its weights s are those of the block's own router, asked about tokens or about means of segments or
    sequences; router, shared expert, parameters and their names stay what they are. New parameters are in the child
    ``nashsolve`` of the model; `save_pretrained` writes them into a file of their own, and `load_merging` reads it.

    Parameters
    ----------
    model : a PreTrainedModel with experts: Mixtral, Qwen2-MoE, Qwen3-MoE, OLMoE, DeepSeek-V2, DeepSeek-V3, Switch
    config : what is merged; the default changes nothing
    show : print what changed, layer by layer
    **settings : of ConvertConfig, in place of `config`

    Returns
    -------
    Merging, also ``model.nashsolve``

    Raises
    ------
    InvalidProblem, InvalidType
        For an unknown architecture, a level that was left open, a model that merges already.

    Notes
    -----
    Sources: [camex2025]_, [namex2025]_, [smear2023]_
    """
    config = chosen(ConvertConfig, config, settings)
    check_free(model)
    blocks = find_blocks(model)
    for block in blocks:
        check_spread(model, block.experts.module, config)
    merging = build(model, config, [_Source(block, config) for block in blocks])
    pairs = list(zip(blocks, merging.members, strict=True))
    by_function = [(b.experts.module, layer) for b, layer in pairs if _by_function(b, config)]
    if by_function:
        merging.undo += use_function(model, by_function)
    for block, layer in pairs:
        if not _by_function(block, config):
            parent, _, name = block.place.name.rpartition(".")
            replacement = MergingBlock(block.module, layer, block.router_name, block.shared_name, block.shared_gate)
            replacement.train(block.module.training)
            merging.undo.append(use_block(model.get_submodule(parent), name, replacement))
    if blocks[0].experts.spread:
        share_start(merging, next(blocks[0].experts.module.parameters()).device_mesh)
    attach(model, merging)
    if show:
        print(merging.table())
    return merging


def revert(model: Any) -> None:
    """Take merging out of a model again; what it computed before conversion it computes again.

    Raises
    ------
    InvalidProblem
        For a model that does not merge, or that was upcycled.
    """
    merging = getattr(model, NAME, None)
    if not isinstance(merging, Merging) or not isinstance(merging.config, ConvertConfig):
        raise InvalidProblem(f"{type(model).__name__} was not converted")
    for step in reversed(merging.undo):
        step()
    delattr(model, NAME)


class _Source:
    """A block as `build` takes it."""

    def __init__(self, block: Block, config: MergingConfig) -> None:
        self.place = block.place
        self.experts, self.router = block.experts, block.router
        self.way = "experts function" if _by_function(block, config) else "block"
        self.shared: SharedSlices | None = None
        if config.base.init == "shared_expert":
            if block.shared_name is None:
                raise InvalidProblem(f"base.init is 'shared_expert', but {block.place.name} has no shared expert")
            owner = getattr(block.module, block.shared_name)
            self.shared = SharedSlices(owner, block.experts.expert_view().shapes)

    def settings(self, config: MergingConfig) -> MoEConfig:
        """Settings of the layer."""
        return config.layer(
            d_model=self.experts.d_model,
            d_hidden=self.experts.d_hidden,
            n_experts=self.experts.n_experts,
            activation="swiglu" if self.experts.gated else "relu",
            n_shared=0 if self.shared is None else self.shared.count,
        )


def build(model: Any, config: MergingConfig, sources: list[Any]) -> Merging:
    """Layers and chains of merging for the given blocks; the model is watched, but not changed yet."""
    stacks: dict[str, Stack] = {}
    bases: dict[str, Bases] = {}
    undo: list[Callable[[], object]] = []
    levels = {source.place.stack: config.level_of(source.place.causal) for source in sources}
    sizes = [source.settings(config) for source in sources]
    for name, causal in {source.place.stack: source.place.causal for source in sources}.items():
        found = bases[name] = Bases()
        found.wanted = not config.neutral
        size = config.segment_length if levels[name] == "segment" else None
        stacks[name] = Stack(name, model.get_submodule(name), causal, levels[name], size, found)
        undo += [handle.remove for handle in stacks[name].handles]
    try:
        layers = [
            MergingLayer(k, s.place.name, s.experts, s.router, config, size, stacks[s.place.stack], s.shared)
            for k, (s, size) in enumerate(zip(sources, sizes, strict=True))
        ]
        merging = Merging(config, layers, bases, [(s.place, s.way) for s in sources], undo)
    except Exception:
        for step in undo:
            step()
        raise
    return merging


def attach(model: Any, merging: Merging) -> None:
    """Make merging a child of the model that is saved beside it."""
    merging.train(model.training)
    model.add_module(NAME, merging)
    merging.undo += save_beside(model, merging)


def check_free(model: Any) -> None:
    """Raise unless this is a model of transformers that does not merge yet."""
    from transformers import PreTrainedModel

    if not isinstance(model, PreTrainedModel):
        raise InvalidType(f"model is {type(model).__name__}; a PreTrainedModel of transformers is needed")
    if hasattr(model, NAME):
        raise InvalidProblem(f"{type(model).__name__} merges already; call revert(model) first")


def chosen(kind: type[Any], config: Any, settings: dict[str, Any]) -> Any:
    """The configuration given, or one from settings."""
    if config is None:
        return kind(**settings)
    if settings:
        raise InvalidProblem(f"give config or settings, not both (got {', '.join(settings)})")
    if not isinstance(config, kind):
        raise InvalidType(f"config is {type(config).__name__}; a {kind.__name__} is needed")
    return config


def _by_function(block: Block, config: MergingConfig) -> bool:
    return block.experts.fused and not block.experts.spread and getattr(config, "way", None) == "experts_function"
