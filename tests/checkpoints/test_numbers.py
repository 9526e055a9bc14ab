"""Formats bit for bit, sizes in words, pictures, recorded calibration: the small parts."""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nashsolve.integrations import checkpoints
from nashsolve.integrations.checkpoints import memory
from nashsolve.integrations.checkpoints.calibration import ACTIVATIONS
from nashsolve.integrations.checkpoints.dtypes import all_finite, decode, encode, first_bad
from nashsolve.integrations.checkpoints.errors import CheckpointRefused
from nashsolve.integrations.checkpoints.pictures import HIGH, LOW, MIDDLE, colours, png
from tests.checkpoints.build import read_file


def test_bfloat16_is_that_of_torch() -> None:
    torch = pytest.importorskip("torch")
    bits = np.arange(2**16, dtype=np.uint16)
    finite = bits[(bits & 0x7F80) != 0x7F80]
    wide = decode(finite.tobytes(), "BF16")
    theirs = torch.from_numpy(finite.view(np.int16).copy()).view(torch.bfloat16).float().numpy()
    np.testing.assert_array_equal(wide, theirs)
    np.testing.assert_array_equal(encode(wide, "BF16"), finite)
    rng = np.random.default_rng(0)
    values = (rng.standard_normal(10_000) * 10.0 ** rng.integers(-30, 30, 10_000)).astype(np.float32)
    ties = (wide.view(np.uint32) + np.uint32(0x8000)).view(np.float32)
    for some in (values, ties[np.isfinite(ties) & (np.abs(ties) < 3e38)]):
        expected = torch.from_numpy(some.copy()).bfloat16().view(torch.int16).numpy().view(np.uint16)
        np.testing.assert_array_equal(encode(some, "BF16"), expected)


@given(st.floats(-1e30, 1e30, allow_subnormal=False))
def test_float64_to_bfloat16_rounds_once(value: float) -> None:
    """The nearest of the two neighbours, whatever float32 lies between."""
    found = float(decode(encode(np.array([value]), "BF16").tobytes(), "BF16")[0])
    below = np.array([value]).astype(np.float32).view(np.uint32) & np.uint32(0xFFFF0000)
    near = [below - np.uint32(0x10000), below, below + np.uint32(0x10000)] if abs(value) > 1e-30 else [below]
    candidates = [float(b.view(np.float32)[0]) for b in near]
    assert abs(found - value) <= min(abs(c - value) for c in candidates if np.isfinite(c))


@pytest.mark.parametrize(("dtype", "value"), [("BF16", 3.4e38), ("F16", 7e4), ("F32", 1e39)])
def test_what_does_not_fit_raises(dtype: str, value: float) -> None:
    with pytest.raises(FloatingPointError, match=dtype):
        encode(np.array([1.0, value * 1.01]), dtype)


@pytest.mark.parametrize("dtype", ["BF16", "F16", "F32", "F64"])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_finiteness(dtype: str, bad: float) -> None:
    stored = encode(np.array([1.0, -2.0, 0.0]), dtype)
    assert all_finite(stored, dtype)
    wrong = {"BF16": np.array([bad], np.float32).view(np.uint32) >> 16}.get(dtype, np.array([bad]))
    stored = stored.copy()
    stored[1] = wrong.astype(stored.dtype)[0]
    assert not all_finite(stored, dtype) and first_bad(stored, dtype) == (1, 1)


@pytest.mark.parametrize(
    ("text", "size"), [("2GiB", 2**31), ("1.5 mb", 1_500_000), ("7", 7), (12, 12), ("300MiB", 300 * 2**20)]
)
def test_sizes(text: Any, size: int) -> None:
    assert memory.parse_size(text) == size


@pytest.mark.parametrize("text", ["", "GiB", "2 GiBs", "-1", "1e9"])
def test_sizes_that_are_none(text: str) -> None:
    with pytest.raises(CheckpointRefused, match="is not a size"):
        memory.parse_size(text)


def test_block_sizes_do_not_depend_on_the_bound() -> None:
    assert [memory.block_columns(n) for n in (2, 60, 256)] == [32768, 2048, 512]
    assert memory.peak() >= memory.resident() > 2**20


def test_png_holds_the_colours() -> None:
    pixels = colours(np.array([[-1.0, 0.0], [1.0, np.nan]]), 0.0, 1.0)
    assert [tuple(p) for p in pixels.reshape(-1, 3)] == [LOW, MIDDLE, HIGH, (255, 255, 255)]
    raw = png(pixels)
    at = raw.index(b"IDAT")
    data = zlib.decompress(raw[at + 4 : at + 4 + int.from_bytes(raw[at - 4 : at], "big")])
    assert data == b"\0" + bytes(LOW) + bytes(MIDDLE) + b"\0" + bytes(HIGH) + b"\xff" * 3


@pytest.mark.parametrize("name", sorted(ACTIVATIONS))
def test_activations_are_those_of_transformers(name: str) -> None:
    torch = pytest.importorskip("torch")
    activations = pytest.importorskip("transformers.activations")
    x = np.linspace(-6, 6, 101)
    np.testing.assert_allclose(ACTIVATIONS[name](x), activations.ACT2FN[name](torch.from_numpy(x)).numpy(), atol=1e-6)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_recorded_inputs_are_what_the_router_sees(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    config = transformers.Qwen2MoeConfig(
        vocab_size=32, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=2,
        intermediate_size=24, moe_intermediate_size=8, shared_expert_intermediate_size=8, num_experts=4,
    )  # fmt: skip
    torch.manual_seed(0)
    model = transformers.Qwen2MoeForCausalLM(config)
    tokens = torch.arange(60).reshape(2, 30) % 32
    path = tmp_path / "calibration.safetensors"
    rows = checkpoints.record_calibration(model, [tokens] * 3, path, tokens=100)
    assert rows == {"model.layers.0.mlp": 100, "model.layers.1.mlp": 100} and model.training
    found = read_file(path)["model.layers.1.mlp.inputs"]
    with torch.no_grad():
        logits = model.eval()(input_ids=tokens, output_router_logits=True).router_logits[1].numpy()
    router = model.model.layers[1].mlp.gate.weight.detach().numpy()
    np.testing.assert_allclose(found[:60] @ router.T, logits, atol=1e-5)


def test_public_names_load_when_used() -> None:
    assert set(dir(checkpoints)) == set(checkpoints.__all__)
    assert all(getattr(checkpoints, name).__doc__ for name in checkpoints.__all__)
    with pytest.raises(AttributeError, match="no attribute 'plann'"):
        _ = checkpoints.plann
