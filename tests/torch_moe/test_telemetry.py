"""Telemetry: what a real chain leaves behind, flat scalars, history over steps, and saving."""

from __future__ import annotations

import json

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the extra 'moe' is not installed")
pytest.importorskip("pydantic", reason="the extra 'moe' is not installed")

from nashsolve.core.errors import InvalidProblem  # noqa: E402
from nashsolve.integrations.torch_moe import MoE, MoEConfig, link  # noqa: E402
from nashsolve.integrations.torch_moe.router_output import RouterOutput  # noqa: E402
from nashsolve.integrations.torch_moe.telemetry import (  # noqa: E402
    LINK_NUMBERS,
    LINK_VECTORS,
    Telemetry,
    agreed,
    routing_record,
    scalars,
    snapshot,
)
from tests.asserts import assert_near  # noqa: E402
from tests.tolerances import tolerance  # noqa: E402

SUM = tolerance("float64", "sum")
LAYERS, N, D = 3, 4, 6


@pytest.fixture
def model():
    torch.manual_seed(0)
    options = {"level": "sequence"}
    config = MoEConfig.preset(
        "namex_full",
        d_model=D,
        d_hidden=5,
        n_experts=N,
        merge={"eta": 0.5},
        router={"name": "linear", "options": options},
        balance={"switch": 0.1},
    )
    return torch.nn.Sequential(*(MoE(config) for _ in range(LAYERS)))


@pytest.fixture
def history(model):
    chains, found = link(model), Telemetry()
    for step in range(4):
        loss = model(torch.randn(2, 5, D)).square().mean()
        found.log(step * 10, chains, model, loss=loss.item())
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
    return found


def test_a_snapshot_holds_every_link_and_every_router_as_plain_json(model, history):
    record = history.records[0]
    assert record == json.loads(json.dumps(record, allow_nan=False))
    (links,) = record["chains"].values()
    assert [link["layer"] for link in links] == list(range(LAYERS - 1))
    for one in links:
        assert {"status", "policy", *LINK_NUMBERS, *LINK_VECTORS} <= set(one)
        assert "cosines" not in one
        assert agreed(one) and one["status"] in ("SOLVED", "SOLVED_INACCURATE")
        alpha, gains = np.array(one["alpha"]), np.array(one["gains"])
        assert_near(alpha * gains, np.ones(N), rtol=tolerance("float32", "sum"))
        share = np.array(one["coefficients"]) / one["sum"]
        assert_near(one["entropy"], -(share * np.log(share)).sum(), rtol=SUM)
    assert sorted(record["routing"]) == [str(k) for k in range(LAYERS)]
    chains = [module.chain for module in model if hasattr(module, "chain")]
    assert "cosines" in snapshot(0, chains, matrices=True)["chains"][chains[0].name][0]


def test_scalars_are_flat_numbers(history):
    record = history.records[-1]
    flat = scalars(record)
    assert all(type(value) is float for value in flat.values())
    (name,) = record["chains"]
    link = record["chains"][name][1]
    assert flat[f"{name}/layer01/alpha/2"] == link["alpha"][2]
    assert flat[f"{name}/layer01/margin"] == link["margin"]
    assert flat[f"{name}/layer01/agreed"] == 1.0
    assert flat["loss"] == record["loss"]
    assert flat["routing/2/max_vio"] == record["routing"]["2"]["max_vio"]
    assert "step" not in flat


def test_history_over_steps(history):
    assert history.steps == [0, 10, 20, 30]
    alpha, entropy = history.links("alpha"), history.links("entropy")
    assert alpha.shape == (4, LAYERS - 1, N) and entropy.shape == (4, LAYERS - 1)
    (name,) = history.records[2]["chains"]
    assert alpha[2, 1].tolist() == history.records[2]["chains"][name][1]["alpha"]
    assert (np.diff(entropy[:, 0]) != 0).all()
    assert history.numbers("loss").tolist() == [record["loss"] for record in history.records]
    assert np.isnan(history.numbers("other")).all()
    assert (history.links("alpha", chain=name) == alpha).all()


def test_saved_history_is_the_same(history, tmp_path):
    again = Telemetry.load(history.save(tmp_path / "telemetry.jsonl"))
    assert again.records == history.records


def test_a_layer_without_agreement_is_not_called_agreed():
    link = {"status": "NO_AGREEMENT", "policy": "hold"}
    assert not agreed(link)
    assert not agreed({"status": "SOLVED", "policy": "face"})
    assert agreed({"status": "UNIFORM", "policy": ""})


def test_routing_record_by_hand():
    probs = torch.tensor([[0.5, 0.5], [1.0, 0.0], [0.9, 0.1]])
    output = RouterOutput(
        probs,
        topk_index=torch.tensor([[0], [0], [1]]),
        topk_weight=torch.tensor([[0.5], [0.0], [1.0]]),
        logits=probs,
        losses={"own": torch.tensor(2.0)},
        row_mask=torch.tensor([True, True, False]),
    )
    found = routing_record(output)
    assert found["counts"] == [2.0, 0.0]
    assert found["max_vio"] == 1.0
    assert found["entropy"] == pytest.approx(np.log(2) / 2)
    assert found["dropped"] == 0.5
    assert found["losses"] == {"own": 2.0}
    output.row_mask = torch.tensor([False, False, False])
    empty = routing_record(output)
    assert empty["max_vio"] is None and empty["entropy"] is None
    assert "routing/x/max_vio" not in scalars({"chains": {}, "routing": {"x": empty}})


def test_bad_questions_are_named(history):
    with pytest.raises(InvalidProblem, match="did you mean 'alpha'"):
        history.links("alfa")
    with pytest.raises(InvalidProblem, match="recorded are"):
        history.links("alpha", chain="other")
    with pytest.raises(InvalidProblem, match="groups are all"):
        history.links("alpha", group="up_proj")
    with pytest.raises(InvalidProblem, match="no link"):
        Telemetry().links("alpha")

    class Named:
        name = "same"

        def report(self):
            return []

    with pytest.raises(InvalidProblem, match="own name"):
        snapshot(0, [Named(), Named()])
