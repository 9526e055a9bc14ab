"""Everything that merging adds to a model, in one module beside the model's own."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from nashsolve.core.errors import InvalidProblem

from ..torch_moe.chain import BaseExpertChain
from ..torch_moe.experts import Expert
from ..torch_moe.linking import join_runs
from .config import MergingConfig
from .finding import Place
from .layer import MergingLayer
from .spread import check_knows_of_ranks

NAME = "nashsolve"
"""Under which the module is a child of the model, and its keys begin."""
UPCYCLING = "upcycling"
"""How the block of an upcycled feed-forward came to merge."""


class Bases:
    """The base experts of the chains that pass through one stack.

    Parameters
    ----------
    chains : each with the numbers of its layers
    """

    def __init__(self) -> None:
        self.chains: list[tuple[BaseExpertChain, list[int]]] = []
        self.held: dict[int, Expert] | None = None
        self.wanted = True
        self.behind = False

    def __call__(self) -> dict[int, Expert]:
        """Layer -> base expert: held ones, or those of the parameters as they are now."""
        if self.behind:
            self.behind = False
            warnings.warn(
                "weights were loaded into this model, but its merging was not among them: call load_merging(model, "
                "folder), or train with MergingCallback",
                UserWarning,
                stacklevel=2,
            )
        if self.held is not None:
            return self.held
        return self.compute() if self.wanted else {}

    def compute(self) -> dict[int, Expert]:
        """As the parameters are now; cached by each chain while they do not change."""
        found: dict[int, Expert] = {}
        for chain, numbers in self.chains:
            check_knows_of_ranks(chain)
            found |= dict(zip(numbers, chain.bases(), strict=True))
        return found


class Merging(nn.Module):
    """Layers, chains and switches of merging in one model; a child ``nashsolve`` of it.

    Parameters
    ----------
    config : as given to `convert` or `upcycle`
    layers : in the order of the model
    bases : stack -> its base experts
    places : of every layer, and how its block came to merge
    undo : takes merging out again

    Attributes
    ----------
    layers : ModuleList of MergingLayer; ``layers[k].router_output`` is a layer's last routing
    chains : base-expert chains, in the order of the model
    """

    def __init__(
        self,
        config: MergingConfig,
        layers: list[MergingLayer],
        bases: dict[str, Bases],
        places: list[tuple[Place, str]],
        undo: list[Callable[[], object]],
    ) -> None:
        super().__init__()
        self.config, self.places, self.undo = config, places, undo
        self.layers = nn.ModuleList(layers)
        self.members = tuple(layers)  # the same, typed
        self._bases = bases
        self.chains = self._join(layers) if config.chain is not None else ()
        self.save_fused = False
        self.starts: dict[str, Tensor] = {}

    def _join(self, layers: list[MergingLayer]) -> tuple[BaseExpertChain, ...]:
        """Chains within stacks; another one where shapes change, and after dense layers unless they are passed."""
        runs = [0]
        places = [place for place, _ in self.places]
        for earlier, later in itertools.pairwise(places):
            dense = later.index - earlier.index > 1 and not self.config.across_dense
            runs.append(runs[-1] + (later.layers != earlier.layers or dense))
        run_of = dict(zip(layers, runs, strict=True))

        def key(name: str, layer: MergingLayer) -> tuple[Any, ...]:
            view = layer.expert_view()
            return run_of[layer], view.n, tuple(view.shapes.items())

        chains = join_runs([(layer.name, layer) for layer in layers], key)
        if all(len(chain) == 1 for chain in chains):
            hint = "" if self.config.across_dense else "; across_dense=True lets chains pass layers without experts"
            raise InvalidProblem(f"every chain would have one layer only, so that a chain changes nothing{hint}")
        for chain in chains:
            members = [k for k, layer in enumerate(layers) if layer.place is not None and layer.place[0] is chain]
            self._bases[places[members[0]].stack].chains.append((chain, members))
        return tuple(chains)

    def swap_chain(self, old: BaseExpertChain, new: BaseExpertChain) -> None:
        """Put another chain over the same layers in place of one, such as one over many processes."""
        self.chains = tuple(new if chain is old else chain for chain in self.chains)
        for bases in self._bases.values():
            bases.chains = [(new if chain is old else chain, numbers) for chain, numbers in bases.chains]

    def refresh(self) -> None:
        """Compute the chains now, so that a step's forward passes find them ready.

        Warm starts that go into it are kept for `saved_state`: who resumes from there solves from the same starts.
        """
        state = self.state_dict()
        self.starts = {key: state[key].clone() for key in state if key.endswith(".alpha_start")}
        for bases in self._bases.values():
            bases.compute()

    def saved_state(self) -> dict[str, Tensor]:
        """The state_dict, with the warm starts from before the last `refresh`."""
        return self.state_dict() | self.starts

    def invalidate(self) -> None:
        """Forget the chains, after edits of parameters through ``.data``."""
        for chain in self.chains:
            chain.invalidate()

    @property
    def upcycled(self) -> bool:
        """Whether the model was dense before."""
        return any(way == UPCYCLING for _, way in self.places)

    @property
    def enabled(self) -> bool:
        """Whether the model merges; False makes it compute what it computed before (after `convert`)."""
        return all(layer.enabled for layer in self.members)

    @enabled.setter
    def enabled(self, value: bool) -> None:
        if self.upcycled and not value:
            raise InvalidProblem("an upcycled model has no other feed-forwards to compute with")
        for layer in self.members:
            layer.enabled = value
        for bases in self._bases.values():
            bases.wanted = value

    @contextmanager
    def disabled(self) -> Iterator[None]:
        """Within it the model computes what it computed before."""
        before, self.enabled = self.enabled, False
        try:
            yield
        finally:
            self.enabled = before

    @contextmanager
    def held(self) -> Iterator[None]:
        """Within it base experts are those of now: a compiled model has no break at the chain, and sees no updates."""
        for bases in self._bases.values():
            bases.held = bases.compute()
        try:
            yield
        finally:
            for bases in self._bases.values():
                bases.held = None

    def mark(self, behind: bool) -> None:
        """Remember whether weights were loaded without their merging; the next call of the model warns."""
        for bases in self._bases.values():
            bases.behind = behind

    def report(self) -> list[dict[str, Any]]:
        """Records of all chains as last computed, each with the name of its chain."""
        return [{"chain": chain.name, **record} for chain in self.chains for record in chain.report()]

    def table(self) -> str:
        """What changed in the model, layer by layer."""
        from .table import changes

        return changes(self)

    def after_step(self) -> None:
        """Call once after every optimizer step, for rules that count."""
        for layer in self.members:
            layer.after_step()

    def forward(self) -> None:
        """Not called: the layers are, by the model's own blocks."""
        raise InvalidProblem("call the model; merging happens in its blocks")


def merging_of(model: nn.Module) -> Merging:
    """The merging of a converted or upcycled model, also behind wrappers such as DistributedDataParallel.

    Raises
    ------
    InvalidProblem
        For a model without any.
    """
    for module in model.modules():
        if isinstance(module, Merging):
            return module
    raise InvalidProblem(f"{type(model).__name__} has no merging; call convert or upcycle first")
