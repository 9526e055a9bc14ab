"""The clock of the chains: what it reads in a step, and that it changes nothing."""

from __future__ import annotations

import time

import pytest

torch = pytest.importorskip("torch", reason="the extra 'moe' is not installed")
pytest.importorskip("pydantic", reason="the extra 'moe' is not installed")

from nashsolve.integrations.torch_moe import MoE, MoEConfig, link  # noqa: E402
from nashsolve.integrations.torch_moe.chain_clock import ChainClock  # noqa: E402
from tests.asserts import assert_bitwise  # noqa: E402


@pytest.fixture
def model():
    torch.manual_seed(0)
    router = {"name": "linear", "options": {"level": "sequence"}}
    config = MoEConfig.preset("namex_full", d_model=6, d_hidden=5, n_experts=3, merge={"eta": 0.5}, router=router)
    return torch.nn.Sequential(*(MoE(config) for _ in range(3)))


def test_both_passes_are_timed_and_solves_only_where_there_were_any(model):
    chains, clock = link(model), ChainClock()
    begin = time.perf_counter()
    clock.compute(chains)
    assert 0 < clock.solves < clock.forward < time.perf_counter() - begin
    assert clock.backward == 0
    model(torch.ones(1, 2, 6)).sum().backward()
    assert 0 < clock.backward < time.perf_counter() - begin
    assert clock.total == clock.forward + clock.backward
    again = ChainClock()
    again.compute(chains)  # cached: no parameter has changed
    assert again.solves == 0
    with torch.no_grad():
        model[0].experts.up_proj.add_(0.1)
    again.compute(chains)
    assert again.solves > 0


def test_the_clock_changes_no_gradient(model):
    x = torch.randn(2, 4, 6, generator=torch.Generator().manual_seed(1))
    chains, found = link(model), []
    for clocked in (False, True):
        model.zero_grad()
        for chain in chains:
            chain.invalidate()
        if clocked:
            ChainClock().compute(chains)
        model(x).square().sum().backward()
        found.append([parameter.grad.clone() for parameter in model.parameters()])
    for one, other in zip(*found, strict=True):
        assert_bitwise(one, other)


def test_without_chains_nothing_is_timed():
    clock = ChainClock()
    assert clock.compute([]) == []
    assert clock.total == 0
