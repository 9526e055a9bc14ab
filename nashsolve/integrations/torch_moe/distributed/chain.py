"""The base-expert chain over sharded experts: every rank computes on its own shards, and all find the same alpha."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from nashsolve.core.errors import InvalidProblem

from ..bargain import Agreement
from ..chain import BaseExpertChain, _Run
from ..chain_config import BargainConfig, ChainConfig
from ..chain_plan import Plan, walk
from ..domain import DomainGram
from ..experts import Expert, ExpertView
from .backward import ChainBackward
from .bases import Bases, Outline, check_fit, experts_of
from .config import DistributedConfig
from .joint import agree_jointly, layer_gram, rows_of
from .layout import Layout
from .links import LocalView, columns_of_whole, link_of
from .own_base import OwnBase
from .pieces import Pieces, gather
from .solving import solve_once
from .step import Step
from .summed_gram import SummedGram
from .team import Team, digest


class ShardedChain(BaseExpertChain):
    r"""Base experts of all layers from that of the first, with experts sharded over the ranks of a process group.

    Shards may cut every expert (``Shard(1)``, ``Shard(2)`` of fused tensors, tensor parallel slices), the expert axis
    (``Shard(0)``: the default of FSDP2, expert parallelism), or both; there may be replicas (DDP, HSDP), uneven and
    empty shards. The Gram of a layer is summed by one all_reduce; experts are never gathered.

    Every rank makes the chain, after sharding the model, and calls its methods in the same order.

    Parameters
    ----------
    members : layers in order, as for `BaseExpertChain`, with an attribute `experts` that `ExpertView.of` reads; a
        mapping of experts may hold DTensors and `Part`
    config : of the propagation
    settings : how the ranks work together
    ranks : of the default process group that hold these layers; None: all
    name : for messages and reports; the same on every rank

    Attributes
    ----------
    team : the ranks; ``team.traffic`` counts collectives
    solved : how often the chain was computed

    Raises
    ------
    InvalidProblem
        For settings and placements that do not fit each other.
    RanksDisagree
        Where ranks are given different models or settings.
    RankFailed
        Where a rank is gone, too late or has raised, within the timeout, on every other rank.

    Notes
    -----
    The chain is computed when a parameter has changed since the last time. Its gradients are added once a backward
    pass, after those of the wrappers; see `no_sync`. Source: [namex2025]_
    """

    gathers = False

    def __init__(
        self,
        members: Sequence[Any],
        config: ChainConfig,
        settings: DistributedConfig | None = None,
        ranks: Sequence[int] | None = None,
        name: str = "chain",
    ) -> None:
        settings = settings or DistributedConfig()
        team = Team(ranks, settings.timeout)
        with team.work():
            agreed = {"config": config, "settings": settings, "name": name}
            layout = Layout([experts_of(member) for member in members], team, name, agreed)
            super().__init__([Outline(member, layout) for member in members], config, name)
            check_fit(layout, members, config, settings)
            own = OwnBase(members[0], layout)
        self.settings, self.team, self.layout, self.own = settings, team, layout, own
        self.solved, self._last, self._mark = 0, b"", b""
        # What base experts are gathered from, and what each rank keeps of them in "local" mode.
        self.pieces = Pieces(layout.partition, layout.shapes, layout.shards)
        self._backward = ChainBackward(self)
        self._now: Step | None = None
        self._whole: dict[int, Expert] = {}
        self._wrapped: list[Any] = []
        self._hooks: list[Any] = []
        self._settled = False
        products = config.bargain.products if isinstance(config.bargain, BargainConfig) else "float32"
        self._summed = SummedGram(layout, products, settings.exchange_bytes)
        self._joint: dict[str, DomainGram] = {}

    @torch.compiler.disable
    def bases(self) -> Bases:
        """Base expert of every layer, gathered when it is asked for."""
        self.refresh()
        return Bases(self)

    forward = bases

    @torch.compiler.disable
    def base(self, layer: int) -> Expert:
        """Base expert of one layer, name -> tensor: whole, or in "local" mode the columns of this rank's experts;
        with gradient unless detached or under no_grad. Every rank must ask."""
        self.refresh()
        assert self._now is not None
        if layer == 0:
            return self._first()
        piece = self._now.pieces[layer - 1]
        if not torch.is_grad_enabled():
            piece = {name: tensor.detach() for name, tensor in piece.items()}
        dtype = torch.bfloat16 if self.settings.base_dtype == "bfloat16" else None
        if self.settings.bases == "local":
            return {name: tensor if dtype is None else tensor.to(dtype) for name, tensor in piece.items()}
        if torch.is_grad_enabled() or self.training:
            return gather(self.pieces, piece, dtype)
        if layer not in self._whole:  # generation asks for every token
            self._whole[layer] = gather(self.pieces, piece, dtype)
        return self._whole[layer]

    @torch.compiler.disable
    def refresh(self) -> None:
        """Compute the chain if a parameter has changed since; call it before the forward pass, as `attach` does."""
        if self._settled:
            return
        if not (self.layout.look() and self.own.look()) and not self._known():
            for module in self._wrapped:
                module.reshard()
            self.own.look()
        if self._known():
            return
        if self._now is not None:
            self._backward.check_none_pending()
        plain = torch.autocast(self.layout.device.type, enabled=False)
        with self.team.work(), torch.inference_mode(False), torch.no_grad(), plain:
            self._run, self._whole, self._joint = _Run(), {}, {}
            self._now = None
            self._now = self._find()
            self.solved, self._last = self.solved + 1, self._coefficients()
            self._backward.follow(self._now)
            self._judge_stability()

    def backward(self) -> None:
        """Reduce the gradients of base experts over the ranks, and add the chain's to its parameters' `grad`.

        It is called at the end of every backward pass by itself, unless ``settings.automatic`` is False.
        """
        self._backward.run()

    def no_sync(self) -> Any:
        """A context in which backward passes only gather gradients of base experts, for all micro-batches but the
        last, as `no_sync` of DDP."""
        return self._backward.paused()

    def attach(self, model: nn.Module) -> None:
        """Compute the chain before every forward pass of the model, and reshard its FSDP modules where they have left
        experts gathered."""
        from torch.distributed.fsdp import FSDPModule

        self._wrapped = [module for module in model.modules() if isinstance(module, FSDPModule)]
        self._hooks.append(model.register_forward_pre_hook(self._before, prepend=True))
        self._hooks.append(model.register_forward_hook(self._after, always_call=True))

    def invalidate(self) -> None:
        """Forget everything: the next call computes the chain anew, on every rank that forgets."""
        super().invalidate()
        if self._now is not None:
            self._backward.check_none_pending()
        self._now, self._whole = None, {}

    def close(self) -> None:
        """Leave the chain's process groups and the models that it is attached to."""
        for hook in self._hooks:
            hook.remove()
        self.team.close()

    def check(self) -> None:
        """Raise RanksDisagree unless all ranks have the same coefficients, to the last bit; one small collective."""
        self.team.check_same({"coefficients": self._coefficients().hex()})

    def _before(self, *_: Any) -> None:
        """Nothing changes within a forward pass, so that layers need not look again."""
        self._settled = False
        self.refresh()
        self._settled = True

    def _after(self, *_: Any) -> None:
        self._settled = False

    def __getstate__(self) -> dict[str, Any]:
        raise InvalidProblem(
            f"{self.name} belongs to process groups and cannot be copied or pickled: copy the model before "
            "shard_chains, or save its state_dict"
        )

    def _known(self) -> bool:
        return self._now is not None and self._now.state == [*self.layout.state(), *self.own.state()]

    def _first(self) -> Expert:
        assert self._now is not None
        if self._now.first is None:
            return self.own.now()
        graph = torch.is_grad_enabled()
        return {name: tensor if graph else tensor.detach() for name, tensor in self._now.first.items()}

    def _find(self) -> Step:
        layers = self.layout.read()
        state = [*self.layout.state(), *self.own.state()]
        whole = self.own.whole(self.layout.dtype)
        # A base expert that nothing keeps the same on all ranks would spoil every Gram without a sign.
        self._mark = digest(*(tensor.sum(dtype=torch.float64).item() for tensor in whole.values()))
        start = columns_of_whole(layers[0], whole)
        step = Step(state, layers[:-1], start, [{} for _ in layers[1:]])
        if self.settings.first_base == "chain":
            step.first = {name: tensor.clone() for name, tensor in whole.items()}
        for group, names in self.groups.items() if len(layers) > 1 else ():
            plan = self._plan(group, [link_of(self.layout, layer, names) for layer in step.layers])
            base = {name: start[name] for name in names}
            if self.settings.grams == "joint" and self.config.bargain != "uniform":
                self._joint[group] = self._over_ranks(group, None, step.layers, base)
                agree_jointly(plan)
            for layer, now in enumerate(walk(plan, base, plan.agree_once)):
                if layer:
                    step.pieces[layer - 1].update(self._kept(now))
            step.plans[group] = plan
            self._run.agreed[group], self._run.moves[group] = plan.agreed, self._moves(group, plan)
        step.pieces = [{name: piece[name] for name in self.layout.shapes} for piece in step.pieces]
        return step

    def _kept(self, now: Expert) -> Expert:
        """What this rank keeps of a layer's base expert."""
        if self.settings.bases == "local":
            return now
        found = self.pieces.of_columns(now)
        return {k: t if t.numel() == now[k].numel() else t.clone() for k, t in found.items()}

    def _moves(self, group: str, plan: Plan) -> list[Tensor]:
        """Lengths of the base expert's moves: from the Grams, or where these do not tell from one more small sum."""
        grams = [self._run.grams.get((group, layer)) for layer in range(len(plan.agreed))]
        silent = self.players[group] != self.groups[group]
        if silent or self.momentum.multiplier or any(gram is None for gram in grams):
            return self.layout.lengths(plan.moves, self.groups[group])
        found = []
        for gram, (agreement, _) in zip(grams, plan.agreed, strict=True):
            c = agreement.coefficients
            square = 0.0 if gram is None else max(float(c @ gram.gram @ c), 0.0)
            found.append(torch.tensor(plan.gamma * square**0.5, dtype=torch.float64))
        return found

    def _gram(self, group: str, layer: int, view: ExpertView, now: Expert) -> DomainGram:
        if not isinstance(view, LocalView):
            joint = self._joint[group]
            return layer_gram(joint.gram, joint.gram_error, rows_of(view, now))
        return self._over_ranks(group, layer, [view.layer], now)

    def _over_ranks(self, group: str, layer: int | None, layers: Sequence[Any], base: Expert) -> DomainGram:
        where = f"{self.name}" if layer is None else f"layer {layer} of {self.name}"
        agreed = {"computations": self.solved, "group": group, "layer": layer}
        agreed |= {"coefficients before": self._last, "coefficients so far": self._coefficients()}
        if self.settings.solve == "everywhere":
            agreed["sums of the first base expert"] = self._mark
        if self.warm:
            agreed["warm starts of the coefficients"] = digest(self.alpha_start.cpu().numpy().tobytes())
        names = self.players[group]
        return self._summed.find(layers, names, {name: base[name] for name in names}, where, agreed)

    def _bargain(self, domain: DomainGram, start: np.ndarray | None) -> Agreement:
        return solve_once(domain, self._settings, start, self.team if self.settings.solve == "broadcast" else None)

    def _coefficients(self) -> bytes:
        """Fingerprint of all coefficients found so far in this computation."""
        agreed = [agreement for group in self._run.agreed.values() for agreement, _ in group]
        return digest(*(agreement.coefficients.tobytes() for agreement in agreed))
