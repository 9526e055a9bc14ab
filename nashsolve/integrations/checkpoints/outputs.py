"""What the output will hold: every tensor, where each part of it comes from, and in which file it goes."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property

from .adapters import Adapter, MoeLayer, Segment, whole
from .dtypes import FLOATS, ITEMSIZE, RECIPE_NAMES
from .errors import CheckpointRefused
from .folder import Checkpoint, listed
from .header import TensorInfo, show

ONE_FILE = "model.safetensors"


@dataclass(frozen=True, slots=True)
class Copy:
    """A tensor that passes unchanged but for its format."""

    segment: Segment


@dataclass(frozen=True, slots=True)
class Merged:
    """One matrix of a merged expert."""

    layer: int
    slot: int
    role: str
    rows: int
    columns: int


@dataclass(frozen=True, slots=True)
class Rows:
    """A router tensor with one row (or number) for every merged expert."""

    layer: int
    tensor: TensorInfo


@dataclass(frozen=True, slots=True)
class Task:
    """A tensor of the base model, moved along the merged task vector."""

    name: str
    unit: str


Piece = Copy | Merged | Rows | Task


@dataclass(frozen=True)
class OutTensor:
    """A tensor of the output; its pieces follow each other in memory."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    pieces: tuple[Piece, ...]

    @property
    def nbytes(self) -> int:
        """Bytes in the output."""
        return math.prod(self.shape) * ITEMSIZE[self.dtype]


