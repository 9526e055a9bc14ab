"""The base-expert chain of a stack of layers: computed once for each state of the parameters, cached, reported."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from nashsolve.core.errors import InvalidProblem

from .bargain import Agreement, bargain_over_base, check_finite, uniform
from .chain_config import BargainConfig, ChainConfig
from .chain_function import run_chain
from .chain_gather import Gathering
from .chain_plan import Link, Plan
from .chain_report import link_record
from .curvature import KroneckerCurvature
from .domain import DomainGram, domain_gram
from .experts import Expert, ExpertView
from .fingerprint import Fingerprint
from .implicit import pull_back
from .momentum import Momentum


class Member(Protocol):
    """A layer as the chain sees it."""

    def expert_view(self) -> ExpertView:
        """The layer's experts as they are now."""
        ...

    def own_base(self) -> Mapping[str, Tensor]:
        """The layer's own base expert; asked of the first member only."""
        ...

    def chain_curvature(self) -> KroneckerCurvature | None:
        """Curvature that acts in the propagation."""
        ...


@dataclass
class PlainMember:
    """Experts that are not in a `MoE` layer, as a member of a chain.

    Attributes
    ----------
    experts : whatever `ExpertView.of` reads
    base : base expert of a first member, name -> tensor
    """

    experts: Any
    base: Mapping[str, Tensor] = field(default_factory=dict)

    def expert_view(self) -> ExpertView:
        return ExpertView.of(self.experts)

    def own_base(self) -> Mapping[str, Tensor]:
        return self.base

    def chain_curvature(self) -> KroneckerCurvature | None:
        return None


@dataclass
class _Run:
    """Agreements of one state of the parameters: found once, whatever the grad mode."""

    state: Fingerprint | None = None
    agreed: dict[str, list[tuple[Agreement, int]]] = field(default_factory=dict)
    grams: dict[tuple[str, int], DomainGram] = field(default_factory=dict)
    moves: dict[str, list[Tensor]] = field(default_factory=dict)
    bases: dict[Any, list[Expert]] = field(default_factory=dict)


