"""Merging a generated checkpoint of Qwen1.5-MoE's shapes, next to copying the same files with a hash.

``python -m benchmarks.merge_checkpoint [--quick] [--folder DIR] [--json FILE]`` writes about three times the size of
the checkpoint (5 GiB, with --quick 2 GiB) under DIR and removes it again.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import signal
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import measure
from nashsolve.integrations.checkpoints.folder import read_header

HIDDEN, INNER, EXPERTS, VOCABULARY = 2048, 1408, 60, 151936
GIB = 2**30
ROLES = {"gate_proj": (INNER, HIDDEN), "up_proj": (INNER, HIDDEN), "down_proj": (HIDDEN, INNER)}


def shapes(layers: int, vocabulary: int) -> list[dict[str, tuple[int, ...]]]:
    """Tensors of each file: one file a layer, as large checkpoints are cut."""
    files: list[dict[str, tuple[int, ...]]] = []
    for n in range(layers):
        block = f"model.layers.{n}.mlp"
        names = {f"{block}.experts.{e}.{role}.weight": s for e in range(EXPERTS) for role, s in ROLES.items()}
        names |= {f"{block}.gate.weight": (EXPERTS, HIDDEN), f"model.layers.{n}.input_layernorm.weight": (HIDDEN,)}
        files.append(dict(sorted(names.items())))
    files[0]["model.embed_tokens.weight"] = (vocabulary, HIDDEN)
    files[-1]["lm_head.weight"] = (vocabulary, HIDDEN)
    return files


def generate(folder: Path, layers: int, vocabulary: int) -> int:
    """Random bfloat16 numbers of ordinary size; returns the bytes written."""
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True)
    weight_map, total = {}, 0
    files = shapes(layers, vocabulary)
    for k, tensors in enumerate(files):
        name = f"model-{k + 1:05}-of-{len(files):05}.safetensors"
        header, place = {}, 0
        for tensor, shape in tensors.items():
            end = place + 2 * int(np.prod(shape))
            header[tensor] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [place, end]}
            weight_map[tensor], place = name, end
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)
        with (folder / name).open("wb") as stream:
            stream.write(struct.pack("<Q", len(text)) + text)
            for start in range(0, place, 2**26):
                bits = rng.integers(0, 2**16, size=min(2**26, place - start) // 2, dtype=np.uint16)
                stream.write(((bits & 0x80FF) | 0x3C00).data)
            os.fsync(stream.fileno())
        total += place
    config = {"model_type": "qwen2_moe", "num_experts": EXPERTS, "num_experts_per_tok": 4, "norm_topk_prob": False}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return total


def copy_with_hash(source: Path, target: Path) -> float:
    """Seconds to read, hash, write and flush every file, one megabyte at a time."""
    target.mkdir()
    begun = time.perf_counter()
    for path in sorted(source.glob("*.safetensors")):
        digest = hashlib.sha256()
        with path.open("rb") as stream, (target / path.name).open("wb") as out:
            while block := stream.read(2**20):
                digest.update(block)
                out.write(block)
            out.flush()
            os.fsync(out.fileno())
    return time.perf_counter() - begun


def recipe(model: Path, path: Path, method: str) -> Path:
    """Sixty experts to thirty, by clusters of their weights."""
    groups = {"by": "hierarchical", "num_experts_out": EXPERTS // 2}
    data = {"job": "experts", "model": str(model), "merge_method": method, "groups": groups, "router": "mean"}
    path.write_text(json.dumps(data))
    return path


def command(*words: object) -> list[str]:
    """The command line of a merge."""
    return [sys.executable, "-m", "nashsolve.cli", "merge", *map(str, words)]


def merge(file: Path, out: Path, *more: str) -> dict[str, Any]:
    """A merge in a process of its own, and what it says."""
    begun = time.perf_counter()
    done = subprocess.run(command("run", file, "-o", out, "--json", "-q", *more), capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr)
    return {**json.loads(done.stdout), "wall": time.perf_counter() - begun}


def killed_and_resumed(file: Path, out: Path, files: int, whole: dict[str, Any]) -> dict[str, float]:
    """SIGKILL once half of the files are published; how much work the second run repeats."""
    process = subprocess.Popen(command("run", file, "-o", out, "-q"))
    journal = out / ".nashsolve" / "journal-0.jsonl"
    while process.poll() is None and not (
        journal.exists() and journal.read_text().count('"kind":"file"') >= files // 2
    ):
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    published = journal.read_text().count('"kind":"file"')
    found = merge(file, out)
    return {
        "files finished before the kill": published,
        "files of these taken over": found["resumed_files"],
        "problems taken over": found["resumed_problems"],
        "bytes read by the second run, over the whole": found["bytes_read"] / whole["bytes_read"],
        "same bytes (1: yes)": float(found["files"] == whole["files"]),
    }


def header_check(folder: Path, count: int = 200_000) -> float:
    """Seconds to check the header of a file with this many tensors; the best of three."""
    entry = {"dtype": "BF16", "shape": [0], "data_offsets": [0, 0]}
    entries = {f"model.layers.{i}.x.weight": entry for i in range(count)}
    text = json.dumps(entries).encode()
    path = folder / "many.safetensors"
    path.write_bytes(struct.pack("<Q", len(text)) + text)
    times = [measure.once(lambda: read_header(path)) for _ in range(3)]
    path.unlink()
    return min(times)


def run(work: Path, layers: int, vocabulary: int, rounds: int) -> dict[str, Any]:
    """Everything, copies and merges in turn."""
    model = work / "model"
    size = generate(model, layers, vocabulary)
    os.sync()
    file = recipe(model, work / "recipe.yaml", "nash")
    copies, merges = [], []
    for turn in range(rounds):
        copies.append(copy_with_hash(model, work / "copy"))
        shutil.rmtree(work / "copy")
        merges.append(merge(file, work / f"out-{turn}"))
        shutil.rmtree(work / f"out-{turn}")
    resumed = killed_and_resumed(file, work / "killed", layers, merges[-1])
    shutil.rmtree(work / "killed")
    return {"bytes": size, "copies": copies, "merges": merges, "resume": resumed, "header": header_check(work)}


def text(found: dict[str, Any]) -> str:
    """The tables."""
    copies, merges = found["copies"], [m["wall"] for m in found["merges"]]
    ratios = [m / c for m, c in zip(merges, copies, strict=True)]
    peak = max(m["peak_memory_bytes"] for m in found["merges"])
    rows = [
        ["copy with sha256, s", measure.figure(statistics.median(copies))],
        ["merge 60 experts to 30 by nash, s", measure.figure(statistics.median(merges))],
        ["merge over copy (goal: at most 2.5)", measure.figure(statistics.median(ratios))],
        ["peak memory, MiB (goal: under 2048)", f"{peak / 2**20:.0f}"],
        ["problems solved", str(sum(found["merges"][0]["statuses"].values()))],
        ["header check of 200,000 tensors, s (goal: under 2)", measure.figure(found["header"])],
    ]
    rows += [[f"resume: {name}", measure.figure(value)] for name, value in found["resume"].items()]
    title = f"A checkpoint of {found['bytes'] / GIB:.2f} GiB, medians of {len(copies)} rounds in turn"
    return measure.table(title, ["", "value"], rows)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="two layers and a small vocabulary")
    parser.add_argument("--folder", type=Path, help="where to work; default the system's temporary folder")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    print(measure.banner())
    with tempfile.TemporaryDirectory(dir=given.folder) as work:
        sizes = (2, 4096) if given.quick else (4, VOCABULARY)
        found = run(Path(work), *sizes, rounds=1 if given.quick else given.rounds)
    print(text(found))
    if given.json:
        measure.write_json(given.json, found)


if __name__ == "__main__":
    main()
