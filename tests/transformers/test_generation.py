"""Generation: with a cache what the full forward says, with left padding, in beams; the chain computed once."""

from __future__ import annotations

import inspect

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers", minversion="5.0")

from torch import Tensor  # noqa: E402

from nashsolve.core.errors import InvalidProblem, NashSolveError  # noqa: E402
from nashsolve.integrations.torch_moe import bargain_over_base  # noqa: E402
from nashsolve.integrations.transformers import convert, upcycle  # noqa: E402
from tests.tolerances import tolerance  # noqa: E402
from tests.transformers.build import MOE, build, inputs, levels, padded  # noqa: E402

CACHE = "cache" if "cache" in inspect.signature(transformers.MixtralModel.forward).parameters else "past_key_values"
CAMEX = {"rule": "camex", "eta": 0.5}


def close(a: Tensor, b: Tensor) -> None:
    torch.testing.assert_close(a, b, rtol=tolerance("float32", "rtol"), atol=10 * tolerance("float32", "sum"))


def converted(name: str, level: str) -> object:
    model = build(name)
    across = name == "switch_transformers"
    convert(model, show=False, merge=CAMEX, **levels(name, causal=level), chain={}, across_dense=across)
    return model


@pytest.mark.parametrize("way", ["experts_function", "block"])
@pytest.mark.parametrize("name", MOE)
def test_the_neutral_configuration_generates_what_the_model_did(name: str, way: str) -> None:
    model = build(name)
    ids = inputs(name, length=6)["input_ids"]
    options = {"max_new_tokens": 5, "do_sample": False, "output_logits": True, "return_dict_in_generate": True}
    options |= {"attention_mask": torch.ones_like(ids)}
    before = model.generate(ids, **options)
    convert(model, show=False, way=way)
    after = model.generate(ids, **options)
    assert torch.equal(before.sequences, after.sequences)
    assert all(torch.equal(a, b) for a, b in zip(before.logits, after.logits, strict=True))


@pytest.mark.parametrize("level", ["token", "segment"])
@pytest.mark.parametrize("name", MOE)
def test_generation_with_a_cache_is_the_full_forward(name: str, level: str) -> None:
    model = converted(name, level)
    given = inputs(name, length=7)
    ids = given["input_ids"]
    options = {"max_new_tokens": 8, "do_sample": False, "output_logits": True, "return_dict_in_generate": True}
    out = model.generate(ids, attention_mask=torch.ones_like(ids), **options)
    logits = torch.stack(out.logits, dim=1)
    with torch.no_grad():
        if name == "switch_transformers":
            full = model(input_ids=ids, decoder_input_ids=out.sequences[:, :-1], use_cache=False).logits
        else:
            full = model(out.sequences[:, :-1], use_cache=False).logits[:, ids.shape[1] - 1 :]
    close(logits, full)


@pytest.mark.parametrize("name", ["gpt2", "t5", "llama"])
def test_upcycled_models_generate_with_a_cache(name: str) -> None:
    model = build(name)
    upcycle(model, show=False, experts=4, jitter=0.5, **levels(name))
    ids = inputs(name, length=6)["input_ids"]
    options = {"max_new_tokens": 8, "do_sample": False, "attention_mask": torch.ones_like(ids)}
    assert torch.equal(model.generate(ids, **options), model.generate(ids, use_cache=False, **options))


@pytest.mark.parametrize("cuts", [(1, 2, 3, 4, 5), (3, 8, 15), (4, 8, 12)])
def test_a_sequence_in_pieces_is_the_whole_sequence(cuts: tuple[int, ...]) -> None:
    model = converted("qwen2_moe", "segment")
    ids = inputs("qwen2_moe", length=18)["input_ids"]
    cache, pieces = transformers.DynamicCache(config=model.config), []
    with torch.no_grad():
        for start, end in zip((0, *cuts), (*cuts, 18), strict=True):
            pieces.append(model(ids[:, start:end], **{CACHE: cache}, use_cache=True).logits)
        close(torch.cat(pieces, dim=1), model(ids, use_cache=False).logits)


