"""Conversion: neutral to the last bit, merged as the slow reference says, and taken out again."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers", minversion="5.0")

from safetensors.torch import load_file  # noqa: E402

from nashsolve.core.errors import InvalidProblem, InvalidType  # noqa: E402
from nashsolve.integrations.transformers import ConvertConfig, convert, merging_of, revert  # noqa: E402
from tests.tolerances import tolerance  # noqa: E402
from tests.transformers.build import LANGUAGE, MOE, SlowMerge, build, inputs, levels, padded  # noqa: E402

CAMEX = {"rule": "camex", "eta": 0.5}
WAYS = ("experts_function", "block")


def chained(name: str) -> dict[str, Any]:
    """Settings of a chain; Switch has a dense layer after every sparse one."""
    return {"chain": {}, "across_dense": name == "switch_transformers"}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", MOE)
def test_the_neutral_configuration_changes_no_bit(name: str, way: str) -> None:
    model, given = build(name), inputs(name)
    before = model(**given).logits
    keys = list(model.state_dict())
    merging = convert(model, ConvertConfig(way=way), show=False)
    assert torch.equal(model(**given).logits, before)
    assert list(model.state_dict()) == keys
    assert not any(True for _ in merging.parameters())


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", MOE)
def test_a_disabled_or_reverted_model_is_the_original_to_the_last_bit(name: str, way: str) -> None:
    model, given = build(name), inputs(name)
    before, keys = model(**given).logits, list(model.state_dict())
    merging = convert(model, show=False, way=way, merge=CAMEX, **levels(name), **chained(name))
    merged = model(**given).logits
    assert (merged - before).abs().max() > 100 * tolerance("float32", "sum")
    with merging.disabled():
        assert torch.equal(model(**given).logits, before)
    assert torch.equal(model(**given).logits, merged)
    revert(model)
    assert torch.equal(model(**given).logits, before)
    assert list(model.state_dict()) == keys
    assert not hasattr(model, "nashsolve")


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("level", ["token", "sequence", "segment"])
@pytest.mark.parametrize("name", MOE)
def test_merged_logits_are_those_of_the_slow_reference(name: str, level: str, way: str) -> None:
    model, given = build(name), inputs(name)
    settings = levels(name, level, level) | chained(name)
    merging = convert(model, show=False, way=way, merge=CAMEX, **settings)
    with torch.no_grad():
        fast = model(**given).logits
        bases = [merging._bases[place.stack].compute()[k] for k, (place, _) in enumerate(merging.places)]
        with SlowMerge(merging, bases, 0.5):
            slow = model(**given).logits
    torch.testing.assert_close(fast, slow, rtol=tolerance("float32", "rtol"), atol=10 * tolerance("float32", "sum"))


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("level", ["sequence", "segment"])
@pytest.mark.parametrize("name", LANGUAGE)
def test_padded_tokens_do_not_influence_the_merge(name: str, level: str, side: str) -> None:
    model = build(name)
    convert(model, show=False, merge=CAMEX, **levels(name, causal=level), chain={})
    ids, widths = inputs(name, batch=3, length=11)["input_ids"], (11, 7, 5)
    rows, mask = padded(ids, widths, side)
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    with torch.no_grad():
        together = model(input_ids=rows, attention_mask=mask, position_ids=positions).logits
        for b, width in enumerate(widths):
            alone = model(input_ids=ids[b : b + 1, :width]).logits[0]
            found = together[b, mask[b].bool()]
            torch.testing.assert_close(
                found, alone, rtol=tolerance("float32", "rtol"), atol=tolerance("float32", "sum")
            )


def test_the_encoder_of_switch_leaves_padding_out_of_its_merge_weights() -> None:
    name = "switch_transformers"
    model = build(name)
    merging = convert(model, show=False, merge=CAMEX, **levels(name), **chained(name))
    ids = inputs(name, length=9)["input_ids"]
    rows, mask = padded(ids, (9, 5), "right")
    with torch.no_grad():
        model.encoder(input_ids=rows, attention_mask=mask)
        together = [layer.router_output.probs[1] for layer in merging.members if layer.stack.name == "encoder"]
        model.encoder(input_ids=ids[1:, :5])
        alone = [layer.router_output.probs[0] for layer in merging.members if layer.stack.name == "encoder"]
    for a, b in zip(together, alone, strict=True):
        torch.testing.assert_close(a, b, rtol=tolerance("float32", "rtol"), atol=tolerance("float32", "sum"))


def test_causal_segments_do_not_see_later_tokens() -> None:
    model = build("qwen2_moe")
    convert(model, show=False, merge=CAMEX, causal_level="segment", segment_length=4, chain={})
    ids = inputs("qwen2_moe", length=12)["input_ids"]
    other = ids.clone()
    other[:, 7:] = (other[:, 7:] + 3) % 37 + 2
    with torch.no_grad():
        first, second = model(ids).logits, model(other).logits
    torch.testing.assert_close(first[:, :7], second[:, :7], rtol=0, atol=tolerance("float32", "sum"))
    assert (first[:, 7:] - second[:, 7:]).abs().max() > 100 * tolerance("float32", "sum")


def test_router_logits_and_balance_losses_stay_the_models_own() -> None:
    model, given = build("mixtral"), inputs("mixtral")
    before = model(**given, output_router_logits=True)
    for way in WAYS:
        convert(model, show=False, way=way, merge=CAMEX, causal_level="token", chain={})
        after = model(**given, output_router_logits=True)
        assert [tuple(a.shape) for a in after.router_logits] == [tuple(b.shape) for b in before.router_logits]
        assert torch.equal(after.router_logits[0], before.router_logits[0])
        revert(model)


@pytest.mark.parametrize(
    "settings",
    [
        {"merge": {"rule": "smear"}},
        {"merge": {"rule": "smear", "selection": "selected"}},
        {"merge": CAMEX | {"mask": "ties"}},
        {"merge": CAMEX, "curvature": {"kind": "kronecker", "rank": 2, "in_chain": True}, "chain": {}},
        {"merge": CAMEX, "base": {"init": "shared_expert", "index": 1}, "chain": {"gamma": 0.5}},
        {"merge": CAMEX, "base": {"init": "mean_plus_noise"}, "learn_eta": True},
    ],
)
def test_every_rule_of_parameters_changes_the_logits(settings: dict[str, Any]) -> None:
    model, given = build("qwen2_moe"), inputs("qwen2_moe")
    before = model(**given).logits
    merging = convert(model, show=False, **settings, causal_level="segment", segment_length=4)
    after = model(**given).logits
    assert bool(torch.isfinite(after).all()) and (after - before).abs().max() > tolerance("float32", "sum")
    model(**given).logits.square().sum().backward()
    for name, parameter in merging.named_parameters():
        assert parameter.grad is not None and bool(torch.isfinite(parameter.grad).all()), name


def test_token_nash_bargains_over_the_outputs_of_the_models_own_choice() -> None:
    model, given = build("mixtral"), inputs("mixtral")
    before = model(**given).logits
    merging = convert(model, show=False, merge={"rule": "token_nash", "vectors": "outputs"})
    after = model(**given).logits
    assert (after - before).abs().max() > tolerance("float32", "sum")
    assert all(0 <= float(layer.rule.opposed) <= 1 for layer in merging.members)


def test_usage_moves_after_steps_of_training() -> None:
    model, given = build("mixtral"), inputs("mixtral")
    merging = convert(model, show=False, merge={"rule": "usage", "usage_decay": 0.5})
    equal = model(**given).logits
    model.train()(**given)
    merging.after_step()
    usage = torch.stack([layer.rule.usage for layer in merging.members])
    torch.testing.assert_close(usage.sum(-1), torch.ones(3), rtol=0, atol=tolerance("float32", "sum"))
    assert (usage - 1 / 4).abs().max() > 1e-3
    assert (model.eval()(**given).logits - equal).abs().max() > tolerance("float32", "sum")


def test_models_without_a_language_head_convert_too() -> None:
    whole, given = build("qwen2_moe"), inputs("qwen2_moe")
    merging = convert(whole.model, show=False, merge=CAMEX, causal_level="segment", segment_length=4, chain={})
    assert [layer.name for layer in merging.members] == [f"layers.{k}.mlp" for k in range(3)]
    hidden = whole.model(**given).last_hidden_state
    revert(whole.model)
    assert (whole.model(**given).last_hidden_state - hidden).abs().max() > tolerance("float32", "sum")


def test_a_classifier_may_merge_by_whole_sequences_and_leave_padding_out() -> None:
    torch.manual_seed(0)
    model = transformers.Qwen2MoeForSequenceClassification(build("qwen2_moe").config).eval()
    convert(model, show=False, merge=CAMEX, causal_level="sequence", chain={})
    ids = inputs("qwen2_moe", length=9)["input_ids"]
    rows, mask = padded(ids, (9, 4), "right")
    together = model(input_ids=rows, attention_mask=mask).logits[1]
    alone = model(input_ids=ids[1:, :4]).logits[0]
    torch.testing.assert_close(together, alone, rtol=tolerance("float32", "rtol"), atol=tolerance("float32", "sum"))


def test_chains_restart_after_dense_layers_unless_they_may_pass() -> None:
    changes = {"num_hidden_layers": 5, "mlp_only_layers": [2]}
    model = build("qwen2_moe", **changes)
    merging = convert(model, show=False, merge=CAMEX, causal_level="token", chain={})
    assert [len(chain) for chain in merging.chains] == [2, 2]
    revert(model)
    merging = convert(model, show=False, merge=CAMEX, causal_level="token", chain={}, across_dense=True)
    assert [len(chain) for chain in merging.chains] == [4]


def test_stacks_have_chains_of_their_own() -> None:
    model = build("switch_transformers")
    merging = convert(model, show=False, merge=CAMEX, **levels("switch_transformers"), chain={}, across_dense=True)
    assert [len(chain) for chain in merging.chains] == [2, 2]
    with pytest.raises(InvalidProblem, match="across_dense=True"):
        convert(build("switch_transformers"), show=False, merge=CAMEX, **levels("switch_transformers"), chain={})


def test_a_failed_conversion_leaves_no_trace() -> None:
    model = build("switch_transformers")
    with pytest.raises(InvalidProblem):
        convert(model, show=False, merge=CAMEX, **levels("switch_transformers"), chain={})
    assert not any(module._forward_pre_hooks for module in model.modules())
    assert not hasattr(model, "nashsolve")


def test_the_table_names_every_layer_and_what_it_got(capsys: pytest.CaptureFixture[str]) -> None:
    model = build("deepseek_v2")
    merging = convert(
        model, merge=CAMEX, causal_level="segment", segment_length=4, base={"init": "shared_expert"}, chain={}
    )
    printed = capsys.readouterr().out
    assert printed == merging.table() + "\n"
    lines = printed.splitlines()
    assert [line.split()[0] for line in lines[1:-1]] == [f"model.layers.{k}.mlp" for k in (1, 2, 3)]
    assert "slice 0 of the shared expert" in lines[1] and "of the chain" in lines[2]
    assert lines[-1] == "3 layers by experts function; 48 parameters added beside the model's own"


def test_a_copied_model_merges_by_itself() -> None:
    model, given = build("mixtral"), inputs("mixtral")
    convert(model, show=False, merge=CAMEX, **levels("mixtral"), chain={})
    merged = model(**given).logits
    twin = copy.deepcopy(model)
    with torch.no_grad():
        twin.model.layers[0].mlp.experts.down_proj.zero_()
    assert torch.equal(model(**given).logits, merged)
    assert not torch.equal(twin(**given).logits, merged)
    assert merging_of(twin) is twin.nashsolve and merging_of(twin) is not model.nashsolve


@pytest.mark.parametrize("way", WAYS)
def test_a_copy_is_reverted_and_saved_by_itself(way: str, tmp_path: Path) -> None:
    model, given = build("mixtral"), inputs("mixtral")
    plain = model(**given).logits
    convert(model, show=False, way=way, merge=CAMEX, **levels("mixtral"), chain={})
    merged = model(**given).logits
    twin = copy.deepcopy(model)
    with torch.no_grad():
        twin.nashsolve.members[0].base.up_proj.zero_()
    twin.save_pretrained(tmp_path)
    assert not bool(load_file(tmp_path / "nashsolve.safetensors")["layers.0.base.up_proj"].any())
    revert(twin)
    assert torch.equal(twin(**given).logits, plain)
    assert torch.equal(model(**given).logits, merged)
    convert(twin, show=False, way=way)
    assert torch.equal(twin(**given).logits, plain)
    revert(model)
    assert torch.equal(model(**given).logits, plain)


def test_what_cannot_be_converted_is_refused() -> None:
    with pytest.raises(InvalidType, match="PreTrainedModel"):
        convert(torch.nn.Linear(2, 2))
    with pytest.raises(InvalidProblem, match="model_type is 'llama'"):
        convert(build("llama"))
    with pytest.raises(InvalidProblem, match="causal stack: choose causal_level"):
        convert(build("mixtral"), merge=CAMEX)
    with pytest.raises(InvalidProblem, match="did you mean 'merge'"):
        convert(build("mixtral"), merg=CAMEX)
    with pytest.raises(InvalidProblem, match="has no shared expert"):
        convert(build("mixtral"), merge=CAMEX, causal_level="token", base={"init": "shared_expert"})
    with pytest.raises(InvalidProblem, match="no block of experts"):
        convert(build("qwen2_moe", mlp_only_layers=[0, 1, 2]))
    model = build("mixtral")
    convert(model, show=False)
    with pytest.raises(InvalidProblem, match="merges already"):
        convert(model, show=False)
    with pytest.raises(InvalidProblem, match="was not converted"):
        revert(build("mixtral"))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"level": "token"}, "level would change nothing"),
        ({"merge": {"rule": "lory"}, "causal_level": "sequence"}, "merges segments"),
        ({"merge": CAMEX, "causal_level": "segment"}, "segment_length"),
        ({"merge": CAMEX, "causal_level": "token", "segment_length": 4}, "segment_length"),
        ({"merge": CAMEX, "causal_level": "token", "first": "zero"}, "first is read"),
        ({"merge": {"rule": "smear"}, "causal_level": "token", "learn_eta": True}, "learn_eta"),
        ({"merge": CAMEX, "causal_level": "token", "across_dense": True}, "without a chain"),
        ({"merge": CAMEX, "causal_level": "tokens"}, "causal_level is 'tokens'"),
    ],
)
def test_settings_that_would_change_nothing_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidProblem, match=message):
        ConvertConfig(**settings)
