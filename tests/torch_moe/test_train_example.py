"""The example trains for a few steps with every system, and a small transformer is causal."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="the extra 'moe' is not installed")
pytest.importorskip("typer", reason="the extra 'cli' is not installed")
pytest.importorskip("matplotlib", reason="the extra 'plot' is not installed")

from nashsolve.core.errors import InvalidProblem  # noqa: E402
from nashsolve.integrations.torch_moe import SYSTEMS, MoE, link  # noqa: E402
from nashsolve.integrations.torch_moe.small_transformer import SelfAttention, SmallTransformer  # noqa: E402
from nashsolve.integrations.torch_moe.telemetry import Telemetry  # noqa: E402

FILE = Path(__file__).resolve().parents[2] / "examples" / "train_moe.py"
pytestmark = pytest.mark.skipif(not FILE.exists(), reason="the examples are in the checkout only")
SMALL = {"layers": 2, "d_model": 16, "heads": 2, "experts": 3, "length": 32, "segment": 8, "batch": 2, "out": None}


@pytest.fixture(scope="module")
def example():
    spec = importlib.util.spec_from_file_location("train_moe", FILE)
    module = importlib.util.module_from_spec(spec)
    sys.modules["train_moe"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(autouse=True)
def little_data(example, monkeypatch):
    text = torch.arange(6000) % 97
    monkeypatch.setattr(example, "read_sources", lambda: (text[:5000].byte(), text[5000:].byte()))


@pytest.mark.parametrize("system", ["dense", *sorted(SYSTEMS)])
def test_every_system_trains_and_reports(example, system, capsys):
    example.train(system=system, seconds=60, steps=3, **SMALL)
    out = capsys.readouterr().out
    assert f"{system}: " in out and "3 steps of 64 bytes" in out
    share = re.search(r"share of the training step: ([\d.]+) %", out)
    assert (share is not None) == ("namex" in system or "ep_camex" in system)
    assert share is None or 0 < float(share[1]) < 100
    assert 0 < float(re.search(r"bits per byte: ([\d.]+)", out)[1]) < 20


def test_telemetry_and_pictures_are_written(example, tmp_path, capsys):
    example.train(system="namex_full_mom", seconds=60, steps=2, **SMALL | {"out": tmp_path / "run"})
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert names == {"telemetry.jsonl", "coefficients.png", "base_updates.png", "stability.png", "outputs.png"}
    assert Telemetry.load(tmp_path / "run" / "telemetry.jsonl").links("alpha").shape == (1, 1, 3)


@pytest.mark.parametrize("options", [{"system": "namex_ful"}, {"router": "cosin"}])
def test_misspelt_names_are_refused_with_the_nearest(example, options):
    with pytest.raises(example.typer.BadParameter, match="did you mean"):
        example.train(seconds=1, **SMALL, **options)


def test_training_lowers_the_loss(example):
    torch.manual_seed(0)
    config = example.make_config("namex_full", 16, 3, 0.5, 8)
    model = SmallTransformer(256, 16, 2, 2, lambda: MoE(config))
    data, held_out = example.read_sources()
    run = example.Trainer(model, link(model), data, 4, 32, 0.01, 0)
    before = example.bits_per_byte(model, held_out, 32, 8)
    run.fit(60, 30)
    assert example.bits_per_byte(model, held_out, 32, 8) < before - 1


def test_sources_are_split_by_file(example, monkeypatch):
    monkeypatch.undo()
    train, held_out = example.read_sources()
    assert train.dtype == torch.uint8 and len(train) > 10 * len(held_out) > 10_000


@pytest.mark.parametrize("system", ["smoe_top2", "token_nash", "lory", "namex_full", "camex"])
def test_no_byte_reaches_an_earlier_prediction(example, system):
    torch.manual_seed(0)
    config = example.make_config(system, 16, 3, 0.5, 8)
    model = SmallTransformer(256, 16, 2, 2, lambda: MoE(config)).eval()
    if config.chain is not None:
        link(model)
    ids = torch.randint(0, 256, (2, 32))
    changed = ids.clone()
    changed[:, 20] = (changed[:, 20] + 1) % 256
    one, other = model(ids), model(changed)
    assert torch.equal(one[:, :20], other[:, :20])
    assert not torch.equal(one[:, 20:], other[:, 20:])


@pytest.mark.parametrize("router", ["noisy_topk", "cosine", "xmoe", "stable", "sigmoid"])
def test_every_router_serves_a_merging_and_a_selecting_system(example, router):
    for system in ("namex_full", "smoe_top1"):
        example.train(system=system, router=router, seconds=60, steps=2, **SMALL)


def test_attention_positions_matter_and_widths_are_checked():
    torch.manual_seed(0)
    attention = SelfAttention(8, 2)
    x = torch.randn(1, 4, 8)
    swapped = attention(x[:, [1, 0, 2, 3]])[:, 3]
    assert not torch.allclose(swapped, attention(x)[:, 3])
    assert not torch.allclose(SelfAttention(8, 2, causal=False)(x)[:, 0], attention(x)[:, 0])
    with pytest.raises(InvalidProblem, match="d_model is 6"):
        SelfAttention(6, 2)
