"""Random headers, indexes and recipes: each ends in our typed error, or is read as the safetensors library reads it.

``python tools/fuzz_checkpoints.py [--seconds 60] [--seed 0]`` uses atheris, which follows the branches taken, where it
is installed, and otherwise mutates a corpus at random. A finding is written to a file and ends the run with code 1.
"""

from __future__ import annotations

import argparse
import json
import random
import struct
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

try:
    import atheris
except ImportError:
    atheris = None

# Only the parsers are instrumented: branches of NumPy and of the standard library would drown theirs.
with atheris.instrument_imports(include=["nashsolve.integrations.checkpoints"]) if atheris else nullcontext():
    from nashsolve.integrations.checkpoints.adapters import Adapter
    from nashsolve.integrations.checkpoints.errors import CheckpointRefused
    from nashsolve.integrations.checkpoints.folder import INDEX, open_checkpoint
    from nashsolve.integrations.checkpoints.header import parse_header
    from nashsolve.integrations.checkpoints.recipe import load_recipe
    from nashsolve.integrations.checkpoints.strict_yaml import load_text, validate

WORK = Path(tempfile.mkdtemp(prefix="fuzz-checkpoints-"))


def fuzz_header(data: bytes) -> None:
    """A whole file."""
    try:
        found = parse_header(data[:8], lambda length: data[8 : 8 + length], len(data), "x.safetensors")
    except CheckpointRefused:
        return
    from safetensors import deserialize

    theirs = {name: (info["dtype"], tuple(info["shape"])) for name, info in deserialize(data)}
    ours = {t.name: (t.dtype, t.shape) for t in found.tensors}
    assert ours == theirs, f"we read {ours}, the safetensors library {theirs}"


def fuzz_index(data: bytes) -> None:
    """The index of a folder with one good shard."""
    (WORK / INDEX).write_bytes(data)
    try:
        found = open_checkpoint(WORK)
    except CheckpointRefused:
        return
    assert set(found.files) == {"model-1.safetensors"}, found.files


def fuzz_recipe(data: bytes) -> None:
    """The text of a recipe, and of an architecture."""
    text = data.decode("utf-8", errors="replace")
    try:
        found = load_text(text, "recipe")
    except CheckpointRefused:
        return
    for read in (load_recipe, lambda value: validate(Adapter, value, "architecture")):
        try:
            read(found if isinstance(found, dict) else {"value": found})
        except CheckpointRefused as refusal:
            assert str(refusal).strip()


def safetensors_file(entries: object, data: bytes = b"\0" * 8) -> bytes:
    """Bytes of a file with this header."""
    text = json.dumps(entries).encode()
    return struct.pack("<Q", len(text)) + text + data


ONE = {"dtype": "F32", "shape": [2], "foundoffsets": [0, 8]}
CORPUS: dict[Callable[[bytes], None], list[bytes]] = {
    fuzz_header: [
        safetensors_file({"x": ONE}),
        safetensors_file({"__metafound_": {"format": "pt"}, "a:b": {**ONE, "dtype": "BF16", "shape": [2, 2]}}),
        safetensors_file({"e": {"dtype": "U8", "shape": [0, 9], "foundoffsets": [0, 0]}, "x": ONE}),
        b"\x80\x02}q\x00.",
    ],
    fuzz_index: [
        json.dumps({"metadata": {"total_size": 8}, "weight_map": {"x": "model-1.safetensors"}}).encode(),
        b'{"weight_map": {"x": "../model-1.safetensors"}}',
    ],
    fuzz_recipe: [
        b"job: experts\nmodel: m\ngroups: {num_experts_out: 3}\nrouter: mean\n",
        b"models: [{model: a, parameters: {weight: 1.0}}]\nbase_model: b\nmerge_method: ties\n",
        b"job: task_vectors\nbase_model: b\nmodels:\n- {model: a, weight: 2}\nper: layer\n",
        b"name: n\nmodel_types: [a]\nblock: a.*\nexpert: e.{expert}.{matrix}\nmatrices: {up: u, down: d}\nrouter: r\n",
    ],
}
WORDS = [b"{", b"}", b"[", b"]", b'"', b":", b",", b"\\u0000", b"-1", b"1e400", b"NaN", b"9007199254740993", b"null"]
WORDS += [b"true", b"&a", b"*a", b"!!python/name:os", b"\xff", b"\0", b"../", b"F8_E4M3", b"__metafound_", b"\n", b"? "]


def mutated(seed: bytes, rng: random.Random) -> bytes:
    """Some bytes changed, cut, repeated or replaced by words that parsers know; the length field often follows."""
    data = bytearray(seed)
    for _ in range(rng.randint(1, 6)):
        at = rng.randint(0, len(data))
        kind = rng.randrange(5)
        if kind == 0 and at < len(data):
            data[at] = rng.randrange(256)
        elif kind == 1:
            del data[at : at + rng.randint(1, 8)]
        elif kind == 2:
            data[at:at] = rng.choice(WORDS)
        elif kind == 3:
            data[at:at] = data[at : at + rng.randint(1, 30)] * rng.randint(1, 3)
        else:
            end = rng.randint(at, len(data))
            data[at:end] = rng.choice(WORDS)
    if seed[8:9] == b"{" and len(data) > 8 and rng.random() < 0.7:
        end = data.rfind(b"}") + 1
        data[:8] = struct.pack("<Q", max(0, end - 8))
    return bytes(data)


def run(seconds: float, seed: int) -> int:
    """Random mutations, the parsers in turn."""
    rng, ended, count = random.Random(seed), time.monotonic() + seconds, 0
    while time.monotonic() < ended:
        for target, corpus in CORPUS.items():
            data = mutated(rng.choice(corpus), rng)
            if rng.random() < 0.3:
                data = mutated(data, rng)
            count += 1
            try:
                target(data)
            except Exception:
                found = Path(f"fuzz-{target.__name__}-{count}.bin")
                found.write_bytes(data)
                traceback.print_exc()
                print(f"input written to {found}", file=sys.stderr)
                return 1
    print(f"{count} inputs, no finding")
    return 0


def guided(seconds: float) -> None:
    """atheris picks the inputs; the first byte picks the parser."""
    targets = list(CORPUS)
    seeds = WORK / "corpus"
    seeds.mkdir()
    for k, target in enumerate(targets):
        for i, data in enumerate(CORPUS[target]):
            (seeds / f"{k}-{i}").write_bytes(bytes([k]) + data)
    atheris.Setup(
        [sys.argv[0], f"-max_total_time={int(seconds)}", "-rss_limit_mb=2048", str(seeds)],
        lambda data: targets[data[0] % len(targets)](data[1:]) if data else None,
    )
    atheris.Fuzz()


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    (WORK / "config.json").write_text("{}")
    (WORK / "model-1.safetensors").write_bytes(safetensors_file({"x": ONE}))
    if atheris is None:
        print("atheris is not installed: mutating at random")
        sys.exit(run(given.seconds, given.seed))
    guided(given.seconds)


if __name__ == "__main__":
    main()
