"""Experts as lists of tensors: checked once, then seen as flat views without a stacking copy."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from nashsolve.core.errors import InvalidProblem, InvalidType

FLOATS = (torch.bfloat16, torch.float16, torch.float32, torch.float64)


@dataclass(frozen=True)
class Part:
    """One tensor of every expert, and the base expert's (None for zero)."""

    experts: tuple[torch.Tensor, ...]
    base: torch.Tensor | None

    @property
    def length(self) -> int:
        return self.experts[0].numel()

    @property
    def wide(self) -> torch.dtype:
        """float64 where any of the tensors is, else float32: what differences are formed in."""
        tensors = self.experts if self.base is None else (*self.experts, self.base)
        return torch.float64 if any(t.dtype == torch.float64 for t in tensors) else torch.float32

    def flat(self, *others: torch.Tensor) -> tuple[list[torch.Tensor], torch.Tensor | None, list[torch.Tensor]]:
        """Experts, base and `others` as 1-D views in one common order of their elements."""
        n = len(self.experts)
        below = [] if self.base is None else [self.base]
        views = flatten([*self.experts, *below, *others])
        return views[:n], views[n] if below else None, views[n + len(below) :]


@dataclass(frozen=True)
class Experts:
    """All parts of all experts, and how they were given."""

    parts: tuple[Part, ...]
    nested: bool
    numpy: bool

    @property
    def n(self) -> int:
        return len(self.parts[0].experts)

    @property
    def device(self) -> torch.device:
        return self.parts[0].experts[0].device


def read_experts(experts: Any, base: Any) -> Experts:
    """Check the arguments of `gram_of_differences` and `combine`; nothing is copied but oddly strided tensors."""
    if isinstance(experts, Mapping):
        raise InvalidType("experts is a mapping; pass a sequence with one entry for each expert")
    if not (isinstance(experts, Sequence) or is_array(experts)) or isinstance(experts, str | bytes):
        raise InvalidType(f"experts is a {type(experts).__name__}; a sequence of experts is needed")
    if len(experts) == 0:
        raise InvalidProblem("experts is empty; at least one expert is needed")
    rows = [tensors_of(expert, f"experts[{i}]") for i, expert in enumerate(experts)]
    below = None if base is None else tensors_of(base, "base")
    first = rows[0]
    if not first:
        raise InvalidProblem("experts[0] holds no tensors; at least one is needed")
    named = {f"experts[{i}]": row for i, row in enumerate(rows)} | ({} if below is None else {"base": below})
    for name, row in named.items():
        check_like_first(name, row, first)
    parts = tuple(Part(tuple(r[k] for r in rows), None if below is None else below[k]) for k in range(len(first)))
    return Experts(
        parts,
        nested=not is_array(experts[0]),
        numpy=not isinstance(_first_array(experts[0]), torch.Tensor),
    )


def is_array(value: Any) -> bool:
    return isinstance(value, torch.Tensor) or (hasattr(value, "__array_interface__") and hasattr(value, "dtype"))


def tensors_of(value: Any, name: str) -> list[torch.Tensor]:
    """A tensor, or a sequence of them, as detached tensors that share the caller's memory."""
    if is_array(value):
        return [as_tensor(value, name)]
    if isinstance(value, Mapping):
        raise InvalidType(f"{name} is a mapping; pass its values as a list, in the same order for every expert")
    if not isinstance(value, Sequence) or isinstance(value, str | bytes):
        raise InvalidType(f"{name} is a {type(value).__name__}; a tensor or a sequence of tensors is needed")
    return [as_tensor(item, f"{name}[{k}]") for k, item in enumerate(value)]


def as_tensor(value: Any, name: str) -> torch.Tensor:
    """One tensor or NumPy array as a torch tensor on the same memory."""
    if isinstance(value, torch.Tensor):
        if hasattr(value, "to_local"):
            raise InvalidType(f"{name} is a DTensor; pass to_local() of every tensor and sum the Grams of the ranks")
        tensor = value.detach()
    elif is_array(value):
        tensor = _from_numpy(value, name)
    else:
        raise InvalidType(f"{name} is a {type(value).__name__}; a torch tensor or a NumPy array is needed")
    if tensor.layout != torch.strided:
        raise InvalidType(f"{name} has layout {tensor.layout}; a dense tensor is needed")
    if tensor.dtype not in FLOATS:
        raise InvalidType(f"{name} has dtype {tensor.dtype}; bfloat16, float16, float32 or float64 is needed")
    return tensor.resolve_neg()


def _from_numpy(value: Any, name: str) -> torch.Tensor:
    import numpy as np

    if type(value).__name__ == "MaskedArray":
        raise InvalidType(f"{name} is a masked array; fill it first")
    value = np.asarray(value)
    if value.dtype.kind not in "biuf" and value.dtype.name != "bfloat16":
        raise InvalidType(f"{name} has dtype {value.dtype}; bfloat16, float16, float32 or float64 is needed")
    if not value.dtype.isnative or any(s < 0 for s in value.strides):
        value = np.ascontiguousarray(value, dtype=value.dtype.newbyteorder("="))
    half = value.dtype.name == "bfloat16"
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        tensor = torch.from_numpy(value.view(np.int16) if half else value)
    return tensor.view(torch.bfloat16) if half else tensor


def to_numpy(tensor: torch.Tensor) -> Any:
    """Back to NumPy on the same memory; bfloat16 needs ml_dtypes, with which it came."""
    if tensor.dtype != torch.bfloat16:
        return tensor.numpy()
    import ml_dtypes

    return tensor.view(torch.int16).numpy().view(ml_dtypes.bfloat16)


def _first_array(expert: Any) -> Any:
    return expert if is_array(expert) else expert[0]


def check_like_first(name: str, row: Sequence[torch.Tensor], first: Sequence[torch.Tensor]) -> None:
    if len(row) != len(first):
        raise InvalidProblem(f"{name} has {len(row)} tensors and experts[0] has {len(first)}; the same are needed")
    for k, (tensor, model) in enumerate(zip(row, first, strict=True)):
        place = name if len(first) == 1 else f"{name}[{k}]"
        if tensor.shape != model.shape:
            raise InvalidProblem(f"{place} has shape {tuple(tensor.shape)}, of the first expert {tuple(model.shape)}")
        if tensor.device != first[0].device:
            raise InvalidProblem(f"{place} is on {tensor.device}, the first expert on {first[0].device}; move one")


def flatten(tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """1-D views in one common order of the elements.

    Transposed tensors without gaps are read as they lie in memory, if all of them lie the same way: neither a Gram
    nor a combination depends on the order. Others are copied.
    """
    strides = tensors[0].stride()
    if all(t.stride() == strides for t in tensors) and _without_gaps(tensors[0]):
        return [t.as_strided((t.numel(),), (1,)) for t in tensors]
    return [t.reshape(-1).contiguous() for t in tensors]


def _without_gaps(tensor: torch.Tensor) -> bool:
    expected = 1
    for stride, size in sorted((s, n) for s, n in zip(tensor.stride(), tensor.shape, strict=True) if n != 1):
        if stride != expected:
            return False
        expected *= size
    return True
