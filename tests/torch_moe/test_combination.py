"""A combination as one node of the graph: its values, all of its derivatives, and where plain operators take over."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch", reason="the extra 'moe' is not installed")

from nashsolve.integrations.torch_moe.combination import combination  # noqa: E402
from tests.asserts import assert_near  # noqa: E402
from tests.torch_moe.build import TIGHT  # noqa: E402

BOTH = pytest.mark.parametrize("fused", [True, False])
OVER_BASE = pytest.mark.parametrize("over_base", [True, False])


def draw(fused, over_base, dtype=torch.float64):
    generator = torch.Generator().manual_seed(3)

    def one(*shape):
        return torch.randn(*shape, dtype=torch.float64, generator=generator).to(dtype).requires_grad_()

    tensors = (one(3, 2, 4),) if fused else tuple(one(2, 4) for _ in range(3))
    return one(5, 3), tensors, one(5) if over_base else None, one(2, 4) if over_base else None


@BOTH
@OVER_BASE
def test_values_and_derivatives(fused, over_base):
    c, tensors, a, base = draw(fused, over_base)
    rows = torch.stack([tensors[0][i] if fused else tensors[i] for i in range(3)])
    wanted = torch.einsum("ri,ixy->rxy", c, rows)
    if over_base:
        wanted = wanted + torch.einsum("r,xy->rxy", a, base)
    assert_near(combination(c, tensors, fused, a, base).detach(), wanted.detach(), 0, TIGHT)

    inputs = [c, *(() if a is None else (a, base)), *tensors]

    def of(c, *rest):
        start = 2 if over_base else 0
        return combination(c, rest[start:], fused, *(rest[:2] if over_base else (None, None)))

    assert torch.autograd.gradcheck(of, inputs)
    assert torch.autograd.gradgradcheck(of, inputs)


@BOTH
def test_transforms_see_plain_operators(fused):
    c, tensors, a, base = draw(fused, True)

    def of(row, one):
        return combination(row[None], tensors, fused, one[None], base)[0]

    mapped = torch.vmap(of)(c, a)
    assert_near(mapped.detach(), combination(c, tensors, fused, a, base).detach(), 0, TIGHT)
    found = torch.func.grad(lambda c: combination(c, tensors, fused, a, base).sin().sum())(c)
    (wanted,) = torch.autograd.grad(combination(c, tensors, fused, a, base).sin().sum(), c)
    assert_near(found.detach(), wanted, 0, TIGHT)


@BOTH
def test_narrow_experts_are_combined_in_the_precision_of_the_weights(fused):
    _, tensors, _, base = draw(fused, True, torch.bfloat16)
    c, _, a, _ = draw(fused, True, torch.float32)
    y = combination(c, tensors, fused, a, base)
    assert y.dtype == torch.float32
    y.sum().backward()
    assert {t.grad.dtype for t in (*tensors, base)} == {torch.bfloat16}
    assert c.grad.dtype == a.grad.dtype == torch.float32


@BOTH
def test_gradients_that_nobody_wants_are_not_made(fused):
    c, tensors, a, base = draw(fused, True)
    frozen = tuple(t.detach() for t in tensors)
    combination(c, frozen, fused, a.detach(), base).sum().backward()
    assert c.grad is not None and base.grad is not None
    assert all(t.grad is None for t in (*frozen, a))
