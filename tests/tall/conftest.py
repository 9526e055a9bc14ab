"""Experts of every dtype and form, and the slow, exact answers in float64."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch", reason="the extra 'torch' is not installed")

DTYPES = (torch.bfloat16, torch.float16, torch.float32, torch.float64)


def draw(shape, seed, dtype=torch.float32, size=1.0):
    return (size * torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)).to(dtype)


def draw_experts(n, shapes, dtype=torch.float32, seed=0, near=1.0):
    """n experts at relative distance `near` around one base expert, as lists of tensors."""
    base = [draw(shape, seed + 1000 + k) for k, shape in enumerate(shapes)]
    experts = [
        [(b.double() + draw(b.shape, seed + 50 * i + k, torch.float64, near)).to(dtype) for k, b in enumerate(base)]
        for i in range(n)
    ]
    return experts, [b.to(dtype) for b in base]


def stacked(experts, base):
    """Differences (n, d) in float64."""
    zero = [0 * t for t in experts[0]] if base is None else base
    rows = [torch.cat([(e.double() - b.double()).ravel() for e, b in zip(ex, zero, strict=True)]) for ex in experts]
    return torch.stack(rows)


def relative_error(found, exact):
    """Largest |found - exact|_ij over sqrt(exact_ii exact_jj)."""
    size = exact.diagonal().sqrt()
    return float(((found - exact).abs() / (size[:, None] * size)).max())
