r"""The whole base-expert chain as one autograd function: coefficients are stored, base experts recomputed.

Forward, for every layer l but the last: :math:`\Delta = \sum_i c_i M_i(E_i - E)`, momentum, :math:`E \leftarrow E +
\gamma\,\mathrm{Re}\,\mu`. Backward is the adjoint recurrence; with constant coefficients and identity curvature it is
linear and needs no base expert at all.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from nashsolve.core.errors import NashSolveError

from .chain_adjoint import Adjoint
from .chain_plan import Plan, propagate
from .experts import Expert
from .fingerprint import versions


def run_chain(plan: Plan, base: Expert) -> list[Expert]:
    """Base experts of layers 2 to L, differentiable with respect to base, experts and curvature."""
    names = list(base)
    tensors = [*base.values(), *(t for link in plan.links for t in link.tensors)]
    flat = _Chain.apply(plan, names, *tensors)
    return [dict(zip(names, flat[k : k + len(names)], strict=True)) for k in range(0, len(flat), len(names))]


class _Chain(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, plan: Plan, names: list[str], *tensors: Tensor) -> tuple[Tensor, ...]:
        ctx.plan, ctx.names, ctx.tensors = plan, names, tensors
        ctx.versions = versions(tensors)
        ctx.set_materialize_grads(False)
        base = dict(zip(names, tensors, strict=False))
        with torch.autocast(tensors[0].device.type, enabled=False):
            bases = propagate(plan, base, plan.agree_once)
        return tuple(tensor for later in bases[1:] for tensor in later.values())

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Any, ...]:
        if versions(ctx.tensors) != ctx.versions:
            raise NashSolveError(
                "an expert or base expert changed between the forward pass and this backward pass; "
                "call backward() before optimizer.step()"
            )
        with torch.autocast(ctx.tensors[0].device.type, enabled=False):
            found = Adjoint(ctx.plan, ctx.names, ctx.tensors, ctx.needs_input_grad[2:]).run(gradients)
        return None, None, *found
