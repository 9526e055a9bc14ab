"""Derivative of the coefficients of a step with respect to the Gram, through the bargaining solution."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

import nashsolve

from .bargain import capped, ridged, scale_factor, stated
from .chain_config import BargainConfig


def pull_back(gram: np.ndarray, error: float, upstream: Tensor, config: BargainConfig) -> Tensor:
    """Gradient (N, N) of the Gram from the gradient (N,) of the coefficients: ridge, solution, scale and cap."""
    with torch.enable_grad():
        k = torch.from_numpy(gram).requires_grad_()
        solution = nashsolve.solve(stated(ridged(k, config.ridge), error, config), on_failure="return")
        c = solution.coefficients
        factor = capped(scale_factor(c, k, config.scale), c, config.cap)
        return torch.autograd.grad(factor * c, k, upstream.double())[0]
