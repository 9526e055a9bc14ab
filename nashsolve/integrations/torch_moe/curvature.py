r"""Learned curvature: sums of Kronecker products that act on a domain vector matrix by matrix, one term at a time.

.. math:: M_i\tau = c\sum_{r=1}^{R} (A_{ri}\otimes A'_{ri})\,\tau\,(B_{ri}\otimes B'_{ri})^\top

with :math:`c = 1/R` (normalised), so that M starts as the identity, or c = 1 (as published), where it starts at R times
the identity. Biases are not curved.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

FACTORS = ("out_outer", "out_inner", "in_outer", "in_inner")


def divisors(size: int) -> tuple[int, int]:
    """The two factors of `size` that are nearest to its square root, the smaller first: 768 -> (24, 32)."""
    small = next(k for k in range(math.isqrt(size), 0, -1) if size % k == 0)
    return small, size // small


def kronecker_term(tau: Tensor, factors: Sequence[Tensor]) -> Tensor:
    r"""One term :math:`(A\otimes A')\,\tau\,(B\otimes B')^\top` for tau (out, in), by four small products."""
    a, a2, b, b2 = factors
    x = a @ tau.reshape(a.shape[0], -1)
    x = torch.matmul(a2, x.reshape(a.shape[0], a2.shape[0], -1))
    x = torch.matmul(b, x.reshape(-1, b.shape[0], b2.shape[0]))
    return torch.matmul(x, b2.mT).reshape(tau.shape)


def term_and_gradients(
    tau: Tensor, factors: Sequence[Tensor], upstream: Tensor
) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
    """The term, and the gradients of tau and of the four factors for the gradient `upstream` of the term.

    Written out, because within an operator of torch nothing is recorded for autograd.
    """
    a, a2, b, b2 = factors
    rows = tau.reshape(a.shape[0], -1)
    x = (a @ rows).reshape(a.shape[0], a2.shape[0], -1)
    y = torch.matmul(a2, x).reshape(-1, b.shape[0], b2.shape[0])
    z = torch.matmul(b, y)
    term = torch.matmul(z, b2.mT).reshape(tau.shape)
    g = upstream.reshape(z.shape)
    of_b2 = g.flatten(0, 1).mT @ z.flatten(0, 1)
    g = torch.matmul(g, b2)
    of_b = torch.matmul(g, y.mT).sum(0)
    g = torch.matmul(b.mT, g).reshape(x.shape)
    of_a2 = torch.matmul(g, x.mT).sum(0)
    g = torch.matmul(a2.mT, g).reshape(rows.shape)
    return term, (a.mT @ g).reshape(tau.shape), (g @ rows.mT, of_a2, of_b, of_b2)


@dataclass(frozen=True)
class SlotCurvature:
    """Curvature of one slot for all experts.

    factors : four tensors (N, R, k, k), outer and inner factor of the output side, then of the input side
    scale : c
    """

    factors: tuple[Tensor, ...]
    scale: float

    def apply(self, i: int, tau: Tensor) -> Tensor:
        """``M_i tau``; differentiable."""
        total = torch.zeros_like(tau)
        for r in range(self.factors[0].shape[1]):
            total = total + kronecker_term(tau, [f[i, r].to(tau.dtype) for f in self.factors])
        return self.scale * total

    def pull_back(self, i: int, tau: Tensor, upstream: Tensor, sums: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Gradient with respect to tau, and ``M_i tau``; adds the factors' gradients to `sums`, one term at a time."""
        gradient, value = torch.zeros_like(tau), torch.zeros_like(tau)
        for r in range(self.factors[0].shape[1]):
            term, of_tau, found = term_and_gradients(tau, [f[i, r].to(tau.dtype) for f in self.factors], upstream)
            gradient.add_(of_tau, alpha=self.scale)
            value.add_(term, alpha=self.scale)
            for total, part in zip(sums, found, strict=True):
                total[i, r].add_(part, alpha=self.scale)
        return gradient, value


class KroneckerCurvature(nn.Module):
    """Factors of the curvature of every weight matrix of every expert, identities at the start.

    Parameters
    ----------
    n_experts : int
    shapes : slot name -> shape of one expert's tensor
    rank : R >= 1
    normalise : whether the sum of terms is divided by R
    """

    def __init__(self, n_experts: int, shapes: Mapping[str, tuple[int, ...]], rank: int, normalise: bool) -> None:
        super().__init__()
        self.scale = 1 / rank if normalise else 1.0
        self.curved = tuple(name for name, shape in shapes.items() if len(shape) == 2)
        for name in self.curved:
            out, inner = shapes[name]
            for factor, size in zip(FACTORS, (*divisors(out), *divisors(inner)), strict=True):
                eye = torch.eye(size).expand(n_experts, rank, size, size).clone()
                self.register_parameter(f"{name}_{factor}", nn.Parameter(eye))

    def slot(self, name: str) -> SlotCurvature | None:
        """Curvature of one slot, None where it is the identity."""
        if name not in self.curved:
            return None
        return SlotCurvature(tuple(getattr(self, f"{name}_{factor}") for factor in FACTORS), self.scale)
