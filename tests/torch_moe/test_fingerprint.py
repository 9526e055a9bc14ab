"""Whether parameters have changed: edits, replacements, and addresses that are handed out again."""

from __future__ import annotations

import pytest

pytest.importorskip("torch", reason="the extra 'moe' is not installed")

import torch

from nashsolve.core.errors import NashSolveError
from nashsolve.integrations.torch_moe import ChainConfig
from nashsolve.integrations.torch_moe.fingerprint import Fingerprint
from tests.torch_moe.build import random_chain, scalar_of


def test_edits_and_replacements_are_seen() -> None:
    a, b = torch.ones(3), torch.ones(3)
    mark = Fingerprint([a, b])
    assert mark.matches([a, b])
    assert not mark.matches([b, a])
    b.add_(0.0)
    assert not mark.matches([a, b])
    assert not mark.matches([a, b.clone()])
    assert not mark.matches([a])


def test_views_of_the_same_parameter_are_the_same() -> None:
    p = torch.nn.Parameter(torch.ones(3, 2))
    mark = Fingerprint([p[1]])
    assert mark.matches([p[1]]) and not mark.matches([p[2]])
    with torch.no_grad():
        p[0] += 1.0
    assert not mark.matches([p[1]])


def test_a_freed_address_is_not_taken_for_the_old_tensor() -> None:
    tensor = torch.zeros(1000)
    mark = Fingerprint([tensor])
    del tensor
    later = [torch.zeros(1000) for _ in range(200)]
    assert not any(mark.matches([t]) for t in later)


@pytest.mark.parametrize("fused", [False, True])
def test_a_step_of_any_optimizer_of_torch_is_a_change(fused: bool) -> None:
    parameter = torch.nn.Parameter(torch.ones(3))
    optimizer = torch.optim.AdamW([parameter], lr=0.1, fused=fused)
    parameter.grad = torch.ones(3)
    before = Fingerprint([parameter])
    optimizer.step()
    assert not before.matches([parameter])
    assert not torch.equal(parameter.detach(), torch.ones(3))


def test_a_fused_step_between_forward_and_backward_is_refused() -> None:
    chain, _, base = random_chain(ChainConfig())
    loss = scalar_of(chain.bases())
    optimizer = torch.optim.AdamW(list(base.values()), lr=0.1, fused=True)
    for tensor in base.values():
        tensor.grad = torch.ones_like(tensor)
    optimizer.step()
    with pytest.raises(NashSolveError, match="changed between the forward pass"):
        loss.backward()
