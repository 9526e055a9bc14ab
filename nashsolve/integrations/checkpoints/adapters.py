"""Architectures as data: where a family keeps its experts, routers and settings; and the layers found by it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any, Literal

from pydantic import Field

from .errors import CheckpointRefused
from .folder import Checkpoint, listed
from .header import TensorInfo, show
from .strict_yaml import Strict, load_file, load_text, validate


class ConfigKeys(Strict):
    """Names in config.json; the number of experts may have several, of which a checkpoint has one or more."""

    num_experts: list[str] = Field(min_length=1)
    top_k: str | None = None
    normalize: str | None = None
    groups: str | None = None
    top_groups: str | None = None


class Adapter(Strict):
    """One family of Mixture-of-Experts checkpoints; ``*`` in a block stands for one dotted part.

    All names but `block` and `fused_block` are relative to the block. `matrices` maps the roles gate (optional), up
    and down to the names that the family uses; a fused gate_up holds gate first, then up.
    """

    name: str
    model_types: list[str]
    block: str
    fused_block: str | None = None
    expert: str
    matrices: dict[Literal["gate", "up", "down"], str]
    fused: dict[Literal["gate_up", "up", "down"], str] = Field(default_factory=dict)
    router: str
    router_bias: str | None = None
    shared: str | None = None
    activation: str = "hidden_act"
    scoring: Literal["softmax", "sigmoid"] = "softmax"
    normalize_default: bool = False
    config: ConfigKeys

    @property
    def roles(self) -> tuple[str, ...]:
        """The matrices of an expert in the order of its domain vector."""
        return tuple(role for role in ("gate", "up", "down") if role in self.matrices)


def expert_count(config: Mapping[str, Any], adapter: Adapter) -> int:
    """Routed experts by the config.

    Raises
    ------
    CheckpointRefused
    """
    names = adapter.config.num_experts
    found = {name: config[name] for name in names if name in config}
    counts = list(found.values())
    if not counts or any(type(n) is not int or n < 1 or n != counts[0] for n in counts):
        raise CheckpointRefused(f"config.json: {' or '.join(names)} is {show(found)}; one positive count is needed")
    return int(counts[0])


@dataclass(frozen=True, slots=True)
class Segment:
    """Consecutive elements of a stored tensor that form one matrix (rows, columns)."""

    tensor: TensorInfo
    start: int
    rows: int
    columns: int
    source: int = 0

    @property
    def size(self) -> int:
        """Number of elements."""
        return self.rows * self.columns


@dataclass(frozen=True)
class MoeLayer:
    """One layer: ``experts[i][role]`` is a Segment; `prefix` is the block's name on disk."""

    prefix: str
    layout: str
    experts: tuple[dict[str, Segment], ...]
    router: TensorInfo
    router_bias: TensorInfo | None
    shared: dict[str, Segment] | None

    @property
    def num_experts(self) -> int:
        """Routed experts."""
        return len(self.experts)

    @property
    def shape_key(self) -> tuple[tuple[int, int], ...]:
        """Shapes of an expert's matrices; a chain runs over layers with equal shapes."""
        return tuple((s.rows, s.columns) for s in self.experts[0].values())

    @property
    def size(self) -> int:
        """Parameters of one expert."""
        return sum(s.size for s in self.experts[0].values())

    @property
    def tensor_names(self) -> set[str]:
        """Stored tensors that hold this layer's experts."""
        return {s.tensor.name for expert in self.experts for s in expert.values()}


@cache
def builtin() -> tuple[Adapter, ...]:
    """The adapters that come with the package, one YAML file each."""
    folder = resources.files(__package__) / "architectures"
    files = sorted((entry for entry in folder.iterdir() if entry.name.endswith(".yaml")), key=lambda e: e.name)
    return tuple(validate(Adapter, load_text(f.read_text("utf-8"), f.name), f.name) for f in files)


def load_adapter(path: str) -> Adapter:
    """A user's own adapter from a YAML file of the same form as the built-in ones."""
    return validate(Adapter, load_file(path), str(path))


