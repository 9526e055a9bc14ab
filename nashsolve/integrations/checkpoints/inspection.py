"""What a checkpoint holds, from its headers alone."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .adapters import Adapter, MoeLayer, choose_adapter, find_layers
from .dtypes import ITEMSIZE
from .errors import CheckpointRefused
from .folder import open_checkpoint

NATIVE = 2**30


@dataclass(frozen=True)
class Inspection:
    """The findings; `unsupported` says why experts cannot be merged, empty where they can."""

    name: str
    model_type: str
    architecture: str
    layout: str
    moe_layers: int
    experts: int
    top_k: int | None
    shared: bool
    expert_bytes: int
    total_bytes: int
    tensors: int
    shards: int
    dtypes: dict[str, int]
    fingerprint: str
    unsupported: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return dict(self.__dict__)

    def __str__(self) -> str:
        size = f"{self.total_bytes / NATIVE:.2f} GiB in {self.shards} file{'s' if self.shards > 1 else ''}"
        kinds = ", ".join(f"{name} {share:.0%}" for name, share in self._shares())
        lines = [f"{self.name}: {self.model_type or 'no model_type'}, {self.tensors} tensors, {size}, {kinds}"]
        if self.unsupported:
            lines.append(f"experts cannot be merged: {self.unsupported}")
            lines.append("task vectors of fine-tunes of it can, by matching keys")
        else:
            extra = " and a shared expert" if self.shared else ""
            lines.append(
                f"{self.moe_layers} MoE layers of {self.experts} experts{extra}, top {self.top_k or 1}, layout "
                f"{self.layout}; experts hold {self.expert_bytes / NATIVE:.2f} GiB"
            )
        return "\n".join(lines)

    def _shares(self) -> list[tuple[str, float]]:
        whole = max(1, self.total_bytes)
        return [(name, count / whole) for name, count in sorted(self.dtypes.items(), key=lambda item: -item[1])]


def inspect(model: str | os.PathLike[str], adapters: tuple[Adapter, ...] = ()) -> Inspection:
    """Layers, experts, layout, sizes and formats of a checkpoint, from config, index and headers alone.

    Parameters
    ----------
    model : folder of the checkpoint
    adapters : further architectures, before the built-in ones

    Raises
    ------
    CheckpointRefused, OSError
    """
    checkpoint = open_checkpoint(Path(model))
    bytes_of: Counter[str] = Counter()
    for tensor in checkpoint.tensors.values():
        bytes_of[tensor.dtype] += tensor.nbytes
    found: dict[str, Any] = {
        "name": checkpoint.name,
        "model_type": str(checkpoint.config.get("model_type", "")),
        "total_bytes": checkpoint.total_bytes,
        "tensors": len(checkpoint.tensors),
        "shards": len(checkpoint.files),
        "dtypes": dict(bytes_of),
        "fingerprint": checkpoint.fingerprint,
    }
    nothing: dict[str, Any] = {
        "architecture": "",
        "layout": "",
        "moe_layers": 0,
        "experts": 0,
        "top_k": None,
        "shared": False,
    }
    try:
        adapter = choose_adapter(checkpoint.config, adapters)
        layers = find_layers(checkpoint, adapter)
    except CheckpointRefused as refusal:
        return Inspection(**found, **nothing, expert_bytes=0, unsupported=str(refusal))
    layouts = sorted({layer.layout for layer in layers})
    return Inspection(
        **found,
        architecture=adapter.name,
        layout=" and ".join(layouts),
        moe_layers=len(layers),
        experts=layers[0].num_experts,
        top_k=checkpoint.config.get(adapter.config.top_k) if adapter.config.top_k else None,
        shared=any(layer.shared for layer in layers),
        expert_bytes=sum(layer.num_experts * layer.size * itemsize(layer) for layer in layers),
    )


def itemsize(layer: MoeLayer) -> int:
    """Bytes of one expert parameter of the layer."""
    return ITEMSIZE[layer.experts[0]["down"].tensor.dtype]
