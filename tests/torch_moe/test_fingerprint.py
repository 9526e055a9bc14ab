"""Whether parameters have changed: edits, replacements, and addresses that are handed out again."""

from __future__ import annotations

import pytest

pytest.importorskip("torch", reason="the extra 'moe' is not installed")

import torch

from nashsolve.integrations.torch_moe.fingerprint import Fingerprint


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
