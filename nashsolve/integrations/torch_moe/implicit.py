r"""Derivative of the coefficients of a step with respect to the Gram, through the bargaining solution.

.. math:: K\alpha = 1/\alpha \;\Rightarrow\; \bar K = -\tfrac12(v\alpha^\top + \alpha v^\top),\quad
   (K + \mathrm{diag}(1/\alpha^2))\,v = \bar\alpha
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from .bargain import Agreement, capped, scale_factor
from .chain_config import BargainConfig


class _Alpha(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gram: Tensor, alpha: Tensor) -> Tensor:
        ctx.save_for_backward(gram, alpha)
        return alpha.clone()

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None]:
        gram, alpha = ctx.saved_tensors
        v = torch.linalg.solve(gram + torch.diag(alpha**-2), upstream)
        outer = torch.outer(v, alpha)
        return -0.5 * (outer + outer.mT), None


def pull_back(gram: np.ndarray, agreement: Agreement, upstream: Tensor, config: BargainConfig) -> Tensor:
    """Gradient (N, N) of the Gram from the gradient (N,) of the coefficients: ridge, solution, scale and cap."""
    with torch.enable_grad():
        k = torch.from_numpy(gram).requires_grad_()
        n = len(gram)
        ridged = k + config.ridge * torch.trace(k) / n * torch.eye(n, dtype=torch.float64)
        alpha = _Alpha.apply(ridged, torch.from_numpy(np.array(agreement.alpha)))
        factor = capped(scale_factor(alpha, k, config.scale), alpha, config.cap)
        return torch.autograd.grad(factor * alpha, k, upstream.double())[0]
