"""Sharded chains against the chain of one process: values, gradients, steps of training, on real ranks."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("pydantic")

from torch.distributed.tensor import Replicate, Shard

from nashsolve.integrations.torch_moe import BargainConfig, ChainConfig, MomentumConfig
from tests.torch_moe.distributed.compare import assert_as_one_process, assert_same_bits
from tests.torch_moe.distributed.ranks import Ranks
from tests.torch_moe.distributed.work import alone, draw, together

PLAIN = ChainConfig(gamma=0.3)
SWINGING = ChainConfig(
    bargain=BargainConfig(scale="exact"), gamma=0.2, momentum=MomentumConfig(kind="complex", beta=0.5, phase=0.4)
)
CONFIGS = {
    "plain": PLAIN,
    "complex": SWINGING,
    "heavy_ball": ChainConfig(gamma=0.3, momentum=MomentumConfig(kind="heavy_ball", beta=0.4)),
    "interval": ChainConfig(gamma=0.3, interval=2),
    "linear": ChainConfig(gamma=0.3, granularity="linear"),
    "uniform": ChainConfig(gamma=0.5, bargain="uniform"),
    "warm": ChainConfig(gamma=0.3, bargain=BargainConfig(warm_start=True)),
    "alpha": ChainConfig(gamma=0.3, detach_alpha=False),
    "mean": ChainConfig(gamma=0.3, bargain=BargainConfig(disagreement="mean", radius_factor=2.0)),
}


def check(ranks: Ranks, n: int, config: ChainConfig, shape: tuple[int, ...], placements: Any, **more: Any) -> Any:
    """Three steps on the ranks, one batch each, against three steps of one process with all batches."""
    base, settings = more.pop("base", None), more.pop("settings", {})
    model = draw(n, **more)
    found = ranks.run(together, model, config, shape, placements, base, settings, 3)
    assert_same_bits(found)
    assert_as_one_process(found, alone(model, config, ranks.size, 3))
    return found


PLACEMENTS = {"columns": Shard(1), "experts": Shard(0), "replicas": Replicate()}
BOTH = [(config, name) for config in CONFIGS for name in PLACEMENTS if (config, name) != ("alpha", "experts")]


@pytest.mark.parametrize(("config", "placement"), BOTH)
def test_settings(two: Ranks, config: str, placement: str) -> None:
    check(two, 5, CONFIGS[config], (2,), [PLACEMENTS[placement]])


@pytest.mark.parametrize(
    ("n", "placement", "base"),
    [
        pytest.param(5, Shard(2), [Shard(0)], id="rows-of-the-second-kind"),
        pytest.param(5, Shard(1), [Shard(1)], id="base-sharded-otherwise"),
        pytest.param(5, Shard(0), [Shard(0)], id="base-sharded-experts-cut"),
        pytest.param(2, Shard(0), None, id="one-expert-a-rank"),
        pytest.param(1, Shard(0), None, id="a-rank-without-experts"),
    ],
)
def test_placements(two: Ranks, n: int, placement: Any, base: Any) -> None:
    check(two, n, PLAIN, (2,), [placement], base=base)


@pytest.mark.parametrize("placement", PLACEMENTS)
@pytest.mark.parametrize("grams", ["layer", "joint"])
def test_biases_that_follow(two: Ranks, placement: str, grams: str) -> None:
    config = ChainConfig(gamma=0.3, biases="follow", detach_alpha=placement == "experts" or grams == "joint")
    shapes = {"weight": (4, 3), "bias": (4,)}
    check(two, 4, config, (2,), [PLACEMENTS[placement]], settings={"grams": grams}, shapes=shapes)


@pytest.mark.parametrize("config", ["plain", "complex", "heavy_ball", "interval", "linear"])
@pytest.mark.parametrize("placement", [Shard(1), Shard(0)], ids=["columns", "experts"])
def test_one_collective_for_the_whole_chain(two: Ranks, config: str, placement: Any) -> None:
    check(two, 4, CONFIGS[config], (2,), [placement], settings={"grams": "joint"})


def test_bytes_on_their_way_are_bounded(two: Ranks) -> None:
    """The same answer from rounds of a single row."""
    calls = [
        check(two, 5, PLAIN, (2,), [Shard(0)], settings={"exchange_bytes": room})[0]["calls"]["all_to_all"]
        for room in (1, 2**20)
    ]
    assert calls[0] > 2 * calls[1]


def test_one_rank_solves_for_all(two: Ranks) -> None:
    found = check(two, 4, PLAIN, (2,), [Shard(1)], settings={"solve": "broadcast"})
    assert found[0]["calls"]["broadcast_object"] == 9


def test_explicit_backward_and_other_shapes(two: Ranks) -> None:
    """Biases, a matrix, three axes."""
    shapes = {"weight": (4, 3), "bias": (4,), "kernel": (2, 3, 2)}
    check(two, 3, SWINGING, (2,), [Shard(1)], shapes=shapes)
    check(two, 3, SWINGING, (2,), [Shard(0)], shapes=shapes, settings={"exchange_bytes": 64})
