"""torch.compile: one graph where base experts are held, and one named break where they are not."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers", minversion="5.0")

from nashsolve.integrations.transformers import convert, upcycle  # noqa: E402
from tests.tolerances import tolerance  # noqa: E402
from tests.transformers.build import build, inputs, levels  # noqa: E402

# torch.compile itself looks at .grad of the base experts that it is given, which are not leaves.
pytestmark = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
CAMEX = {"rule": "camex", "eta": 0.5}


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    yield
    torch._dynamo.reset()


def merged(name: str, level: str) -> tuple[Any, dict[str, Any]]:
    layers = {"gpt2": "n_layer"}.get(name, "num_hidden_layers")
    model = build(name, **{layers: 3 if name == "deepseek_v3" else 2})
    if name in ("gpt2", "vit"):
        upcycle(model, show=False, experts=3, **levels(name, level, level))
    else:
        convert(model, show=False, merge=CAMEX, **levels(name, level, level), chain={})
    return model, inputs(name) | ({} if name == "vit" else {"use_cache": False})


@pytest.mark.parametrize(
    ("name", "level"),
    [("mixtral", "segment"), ("qwen2_moe", "token"), ("deepseek_v3", "sequence"), ("vit", "sequence")],
)
def test_with_held_base_experts_the_model_is_one_graph(name: str, level: str) -> None:
    model, given = merged(name, level)
    wanted = model(**given).logits
    with model.nashsolve.held():
        found = torch.compile(model, backend="eager", fullgraph=True)(**given).logits
    assert torch.equal(found, wanted)


def test_without_holding_the_only_break_is_at_the_chain() -> None:
    model, given = merged("qwen2_moe", "segment")
    found = torch.compile(model, backend="eager")(**given).logits
    [reason] = torch._dynamo.utils.counters["graph_break"]
    assert "function BaseExpertChain.bases" in reason
    torch.testing.assert_close(found, model(**given).logits, rtol=0, atol=tolerance("float32", "sum"))


def test_a_compiled_model_trains_with_chains_that_are_computed_outside() -> None:
    losses: dict[bool, list[float]] = {}
    graphs = 0
    for compiled in (False, True):
        model, given = merged("mixtral", "segment")
        model.train()
        call = torch.compile(model, backend="eager", fullgraph=True) if compiled else model
        optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
        losses[compiled] = []
        for step in range(3):
            with model.nashsolve.held():
                loss = call(**given).logits.log_softmax(-1)[..., 3].mean().neg()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses[compiled].append(float(loss.detach()))
            if step == 1:  # the first call of a model leaves something behind that the second one sees
                graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
        assert model.nashsolve.members[0].base.up_proj.grad is not None
    assert losses[True] == pytest.approx(losses[False], rel=tolerance("float32", "rtol"))
    assert losses[True][-1] < losses[True][0]
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == graphs, "it compiled anew in every step"
