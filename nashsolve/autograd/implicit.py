r"""The derivative of the agreed coefficients: one factor and two right-hand sides, differentiable again.

On the active ball the coefficients c and the multiplier :math:`\lambda` of the agreed point :math:`x = G c` solve

.. math:: \lambda\, c \circ (A c - d) = w, \qquad c^\top A c = r^2 .

For a cotangent :math:`\bar c`, with :math:`H = A + \mathrm{diag}(w / (\lambda c^2))` and gains s,

.. math:: H v + 2 \nu A c = \bar c, \qquad s^\top v = 0

gives :math:`\bar w = v / (\lambda c)`, :math:`\bar d = v`, :math:`\bar r = 2 r \nu` and the symmetric part of
:math:`\bar A = -v c^\top - \nu c c^\top`. Everything is a function of (A, w, d, r, c), so derivatives of it are right
as well once c is known to be one of the others.
"""

from __future__ import annotations

from typing import Any

import torch

Tensor = torch.Tensor


def multiplier(c: Tensor, w: Tensor, d: Tensor, r: Tensor) -> Tensor:
    """lambda (...) = sum w / (r^2 - c'd): the equations times c, summed."""
    return w.sum(-1) / (r * r - (c * d).sum(-1))


def pull_back(
    bar: Tensor, c: Tensor, a: Tensor, w: Tensor, d: Tensor, r: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Cotangents of (A, w, d, r) from that of c; all of one batch shape, in float64.

    Players who take no part have c = w = 0 and a zero row in A. H is factored as ``diag(1/c) M diag(1/c) / lambda``
    with ``M = lambda diag(c) A diag(c) + diag(w)``, whose conditioning does not depend on the scale of the players.
    """
    lam = multiplier(c, w, d, r)[..., None]
    ac = (a @ c[..., None])[..., 0]
    gains = ac - d
    m = lam[..., None] * c[..., :, None] * a * c[..., None, :] + torch.diag_embed(torch.where(c == 0, 1.0, w))
    sides = c[..., None] * torch.stack([bar, ac], -1)
    factor, _ = torch.linalg.cholesky_ex(m)
    free, pressed = (lam[..., None] * c[..., None] * torch.cholesky_solve(sides, factor)).unbind(-1)
    nu = (gains * free).sum(-1, keepdim=True) / (2 * (gains * pressed).sum(-1, keepdim=True))
    v = free - 2 * nu * pressed
    outer = v[..., :, None] * c[..., None, :]
    bar_a = -(outer + outer.mT) / 2 - nu[..., None] * c[..., :, None] * c[..., None, :]
    return bar_a, v / (lam * torch.where(c == 0, 1.0, c)), v, 2 * r * nu[..., 0]


class Implicit(torch.autograd.Function):
    """c as a function of (A, w, d, r): the value is given, the derivative is that of the equations."""

    @staticmethod
    def forward(c: Tensor, a: Tensor, w: Tensor, d: Tensor, r: Tensor) -> Tensor:
        return c.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Tensor) -> None:
        ctx.save_for_backward(output, *inputs[1:])

    @staticmethod
    def backward(ctx: Any, bar: Tensor) -> Any:
        return None, *pull_back(bar, *ctx.saved_tensors)
