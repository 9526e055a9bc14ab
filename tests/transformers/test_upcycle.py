"""Upcycling: equal to the dense model at the start, counted on the meta device, trained, saved."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers", minversion="5.0")

from nashsolve.core.errors import InvalidProblem  # noqa: E402
from nashsolve.integrations.transformers import (  # noqa: E402
    UpcycleConfig,
    count_upcycled,
    from_pretrained,
    load_merging,
    revert,
    upcycle,
)
from tests.own_memory import in_own_memory  # noqa: E402
from tests.tolerances import tolerance  # noqa: E402
from tests.transformers.build import DENSE, build, inputs, levels  # noqa: E402


@pytest.mark.parametrize("start", ["jitter", "held"])
@pytest.mark.parametrize("name", DENSE)
def test_an_upcycled_model_is_the_dense_one_at_the_start(name: str, start: str) -> None:
    model, given = build(name), inputs(name)
    dense = model(**given).logits
    merging = upcycle(model, show=False, experts=4, start=start, **levels(name))
    torch.testing.assert_close(
        model(**given).logits, dense, rtol=tolerance("float32", "rtol"), atol=tolerance("float32", "sum")
    )
    if start == "held":
        assert {record["policy"] for record in merging.report() if record["layer"] == 0} == {"hold"}
    else:
        assert {record["policy"] for record in merging.report()} == {""}
        spread = merging.members[0].experts.up_proj.detach().std(dim=0).mean()
        assert float(spread) > 0


@pytest.mark.parametrize("name", ["t5", "bert", "gpt2", "vit", "swin"])
def test_rules_that_mix_outputs_start_at_the_dense_model_too(name: str) -> None:
    model, given = build(name), inputs(name)
    dense = model(**given).logits
    upcycle(
        model,
        show=False,
        experts=4,
        merge={"rule": "smoe"},
        jitter=1e-6,
        router={"name": "linear", "options": {"top_k": 2, "softmax": "after"}},
    )
    torch.testing.assert_close(
        model(**given).logits, dense, rtol=10 * tolerance("float32", "rtol"), atol=10 * tolerance("float32", "sum")
    )


def test_t5_base_has_a_thousand_million_parameters_with_eight_experts() -> None:
    config = transformers.T5Config(d_model=768, d_ff=3072, d_kv=64, num_heads=12, num_layers=12, vocab_size=32128)
    counts = count_upcycled(
        transformers.T5ForConditionalGeneration,
        config,
        experts=8,
        level="sequence",
        causal_level="segment",
        segment_length=64,
    )
    expert, layers = 2 * 768 * 3072, 24
    assert counts.before == 222_903_552
    assert counts.model == counts.before + layers * (7 * expert + 8 * 768)
    assert abs(counts.model / 1e9 - 1.0) < 0.02
    # one base expert for each stack, eta in every layer, a start of segments in every layer of the decoder
    assert counts.merging == 2 * expert + layers + 12 * 768
    assert counts.after == counts.model + counts.merging


def test_swin_gets_two_shapes_of_experts_and_a_chain_for_each() -> None:
    model = build("swin")
    merging = upcycle(model, show=False, experts=4, level="sequence")
    shapes = [layer.expert_view().shapes["up_proj"] for layer in merging.members]
    assert shapes == [(32, 8), (32, 8), (64, 16), (64, 16)]
    assert [len(chain) for chain in merging.chains] == [2, 2]


def test_every_second_feed_forward() -> None:
    model = build("bert", num_hidden_layers=4)
    merging = upcycle(model, show=False, experts=2, every=2, level="sequence")
    assert [place.index for place, _ in merging.places] == [1, 3]
    assert [len(chain) for chain in merging.chains] == [2]
    with pytest.raises(InvalidProblem, match="no list has as many"):
        upcycle(build("bert"), every=9, level="sequence")


@pytest.mark.parametrize("start", ["jitter", "held"])
@pytest.mark.parametrize("name", DENSE)
def test_an_upcycled_model_trains(name: str, start: str) -> None:
    model, given = build(name), inputs(name, batch=4)
    merging = upcycle(model, show=False, experts=4, start=start, **levels(name))
    generator = torch.Generator().manual_seed(3)
    target = torch.randint(0, 2, model(**given).logits.shape[:-1], generator=generator)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    losses = []
    for _ in range(12):
        loss = torch.nn.functional.cross_entropy(model(**given).logits.flatten(0, -2), target.flatten())
        losses.append(float(loss.detach()))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[-1] < 0.7 * losses[0]
    probs = torch.cat([layer.router_output.probs.detach() for layer in merging.members])
    assert float((probs - 1 / 4).abs().max()) > 1e-3
    eta = torch.stack([layer.rule.eta.detach() for layer in merging.members])
    assert float((eta - 1).abs().max()) > 1e-3
    view = merging.members[0].expert_view()
    assert float((view.expert(0)["up_proj"] - view.expert(1)["up_proj"]).detach().abs().max()) > 1e-4


@pytest.mark.parametrize("name", DENSE)
def test_an_upcycled_model_comes_back_from_its_folder(name: str, tmp_path: Path) -> None:
    model, given = build(name), inputs(name)
    upcycle(model, show=False, experts=4, jitter=0.3, **levels(name))
    with torch.no_grad():
        for parameter in model.nashsolve.parameters():
            parameter.add_(0.1)
    wanted = model(**given).logits
    model.save_pretrained(tmp_path)
    again = in_own_memory(from_pretrained(tmp_path))
    assert type(again) is type(model)
    assert torch.equal(again(**given).logits, wanted)
    assert {k: v.shape for k, v in again.state_dict().items()} == {k: v.shape for k, v in model.state_dict().items()}
    with pytest.raises(InvalidProblem, match="holds an upcycled model"):
        load_merging(build(name), tmp_path)


def test_dropout_of_the_dense_feed_forward_stays() -> None:
    model, given = build("t5", dropout_rate=0.5), inputs("t5")
    upcycle(model, show=False, experts=4, **levels("t5"))
    assert torch.equal(model(**given).logits, model(**given).logits)
    model.train()
    block = model.encoder.block[0].layer[1].DenseReluDense
    hidden = torch.ones(1000)
    kept = block.experts.activation(hidden)
    assert 0.3 < float((kept == 0).float().mean()) < 0.7


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"experts": 1}, "experts is 1"),
        ({"start": "held", "jitter": 0.1}, "jitter would change nothing"),
        ({"start": "held", "base": {"init": "separate"}}, "base.init='copy'"),
        ({"router": {"name": "linear", "options": {"level": "sequence"}}}, "not of its router"),
        ({"expert": 4}, "did you mean 'experts'"),
    ],
)
def test_settings_of_upcycling_are_checked(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidProblem, match=message):
        UpcycleConfig(**settings)


def test_what_cannot_be_upcycled_is_refused() -> None:
    with pytest.raises(InvalidProblem, match="choose causal_level"):
        upcycle(build("gpt2"))
    with pytest.raises(InvalidProblem, match="choose level"):
        upcycle(build("vit"))
    model = build("gpt2")
    upcycle(model, show=False, causal_level="token")
    with pytest.raises(InvalidProblem, match="merges already"):
        upcycle(model, causal_level="token")
    with pytest.raises(InvalidProblem, match="was not converted"):
        revert(model)
    with pytest.raises(InvalidProblem, match="chunk_size_feed_forward"):
        upcycle(build("bert", chunk_size_feed_forward=2), level="sequence")
