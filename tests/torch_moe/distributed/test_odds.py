"""Refusals, settings, counts of collectives and the model of another library, on real ranks."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("pydantic")

import numpy as np
import torch
from torch.distributed.tensor import Replicate, Shard

from benchmarks import scaling
from nashsolve.core.errors import InvalidProblem
from nashsolve.integrations.torch_moe.distributed import DistributedConfig
from tests.tolerances import tolerance
from tests.torch_moe.distributed import odds
from tests.torch_moe.distributed.ranks import Ranks

SHAPE = scaling.Model((4,), 8, 45, 1440.0, 1440.0, 6, (2 / 3, 1 / 3))
"""What `draw(8)` makes."""


@pytest.mark.parametrize(
    ("placement", "kind", "settings"),
    [
        (Shard(1), "columns", {}),
        (Shard(0), "experts", {}),
        (Shard(1), "tensor", {"bases": "local"}),
        (Replicate(), "columns", {}),
    ],
    ids=["columns", "experts", "tensor", "replicas"],
)
def test_collectives_are_as_many_as_on_paper(two: Ranks, placement: Any, kind: str, settings: dict[str, Any]) -> None:
    """The counts of docs/moe/scaling.md, from the function that prints them."""
    layout = scaling.Layout(kind, 2, 1 if placement == Replicate() else 2)
    for calls, _ in two.run(odds.counted, (2,), [placement], settings):
        assert calls == scaling.counts_of(SHAPE, layout)


@pytest.mark.parametrize("shard", [Shard(1), Shard(0)], ids=["columns", "experts"])
def test_collectives_of_replicas_are_as_many_as_on_paper(four: Ranks, shard: Any) -> None:
    layout = scaling.Layout("columns" if shard == Shard(1) else "experts", 4, 2)
    for calls, _ in four.run(odds.counted, (2, 2), [Replicate(), shard], {}):
        assert calls == scaling.counts_of(SHAPE, layout)


def test_one_gram_for_all_layers_is_one_collective(two: Ranks) -> None:
    for calls, _ in two.run(odds.counted, (2,), [Shard(1)], {"grams": "joint"}):
        assert calls["all_reduce"] == 1


def test_experts_are_never_gathered(two: Ranks) -> None:
    """Where whole experts lie apart each is sent once, to the ranks' columns; gathers and sums are of one expert."""
    one_expert, links = 45 * 8, 3
    for calls, sent in two.run(odds.counted, (2,), [Shard(0)], {}):
        assert sent["all_to_all"] == links * 4 * one_expert
        assert sent["all_gather"] <= calls["all_gather"] * (one_expert + 2 * 15 * 8)
        assert sent["all_reduce"] <= links * (one_expert + (64 + 10) * 8)
    for _, sent in two.run(odds.counted, (2,), [Shard(1)], {}):
        assert "all_to_all" not in sent and sent["all_reduce"] == links * (64 + 10) * 8


@pytest.mark.parametrize(
    ("what", "word"),
    [
        ("local", "cut their axis"),
        ("alpha", "detach_alpha=False needs"),
        ("partial", "a sum that is not summed yet"),
        ("mixed layers", "lies over the ranks otherwise"),
        ("twice", "hold"),
        ("base", "the base expert"),
        ("curvature", "curvature in the chain"),
    ],
)
def test_refusals(two: Ranks, what: str, word: str) -> None:
    for rank in two.run(odds.refused, what):
        assert rank["kind"] == "InvalidProblem" and word in rank["text"], rank["text"]


def test_unknown_settings_are_refused() -> None:
    with pytest.raises(InvalidProblem, match="did you mean 'timeout'"):
        DistributedConfig(time_out=1.0)
    with pytest.raises(InvalidProblem, match="greater than 0"):
        DistributedConfig(timeout=0.0)


def test_base_experts_may_travel_in_half_precision(two: Ranks) -> None:
    for rank in two.run(odds.half_precision):
        wide, half = rank["chain"], rank["bfloat16"]
        assert half["kinds"] == {torch.bfloat16} and wide["kinds"] == {torch.float32}
        assert torch.equal(half["bases"], wide["bases"].bfloat16().float())
        near = tolerance("bfloat16", "products")
        torch.testing.assert_close(half["gradients"], wide["gradients"], rtol=near, atol=near)
        assert not torch.equal(half["gradients"], wide["gradients"])
        assert half["bytes"] < wide["bytes"]


def test_a_step_must_not_lose_gradients(two: Ranks) -> None:
    for text, same in two.run(odds.pending):
        assert "call backward() of the chain before optimizer.step()" in text and same


def test_divisors_of_gradients_go_with_those_of_fsdp(two: Ranks) -> None:
    """The sum over two ranks is twice their mean, for what FSDP2 reduces and for what the chain adds."""
    mean, summed = two.run(odds.divided, None)[0], two.run(odds.divided, 1.0)[0]
    assert any(".experts." in name for name in mean) and any(".base." in name for name in mean)
    for name, gradient in mean.items():
        near = tolerance("float64", "rtol")
        torch.testing.assert_close(summed[name], 2 * gradient, rtol=near, atol=near, msg=lambda m, n=name: f"{n}: {m}")


def test_steps_of_fused_optimizers_count(two: Ranks) -> None:
    """They write parameters without raising version counters."""
    assert two.run(odds.fused_steps) == [[1, 2, 3]] * 2


def test_modes_change_nothing_and_copies_are_refused(two: Ranks) -> None:
    for rank in two.run(odds.in_other_modes):
        assert rank[0] == rank[2] == rank[4]
        assert all("copy the model before shard_chains" in text for text in rank[1::2])


def test_explicit_backward(two: Ranks) -> None:
    assert two.run(odds.explicit) == [True, True]


@pytest.mark.parametrize("placement", [Shard(1), Shard(0)], ids=["columns", "experts"])
def test_fused_experts_of_transformers(two: Ranks, placement: Any) -> None:
    pytest.importorskip("transformers")
    found = two.run(odds.transformers_model, placement)
    for rank in found:
        np.testing.assert_allclose(rank["mine"], rank["wanted"], rtol=tolerance("float32", "rtol"))
        assert rank["mine"] == found[0]["mine"] and rank["solved"] == 1 and rank["gradient"] > 0
