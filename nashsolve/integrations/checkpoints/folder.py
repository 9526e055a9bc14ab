"""A checkpoint folder: config, index and headers, read and cross-checked without touching a weight."""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NoReturn

from .errors import CheckpointRefused
from .header import Header, TensorInfo, parse_header, show
from .paths import PICKLES, check_name, open_regular

INDEX = "model.safetensors.index.json"
MAX_JSON = 64 * 2**20


@dataclass(frozen=True)
class FileStamp:
    """What identifies an input file: a later change of any of these stops the run."""

    name: str
    size: int
    inode: int
    mtime_ns: int
    header_sha256: str


@dataclass(frozen=True)
class Checkpoint:
    """An opened checkpoint: `tensors` in file order, stamps of the files, the config."""

    path: Path
    config: Mapping[str, Any]
    tensors: Mapping[str, TensorInfo]
    files: Mapping[str, FileStamp]
    metadata: Mapping[str, str]
    sharded: bool

    @property
    def name(self) -> str:
        """The folder's own name; reports never show where it lies."""
        return self.path.resolve().name

    @cached_property
    def total_bytes(self) -> int:
        """Bytes of all tensors."""
        return sum(t.nbytes for t in self.tensors.values())

    @cached_property
    def fingerprint(self) -> str:
        """Hash of config and headers, which fixes every name, shape, dtype and place."""
        parts = [json.dumps(self.config, sort_keys=True), *(f"{f.name} {f.header_sha256}" for f in self.files.values())]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def open_checkpoint(path: str | os.PathLike[str]) -> Checkpoint:
    """Open a folder that holds config.json and safetensors files.

    Parameters
    ----------
    path : folder with ``model.safetensors``, or shards with ``model.safetensors.index.json``

    Returns
    -------
    Checkpoint

    Raises
    ------
    CheckpointRefused
        Pickles, hostile names or headers, tensors that the index and the files do not agree about.
    """
    folder = Path(path)
    if not folder.is_dir():
        raise CheckpointRefused(f"{path} is not a folder; give the folder of a checkpoint with config.json")
    config = load_json(folder / "config.json", required=True)
    if not isinstance(config, dict):
        raise CheckpointRefused(f"{folder.name}/config.json is not a JSON object")
    if config.get("quantization_config"):
        method = config["quantization_config"]
        kind = method.get("quant_method", "?") if isinstance(method, dict) else "?"
        raise CheckpointRefused(f"{folder.name} is quantised ({show(kind)}); merge the full-precision checkpoint")
    index = load_json(folder / INDEX, required=False)
    names = _shards(folder) if index is None else _indexed(index, folder.name)
    headers: dict[str, Header] = {}
    stamps: dict[str, FileStamp] = {}
    for name in names:
        headers[name], stamps[name] = read_header(folder / name)
    tensors = _union(headers)
    if index is not None:
        _compare(index["weight_map"], tensors)
    metadata = next(iter(headers.values())).metadata
    return Checkpoint(folder, config, tensors, stamps, metadata, index is not None)


def read_header(path: Path) -> tuple[Header, FileStamp]:
    """The checked header of one file and the stamp of the file."""
    descriptor = open_regular(path)
    try:
        found = os.fstat(descriptor)
        first = os.pread(descriptor, 8, 0)
        digest = hashlib.sha256(first)

        def text(length: int) -> bytes:
            raw = os.pread(descriptor, length, 8)
            digest.update(raw)
            return raw

        header = parse_header(first, text, found.st_size, path.name)
    finally:
        os.close(descriptor)
    return header, FileStamp(path.name, found.st_size, found.st_ino, found.st_mtime_ns, digest.hexdigest())


def load_json(path: Path, *, required: bool) -> Any:
    """A JSON file without duplicate keys or NaN; None where it is absent and not required."""

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        counts = Counter(key for key, _ in pairs)
        twice = [key for key, count in counts.items() if count > 1]
        if twice:
            raise ValueError(f"the key {show(twice[0])} appears twice")
        return dict(pairs)

    def no_constant(text: str) -> NoReturn:
        raise ValueError(f"{text} is not JSON")

    if not path.exists() and not path.is_symlink():
        if required:
            raise CheckpointRefused(f"{path.parent.name} has no {path.name}")
        return None
    descriptor = open_regular(path)
    with os.fdopen(descriptor, "rb") as stream:
        raw = stream.read(MAX_JSON + 1)
    if len(raw) > MAX_JSON:
        raise CheckpointRefused(f"{path.name} is larger than {MAX_JSON} bytes")
    try:
        return json.loads(raw.decode("utf-8"), object_pairs_hook=once, parse_constant=no_constant)
    except (ValueError, RecursionError) as error:
        raise CheckpointRefused(f"{path.name} is not strict JSON: {str(error)[:200]}") from None


def _shards(folder: Path) -> list[str]:
    found = sorted(entry.name for entry in folder.iterdir() if entry.name.endswith(".safetensors"))
    if len(found) == 1:
        return [check_name(found[0], folder.name)]
    if found:
        raise CheckpointRefused(
            f"{folder.name} has {len(found)} safetensors files and no {INDEX} to say what they hold"
        )
    others = sorted(entry.name for entry in folder.iterdir() if entry.suffix.lower() in PICKLES)
    if others:
        raise CheckpointRefused(
            f"{folder.name} holds {show(others[0])}, which is not safetensors and is not opened, for pickles can run "
            "code; save the model with save_pretrained(safe_serialization=True) first"
        )
    raise CheckpointRefused(f"{folder.name} has no .safetensors file")


def _indexed(index: Any, folder: str) -> list[str]:
    weights = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(weights, dict) or not weights:
        raise CheckpointRefused(f"{folder}/{INDEX} has no weight_map")
    for value in weights.values():
        if not isinstance(value, str):
            raise CheckpointRefused(f"{folder}/{INDEX}: {show(value)} is not a file name")
    return [check_name(name, INDEX) for name in sorted(set(weights.values()))]


def _union(headers: Mapping[str, Header]) -> dict[str, TensorInfo]:
    tensors: dict[str, TensorInfo] = {}
    for header in headers.values():
        for tensor in header.tensors:
            if tensor.name in tensors:
                first = tensors[tensor.name].file
                raise CheckpointRefused(f"tensor {show(tensor.name)} is in {first} and in {tensor.file}")
            tensors[tensor.name] = tensor
    return tensors


def _compare(index: Mapping[str, str], tensors: Mapping[str, TensorInfo]) -> None:
    missing = [name for name in index if name not in tensors]
    extra = [name for name in tensors if name not in index]
    moved = [name for name, file in index.items() if name in tensors and tensors[name].file != file]
    for names, what in (
        (missing, "in the index but in no file"),
        (extra, "in a file but not in the index"),
        (moved, "not in the file that the index names"),
    ):
        if names:
            raise CheckpointRefused(f"{len(names)} tensors are {what}: {listed(names)}")


def listed(names: Iterable[str], most: int = 8) -> str:
    """The first names, escaped, and how many more there are."""
    every = list(names)
    more = f" and {len(every) - most} more" if len(every) > most else ""
    return ", ".join(show(name) for name in every[:most]) + more
