"""What one rank holds of the experts: local tensors, and where they lie in the whole."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from nashsolve.core.errors import InvalidProblem, InvalidType


@dataclass(frozen=True)
class Part:
    """Some experts of a fused parameter as a plain tensor, for expert parallelism without DTensors.

    tensor : (n, ...), whole experts
    first : index of the first of them
    of : N, number of all experts
    """

    tensor: Tensor
    first: int
    of: int


Columns = tuple[tuple[int, ...], tuple[int, ...]]
"""Offset and size along the axes of one expert."""


class Box(NamedTuple):
    """Which experts, and which part of each: rows [start, stop), offset and size along the axes of one expert."""

    rows: tuple[int, int]
    offset: tuple[int, ...]
    size: tuple[int, ...]

    @property
    def columns(self) -> Columns:
        """Where in one expert."""
        return self.offset, self.size

    @property
    def numel(self) -> int:
        """Entries held."""
        return (self.rows[1] - self.rows[0]) * torch.Size(self.size).numel()


@dataclass(frozen=True)
class Held:
    """One slot on this rank.

    tensors : local, one fused (n, ...) or N of them
    owners : the parameters that they belong to, whose gradients they get
    shape : of one whole expert's tensor
    n : number of all experts
    """

    name: str
    tensors: tuple[Tensor, ...]
    owners: tuple[Any, ...]
    fused: bool
    box: Box
    shape: tuple[int, ...]
    n: int


def read_experts(source: Any) -> dict[str, list[Any]]:
    """Slot -> parameters (tensors, DTensors, Parts) of one layer's experts, as they are now; one of each slot if fused.

    source : as `ExpertView.of` takes it, or something that has an `expert_view`; parameters may also be DTensors and
        Parts, and the modules of a sequence mappings of them
    """
    if hasattr(source, "expert_view"):
        return {slot.name: list(slot.tensors) for slot in source.expert_view().slots}
    if isinstance(source, nn.ModuleDict):
        source = list(source.values())
    if isinstance(source, nn.ModuleList | list | tuple):
        named = [dict(e.named_parameters() if isinstance(e, nn.Module) else e) for e in source]
        if not named or any(set(parameters) != set(named[0]) for parameters in named):
            raise InvalidProblem("a sequence of experts must hold parameters of the same names")
        return {name: [parameters[name] for parameters in named] for name in named[0]}
    if isinstance(source, nn.Module):
        source = dict(source.named_parameters())
    if isinstance(source, Mapping) and source:
        return {name: [value] for name, value in source.items()}
    raise InvalidType(f"experts are {type(source).__name__}; modules or a mapping of tensors are needed")


def is_fused(source: Any) -> bool:
    """Whether one tensor holds all experts."""
    if hasattr(source, "expert_view"):
        return bool(source.expert_view().slots[0].fused)
    return not isinstance(source, nn.ModuleDict | nn.ModuleList | list | tuple)


def hold(name: str, values: Sequence[Any], fused: bool) -> Held:
    """Local tensors and place of a slot."""
    where = [_place(name, value, fused) for value in values]
    if any(w[1:] != where[0][1:] for w in where):
        raise InvalidProblem(f"the tensors of slot {name!r} have different shapes or shards from expert to expert")
    _, box, shape, n = where[0]
    if not fused:
        box, n = Box((0, len(values)), box.offset, box.size), len(values)
    return Held(name, tuple(w[0] for w in where), tuple(values), fused, box, shape, n)


def local_of(value: Any) -> Tensor:
    """The plain tensor on this rank."""
    with torch.no_grad():
        if isinstance(value, Part):
            return value.tensor.detach()
        return (value.to_local() if isinstance(value, DTensor) else value).detach()


def _place(name: str, value: Any, fused: bool) -> tuple[Tensor, Box, tuple[int, ...], int]:
    local, lead = local_of(value), int(fused)
    if isinstance(value, Part):
        whole = torch.Size((value.of, *local.shape[1:]))
        offsets, sizes = (value.first, *(0,) * (local.ndim - 1)), tuple(local.shape)
    elif isinstance(value, DTensor):
        if any(placement.is_partial() for placement in value.placements):
            raise InvalidProblem(f"slot {name!r} has the placements {value.placements}; a sum that is not summed yet")
        chunks = value.__create_chunk_list__()
        if len(chunks) != 1:
            raise InvalidProblem(f"slot {name!r} lies in {len(chunks)} pieces on this rank; one is needed")
        _check_in_one_piece(name, value)
        whole, offsets, sizes = value.shape, tuple(chunks[0].offsets), tuple(chunks[0].sizes)
    elif isinstance(value, Tensor):
        whole, offsets, sizes = local.shape, (0,) * local.ndim, tuple(local.shape)
    else:
        raise InvalidType(f"slot {name!r} is {type(value).__name__}; a tensor, a DTensor or a Part is needed")
    if tuple(local.shape) != sizes:
        raise InvalidProblem(
            f"slot {name!r}: the local tensor has shape {tuple(local.shape)}, its place says {sizes}; "
            "DTensor.from_local of uneven shards needs shape and stride"
        )
    if len(whole) < 1 + lead:
        raise InvalidProblem(f"slot {name!r} has shape {tuple(whole)}; fused experts need (N, ...)")
    rows = (offsets[0], offsets[0] + sizes[0]) if fused else (0, 1)
    box = Box(rows, tuple(offsets[lead:]), tuple(sizes[lead:]))
    return local, box, tuple(whole[lead:]), whole[0] if fused else 1


def _check_in_one_piece(name: str, value: DTensor) -> None:
    """Raise InvalidProblem for a shard of rows that do not follow each other, which a chunk list does not tell."""
    mesh, placements = value.device_mesh, list[Any](value.placements)
    at = mesh.get_coordinate() or [0] * mesh.ndim
    for axis in {placement.dim for placement in placements if hasattr(placement, "split_factor")}:
        rows = torch.arange(value.shape[axis]).view([-1 if k == axis else 1 for k in range(value.ndim)])
        for k, placement in enumerate(placements):
            if getattr(placement, "dim", None) == axis:
                rows = placement._split_tensor(rows, mesh.size(k), with_padding=False, contiguous=False)[0][at[k]]
        if rows.numel() and int(rows.max() - rows.min()) != rows.numel() - 1:
            raise InvalidProblem(
                f"slot {name!r} is cut across axis {axis} in strided pieces ({value.placements}), as tensor parallel "
                "plans for gate and up in one tensor do: shard whole experts or plain columns instead"
            )
