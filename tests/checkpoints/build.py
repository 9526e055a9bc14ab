"""Small checkpoints written by NumPy alone, in the layouts of the supported families."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np

CODES = {"F32": "<f4", "F64": "<f8", "F16": "<f2", "BF16": "<u2", "I64": "<i8"}


def to_bf16(values: np.ndarray) -> np.ndarray:
    """Exact for values that bfloat16 can hold; the fixtures only store such."""
    bits = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32)
    return (bits >> 16).astype(np.uint16)


def from_bf16(bits: np.ndarray) -> np.ndarray:
    return (bits.astype(np.uint32) << 16).view(np.float32)


def write_file(path: Path, tensors: dict[str, tuple[str, np.ndarray]], metadata: dict[str, str] | None = None) -> None:
    """A safetensors file; values are (dtype, array), with BF16 given as its sixteen bits."""
    header: dict[str, Any] = {"__metadata__": metadata if metadata is not None else {"format": "pt"}}
    place, parts = 0, []
    for name, (dtype, array) in tensors.items():
        raw = np.ascontiguousarray(array).astype(CODES[dtype], copy=False).tobytes()
        header[name] = {"dtype": dtype, "shape": list(array.shape), "data_offsets": [place, place + len(raw)]}
        place += len(raw)
        parts.append(raw)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text + b"".join(parts))


def read_file(path: Path) -> dict[str, np.ndarray]:
    """Every tensor as float64 (integers as they are), by other code than the reader under test."""
    raw = path.read_bytes()
    length = struct.unpack("<Q", raw[:8])[0]
    header = json.loads(raw[8 : 8 + length])
    header.pop("__metadata__", None)
    found = {}
    for name, entry in header.items():
        a, b = (8 + length + o for o in entry["data_offsets"])
        data = np.frombuffer(raw[a:b], dtype=CODES[entry["dtype"]]).reshape(entry["shape"])
        found[name] = from_bf16(data).astype(np.float64) if entry["dtype"] == "BF16" else data
    return found


def read_folder(folder: Path) -> dict[str, np.ndarray]:
    """All tensors of a folder."""
    found: dict[str, np.ndarray] = {}
    for file in sorted(folder.glob("*.safetensors")):
        found |= read_file(file)
    return found


def stored(values: np.ndarray, dtype: str) -> tuple[str, np.ndarray]:
    return (dtype, to_bf16(values)) if dtype == "BF16" else (dtype, values.astype(CODES[dtype]))


def moe_tensors(
    *,
    layers: int = 2,
    experts: int = 6,
    hidden: int = 8,
    inner: int = 12,
    vocab: int = 16,
    seed: int = 0,
    dtype: str = "BF16",
    fused: bool = False,
    shared: bool = True,
    first: float = 0.0,
) -> dict[str, tuple[str, np.ndarray]]:
    """Tensors of a Qwen2-MoE; experts of a layer share a component of weight `first`."""
    rng = np.random.default_rng(seed)

    def draw(*shape: int) -> np.ndarray:
        return from_bf16(to_bf16(rng.standard_normal(shape).astype(np.float32)))

    found: dict[str, tuple[str, np.ndarray]] = {"model.embed_tokens.weight": stored(draw(vocab, hidden), dtype)}
    for n in range(layers):
        block = f"model.layers.{n}.mlp"
        found[f"model.layers.{n}.input_layernorm.weight"] = stored(draw(hidden), dtype)
        common = [draw(inner, hidden), draw(inner, hidden), draw(hidden, inner)]
        triples = []
        for _ in range(experts):
            own = [draw(inner, hidden), draw(inner, hidden), draw(hidden, inner)]
            triples.append([from_bf16(to_bf16(first * c + o)) for c, o in zip(common, own, strict=True)])
        if fused:
            gate_up = np.stack([np.concatenate(t[:2]) for t in triples])
            found[f"{block}.experts.gate_up_proj"] = stored(gate_up, dtype)
            found[f"{block}.experts.down_proj"] = stored(np.stack([t[2] for t in triples]), dtype)
        else:
            for e, triple in enumerate(triples):
                for role, values in zip(("gate_proj", "up_proj", "down_proj"), triple, strict=True):
                    found[f"{block}.experts.{e}.{role}.weight"] = stored(values, dtype)
        found[f"{block}.gate.weight"] = stored(draw(experts, hidden), dtype)
        if shared:
            for role, shape in (("gate", (inner, hidden)), ("up", (inner, hidden)), ("down", (hidden, inner))):
                found[f"{block}.shared_expert.{role}_proj.weight"] = stored(draw(*shape), dtype)
            found[f"{block}.shared_expert_gate.weight"] = stored(draw(1, hidden), dtype)
    found["lm_head.weight"] = stored(draw(vocab, hidden), dtype)
    return found


def moe_config(experts: int = 6, **more: Any) -> dict[str, Any]:
    return {
        "model_type": "qwen2_moe",
        "architectures": ["Qwen2MoeForCausalLM"],
        "num_experts": experts,
        "num_experts_per_tok": 2,
        "norm_topk_prob": True,
        "hidden_act": "silu",
        **more,
    }


def write_folder(
    folder: Path, tensors: dict[str, tuple[str, np.ndarray]], config: dict[str, Any], shards: int = 1
) -> Path:
    """A checkpoint folder, with an index where it has several shards."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config, indent=1))
    if shards == 1:
        write_file(folder / "model.safetensors", tensors)
        return folder
    names = list(tensors)
    weight_map = {}
    for k in range(shards):
        part = names[k * len(names) // shards : (k + 1) * len(names) // shards]
        file = f"model-{k + 1:05}-of-{shards:05}.safetensors"
        write_file(folder / file, {n: tensors[n] for n in part})
        weight_map |= {n: file for n in part}
    index = {"metadata": {"total_size": 0}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


def small_moe(folder: Path, *, shards: int = 1, **how: Any) -> Path:
    """The fixture most tests use."""
    return write_folder(folder, moe_tensors(**how), moe_config(how.get("experts", 6)), shards)
