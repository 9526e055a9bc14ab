"""Gradients against the naive loop, also under activation checkpointing and in bfloat16."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers", minversion="5.0")

from torch import Tensor  # noqa: E402

from nashsolve.core.errors import NashSolveError  # noqa: E402
from nashsolve.integrations.transformers import convert, upcycle  # noqa: E402
from tests.tolerances import tolerance  # noqa: E402
from tests.torch_moe.build import naive_chain  # noqa: E402
from tests.transformers.build import DENSE, MOE, SlowMerge, build, inputs, levels, padded  # noqa: E402

CAMEX = {"rule": "camex", "eta": 0.5}


def loss_of(model: Any, given: dict[str, Any]) -> Tensor:
    return model(**given).logits.float().log_softmax(-1).square().mean()


def checkpoint(model: Any, how: dict[str, bool]) -> None:
    """Activation checkpointing, under the name of this release of transformers."""
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    enable(how)


def gradients(model: Any, given: dict[str, Any]) -> dict[str, Tensor]:
    model.zero_grad(set_to_none=True)
    loss_of(model, given).backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("level", ["token", "segment"])
@pytest.mark.parametrize("name", MOE)
def test_gradients_are_those_of_the_naive_loop(name: str, level: str) -> None:
    model, given = build(name).double(), inputs(name)
    across = name == "switch_transformers"
    if across:
        for module in model.modules():  # Switch casts its router to float32 in every call
            if hasattr(module, "classifier"):
                module.dtype = torch.float64
    merging = convert(model, show=False, merge=CAMEX, **levels(name, level, level), chain={}, across_dense=across)
    found = gradients(model, given)
    bases: dict[int, dict[str, Tensor]] = {}
    for stack in merging._bases.values():
        for chain, numbers in stack.chains:
            layers = [merging.members[k] for k in numbers]
            experts = [{slot.name: _stacked(slot) for slot in layer.expert_view().slots} for layer in layers]
            weights = [record["coefficients"] for record in chain.report()]
            naive = naive_chain(experts, dict(layers[0].own_base()), weights, 1.0)
            bases |= dict(zip(numbers, naive, strict=True))
    with SlowMerge(merging, [bases[k] for k in range(len(bases))], 0.5):
        wanted = gradients(model, given)
    assert found.keys() == wanted.keys()
    for key, gradient in wanted.items():
        size = float(gradient.abs().max())
        torch.testing.assert_close(
            found[key], gradient, rtol=tolerance("float32", "rtol"), atol=tolerance("float32", "sum") * size
        )


def _stacked(slot: Any) -> Tensor:
    return torch.stack([slot.expert(i) for i in range(slot.n)])


@pytest.mark.parametrize("start", ["jitter", "held"])
@pytest.mark.parametrize("name", DENSE)
def test_an_upcycled_model_has_finite_gradients_everywhere(name: str, start: str) -> None:
    model, given = build(name), inputs(name)
    noise = {"jitter": 0.5} if start == "jitter" else {}
    upcycle(model, show=False, experts=4, start=start, **noise, **levels(name, size=3))
    model.train()
    found = gradients(model, given)
    for key, parameter in model.named_parameters():
        assert key in found and bool(torch.isfinite(found[key]).all()), key
        assert found[key].shape == parameter.shape
    experts = [key for key in found if ".experts." in key]
    assert len(experts) >= 2 * len(model.nashsolve.members)
    assert all(float(found[key].abs().max()) > 0 for key in experts)
    routers = max(float(found[key].abs().max()) for key in found if ".router." in key)
    largest = max(float(gradient.abs().max()) for gradient in found.values())
    assert (routers > tolerance("float32", "sum") * largest) == (start == "jitter")


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("name", ["qwen2_moe", "deepseek_v3"])
def test_activation_checkpointing_changes_no_gradient(name: str, reentrant: bool) -> None:
    model = build(name)
    convert(model, show=False, merge=CAMEX, **levels(name), chain={})
    ids = inputs(name, batch=2, length=11)["input_ids"]
    rows, mask = padded(ids, (11, 6), "right")
    given = {"input_ids": rows, "attention_mask": mask, "use_cache": False}
    model.train()
    wanted = gradients(model, given)
    checkpoint(model, {"use_reentrant": reentrant})
    model.enable_input_require_grads()
    found = gradients(model, given)
    assert found.keys() == wanted.keys()
    for key, gradient in wanted.items():
        torch.testing.assert_close(
            found[key], gradient, rtol=tolerance("float32", "rtol"), atol=tolerance("float32", "sum")
        )


def test_an_evaluation_before_the_backward_pass_does_not_answer_for_what_is_recomputed() -> None:
    model = build("qwen2_moe")
    convert(model, show=False, merge=CAMEX, **levels("qwen2_moe"), chain={})
    rows, mask = padded(inputs("qwen2_moe", length=11)["input_ids"], (11, 6), "right")
    given = {"input_ids": rows, "attention_mask": mask, "use_cache": False}
    model.train()
    wanted = gradients(model, given)
    checkpoint(model, {"use_reentrant": False})
    model.zero_grad(set_to_none=True)
    loss = loss_of(model, given)
    with torch.no_grad():
        model(rows, attention_mask=mask.flip(0), use_cache=False)
    loss.backward()
    for key, parameter in model.named_parameters():
        torch.testing.assert_close(
            parameter.grad, wanted[key], rtol=tolerance("float32", "rtol"), atol=tolerance("float32", "sum")
        )


def test_two_forward_passes_that_checkpointing_cannot_tell_apart_are_refused() -> None:
    model = build("qwen2_moe")
    convert(model, show=False, merge=CAMEX, **levels("qwen2_moe"), chain={})
    rows, mask = padded(inputs("qwen2_moe", length=11)["input_ids"], (11, 6), "right")
    model.train()
    checkpoint(model, {"use_reentrant": False})
    first = loss_of(model, {"input_ids": rows, "attention_mask": mask})
    second = loss_of(model, {"input_ids": rows, "attention_mask": mask.flip(0)})
    with pytest.raises(NashSolveError, match="cannot tell them apart"):
        (first + second).backward()
    model.zero_grad(set_to_none=True)
    loss_of(model, {"input_ids": rows, "attention_mask": mask}).backward()
    loss_of(model, {"input_ids": rows, "attention_mask": mask.flip(0)}).backward()


def test_mixed_precision_merges_in_float32_and_multiplies_in_bfloat16() -> None:
    model, given = build("mixtral"), inputs("mixtral")
    convert(model, show=False, merge=CAMEX, **levels("mixtral"), chain={})
    wanted = gradients(model, given)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = gradients(model, given)
    size = max(float(gradient.abs().max()) for gradient in wanted.values())
    assert found.keys() == wanted.keys()
    for key, gradient in wanted.items():
        assert found[key].dtype == torch.float32
        assert float((found[key] - gradient).abs().max()) < tolerance("bfloat16", "products") * size


def test_a_model_in_bfloat16_merges() -> None:
    model, given = build("qwen2_moe").bfloat16(), inputs("qwen2_moe")
    convert(model, show=False, merge=CAMEX, **levels("qwen2_moe"), chain={})
    logits = model(**given).logits
    assert logits.dtype == torch.bfloat16 and bool(torch.isfinite(logits).all())
