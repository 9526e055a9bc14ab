"""Sequences packed into rows merge as if each had a row of its own."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers", minversion="5.0")

from torch import Tensor  # noqa: E402

from nashsolve.core.errors import InvalidProblem  # noqa: E402
from nashsolve.integrations.transformers import convert  # noqa: E402
from nashsolve.integrations.transformers.packing import documents  # noqa: E402
from nashsolve.integrations.transformers.segments import Segments  # noqa: E402
from tests.tolerances import tolerance  # noqa: E402
from tests.transformers.build import LANGUAGE, build, inputs, levels  # noqa: E402

CAMEX = {"rule": "camex", "eta": 0.5}
LENGTHS = (5, 3, 8, 1)
STARTS = (0, 5, 8, 16, 17)


def positions(*lengths: int) -> Tensor:
    return torch.cat([torch.arange(n) for n in lengths])[None]


def converted(name: str, level: str, **more: Any) -> Any:
    model = build(name)
    convert(model, show=False, merge=CAMEX, **levels(name, causal=level, size=3), chain={}, **more)
    return model


def close(a: Tensor, b: Tensor) -> None:
    torch.testing.assert_close(a, b, rtol=tolerance("float32", "rtol"), atol=10 * tolerance("float32", "sum"))


@pytest.mark.parametrize("level", ["sequence", "segment", "token"])
@pytest.mark.parametrize("name", LANGUAGE)
def test_a_packed_row_is_the_batch_of_its_sequences(name: str, level: str) -> None:
    model = converted(name, level)
    ids = inputs(name, batch=1, length=sum(LENGTHS))["input_ids"]
    together = model(input_ids=ids, position_ids=positions(*LENGTHS), use_cache=False).logits
    alone = [model(input_ids=ids[:, a:b], use_cache=False).logits for a, b in itertools.pairwise(STARTS)]
    close(together, torch.cat(alone, dim=1))
    unaware = model(input_ids=ids, use_cache=False).logits
    assert (together - unaware).abs().max() > 100 * tolerance("float32", "sum")


@pytest.mark.parametrize("level", ["sequence", "segment"])
def test_gradients_of_a_packed_row_are_those_of_its_sequences(level: str) -> None:
    model = converted("qwen2_moe", level)
    ids = inputs("qwen2_moe", batch=1, length=sum(LENGTHS))["input_ids"]
    found = []
    for packed in (True, False):
        model.zero_grad()
        if packed:
            model(input_ids=ids, position_ids=positions(*LENGTHS), use_cache=False).logits.square().sum().backward()
        else:
            for a, b in itertools.pairwise(STARTS):
                model(input_ids=ids[:, a:b], use_cache=False).logits.square().sum().backward()
        found.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    assert found[0].keys() == found[1].keys() and any("nashsolve" in name for name in found[0])
    for name, gradient in found[0].items():
        size = float(gradient.abs().max())
        torch.testing.assert_close(
            gradient, found[1][name], rtol=10 * tolerance("float32", "rtol"), atol=size * tolerance("float32", "sum")
        )


@pytest.mark.parametrize("level", ["sequence", "segment"])
def test_rows_of_a_batch_are_packed_each_in_its_own_way(level: str) -> None:
    model = converted("mixtral", level)
    ids = inputs("mixtral", batch=3, length=9)["input_ids"]
    rows = ((4, 5), (9,), (2, 3, 4))
    packed = torch.cat([positions(*row) for row in rows])
    together = model(input_ids=ids, position_ids=packed, use_cache=False).logits
    for b, row in enumerate(rows):
        close(
            together[b : b + 1], model(input_ids=ids[b : b + 1], position_ids=positions(*row), use_cache=False).logits
        )


def test_all_ways_to_say_it_say_the_same() -> None:
    index = torch.tensor([[0] * 5 + [1] * 3 + [2] * 8 + [3]])
    ends = torch.tensor(STARTS, dtype=torch.int32)
    for given in ({"seq_idx": index.int()}, {"cu_seq_lens_q": ends}, {"position_ids": positions(*LENGTHS)}):
        assert torch.equal(documents(given, 1, 17, None), index)
    assert documents({"position_ids": torch.arange(17)[None]}, 2, 17, None) is None
    assert documents({"position_ids": torch.arange(17)[None] + 4}, 2, 17, None) is None
    assert documents({}, 2, 17, None) is None
    assert documents({"position_ids": torch.zeros(3, 1, 17)}, 1, 17, None) is None


@pytest.mark.parametrize("left", [0, 3])
def test_padding_is_no_sequence(left: int) -> None:
    mask = torch.tensor([[False] * left + [True] * 6 + [False] * (3 - left)])
    plain = torch.cat([torch.zeros(left), torch.arange(6), torch.zeros(3 - left)])[None].long()
    assert documents({"position_ids": plain}, 1, 9, mask) is None
    packed = torch.cat([torch.zeros(left), torch.arange(4), torch.arange(2), torch.zeros(3 - left)])[None].long()
    found = documents({"position_ids": packed}, 1, 9, mask)
    assert found[mask].tolist() == [0, 0, 0, 0, 1, 1]
    x = torch.arange(9.0)[None, :, None]
    segments = Segments(1, 9, 3, mask, None, found)
    total, count = segments.totals(x)
    assert count[0, :3].tolist() == [3, 1, 2] and segments.first[0, :3].tolist() == [True, False, True]
    want = x[mask].reshape(-1)
    assert total[0, :3, 0].tolist() == [float(want[:3].sum()), float(want[3]), float(want[4:].sum())]
    assert torch.equal(segments.ungrouped(segments.grouped(x)), x)


def test_padded_and_packed_rows_merge_as_their_sequences() -> None:
    model = converted("mixtral", "sequence")
    merging, ids = model.nashsolve, inputs("mixtral", batch=1, length=9)["input_ids"]
    mask = torch.tensor([[1] * 7 + [0] * 2])
    with torch.no_grad():
        model(input_ids=ids, attention_mask=mask, position_ids=positions(4, 3, 2), use_cache=False)
        packed = merging.members[0].router_output.probs[:2]
        model(input_ids=ids[:, :4], use_cache=False)
        alone = merging.members[0].router_output.probs
    # Attention with a mask does not separate packed sequences, so that only the first one is the same.
    close(packed[:1], alone)


def test_a_packed_row_neither_fills_a_memory_nor_continues_from_one() -> None:
    model = converted("mixtral", "segment")
    ids = inputs("mixtral", batch=1, length=17)["input_ids"]
    with torch.no_grad():
        out = model(input_ids=ids, use_cache=True)
        name = "cache" if "cache" in out else "past_key_values"
        with pytest.raises(InvalidProblem, match="do not continue from a cache"):
            model(input_ids=ids, position_ids=positions(*LENGTHS), **{name: out[name]})


@pytest.mark.parametrize("level", ["sequence", "segment"])
def test_checkpointed_layers_recompute_a_packed_row(level: str) -> None:
    model = converted("mixtral", level).train()
    ids = inputs("mixtral", batch=1, length=sum(LENGTHS))["input_ids"]
    found = []
    for checkpointing in (False, True):
        if checkpointing:
            enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
            enable()
        model.zero_grad()
        model(input_ids=ids, position_ids=positions(*LENGTHS), use_cache=False).logits.square().sum().backward()
        found.append([p.grad.clone() for p in model.parameters() if p.grad is not None])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))
