"""One run of the base-expert chain without gradient: what it needs, and the recurrence itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from .bargain import Agreement
from .curvature import SlotCurvature
from .domain import domain_step
from .experts import Expert, ExpertView
from .momentum import Momentum, MomentumState

Agree = Callable[[int, ExpertView, Expert], tuple[Agreement, int]]
"""Layer, its experts and the base expert -> what they agreed on, and the layer at which it was solved."""
Pull = Callable[[Agreement, Tensor], Tensor]
"""An agreement and the gradient of its coefficients -> gradient (N, N) of its Gram."""


@dataclass(frozen=True)
class Link:
    """One layer that moves the base expert: its experts and the curvature of their slots, where it acts."""

    view: ExpertView
    curvature: dict[str, SlotCurvature] = field(default_factory=dict)

    @property
    def tensors(self) -> list[Tensor]:
        return [*self.view.tensors, *(factor for slot in self.curvature.values() for factor in slot.factors)]


@dataclass
class Plan:
    """What one run of the chain needs beside its tensors, and what it leaves behind.

    pull : derivative of the agreements, None where they are constants
    agreed : (agreement, layer at which it was solved) for every link
    norms : (length of the step, length of the move) for every link, 0-dim tensors
    """

    links: Sequence[Link]
    momentum: Momentum
    gamma: float
    agree: Agree
    pull: Pull | None = None
    agreed: list[tuple[Agreement, int]] = field(default_factory=list)
    norms: list[tuple[Tensor, Tensor]] = field(default_factory=list)


def propagate(plan: Plan, base: Expert, agree: Agree) -> list[Expert]:
    """Base experts of layers 1 to L, without gradient."""
    dtype = plan.links[0].view.dtype
    bases = [{name: tensor.detach().to(dtype) for name, tensor in base.items()}]
    state = MomentumState()
    plan.norms.clear()
    for layer, link in enumerate(plan.links):
        now = bases[-1]
        agreement, _ = agree(layer, link.view, now)
        step = _step(link, now, agreement)
        state, move = plan.momentum.advance(state, step, plan.gamma)
        plan.norms.append((_length(step), _length(move)))
        bases.append({name: tensor + move[name] for name, tensor in now.items()})
    return bases


def _length(vector: Expert) -> Tensor:
    return torch.stack([torch.linalg.vector_norm(t, dtype=torch.float64) for t in vector.values()]).norm()


def _step(link: Link, base: Expert, agreement: Agreement) -> Expert:
    if not link.curvature:
        return domain_step(link.view, base, agreement.coefficients)
    step = {}
    for slot in link.view.slots:
        curvature = link.curvature.get(slot.name)
        total = torch.zeros_like(base[slot.name])
        for i, c in enumerate(agreement.coefficients):
            tau = slot.expert(i).to(total.dtype) - base[slot.name]
            total.add_(tau if curvature is None else curvature.apply(i, tau), alpha=float(c))
        step[slot.name] = total
    return step
