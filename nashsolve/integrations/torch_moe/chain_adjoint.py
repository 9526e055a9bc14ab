"""The adjoint of the base-expert chain: gradients of base, experts and curvature, from the last layer to the first."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from .bargain import Agreement
from .chain_plan import Plan, propagate
from .curvature import SlotCurvature
from .experts import Expert, Slot


class Adjoint:
    """The recurrence run backwards: adjoints of the base expert and of the two momentum buffers."""

    def __init__(self, plan: Plan, names: list[str], tensors: Sequence[Tensor], wanted: Sequence[bool]) -> None:
        self.plan, self.names, self.tensors, self.wanted = plan, names, tensors, wanted
        self.dtype = plan.links[0].view.dtype
        base = dict(zip(names, tensors, strict=False))
        curved = any(link.curvature for link in plan.links)
        # Base experts are needed again only where a gradient depends on their values.
        again = curved or plan.pull is not None
        self.bases = propagate(plan, base, lambda layer, view, now: plan.agreed[layer]) if again else []
        # Without momentum the adjoint of a step is gamma times that of the base expert: the coefficients take gamma.
        self.plain = plan.momentum.none and not again
        self.of_coefficients: dict[int, Tensor] = {}

    def run(self, gradients: Sequence[Tensor | None]) -> list[Tensor | None]:
        """Gradients of all tensors, in their order, from those of the later base experts."""
        found = list(self.layers(gradients))
        ends = [
            self.lam[name].to(t.dtype) if wanted else None
            for name, t, wanted in zip(self.names, self.tensors, self.wanted, strict=False)
        ]
        return [*ends, *(t for part in reversed(found) for t in part)]

    def layers(self, gradients: Sequence[Tensor | None]) -> Iterator[list[Tensor | None]]:
        """Gradients of one layer's tensors after another, from the last to the first; then `lam` is the base's."""
        size = len(self.names)
        # All tensors of these dicts are this run's own, and are written to in place.
        lam: Expert = {}
        self.lam = lam
        p: Expert = {}
        q: Expert = {}
        start = len(self.tensors)
        for layer in reversed(range(len(self.plan.links))):
            for name, gradient in zip(self.names, gradients[layer * size : (layer + 1) * size], strict=True):
                self._take(lam, name, gradient)
            gamma = self.plan.gamma
            start -= len(self.plan.links[layer].tensors)
            if self.plain:
                yield self._link(layer, start, lam, lam, gamma)
                continue
            upstream = {k: p[k].add_(t, alpha=gamma) if k in p else gamma * t for k, t in lam.items()}
            yield self._link(layer, start, upstream, lam)
            if self.plan.momentum.u and not q:
                q = {name: torch.zeros_like(t) for name, t in lam.items()}
            p = self._buffers(upstream, q)

    def own(self, gradient: Tensor) -> Tensor:
        """A gradient of a base expert as a tensor that the run may write to."""
        return gradient.to(self.dtype, copy=True)

    def _take(self, lam: Expert, name: str, gradient: Tensor | None) -> None:
        """Add a gradient that comes in to the adjoint of the base expert."""
        if gradient is None:
            if name not in lam:
                like = self.tensors[self.names.index(name)]
                lam[name] = torch.zeros_like(like, dtype=self.dtype)
        elif name in lam:
            lam[name].add_(gradient)
        else:
            lam[name] = self.own(gradient)

    def spread(self, layer: int, slot: Slot, weights: Tensor, g: Tensor) -> Tensor | None:
        """Gradients ``c_i g`` of a slot's experts as rows; None where they were put elsewhere."""
        return _outer(weights, g)

    def _buffers(self, upstream: Expert, q: Expert) -> Expert:
        """Adjoint of the real buffer one layer earlier (empty without momentum); that of the imaginary one in place."""
        r, u = self.plan.momentum.r, self.plan.momentum.u
        if not u:
            return {name: t.mul_(r) for name, t in upstream.items()} if r else {}
        p = {name: (r * t).add_(q[name], alpha=u) for name, t in upstream.items()}
        for name, t in upstream.items():
            q[name].mul_(r).sub_(t, alpha=u)
        return p

    def _link(self, layer: int, start: int, upstream: Expert, lam: Expert, factor: float = 1.0) -> list[Tensor | None]:
        """Gradients of one layer's tensors for `factor` times `upstream`, which may be `lam` itself; takes what flows
        on to the base expert before it into `lam`."""
        link = self.plan.links[layer]
        agreement, solved = self.plan.agreed[layer]
        wanted = self.wanted[start : start + len(link.tensors)]
        weights = torch.as_tensor(factor * agreement.coefficients, dtype=self.dtype, device=link.tensors[0].device)
        couple = self._coupling(layer, solved, agreement, upstream)
        found: list[Tensor | None] = []
        sums: list[Tensor | None] = []
        at = 0
        for slot in link.view.slots:
            ask = any(wanted[at : at + len(slot.tensors)])
            g, name = upstream[slot.name], slot.name
            curvature = link.curvature.get(name)
            rows: Tensor | None = None
            if curvature is not None:
                factors = [torch.zeros_like(f, dtype=self.dtype) for f in curvature.factors]
                rows = self._curved(slot, curvature, layer, weights, g, factors)
                lam[name].sub_(rows.sum(0))
                sums += [total.to(f.dtype) for total, f in zip(factors, curvature.factors, strict=True)]
            else:
                rows = self.spread(layer, slot, link.held(slot, weights), g) if ask else None
                lam[name].sub_(g, alpha=float(weights.sum()))
            if couple is not None and name not in self.plan.silent:
                extra = slot.mix(couple) - _outer(couple.sum(-1), self.bases[layer][name])
                rows = extra if rows is None else rows.add_(extra)
                lam[name].sub_(extra.sum(0))
            found += _share(slot.tensors, rows if ask else None, slot.fused)
            at += len(slot.tensors)
        return [*found, *sums]

    def _curved(
        self, slot: Slot, curvature: SlotCurvature, layer: int, weights: Tensor, g: Tensor, sums: Sequence[Tensor]
    ) -> Tensor:
        base = self.bases[layer][slot.name]
        rows = torch.empty(slot.n, *g.shape, dtype=self.dtype, device=g.device)
        for i in range(slot.n):
            tau = slot.expert(i).detach().to(self.dtype) - base
            rows[i], _ = curvature.pull_back(i, tau, weights[i] * g, sums)
        return rows

    def _coupling(self, layer: int, solved: int, agreement: Agreement, upstream: Expert) -> Tensor | None:
        """(N, N) weights S with gradient ``sum_j S_ij tau_j`` for expert i, through the agreement solved here."""
        if self.plan.pull is None or agreement.alpha is None or agreement.policy:
            return None
        link, base = self.plan.links[layer], self.bases[layer]
        pairs = [
            sum(
                torch.sum((slot.expert(i).detach() - base[slot.name]).double() * upstream[slot.name])
                for slot in link.view.slots
            )
            for i in range(link.view.n)
        ]
        here = link.summed(torch.stack([torch.as_tensor(x) for x in pairs]).cpu())
        gathered = self.of_coefficients.get(solved, 0) + here
        self.of_coefficients[solved] = gathered
        if solved != layer:
            return None
        pulled = self.plan.pull(agreement, gathered)
        return (pulled + pulled.mT).to(device=link.tensors[0].device, dtype=self.dtype)


def _outer(weights: Tensor, g: Tensor) -> Tensor:
    return weights.reshape(-1, *(1,) * g.ndim) * g


def _share(tensors: Sequence[Tensor], rows: Tensor | None, fused: bool) -> list[Tensor | None]:
    """Gradient rows (N, ...) as the gradients of a slot's tensors."""
    if rows is None:
        return [None] * len(tensors)
    return [rows.to(tensors[0].dtype)] if fused else [row.to(t.dtype) for row, t in zip(rows, tensors, strict=True)]
