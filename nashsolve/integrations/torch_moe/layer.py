"""`MoE`: a mixture-of-experts feed-forward in one module."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from nashsolve.core.errors import InvalidProblem, InvalidType

from .balance import balance_losses
from .base import BaseExpert
from .chain_member import ChainMember
from .config import MoEConfig
from .curvature import KroneckerCurvature
from .experts import Expert, ExpertView
from .feed_forward import FusedExperts, feed_forward
from .merge_rules import RULES, MergeCall
from .router_output import RouterOutput
from .routers import Router, make_router


class MoE(ChainMember, nn.Module):
    """A drop-in for the feed-forward of a transformer block: router, experts, merge rule, base expert.

    Parameters
    ----------
    config : every choice, by name

    Attributes
    ----------
    experts, router, rule : its parts
    hidden_router : the second linear layer's own router, with ``merge.granularity="linear"``, or None
    shared : shared experts, or None
    curvature : learned curvature, or None
    base : the layer's own base expert; None for rules without one, for a shared expert, in later layers of a chain
    router_output, hidden_output : the routers' last answers, with their graphs
    losses : balance losses and the router's own of the last call, multiplied by their coefficients

    Notes
    -----
    A layer whose config has a chain must be joined by `link` before it is called.
    Sources: [shazeer2017]_, [smear2023]_, [camex2025]_, [namex2025]_
    """

    def __init__(self, config: MoEConfig) -> None:
        super().__init__()
        if not isinstance(config, MoEConfig):
            raise InvalidType(f"config is {type(config).__name__}; a MoEConfig is needed")
        self.config = config
        sizes = (config.d_model, config.d_hidden, config.activation, config.bias)
        self.experts = FusedExperts(config.n_experts, *sizes)
        self.router = make_router(
            config.router.name, d_model=config.d_model, n_experts=config.n_experts, **config.router.options
        )
        self.hidden_router: Router | None = None
        if config.merge.granularity == "linear":
            self.hidden_router = make_router(
                config.router.name, d_model=config.d_hidden, n_experts=config.n_experts, **config.router.options
            )
        self.rule = RULES[config.merge.rule](config)
        self.shared = FusedExperts(config.n_shared, *sizes) if config.n_shared else None
        view = self.expert_view()
        own = config.needs_base and config.base.init != "shared_expert"
        self.base = BaseExpert(view, config.base) if own else None
        curved = config.curvature.kind == "kronecker"
        rank, normalise = config.curvature.rank, config.curvature.normalise
        self.curvature = KroneckerCurvature(view.n, view.shapes, rank, normalise) if curved else None
        self.router_output: RouterOutput | None = None
        self.hidden_output: RouterOutput | None = None
        self.losses: dict[str, Tensor] = {}

    def forward(
        self,
        x: Tensor,
        token_mask: Tensor | None = None,
        input_ids: Tensor | None = None,
        base: Mapping[str, Tensor] | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Output of the feed-forward.

        Parameters
        ----------
        x : (batch, length, d_model), or (tokens, d_model) with a router of tokens
        token_mask : (batch, length) bool, False for padding
        input_ids : (batch, length), for routers that distil from token ids
        base : base expert for this call in place of the layer's (a whole model under one compiled graph passes the
            entries of ``chain.bases()``)
        generator : of the router's noise

        Returns
        -------
        tensor in the shape of x

        Raises
        ------
        InvalidProblem, InvalidType
        """
        given = {"token_mask": token_mask, "input_ids": input_ids, "generator": generator}
        context = {name: value for name, value in given.items() if value is not None}
        output = self.router(x, **context)
        self.router_output = output
        self.losses = {**output.losses, **balance_losses(output, self.config.balance)}
        y = self.rule(self._call(x, output, base, context))
        if self.shared is not None:
            for i in range(self.config.n_shared):
                y = y + feed_forward(x, self.shared.expert(i), self.config.activation)
        return y

    def _call(
        self, x: Tensor, output: RouterOutput, base: Mapping[str, Tensor] | None, context: Mapping[str, Any]
    ) -> MergeCall:
        if base is None:
            base = self.base_expert() if self.config.needs_base else {}
        router, then = self.router, None if self.hidden_router is None else partial(self._route_hidden, context)
        return MergeCall(x, output, router.level, router.segment_length, self.experts, base, self.curvature, then)

    def _route_hidden(self, context: Mapping[str, Any], hidden: Tensor) -> RouterOutput:
        """Ask the second linear layer's router; its losses count like the first one's."""
        assert self.hidden_router is not None
        output: RouterOutput = self.hidden_router(hidden, **context)
        self.hidden_output = output
        found = {**output.losses, **balance_losses(output, self.config.balance)}
        self.losses = self.losses | {f"hidden_{name}": loss for name, loss in found.items()}
        return output

    def base_expert(self) -> Expert:
        """The base expert that the layer uses now: its own, its shared expert's slice, or the chain's."""
        if self._place is not None:
            chain, position = self._place
            return chain.bases()[position]
        if self.config.chain is not None:
            raise InvalidProblem(
                "this layer takes its base expert from a chain that it is not part of yet; call "
                "link(model) once after building the model"
            )
        return dict(self.own_base())

    def own_base(self) -> Mapping[str, Tensor]:
        """The base expert of a layer that does not take it from a chain."""
        if self.config.base.init == "shared_expert" and self.shared is not None:
            return self.shared.expert(self.config.base.index)
        if self.base is None:
            raise InvalidProblem(f"merge rule {self.config.merge.rule!r} has no base expert in this layer")
        if not self.base.ready:
            raise InvalidProblem("base.init is 'given', but no base expert was given; call set_base first")
        return self.base.tensors()

    def set_base(self, given: Mapping[str, Tensor]) -> None:
        """Copy the values of a base expert in, name -> tensor."""
        if self.base is None:
            raise InvalidProblem("this layer has no base expert of its own to set")
        self.base.set(given)

    def expert_view(self) -> ExpertView:
        """The experts as vectors."""
        return ExpertView.of(self.experts)

    def auxiliary_loss(self) -> Tensor:
        """Sum of `losses` of the last call; zero where there are none."""
        return sum(self.losses.values(), self.expert_view().tensors[0].new_zeros(()))

    def after_step(self) -> None:
        """Call once after every optimizer step: loss-free bias, stages of routers, shares of use."""
        self.router.after_step()
        if self.hidden_router is not None:
            self.hidden_router.after_step()
        self.rule.after_step()

    def __getstate__(self) -> dict[str, Any]:
        """Without what belongs to the last call's graph."""
        return self.__dict__ | {"router_output": None, "hidden_output": None, "losses": {}}

    def extra_repr(self) -> str:
        return f"rule={self.config.merge.rule!r}, chain={'no' if self.config.chain is None else 'yes'}"