def choose_adapter(config: Any, extra: Sequence[Adapter] = ()) -> Adapter:
    """The adapter for ``model_type``; a user's goes before a built-in one.

    Raises
    ------
    CheckpointRefused
    """
    kind = config.get("model_type")
    for adapter in (*extra, *builtin()):
        if kind in adapter.model_types:
            return adapter
    known = ", ".join(sorted(t for a in builtin() for t in a.model_types))
    raise CheckpointRefused(
        f"model_type {show(kind)} has no adapter (known: {known}); describe it in a YAML file and name that under "
        "'architecture' in the recipe"
    )


def find_layers(checkpoint: Checkpoint, adapter: Adapter) -> tuple[MoeLayer, ...]:
    """Every MoE layer in natural order, checked against the config and for equal experts.

    Raises
    ------
    CheckpointRefused
        Naming the tensors that were expected and those that are there.
    """
    count = expert_count(checkpoint.config, adapter)
    prefixes = _prefixes(checkpoint, adapter)
    layers = [_layer(checkpoint, adapter, prefix, count) for prefix in prefixes]
    if not layers:
        some = listed([name for name in checkpoint.tensors if "expert" in name.lower()] or checkpoint.tensors)
        raise CheckpointRefused(f"adapter {adapter.name!r} finds no experts under {adapter.block!r}; there are {some}")
    return tuple(layers)


def _prefixes(checkpoint: Checkpoint, adapter: Adapter) -> list[str]:
    """Blocks that hold anything below an expert's first name part."""
    stems = {_stem(adapter.expert), *(_stem(name) for name in adapter.fused.values())}
    blocks = "|".join(_wild(b) for b in (adapter.block, adapter.fused_block) if b)
    pattern = re.compile(f"({blocks})\\.(?:{'|'.join(sorted(stems))})(?:\\.|$)")
    found = {match[1] for name in checkpoint.tensors if (match := pattern.match(name))}
    return sorted(found, key=natural)


def _stem(name: str) -> str:
    """Pattern of the first part of an expert's name."""
    return re.escape(name.split(".")[0]).replace(r"\{expert\}", r"\d+")


def natural(text: str) -> tuple[Any, ...]:
    """Sort key that counts: layer 2 before layer 10."""
    return tuple((0, int(part), "") if part.isdigit() else (1, 0, part) for part in re.split(r"(\d+)", text))


def _wild(block: str) -> str:
    return r"\.".join(r"[^.]+" if part == "*" else re.escape(part) for part in block.split("."))


def _layer(checkpoint: Checkpoint, adapter: Adapter, prefix: str, count: int) -> MoeLayer:
    here = {name for name in checkpoint.tensors if name.startswith(prefix + ".")}
    fused = {role: f"{prefix}.{name}" for role, name in adapter.fused.items()}
    is_fused = bool(fused) and any(name in here for name in fused.values())
    if is_fused:
        experts = _fused_experts(checkpoint, adapter, fused, count)
    else:
        experts = _separate_experts(checkpoint, adapter, prefix, count)
    used = {s.tensor.name for expert in experts for s in expert.values()}
    stem = re.compile(rf"{re.escape(prefix)}\.{_stem(adapter.expert)}\.")
    strange = sorted(name for name in here - used if stem.match(name))
    if strange:
        raise CheckpointRefused(
            f"{prefix} holds expert tensors that adapter {adapter.name!r} does not know: {listed(strange)}"
        )
    _check_equal(prefix, experts)
    router = _router(checkpoint, f"{prefix}.{adapter.router}", count, axes=2)
    bias = _router(checkpoint, f"{prefix}.{adapter.router_bias}", count, axes=1) if adapter.router_bias else None
    layout = "fused" if is_fused else "per_expert"
    return MoeLayer(prefix, layout, experts, router, bias, _shared(checkpoint, adapter, prefix))


