"""transformers' own expert parallelism on real ranks: merging is that of one process, or is refused in a sentence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("pydantic")
pytest.importorskip("transformers.distributed.expert_parallel")

from tests.torch_moe.distributed import spread  # noqa: E402
from tests.torch_moe.distributed.compare import assert_close  # noqa: E402
from tests.torch_moe.distributed.ranks import Ranks  # noqa: E402

TOKENS = {"causal_level": "token", "segment_length": None, "first": "learned"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    spread.save(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    "changes",
    [{}, {"chain": None}, {"chain": None, "merge": {"rule": "smear"}, "base": {}, "causal_level": "sequence"}],
    ids=["chain", "camex", "smear"],
)
def test_experts_on_two_ranks_merge_and_train_as_in_one_process(
    two: Ranks, folder: Path, changes: dict[str, Any]
) -> None:
    if changes.get("causal_level") == "sequence":
        changes = changes | {"segment_length": None, "first": "learned"}
    wanted = spread.alone(folder, 2, **changes)
    for rank in two.run(spread.together, folder, 2, changes):
        assert rank["neutral"] and rank["held"] == 2 and rank["ways"] == {"block"}
        assert_close(rank["parameters"], wanted["parameters"])
        assert_close({"logits": rank["logits"]}, {"logits": wanted["logits"]})
        assert_close({"logits": rank["again"]}, {"logits": wanted["logits"]})


def test_what_is_drawn_is_the_same_on_all_ranks(two: Ranks, folder: Path) -> None:
    one, other = two.run(spread.together, folder, 1, {"base": {}, "first": "learned"})
    assert_close(one["parameters"], other["parameters"])


def test_a_chain_needs_to_hear_of_the_ranks_and_of_shards_in_one_piece(two: Ranks, folder: Path) -> None:
    for before, strided in two.run(spread.unready, folder):
        assert before.startswith("InvalidProblem") and "call shard_chains(model)" in before
        assert strided.startswith("InvalidProblem") and "cut across axis 1 in strided pieces" in strided


@pytest.mark.parametrize(
    ("sizes", "changes", "said"),
    [
        ({"tp_size": 2}, {}, "sharded already"),
        ({"fsdp_size": 2}, {}, "sharded already"),
        ({"fsdp_size": 2, "ep_size": 2}, {}, "sharded already"),
        ({"tp_size": 2, "ep_size": 2}, {"curvature": {"kind": "kronecker"}}, "which read all experts"),
        ({"tp_size": 2, "ep_size": 2}, TOKENS, "which read all experts"),
    ],
)
def test_other_plans_are_refused_with_what_to_do(
    two: Ranks, folder: Path, sizes: dict[str, int], changes: dict[str, Any], said: str
) -> None:
    for rank in two.run(spread.refused, folder, sizes, changes):
        assert rank.startswith("InvalidProblem") and said in rank and "fully_shard" in rank
