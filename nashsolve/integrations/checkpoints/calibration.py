"""What inputs do in a layer, from recorded inputs alone: how often each expert is chosen, and what experts answer.

No model code runs: a router is a matrix, an expert three of them and an activation.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from scipy.special import erf, expit

from .adapters import Adapter, MoeLayer, whole
from .errors import CheckpointRefused
from .folder import Checkpoint
from .reader import Reader
from .vectors import Stored

Array = np.ndarray[Any, Any]

SUFFIX = ".inputs"
"""A calibration file holds the tensor ``<block>.inputs`` (tokens, hidden) for every MoE block."""

_OUTPUT_BYTES = 64 * 2**20
_TOKENS = 4096

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "silu": lambda x: x * expit(x),
    "gelu": lambda x: 0.5 * x * (1 + erf(x / np.sqrt(2))),
    "gelu_new": lambda x: 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))),
    "gelu_pytorch_tanh": lambda x: 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))),
    "relu": lambda x: np.maximum(x, 0),
}


class Calibration:
    """Reads recorded inputs and answers for a layer."""

    def __init__(self, file: Checkpoint, config: Mapping[str, Any], adapter: Adapter) -> None:
        self.file = file
        self._config = config
        self._adapter = adapter

    def inputs(self, layer: MoeLayer, most: int = _TOKENS) -> Array:
        """Recorded inputs (tokens, hidden) of a layer.

        Raises
        ------
        CheckpointRefused
        """
        name = layer.prefix + SUFFIX
        tensor = self.file.tensors.get(name)
        hidden = layer.experts[0]["up"].columns
        if tensor is None or len(tensor.shape) != 2 or tensor.shape[1] != hidden or not tensor.shape[0]:
            found = "missing" if tensor is None else f"of shape {tensor.shape}"
            raise CheckpointRefused(f"calibration tensor {name!r} is {found}; (tokens, {hidden}) is needed")
        segment = whole(tensor)
        with Reader([self.file]) as reader:
            rows = min(most, segment.rows)
            return Stored(reader, {"x": segment}).read("x", 0, rows * hidden).reshape(rows, hidden).astype(np.float64)

    def usage(self, layer: MoeLayer, reader: Reader) -> Array:
        """Share of choices (N,) of each expert, as the router of the architecture makes them."""
        router = Stored(reader, {"w": whole(layer.router)}).whole("w").astype(np.float64)
        scores = self.inputs(layer) @ router.T
        if self._adapter.scoring == "sigmoid":
            scores = expit(scores)
        if layer.router_bias is not None:
            scores = scores + Stored(reader, {"b": whole(layer.router_bias)}).read("b", 0, layer.num_experts)
        keys = self._adapter.config
        groups = int(self._config.get(keys.groups) or 1) if keys.groups else 1
        if groups > 1 and keys.top_groups:
            scores = _limited(scores, groups, int(self._config[keys.top_groups]), self._adapter.scoring)
        top = int(self._config.get(keys.top_k) or 1) if keys.top_k else 1
        chosen = np.argsort(-scores, axis=1, kind="stable")[:, :top]
        counts = np.bincount(chosen.ravel(), minlength=layer.num_experts)
        return np.asarray(counts / counts.sum())

    def output_gram(self, layer: MoeLayer, reader: Reader) -> Array:
        """Gram (N, N) of the experts' outputs on the recorded inputs."""
        name = str(self._config.get(self._adapter.activation, "silu"))
        if name not in ACTIVATIONS:
            raise CheckpointRefused(f"activation {name!r} is not known; known are {', '.join(ACTIVATIONS)}")
        act = ACTIVATIONS[name]
        hidden = layer.experts[0]["up"].columns
        inputs = self.inputs(layer, max(8, _OUTPUT_BYTES // (4 * hidden * layer.num_experts))).astype(np.float32)
        outputs = np.empty((layer.num_experts, inputs.size), dtype=np.float32)
        for e, segments in enumerate(layer.experts):
            expert = Stored(reader, segments)
            inner = inputs @ expert.whole("up").T
            inner = act(inputs @ expert.whole("gate").T) * inner if "gate" in segments else act(inner)
            outputs[e] = (inner @ expert.whole("down").T).ravel()
        found = np.zeros((layer.num_experts, layer.num_experts))
        for a in range(0, outputs.shape[1], 2**14):
            block = outputs[:, a : a + 2**14].astype(np.float64)
            found += block @ block.T
        return found


def _limited(scores: Array, groups: int, top: int, scoring: str) -> Array:
    """Scores outside the best routing groups are pushed below all others."""
    parts = scores.reshape(len(scores), groups, -1)
    best = np.sort(parts, axis=2)[:, :, -2:].sum(axis=2) if scoring == "sigmoid" else parts.max(axis=2)
    kept = np.argsort(-best, axis=1, kind="stable")[:, :top]
    open_ = np.zeros(best.shape, dtype=bool)
    np.put_along_axis(open_, kept, True, axis=1)
    return np.where(open_[:, :, None], parts, -np.inf).reshape(scores.shape)