@dataclass(frozen=True)
class OutFile:
    """A safetensors file of the output."""

    name: str
    tensors: tuple[OutTensor, ...]

    @cached_property
    def header(self) -> bytes:
        """The first bytes of the file: length field and header, padded to eight bytes."""
        entries: dict[str, object] = {"__metadata__": {"format": "pt"}}
        place = 0
        for tensor in self.tensors:
            ends = [place, place + tensor.nbytes]
            entries[tensor.name] = {"dtype": tensor.dtype, "shape": list(tensor.shape), "data_offsets": ends}
            place = ends[1]
        text = json.dumps(entries, ensure_ascii=False, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        return len(text).to_bytes(8, "little") + text

    @property
    def nbytes(self) -> int:
        """Size of the whole file."""
        return len(self.header) + sum(t.nbytes for t in self.tensors)


def out_dtype(tensor: TensorInfo, wanted: str) -> str:
    """Format in the output: the recipe's for floats, else unchanged."""
    return tensor.dtype if wanted == "keep" or tensor.dtype not in FLOATS else RECIPE_NAMES[wanted]


def expert_outputs(
    checkpoint: Checkpoint,
    adapter: Adapter,
    layers: tuple[MoeLayer, ...],
    kept: int,
    *,
    dtype: str,
    layout: str,
    shard_size: int | str,
) -> tuple[OutFile, ...]:
    """Output of the experts job in the order of the source; each layer has `kept` experts."""
    owner = {name: k for k, layer in enumerate(layers) for name in layer.tensor_names}
    routers = {t.name: k for k, y in enumerate(layers) for t in (y.router, y.router_bias) if t is not None}
    rename = _renamer(adapter, layers, layout)
    done: set[int] = set()

    def emit(tensor: TensorInfo) -> Iterator[OutTensor]:
        kind = out_dtype(tensor, dtype)
        if tensor.name in routers:
            k = routers[tensor.name]
            yield OutTensor(rename(tensor.name), kind, (kept, *tensor.shape[1:]), (Rows(k, tensor),))
        elif tensor.name not in owner:
            yield OutTensor(rename(tensor.name), kind, tensor.shape, (Copy(whole(tensor)),))
        else:
            k = owner[tensor.name]
            if layout in ("keep", layers[k].layout):
                yield from _same_place(layers[k], k, tensor, kept, kind)
            elif k not in done:
                done.add(k)
                yield from _converted(adapter, layers[k], k, kept, kind, rename)

    return _files(checkpoint, emit, shard_size)


def _same_place(layer: MoeLayer, k: int, tensor: TensorInfo, kept: int, kind: str) -> Iterator[OutTensor]:
    """The merged experts stand where the first `kept` experts stood."""
    roles = [r for r, s in layer.experts[0].items() if _holds(layer, r, tensor)]
    slots = [e for e in range(kept) if any(layer.experts[e][r].tensor.name == tensor.name for r in roles)]
    if not slots:
        return
    pieces = tuple(_merged(layer, k, slot, role) for slot in slots for role in roles)
    shape = (kept, *tensor.shape[1:]) if layer.layout == "fused" else tensor.shape
    yield OutTensor(tensor.name, kind, shape, pieces)


def _holds(layer: MoeLayer, role: str, tensor: TensorInfo) -> bool:
    return any(expert[role].tensor.name == tensor.name for expert in layer.experts)


def _merged(layer: MoeLayer, k: int, slot: int, role: str) -> Merged:
    model = layer.experts[0][role]
    return Merged(k, slot, role, model.rows, model.columns)


def _converted(
    adapter: Adapter, layer: MoeLayer, k: int, kept: int, kind: str, rename: Callable[[str], str]
) -> Iterator[OutTensor]:
    """The layer's experts in the other layout, all at the place of the first."""
    if layer.layout == "fused":
        for slot in range(kept):
            for role in adapter.roles:
                piece = _merged(layer, k, slot, role)
                name = f"{layer.prefix}.{adapter.expert.format(expert=slot, matrix=adapter.matrices[role])}"  # type: ignore[index]
                yield OutTensor(rename(name), kind, (piece.rows, piece.columns), (piece,))
        return
    if not adapter.fused:
        raise CheckpointRefused(f"adapter {adapter.name!r} has no fused layout to convert to")
    for part, name in adapter.fused.items():
        roles = ("gate", "up") if part == "gate_up" else (part,)
        pieces = tuple(_merged(layer, k, slot, role) for slot in range(kept) for role in roles)
        shape = (kept, sum(p.rows for p in pieces[: len(roles)]), pieces[0].columns)
        yield OutTensor(rename(f"{layer.prefix}.{name}"), kind, shape, pieces)


def _renamer(adapter: Adapter, layers: tuple[MoeLayer, ...], layout: str) -> Callable[[str], str]:
    """Block names of some families differ between their layouts."""
    pairs: dict[str, str] = {}
    if adapter.fused_block is not None and layout != "keep":
        target = adapter.fused_block if layout == "fused" else adapter.block
        for layer in layers:
            stars = [part for part in layer.prefix.split(".") if part.isdigit()]
            found = iter(stars)
            pairs[layer.prefix] = ".".join(next(found) if part == "*" else part for part in target.split("."))

    def rename(name: str) -> str:
        for prefix, new in pairs.items():
            if name.startswith(prefix + "."):
                return new + name[len(prefix) :]
        return name

    return rename


def task_outputs(
    base: Checkpoint, models: Iterable[Checkpoint], *, per: str, dtype: str, shard_size: int | str
) -> tuple[OutFile, ...]:
    """Output of the task-vector job: the base's tensors; every model must have the same names and shapes."""
    for model in models:
        _match(base, model)

    def emit(tensor: TensorInfo) -> Iterator[OutTensor]:
        floats = tensor.dtype in FLOATS
        piece: Piece = Task(tensor.name, unit_of(tensor.name, per)) if floats else Copy(whole(tensor))
        yield OutTensor(tensor.name, out_dtype(tensor, dtype), tensor.shape, (piece,))

    return _files(base, emit, shard_size)


def unit_of(name: str, per: str) -> str:
    """The bargaining problem that a tensor belongs to."""
    if per == "tensor":
        return name
    if per == "global":
        return "all parameters"
    found = re.match(r"(.*?\.\d+)\.", name)
    return found[1] if found else "outside the layers"


def _match(base: Checkpoint, model: Checkpoint) -> None:
    missing = [n for n in base.tensors if n not in model.tensors]
    extra = [n for n in model.tensors if n not in base.tensors]
    if missing or extra:
        names = listed(missing or extra)
        what = "lacks" if missing else "has, and the base lacks,"
        raise CheckpointRefused(f"{model.name} {what} {len(missing or extra)} tensors: {names}")
    for name, one in base.tensors.items():
        other = model.tensors[name]
        both_floats = one.dtype in FLOATS and other.dtype in FLOATS
        if one.shape != other.shape or (one.dtype != other.dtype and not both_floats):
            raise CheckpointRefused(
                f"tensor {show(name)} is {one.dtype} {one.shape} in {base.name} and {other.dtype} {other.shape} in "
                f"{model.name}"
            )


def _files(
    checkpoint: Checkpoint, emit: Callable[[TensorInfo], Iterator[OutTensor]], shard_size: int | str
) -> tuple[OutFile, ...]:
    """The source's files, or new ones of at most `shard_size` bytes."""
    by_file: dict[str, list[OutTensor]] = {}
    for tensor in checkpoint.tensors.values():
        by_file.setdefault(tensor.file, []).extend(emit(tensor))
    _distinct(t.name for tensors in by_file.values() for t in tensors)
    if shard_size == "keep":
        if not checkpoint.sharded:
            return (OutFile(ONE_FILE, tuple(next(iter(by_file.values())))),)
        return tuple(OutFile(name, tuple(tensors)) for name, tensors in sorted(by_file.items()) if tensors)
    shards: list[list[OutTensor]] = [[]]
    room = int(shard_size)
    for tensors in by_file.values():
        for out in tensors:
            if shards[-1] and out.nbytes > room:
                shards.append([])
                room = int(shard_size)
            shards[-1].append(out)
            room -= out.nbytes
    if len(shards) == 1:
        return (OutFile(ONE_FILE, tuple(shards[0])),)
    return tuple(
        OutFile(f"model-{i:05}-of-{len(shards):05}.safetensors", tuple(part)) for i, part in enumerate(shards, 1)
    )


def _distinct(names: Iterable[str]) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise CheckpointRefused(f"two tensors of the output would be called {show(name)}")
        seen.add(name)