def test_left_padding_does_not_change_what_is_generated() -> None:
    model = converted("mixtral", "segment")
    ids, widths = inputs("mixtral", batch=3, length=9)["input_ids"], (9, 6, 3)
    rows, mask = padded(ids, widths, "left")
    options = {"max_new_tokens": 9, "do_sample": False}
    together = model.generate(rows, attention_mask=mask, **options)[:, 9:]
    for b, width in enumerate(widths):
        alone = ids[b : b + 1, :width]
        assert torch.equal(
            together[b], model.generate(alone, attention_mask=torch.ones_like(alone), **options)[0, width:]
        )


def test_beams_carry_their_segments_with_them() -> None:
    model = converted("mixtral", "segment")
    ids = inputs("mixtral", length=5)["input_ids"]
    options = {"max_new_tokens": 10, "num_beams": 3, "do_sample": False, "attention_mask": torch.ones_like(ids)}
    assert torch.equal(model.generate(ids, **options), model.generate(ids, use_cache=False, **options))


def test_a_whole_sequence_keeps_the_weights_of_its_prompt() -> None:
    model = converted("mixtral", "sequence")
    ids = inputs("mixtral", length=6)["input_ids"]
    with torch.no_grad():
        first = model(ids, use_cache=True)
        before = [layer.router_output.probs for layer in model.nashsolve.members]
        model(ids[:, :1], **{CACHE: first[CACHE]})
        after = [layer.router_output.probs for layer in model.nashsolve.members]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_the_chain_is_solved_once_in_generation_and_again_after_a_change(monkeypatch: pytest.MonkeyPatch) -> None:
    model = converted("mixtral", "segment")
    solves = []

    def counted(*args: object) -> object:
        solves.append(1)
        return bargain_over_base(*args)

    monkeypatch.setattr("nashsolve.integrations.torch_moe.chain.bargain_over_base", counted)
    ids = inputs("mixtral", length=5)["input_ids"]
    options = {"max_new_tokens": 6, "do_sample": False, "attention_mask": torch.ones_like(ids)}
    model.generate(ids, **options)
    assert len(solves) == 2
    model.generate(ids, **options)
    assert len(solves) == 2
    with torch.no_grad():
        model.model.layers[1].mlp.experts.down_proj.mul_(1.5)
    model.generate(ids, **options)
    assert len(solves) == 4
    with model.nashsolve.held(), torch.no_grad():
        model.model.layers[1].mlp.experts.down_proj.mul_(1.5)
        model(ids)
    assert len(solves) == 4


def test_a_cache_that_merging_has_not_seen_is_refused() -> None:
    model, plain = converted("mixtral", "segment"), build("mixtral")
    ids = inputs("mixtral", length=6)["input_ids"]
    with torch.no_grad():
        foreign = plain(ids, use_cache=True)[CACHE]
        with pytest.raises(NashSolveError, match="has seen 0 of them"):
            model(ids[:, :1], **{CACHE: foreign})
        own = model(ids, use_cache=True)[CACHE]
        own.crop(-2)
        with pytest.raises(NashSolveError, match="holds 4 tokens, merging has seen 6"):
            model(ids[:, :1], **{CACHE: own})


def test_masks_that_do_not_tell_padding_are_refused_unless_tokens_merge() -> None:
    ids = inputs("mixtral", length=6)["input_ids"]
    whole = torch.zeros(2, 1, 6, 6)
    with pytest.raises(InvalidProblem, match="reads padding from a mask"):
        converted("mixtral", "segment")(ids, attention_mask=whole)
    assert converted("mixtral", "token")(ids, attention_mask=whole).logits.shape == (2, 6, 40)


def test_a_block_called_without_its_model_says_so() -> None:
    model = converted("mixtral", "segment")
    with pytest.raises(NashSolveError, match="was called without its model"):
        model.model.layers[0].mlp(torch.randn(1, 3, 16))
    model(inputs("mixtral")["input_ids"])
    with pytest.raises(NashSolveError, match="call the model, not the layer"):
        model.model.layers[0].mlp(torch.randn(1, 3, 16))
