"""The chain's backward pass: gradients of base experts over all ranks, then the adjoint on every rank's own shards."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from nashsolve.core.errors import NashSolveError

from ..chain_plan import Plan
from ..experts import Expert
from .after import at_the_end_of_backward
from .gradients import Later, ShardAdjoint, add_gradient, wants_gradient
from .reducing import Reducer
from .step import Step

if TYPE_CHECKING:
    from .chain import ShardedChain


class ChainBackward:
    """Gathers gradients of one chain, and runs its adjoint once a backward pass."""

    def __init__(self, chain: ShardedChain) -> None:
        settings, layout = chain.settings, chain.layout
        self._chain = chain
        local = settings.bases == "local"
        # Ranks of one replica have different columns in "local" mode: a sum over ranks is one over replicas then.
        self._divide = settings.divide or float(layout.copies if local else layout.team.size)
        self._reducer = Reducer(layout, None if local else chain.pieces, self._divide)
        self._factor = self._divide / (settings.expert_divide or self._divide)
        self._step: Step | None = None
        self._paused = self._queued = False

    def follow(self, step: Step) -> None:
        """Gather gradients for this computation from now on."""
        self._step = step
        if not self._chain.config.detach_chain:
            for leaf in step.leaves:
                leaf.requires_grad_()
                leaf.register_post_accumulate_grad_hook(self._came)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Only gather."""
        before, self._paused = self._paused, True
        try:
            yield
        finally:
            self._paused = before

    def check_none_pending(self) -> None:
        """Raise NashSolveError if gradients wait for `run`."""
        if self._step is not None and any(leaf.grad is not None for leaf in self._step.leaves):
            raise NashSolveError(
                f"parameters of {self._chain.name} changed while gradients of base experts wait for the last "
                "micro-batch: call backward() of the chain before optimizer.step(), or leave no_sync() in time"
            )

    def run(self) -> None:
        """Reduce, run the adjoint, add to the parameters' gradients, forget."""
        self._queued = False
        step, chain = self._step, self._chain
        if step is None or all(leaf.grad is None for leaf in step.leaves):
            return
        if step.state != [*chain.layout.state(), *chain.own.state()]:
            raise NashSolveError(
                "an expert or base expert changed between the forward pass and this backward pass; "
                "call backward() before optimizer.step()"
            )
        with chain.team.work(), torch.no_grad(), torch.autocast(chain.layout.device.type, enabled=False):
            of_base = dict(step.start)
            for group, plan in step.plans.items():
                of_base.update(self._group(step, chain.groups[group], plan))
            self._base(step, of_base)
            for leaf in step.leaves:
                leaf.grad = None

    def _came(self, leaf: Tensor) -> None:
        if self._chain.settings.automatic and not self._paused and not self._queued:
            self._queued = True
            at_the_end_of_backward(self.run)

    def _group(self, step: Step, names: list[str], plan: Plan) -> Expert:
        """Adds the gradients of one group's experts; returns that of the first base expert."""
        owners = [{name: layer[name].owners for name in names} for layer in step.layers]
        wanted = [self._chain.own.wanted] * len(names)
        wanted += [wants_gradient(owner) for layer in owners for held in layer.values() for owner in held]
        tensors = [step.start[name] for name in names] + [t for link in plan.links for t in link.tensors]
        adjoint = ShardAdjoint(plan, names, tensors, wanted)
        adjoint.owners, adjoint.factor = owners, self._factor
        later = Later(len(plan.links), len(names), lambda layer: self._of_piece(step.pieces[layer], names))
        for layer, found in zip(reversed(owners), adjoint.layers(later), strict=True):
            for owner, gradient in zip((o for held in layer.values() for o in held), found, strict=True):
                if gradient is not None:  # what alpha depends on; the rest is there already
                    add_gradient(owner, gradient, self._factor)
        return adjoint.lam

    def _of_piece(self, piece: Expert, names: list[str]) -> list[Tensor]:
        gradients = {}
        for name in names:
            leaf = piece[name]
            gradients[name] = torch.zeros_like(leaf) if leaf.grad is None else leaf.grad
            leaf.grad = None
        return self._reducer.columns(gradients, names)

    def _base(self, step: Step, columns: Expert) -> None:
        """Gradient of the first base expert: from the chain, and from its use in the first layer."""
        chain = self._chain
        if not chain.own.wanted:
            return
        whole = (
            chain.pieces.whole(chain.pieces.of_columns(columns))
            if step.plans
            else {name: torch.zeros(shape) for name, shape in chain.layout.shapes.items()}
        )
        if step.first is not None:
            leaves = [step.first[name] for name in whole]
            own = self._reducer.sum_over_all([torch.zeros_like(t) if t.grad is None else t.grad for t in leaves])
            whole = {name: tensor + more for (name, tensor), more in zip(whole.items(), own, strict=True)}
        chain.own.add(whole)
