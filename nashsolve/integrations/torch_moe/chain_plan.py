"""One run of the base-expert chain without gradient: what it needs, and the recurrence itself."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from nashsolve.tall import combine

from .bargain import Agreement
from .curvature import SlotCurvature
from .experts import Expert, ExpertView, Slot
from .momentum import Momentum, MomentumState

Agree = Callable[[int, ExpertView, Expert], tuple[Agreement, int]]
"""Layer, its experts and the base expert -> what they agreed on, and the layer at which it was solved."""
Pull = Callable[[Agreement, Tensor], Tensor]
"""An agreement and the gradient of its coefficients -> gradient (N, N) of its Gram."""


@dataclass(frozen=True)
class Link:
    """One layer that moves the base expert: its experts and the curvature of their slots, where it acts."""

    whole: ClassVar[bool] = True
    """Whether the view holds all columns of the experts."""

    view: ExpertView
    curvature: dict[str, SlotCurvature] = field(default_factory=dict)

    @property
    def tensors(self) -> list[Tensor]:
        return [*self.view.tensors, *(factor for slot in self.curvature.values() for factor in slot.factors)]

    def step(self, base: Expert, coefficients: np.ndarray) -> list[Tensor] | None:
        """``sum_i c_i M_i (E_i - E)`` by slot, where it cannot be taken in one pass with the momentum; else None."""
        return _curved_step(self, base, coefficients) if self.curvature else None

    def held(self, slot: Slot, weights: Tensor) -> Tensor:
        """Of N weights those of the experts that the slot's tensors hold: all of them in one process."""
        return weights

    def summed(self, pairs: Tensor) -> Tensor:
        """Inner products (N,) over the whole experts, from those over the columns held: the same in one process."""
        return pairs


@dataclass
class Plan:
    """What one run of the chain needs beside its tensors, and what it leaves behind.

    pull : derivative of the agreements, None where they are constants
    silent : slots that move but do not bargain
    agreed : (agreement, layer at which it was solved) for every link
    moves : length of the base expert's move for every link, 0-dim float64 tensors
    """

    links: Sequence[Link]
    momentum: Momentum
    gamma: float
    agree: Agree
    pull: Pull | None = None
    silent: frozenset[str] = frozenset()
    agreed: list[tuple[Agreement, int]] = field(default_factory=list)
    moves: list[Tensor] = field(default_factory=list)

    def agree_once(self, layer: int, view: ExpertView, now: Expert) -> tuple[Agreement, int]:
        """The agreement of a layer: the known one, or a new one that is kept."""
        if layer == len(self.agreed):
            self.agreed.append(self.agree(layer, view, now))
        return self.agreed[layer]


def propagate(plan: Plan, base: Expert, agree: Agree) -> list[Expert]:
    """Base experts of layers 1 to L, without gradient."""
    return list(walk(plan, base, agree))


def walk(plan: Plan, base: Expert, agree: Agree) -> Iterator[Expert]:
    """Base experts of layers 1 to L, one after another."""
    now = {name: tensor.detach().to(plan.links[0].view.dtype) for name, tensor in base.items()}
    state = MomentumState()
    plan.moves.clear()
    yield now
    for layer, link in enumerate(plan.links):
        agreement, solved = agree(layer, link.view, now)
        c = agreement.coefficients
        step = link.step(now, c)
        known = agreement.length if link.whole and solved == layer else None
        if step is None and known is not None and plan.momentum.none:
            # No buffer is written and read again only to measure it.
            later = combine(list(now.values()), link.view.vectors(), c, step=plan.gamma)
            length = torch.tensor(known, dtype=torch.float64)
        else:
            base_or_none = list(now.values()) if step is None else None
            experts, weights = (link.view.vectors(), c) if step is None else ([step], [1.0])
            state, later, buffer = plan.momentum.advance(state, base_or_none, experts, weights, plan.gamma)
            if step is not None:
                later = [tensor + part for tensor, part in zip(now.values(), later, strict=True)]
            length = torch.stack([torch.linalg.vector_norm(t).double() for t in buffer]).norm()
        plan.moves.append(plan.gamma * length)
        now = dict(zip(now, later, strict=True))
        yield now


def _curved_step(link: Link, base: Expert, coefficients: Iterable[float]) -> list[Tensor]:
    """``sum_i c_i M_i (E_i - E)`` by slot."""
    step = []
    for slot in link.view.slots:
        curvature = link.curvature.get(slot.name)
        total = torch.zeros_like(base[slot.name])
        for i, c in enumerate(coefficients):
            tau = slot.expert(i).to(total.dtype) - base[slot.name]
            total.add_(tau if curvature is None else curvature.apply(i, tau), alpha=float(c))
        step.append(total)
    return step
