"""The combination by blocks of columns that stay in the cache: plain torch, any device."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from .blocked import difference

_CPU_COLUMNS = 2**14
_GPU_COLUMNS = 2**24


@dataclass(frozen=True)
class Momentum:
    """beta = r + i u; the real one has u = 0 and a single buffer."""

    r: float
    u: float
    buffers: int


def combine_blocked(
    experts: Sequence[torch.Tensor],
    base: torch.Tensor | None,
    c: torch.Tensor,
    step: complex,
    beta: Momentum | None,
    old: Sequence[torch.Tensor],
    results: Sequence[torch.Tensor],
    kind: torch.dtype,
) -> None:
    """Fill results = (point, *buffers), all tensors 1-D; `c` (n,) in `kind`, which the arithmetic is done in."""
    length, device = experts[0].numel(), experts[0].device
    width = min(length, _CPU_COLUMNS * torch.get_num_threads() if device.type == "cpu" else _GPU_COLUMNS)
    delta, term, below = (torch.empty(width, dtype=kind, device=device) for _ in range(3))
    weights: Sequence[float | torch.Tensor] = c.tolist() if device.type == "cpu" else list(c)
    for start in range(0, length, max(width, 1)):
        block = slice(start, min(start + width, length))
        size = block.stop - start
        d, t = delta[:size].zero_(), term[:size]
        b = None if base is None else below[:size].copy_(base[block])
        for weight, expert in zip(weights, experts, strict=True):
            difference(expert[block], b, t)
            d.add_(t, alpha=weight) if isinstance(weight, float) else d.addcmul_(t, weight)
        moved = _advance(d, step, beta, [p[block] for p in old], [p[block] for p in results[1:]], t)
        results[0][block].copy_(moved if b is None else moved.add_(b))


def _advance(
    delta: torch.Tensor,
    step: complex,
    beta: Momentum | None,
    old: Sequence[torch.Tensor],
    new: Sequence[torch.Tensor],
    scratch: torch.Tensor,
) -> torch.Tensor:
    """Re(gamma mu') in `scratch` or `delta`, with mu' = beta mu + delta put into `new`, which may be `old`."""
    if beta is None:
        return delta.mul_(step.real)
    if beta.buffers == 1:
        if old:
            delta.add_(old[0], alpha=beta.r)
        new[0].copy_(delta)
        return delta.mul_(step.real)
    imaginary = scratch.zero_()
    if old:
        imaginary.add_(old[0], alpha=beta.u).add_(old[1], alpha=beta.r)
        delta.add_(old[0], alpha=beta.r).add_(old[1], alpha=-beta.u)
    new[0].copy_(delta)
    new[1].copy_(imaginary)
    return delta.mul_(step.real).sub_(imaginary, alpha=step.imag)
