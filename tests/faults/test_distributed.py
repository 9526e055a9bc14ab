"""Rows D01-D15 of the fault table: real ranks that raise, die, come late, disagree, hold NaN, or lie in odd shards."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("pydantic")

import torch
from torch.distributed.tensor import Replicate, Shard

from nashsolve.integrations.torch_moe import BargainConfig, PlainMember, bargain_over_base, domain_gram
from tests.torch_moe.distributed import faulty, models, training
from tests.torch_moe.distributed.compare import assert_close
from tests.torch_moe.distributed.expert_parallel import check_expert_parallel
from tests.torch_moe.distributed.ranks import Failure, Ranks
from tests.torch_moe.distributed.test_same_as_one_process import SWINGING, check
from tests.torch_moe.distributed.work import draw

TIMEOUT = 20.0
"""Seconds that the chains of these tests have for one collective."""


@pytest.fixture
def pair() -> Any:
    """Two ranks for one test, after which their process group is no good."""
    ranks = Ranks(2)
    yield ranks
    ranks.close()


@pytest.mark.parametrize(
    "where",
    [
        pytest.param("loop", id="D01-in-the-loop"),
        pytest.param("arithmetic", id="D01-in-its-arithmetic"),
        pytest.param("exchange", id="D01-while-experts-travel"),
        pytest.param("reading", id="D01-reading-experts"),
    ],
)
def test_a_rank_raises(pair: Ranks, where: str) -> None:
    mine, its = pair.run(faulty.raises_before, where)
    assert mine["kind"] == "RankFailed" and mine["ranks"] == (1,) and mine["seconds"] < TIMEOUT / 2
    assert "rank 1 failed" in mine["text"] and its["kind"] != "none"
    wanted = {"loop": "OSError: the data set is gone", "reading": "InvalidProblem"}.get(where, "MemoryError: no room")
    assert wanted in mine["text"]


@pytest.mark.parametrize("dim", [pytest.param(1, id="D02-columns"), pytest.param(0, id="D02-experts")])
def test_a_rank_is_killed(pair: Ranks, dim: int) -> None:
    mine, its = pair.try_run(faulty.killed, dim)
    assert isinstance(its, Failure) and its.kind == "gone"
    assert mine["kind"] == "RankFailed" and mine["ranks"] == (1,) and mine["seconds"] < TIMEOUT


@pytest.mark.parametrize("dim", [pytest.param(1, id="D03-columns"), pytest.param(0, id="D03-experts")])
@pytest.mark.parametrize("entry", [float("nan"), float("inf"), -1e200])
def test_a_bad_shard(two: Ranks, dim: int, entry: float) -> None:
    found = two.run(faulty.not_a_number, dim, entry)
    for rank in found:
        assert rank["kind"] == "InvalidShards" and rank["text"] == found[0]["text"]
        assert rank["again"] == "none" and rank["same"]
    if dim == 1:  # where experts travel, the sums of other ranks are spoilt, too
        assert found[0]["ranks"] == (1,) and "rank 1" in found[0]["text"]


@pytest.mark.parametrize(
    ("what", "word"),
    [
        pytest.param("N", "number of experts", id="D04-number-of-experts"),
        pytest.param("shape", "shapes", id="D04-shape"),
        pytest.param("order", "slots", id="D04-order"),
        pytest.param("layers", "layers", id="D04-layers"),
        pytest.param("settings", "config", id="D04-settings"),
        pytest.param("divisor", "settings", id="D04-divisor"),
    ],
)
def test_ranks_are_given_different_things(two: Ranks, what: str, word: str) -> None:
    for rank in two.run(faulty.different, what):
        assert rank["kind"] == "RanksDisagree" and rank["seconds"] < TIMEOUT / 2
        assert f"ranks differ in {word}" in rank["text"] or word in rank["text"].split(":")[0]


@pytest.mark.parametrize("dim", [pytest.param(1, id="D05-columns"), pytest.param(0, id="D05-experts")])
@pytest.mark.parametrize("solve", ["everywhere", "broadcast"])
def test_alpha_is_the_same_to_the_bit(two: Ranks, dim: int, solve: str) -> None:
    first, second = two.run(faulty.same_alpha, dim, torch.float32, solve)
    assert first == second and first[0] != first[-1]


@pytest.mark.parametrize(
    ("what", "word"),
    [
        pytest.param("bit", "coefficients so far", id="D05-one-bit-off"),
        pytest.param("start", "warm starts", id="D05-start-off"),
        pytest.param("base", "sums of the first base expert", id="D05-base-expert-off"),
    ],
)
def test_another_alpha_is_noticed(two: Ranks, what: str, word: str) -> None:
    for rank in two.run(faulty.different_alpha, what):
        assert rank["kind"] == "RanksDisagree" and f"ranks differ in {word}" in rank["text"]


@pytest.mark.parametrize("merges", [pytest.param(1000, id="D06-ddp")])
def test_replicas_stay_the_same(two: Ranks, merges: int) -> None:
    first, second = two.run(training.many_merges, merges)
    assert first["digest"] == second["digest"] and first["solved"] == second["solved"] == merges


@pytest.mark.parametrize("experts", [pytest.param(5, id="D07-uneven"), pytest.param(3, id="D07-empty")])
def test_uneven_and_empty_shards(four: Ranks, experts: int) -> None:
    found = four.run(models.train_together, "fsdp", (4,), 1, experts)
    wanted = models.train_alone(4, 1, experts)
    for rank in found:
        assert_close(rank["parameters"], wanted)


@pytest.mark.parametrize(
    "attached", [pytest.param(True, id="D08-attached"), pytest.param(False, id="D08-not-attached")]
)
def test_parameters_are_gathered(two: Ranks, attached: bool) -> None:
    for rank in two.run(training.gathered, attached):
        if attached:
            assert rank["kind"] == "none" and rank["same"]
        else:
            assert rank["kind"] == "InvalidProblem" and "reshard()" in rank["text"]


@pytest.mark.parametrize(
    "split", [pytest.param([3, 2], id="D09-not-divisible"), pytest.param([1, 1], id="D09-one-expert-a-rank")]
)
def test_expert_parallel(two: Ranks, split: list[int]) -> None:
    check_expert_parallel(two, split)


@pytest.mark.parametrize(
    "placements",
    [
        pytest.param([Replicate(), Shard(1)], id="D10-hybrid-columns"),
        pytest.param([Replicate(), Shard(0)], id="D10-hybrid-experts"),
        pytest.param([Shard(0), Shard(1)], id="D10-experts-and-columns"),
    ],
)
def test_nothing_is_counted_twice(four: Ranks, placements: list[Any]) -> None:
    check(four, 5, SWINGING, (2, 2), placements)


@pytest.mark.parametrize(
    "how", [pytest.param("fsdp", id="D11-experts"), pytest.param("fsdp columns", id="D11-columns")]
)
@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
def test_state_moves_between_world_sizes(four: Ranks, two: Ranks, how: str, tmp_path: Path) -> None:
    """Saved by four ranks; two ranks and one process continue as if nothing had happened."""
    folder = str(tmp_path / "state")
    going_on = four.run(training.save_and_continue, how, folder)
    wanted = models.train_alone(4, 4)
    one = training.load_alone(folder)
    for found in (*going_on, *two.run(training.load_and_continue, how, folder), one):
        assert_close(found["parameters"], wanted)
        assert found["start"] == going_on[0]["start"]


@pytest.mark.parametrize("times", [pytest.param(1, id="D12-untouched")])
def test_nothing_else_is_touched(two: Ranks, times: int) -> None:
    for _ in range(times):
        two.run(faulty.untouched)


@pytest.mark.parametrize("dim", [pytest.param(1, id="D13-columns"), pytest.param(0, id="D13-experts")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gloo_and_no_group_agree_within_the_bound(two: Ranks, dim: int, dtype: Any) -> None:
    experts, base = draw(6)
    first = {k: t.to(dtype) for k, t in base.items()}
    alone = domain_gram(PlainMember({k: t.to(dtype) for k, t in experts[0].items()}).expert_view(), first)
    for rank in two.run(faulty.gram_within_bound, dim, dtype):
        gram, error = rank[0]
        size = np.sqrt(np.outer(np.diagonal(gram), np.diagonal(gram)))
        assert (np.abs(gram - alone.gram) <= (error + alone.gram_error) * size).all()
        assert error <= 2 * alone.gram_error + 1e-15


@pytest.mark.parametrize("device", [pytest.param("cuda", id="D13-nccl", marks=pytest.mark.gpu), "cpu"])
def test_one_process_in_a_group(device: str) -> None:
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    single = Ranks(1, "nccl" if device == "cuda" else "gloo")
    try:
        (found,) = single.run(training.group_of_one, device)
    finally:
        single.close()
    assert found["error"] <= found["bound"]


@pytest.mark.parametrize("delay", [pytest.param(4.5, id="D14-late")])
def test_the_timeout_is_honoured(pair: Ranks, delay: float) -> None:
    mine, its = pair.run(faulty.late, 1.0, delay)
    assert mine["kind"] == "RankFailed" and mine["ranks"] == (1,) and 0.9 < mine["seconds"] < delay
    assert "within 1 s: rank 1 did not answer" in mine["text"]
    assert its["kind"] == "RankFailed"


@pytest.mark.parametrize(
    "how",
    [
        pytest.param("compile", id="D15-compile"),
        pytest.param("checkpointing", id="D15-checkpointing"),
        pytest.param("accumulation", id="D15-accumulation"),
        pytest.param("accumulation without no_sync", id="D15-accumulation-without-no_sync"),
    ],
)
def test_the_chain_is_computed_once_a_step(two: Ranks, how: str) -> None:
    wanted = models.train_alone(2, 2, micro=2 if "accumulation" in how else 1)
    for rank in two.run(training.train_with, how):
        assert rank["solved"] == 2
        assert_close(rank["parameters"], wanted)


@pytest.mark.parametrize("dim", [1, 0])
def test_independent_layers_need_one_collective(two: Ranks, dim: int) -> None:
    experts, base = draw(4)
    for rank in two.run(faulty.independent, dim):
        assert rank["calls"]["all_reduce"] == 1
        for j, (layer, mine) in enumerate(zip(experts, rank["coefficients"], strict=True)):
            gram = domain_gram(PlainMember(layer).expert_view(), {k: (j + 1) * t for k, t in base.items()})
            np.testing.assert_allclose(mine, bargain_over_base(gram, BargainConfig()).coefficients, rtol=1e-10)