class BaseExpertChain(nn.Module):
    r"""Base experts of all layers of a stack from that of the first, :math:`E_m^{l+1} = E_m^l + \gamma\,\mathrm{Re}\,
    \mu^{l+1}`, a function of parameters only.

    Call `bases` as often as you like: the chain is computed when a parameter has changed since, and cached otherwise
    (generation, gradient accumulation, activation checkpointing). A change is seen by PyTorch's version counters and
    by steps of its fused optimizers; edits through ``parameter.data`` bypass both: call `invalidate` after those.

    Parameters
    ----------
    members : layers in order, all with the same number and shapes of experts
    config : of the propagation
    name : for messages and reports

    Raises
    ------
    InvalidProblem
    """

    alpha_start: Tensor
    gathers = True
    """Whether `gathered` may hold back its gradients."""

    def __init__(self, members: Sequence[Member], config: ChainConfig, name: str = "chain") -> None:
        super().__init__()
        if not members:
            raise InvalidProblem("a chain needs at least one layer")
        self.config, self.name = config, name
        self._members = list(members)
        self.momentum = Momentum.of(config.momentum)
        self._run = _Run()
        self.gathering: Gathering | None = None
        self._warned = False
        views = [member.expert_view() for member in members]
        for layer, view in enumerate(views):
            if view.shapes != views[0].shapes or view.n != views[0].n:
                raise InvalidProblem(
                    f"layer {layer} of {name} has {view.n} experts of {view.shapes}, layer 0 has {views[0].n} of "
                    f"{views[0].shapes}: start another chain where shapes change"
                )
        views[0].check_base(members[0].own_base())
        self.groups = views[0].groups(config.granularity)
        self.players = {group: self._players(names, views[0].shapes) for group, names in self.groups.items()}
        if config.biases == "follow" and self.players == self.groups:
            raise InvalidProblem(f"chain.biases is 'follow', but the experts of {name} have none: it changes nothing")
        self.warm = isinstance(config.bargain, BargainConfig) and config.bargain.warm_start
        if self.warm:
            start = torch.zeros(len(self.groups), len(views) - 1, views[0].n, dtype=torch.float64)
            self.register_buffer("alpha_start", start)

    def _players(self, names: list[str], shapes: Mapping[str, tuple[int, ...]]) -> list[str]:
        """The slots of a group whose entries bargain."""
        if self.config.biases == "bargain":
            return names
        return [name for name in names if len(shapes[name]) > 1] or names

    def __len__(self) -> int:
        return len(self._members)

    @torch.compiler.disable
    def bases(self) -> Sequence[Expert]:
        """Base expert of every layer, name -> tensor: float32 (float64 for float64 experts), with gradient unless
        detached or under no_grad."""
        links, base, tensors = self.read()
        state = self._run.state
        if state is None or not state.matches(tensors):
            state = Fingerprint(tensors)
            self._run = _Run(state)
        with_gradient = torch.is_grad_enabled() and not self.config.detach_chain
        if with_gradient and self.gathering is not None and links:
            return [base, *self.gathering.leaves(state, lambda: self._cached(links, base, False))]
        return [base, *self._cached(links, base, with_gradient)]

    forward = bases

    def read(self) -> tuple[list[Link], Expert, list[Tensor]]:
        """Links, base expert of the first layer, and all tensors that the chain is a function of, as they are now."""
        base = dict(self._members[0].own_base())
        links = self._links([member.expert_view() for member in self._members])
        return links, base, [*base.values(), *(tensor for link in links for tensor in link.tensors)]

    def knows(self, state: Fingerprint | None, tensors: Sequence[Tensor]) -> bool:
        """Whether what was computed last was computed in this state, and the tensors are still in it."""
        return state is not None and self._run.state is state and state.matches(tensors)

    def plans(self, links: Sequence[Link]) -> Iterator[tuple[list[str], Plan]]:
        """Names of the slots and plan of every group that bargains for itself."""
        for group, names in self.groups.items():
            parts = [
                Link(link.view.only(names), {k: c for k, c in link.curvature.items() if k in names}) for link in links
            ]
            yield names, self._plan(group, parts)

    def invalidate(self) -> None:
        """Forget everything: the next call of `bases` computes the chain anew."""
        self._run = _Run()

    def _links(self, views: Sequence[ExpertView]) -> list[Link]:
        links = []
        for member, view in zip(self._members[:-1], views[:-1], strict=True):
            curvature = member.chain_curvature()
            slots = {} if curvature is None else {slot.name: curvature.slot(slot.name) for slot in view.slots}
            links.append(Link(view, {name: found for name, found in slots.items() if found is not None}))
        return links

    def _cached(self, links: Sequence[Link], base: Expert, with_gradient: bool) -> list[Expert]:
        key = (with_gradient, torch.is_inference_mode_enabled())
        if key not in self._run.bases:
            self._run.bases = {key: self._compute(links, base, with_gradient)}
        return self._run.bases[key]

    def _compute(self, links: Sequence[Link], base: Expert, with_gradient: bool) -> list[Expert]:
        later: list[Expert] = [{} for _ in links]
        if not links:
            return later
        with torch.set_grad_enabled(with_gradient):
            for group, (names, plan) in zip(self.groups, self.plans(links), strict=True):
                for found, part in zip(later, run_chain(plan, {name: base[name] for name in names}), strict=True):
                    found.update(part)
                self._run.agreed[group], self._run.moves[group] = plan.agreed, plan.moves
        self._judge_stability()
        return [{name: found[name] for name in base} for found in later]

    def _plan(self, group: str, links: Sequence[Link]) -> Plan:
        config = self.config

        def agree(layer: int, view: ExpertView, now: Expert) -> tuple[Agreement, int]:
            every = len(links) if config.interval == "once" else config.interval
            solved = layer - layer % every
            if solved != layer:
                return self._run.agreed[group][solved][0], solved
            return self._solve(group, layer, view, now), layer

        known = self._run.agreed.setdefault(group, [])
        silent = frozenset(self.groups[group]) - frozenset(self.players[group])
        plan = Plan(links, self.momentum, config.gamma, agree, silent=silent, agreed=known)
        if not config.detach_alpha and isinstance(config.bargain, BargainConfig):
            settings = config.bargain
            grams = self._run.grams

            def pull(agreement: Agreement, upstream: Tensor) -> Tensor:
                layer = next(k for k, (found, _) in enumerate(plan.agreed) if found is agreement)
                return pull_back(grams[group, layer].gram, grams[group, layer].gram_error, upstream, settings)

            plan.pull = pull
        return plan

    def _solve(self, group: str, layer: int, view: ExpertView, now: Expert) -> Agreement:
        if self.config.bargain == "uniform":
            return uniform(view.n)
        domain = self._gram(group, layer, view, now)
        check_finite(domain.gram, f"layer {layer} of {self.name}")
        self._run.grams[group, layer] = domain
        if not self.warm:
            return self._found(group, self._bargain(domain, None))
        row = self.alpha_start[list(self.groups).index(group), layer]
        start = row.cpu().numpy().copy() if bool((row > 0).all()) else None
        found = self._bargain(domain, start)
        if found.alpha is not None and found.policy == "":
            row.copy_(torch.from_numpy(found.alpha))
        return self._found(group, found)

    def _found(self, group: str, agreement: Agreement) -> Agreement:
        """The agreement, whose Gram tells the length of the step where all slots of the group bargain."""
        return agreement if self.players[group] == self.groups[group] else replace(agreement, length=None)

    def _gram(self, group: str, layer: int, view: ExpertView, now: Expert) -> DomainGram:
        """What the experts of a layer bargain with."""
        names = self.players[group]
        return domain_gram(view.only(names), {name: now[name] for name in names}, self._settings.products)

    def _bargain(self, domain: DomainGram, start: np.ndarray | None) -> Agreement:
        return bargain_over_base(domain, self._settings, start)

    @property
    def _settings(self) -> BargainConfig:
        """The bargain's settings, of a chain that has any."""
        assert isinstance(self.config.bargain, BargainConfig)
        return self.config.bargain

    def _judge_stability(self) -> None:
        from .stability import explain_stability, warn_if_unstable

        steps = [
            max(self.config.gamma * float(agreement.coefficients.sum()), 0.0)
            for agreed in self._run.agreed.values()
            for agreement, _ in agreed
        ]
        multiplier = self.momentum.multiplier
        if explain_stability(multiplier, steps, self.name) and not self._warned:
            self._warned = True
            warn_if_unstable(multiplier, steps, self.name)

    def report(self) -> list[dict[str, Any]]:
        """One plain record for every step of the chain as last computed, ready for JSON.

        Returns
        -------
        list of dicts with layer, group, players, status, solver, message, resolved (False: held from an earlier layer),
        policy, alpha, coefficients, sum, entropy, gains, utilities, margin, gap, certificate, norms, cosines,
        step_norm, base_move, gamma, h, seconds; None where a number does not exist or no Gram was computed (uniform
        and held coefficients). Empty before the first pass.
        """
        return [
            link_record(
                self.config,
                layer,
                group,
                agreement,
                solved,
                self._run.grams.get((group, layer)),
                float(self._run.moves[group][layer]),
            )
            for group, agreed in self._run.agreed.items()
            for layer, (agreement, solved) in enumerate(agreed)
        ]

    def __getstate__(self) -> dict[str, Any]:
        """Without the cache, whose tensors belong to a graph and cannot be copied."""
        return self.__dict__ | {"_run": _Run(), "gathering": None}

    def extra_repr(self) -> str:
        return f"name={self.name!r}, layers={len(self._members)}"