def _separate_experts(
    checkpoint: Checkpoint, adapter: Adapter, prefix: str, count: int
) -> tuple[dict[str, Segment], ...]:
    def name(expert: int, role: str) -> str:
        return f"{prefix}.{adapter.expert.format(expert=expert, matrix=adapter.matrices[role])}"  # type: ignore[index]

    wanted = {(e, role): name(e, role) for e in range(count) for role in adapter.roles}
    missing = [n for n in wanted.values() if n not in checkpoint.tensors]
    if missing:
        raise CheckpointRefused(
            f"{len(missing)} of {len(wanted)} expert tensors of {prefix} are missing: {listed(missing)}"
        )
    return tuple({role: whole(checkpoint.tensors[wanted[e, role]]) for role in adapter.roles} for e in range(count))


def whole(tensor: TensorInfo, source: int = 0) -> Segment:
    """A stored matrix as one segment; a vector is a column, a higher tensor keeps its first axis as rows."""
    rows = tensor.shape[0] if tensor.shape else 1
    return Segment(tensor, 0, rows, tensor.size // rows if rows else 0, source)


def _fused_experts(
    checkpoint: Checkpoint, adapter: Adapter, names: dict[Any, str], count: int
) -> tuple[dict[str, Segment], ...]:
    missing = [n for n in names.values() if n not in checkpoint.tensors]
    if missing:
        raise CheckpointRefused(f"fused expert tensors are missing: {listed(missing)}")
    found: list[dict[str, Segment]] = [{} for _ in range(count)]
    for part, name in names.items():
        tensor = checkpoint.tensors[name]
        roles = ("gate", "up") if part == "gate_up" else (part,)
        if len(tensor.shape) != 3 or tensor.shape[0] != count or tensor.shape[1] % len(roles):
            raise CheckpointRefused(f"{show(name)} has shape {tensor.shape}; ({count}, rows, columns) is needed")
        rows, columns = tensor.shape[1] // len(roles), tensor.shape[2]
        for e in range(count):
            for k, role in enumerate(roles):
                found[e][role] = Segment(tensor, (e * len(roles) + k) * rows * columns, rows, columns)
    return tuple({role: expert[role] for role in adapter.roles} for expert in found)


def _check_equal(prefix: str, experts: tuple[dict[str, Segment], ...]) -> None:
    first = experts[0]
    for e, expert in enumerate(experts):
        for role, segment in expert.items():
            one, other = first[role], segment
            if (one.tensor.dtype, one.rows, one.columns) != (other.tensor.dtype, other.rows, other.columns):
                raise CheckpointRefused(
                    f"{prefix}: experts differ in {role}: expert 0 is {one.tensor.dtype} {one.rows}x{one.columns} "
                    f"({show(one.tensor.name)}), expert {e} is {other.tensor.dtype} {other.rows}x{other.columns} "
                    f"({show(other.tensor.name)})"
                )
    down = first["down"]
    if down.columns != first["up"].rows or down.rows != first["up"].columns:
        raise CheckpointRefused(
            f"{prefix}: up is {first['up'].rows}x{first['up'].columns}, down is {down.rows}x{down.columns}; they "
            "do not fit together, so this layout is not supported"
        )


def _router(checkpoint: Checkpoint, name: str, count: int, axes: int) -> TensorInfo:
    tensor = checkpoint.tensors.get(name)
    if tensor is None or len(tensor.shape) != axes or tensor.shape[0] != count:
        found = "missing" if tensor is None else f"of shape {tensor.shape}"
        raise CheckpointRefused(f"router tensor {show(name)} is {found}; one row an expert ({count}) is needed")
    return tensor


def _shared(checkpoint: Checkpoint, adapter: Adapter, prefix: str) -> dict[str, Segment] | None:
    """The architecture's own shared expert where there is one."""
    if adapter.shared is None:
        return None
    names = {role: f"{prefix}.{adapter.shared.format(matrix=adapter.matrices[role])}" for role in adapter.roles}  # type: ignore[index]
    if not all(name in checkpoint.tensors for name in names.values()):
        return None
    return {role: whole(checkpoint.tensors[name]) for role, name in names.items()}
