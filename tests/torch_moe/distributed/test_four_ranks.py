"""Meshes of two axes, more ranks than experts, empty shards: four real ranks against one process."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("pydantic")

from torch.distributed.tensor import Replicate, Shard

from tests.torch_moe.distributed.compare import assert_close
from tests.torch_moe.distributed.expert_parallel import stages
from tests.torch_moe.distributed.ranks import Ranks
from tests.torch_moe.distributed.test_same_as_one_process import PLAIN, SWINGING, check
from tests.torch_moe.distributed.work import alone, draw

MESHES = {
    "columns": ((4,), [Shard(1)]),
    "columns-of-three": ((4,), [Shard(2)]),
    "experts": ((4,), [Shard(0)]),
    "hybrid": ((2, 2), [Replicate(), Shard(1)]),
    "hybrid-turned": ((2, 2), [Shard(1), Replicate()]),
    "hybrid-experts": ((2, 2), [Replicate(), Shard(0)]),
    "experts-and-columns": ((2, 2), [Shard(0), Shard(1)]),
    "columns-and-experts": ((2, 2), [Shard(2), Shard(0)]),
    "experts-twice": ((2, 2), [Shard(0), Shard(0)]),
    "columns-twice": ((2, 2), [Shard(1), Shard(2)]),
}


@pytest.mark.parametrize("mesh", MESHES)
def test_meshes(four: Ranks, mesh: str) -> None:
    """Fewer experts than ranks, and columns that four ranks cannot share evenly."""
    shape, placements = MESHES[mesh]
    check(four, 3, SWINGING, shape, placements)


@pytest.mark.parametrize("mesh", ["experts", "experts-twice", "columns-and-experts"])
def test_more_experts_than_ranks(four: Ranks, mesh: str) -> None:
    shape, placements = MESHES[mesh]
    check(four, 7, PLAIN, shape, placements)


def test_chains_of_pipeline_stages_do_not_meet(four: Ranks) -> None:
    models = [draw(5, seed=0), draw(5, seed=1)]
    found = four.run(stages, models, PLAIN, [2, 3])
    for rank, mine in enumerate(found):
        wanted = alone(models[rank // 2], PLAIN, 2)
        assert_close(mine["base gradient"], wanted["base gradient"])
        assert mine["report"][0]["alpha"] == found[rank // 2 * 2]["report"][0]["alpha"]
        assert "is none of the ranks" in mine["refused"]
    assert found[0]["report"][0]["alpha"] != found[2]["report"][0]["alpha"]


@pytest.mark.parametrize("mesh", ["hybrid", "hybrid-experts", "experts-and-columns"])
def test_one_collective_for_the_whole_chain(four: Ranks, mesh: str) -> None:
    shape, placements = MESHES[mesh]
    base: Any = [Replicate(), Shard(0)]
    found = check(four, 5, PLAIN, shape, placements, base=base, settings={"grams": "joint"})
    assert all(rank["calls"]["all_reduce"] <= found[0]["calls"]["all_reduce"] for rank in found)
