"""Permuted hidden units: the function stays, a shuffled copy is found again, and bargains change."""

from __future__ import annotations

import pytest

pytest.importorskip("torch", reason="the extra 'moe' is not installed")

import torch

from nashsolve.core.errors import InvalidProblem
from nashsolve.integrations.torch_moe import ExpertView, FusedExperts, align_experts, domain_gram
from nashsolve.integrations.torch_moe.feed_forward import feed_forward
from tests.asserts import assert_near
from tests.torch_moe.build import TIGHT, flat


@pytest.mark.parametrize("activation", ["gelu", "swiglu"])
@pytest.mark.parametrize("bias", [True, False])
def test_shuffled_copies_are_found_again(activation: str, bias: bool) -> None:
    torch.manual_seed(0)
    experts = FusedExperts(3, 5, 7, activation, bias).double()
    reference = {name: torch.randn_like(t) for name, t in experts.expert(0).items()}
    shuffles = [torch.randperm(7) for _ in range(3)]
    with torch.no_grad():
        for i, order in enumerate(shuffles):
            rows = torch.cat([order, order + 7]) if activation == "swiglu" else order
            for name, tensor in experts.expert(i).items():
                by_row = reference[name][rows] if name.startswith("up") else reference[name]
                tensor.copy_(by_row[:, order] if name == "down_proj" else by_row)
    x = torch.randn(4, 5, dtype=torch.float64)
    before = [feed_forward(x, experts.expert(i), activation).detach() for i in range(3)]
    found = align_experts(experts, reference)
    for i, order in enumerate(shuffles):
        assert_near(flat(experts.expert(i)), flat(reference), 0)
        assert torch.equal(order[found[i]], torch.arange(7))
        assert_near(feed_forward(x, experts.expert(i), activation).detach(), before[i], 0, TIGHT)


def test_alignment_brings_experts_nearer_and_changes_the_bargain() -> None:
    torch.manual_seed(0)
    experts = FusedExperts(3, 5, 9, "gelu", True)
    base = {name: t.detach().clone() for name, t in FusedExperts(1, 5, 9, "gelu", True).expert(0).items()}
    before = domain_gram(ExpertView.of(experts), base)
    align_experts(experts, base)
    after = domain_gram(ExpertView.of(experts), base)
    assert (after.norms < before.norms).all()
    assert abs(after.cosines[0, 1] - before.cosines[0, 1]) > 1e-3


def test_a_reference_of_another_shape_is_refused() -> None:
    with pytest.raises(InvalidProblem, match="one expert has"):
        align_experts(FusedExperts(2, 3, 4, "relu", False), {"up_proj": torch.ones(4, 3)})
