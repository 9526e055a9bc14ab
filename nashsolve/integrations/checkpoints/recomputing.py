"""Output values from the sources and the report alone, the plain way: whole matrices, float64, no blocks.

Shares with the writing pass only the decoding of bytes; what it computes is compared with what was written.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from . import chain as chains
from .adapters import whole
from .alignment import match_neurons
from .outputs import Copy, Merged, OutTensor, Rows, Task
from .plans import Plan
from .ranks import Alone
from .reader import Reader
from .recipe import ExpertsRecipe, TaskRecipe
from .tasks import TaskSolver
from .vectors import Stored, shared_slice, whole_tensor

Array = np.ndarray[Any, Any]

RANGE = 2**20
"""Entries of a large tensor that are looked at."""


@dataclass(frozen=True)
class Expected:
    """Values, and what rounding of float32 sums may add."""

    values: Array
    noise: Array


class Recomputer:
    """Recomputes output tensors of a plan by the coefficients in its report."""

    def __init__(self, plan: Plan, reader: Reader, report: dict[str, Any]) -> None:
        self._plan = plan
        self._reader = reader
        self._report = report

    def parts(self, tensor: OutTensor) -> Iterator[tuple[int, Expected]]:
        """(first entry, expected values) of each part of a tensor."""
        place = 0
        for piece in tensor.pieces:
            if isinstance(piece, Copy):
                values = self._read(piece.segment.tensor.name, 0, min(RANGE, piece.segment.size))
                yield place, Expected(values, np.zeros_like(values))
                place += piece.segment.size
            elif isinstance(piece, Merged):
                yield place, self._merged(piece)
                place += piece.rows * piece.columns
            elif isinstance(piece, Rows):
                yield place, self._rows(piece)
            else:
                yield place, self._task(piece)

    def _read(self, name: str, start: int, count: int, source: int = 0) -> Array:
        segment = whole(self._plan.sources[source].tensors[name], source)
        return Stored(self._reader, {"all": segment}).read("all", start, count).astype(np.float64)

    def _chained(self, piece: Merged) -> tuple[Array, Array]:
        """The chain's base expert at a layer, walked from where the chain begins, and the sizes that were summed."""
        recipe, layers = self._plan.recipe, self._plan.layers
        assert isinstance(recipe, ExpertsRecipe) and recipe.chain is not None
        shape = (piece.rows, piece.columns)
        first = next(k for k in range(piece.layer, -1, -1) if chains.begins(layers, k))
        base = np.zeros(shape)
        if recipe.chain.initial == "shared":
            base = shared_slice(self._reader, layers[first]).read(piece.role, 0, base.size).reshape(shape).astype(float)
        elif recipe.chain.initial == "dominant":
            base = chains.longest(self._reader, layers[first]).whole(piece.role).astype(np.float64)
        beta = [*recipe.chain.beta, 0.0, 0.0]
        multiplier = complex(beta[0], float(np.linalg.norm(beta[1:])))
        momentum, size = np.zeros(shape, dtype=complex), np.abs(base)
        for k in range(first, piece.layer):
            shares = self._report["layers"][k]["chain"]["coefficients"]
            step = np.zeros(shape)
            for segments, share in zip(layers[k].experts, shares, strict=True):
                expert = Stored(self._reader, segments).whole(piece.role).astype(np.float64)
                step += share * (expert - base)
                size += np.abs(share) * (np.abs(expert) + np.abs(base))
            momentum = multiplier * momentum + step
            base = base + recipe.chain.gamma * momentum.real
        return base, (1 + abs(recipe.chain.gamma)) * size / max(1 - abs(multiplier), 0.1)

    def _merged(self, piece: Merged) -> Expected:
        recipe, layer = self._plan.recipe, self._plan.layers[piece.layer]
        assert isinstance(recipe, ExpertsRecipe)
        record = self._report["layers"][piece.layer]["groups"][piece.slot]
        members, shares = record["members"], record["coefficients"]
        dominant = Stored(self._reader, layer.experts[record["dominant"]])
        matrices = {}
        for e in range(layer.num_experts) if recipe.base_expert == "layer_mean" else members:
            stored = Stored(self._reader, layer.experts[e])
            if recipe.align == "neurons" and e in members and e != record["dominant"]:
                stored = Stored(self._reader, layer.experts[e], match_neurons(dominant, stored))
            matrices[e] = stored.whole(piece.role).astype(np.float64)
        if len(members) == 1 or recipe.merge_method == "prune" or "not merged" in record["message"]:
            values = matrices[members[int(np.argmax(shares))]].ravel()
            return Expected(values, np.zeros_like(values))
        factor = recipe.scaling_factor
        base = np.zeros((piece.rows, piece.columns))
        if recipe.base_expert == "layer_mean":
            base = sum(matrices.values(), base) / layer.num_experts
        elif recipe.base_expert == "mean":
            base = sum((matrices[e] for e in members), base) / len(members)
        elif recipe.base_expert == "dominant":
            base = matrices[record["dominant"]]
        elif recipe.base_expert == "shared":
            base = shared_slice(self._reader, layer).read(piece.role, 0, base.size).reshape(base.shape).astype(float)
        size = sum((np.abs(m) for m in matrices.values()), np.zeros_like(base))
        if recipe.base_expert == "chain" and abs(1 - factor * sum(shares)) > 1e-12:
            base, carried = self._chained(piece)
            size = size + carried
        values = base + factor * sum(c * (matrices[e] - base) for e, c in zip(members, shares, strict=True))
        size = size + np.abs(base)
        return Expected(values.ravel(), (2.0**-22 * len(matrices)) * size.ravel())

    def _rows(self, piece: Rows) -> Expected:
        recipe = self._plan.recipe
        assert isinstance(recipe, ExpertsRecipe)
        stored = whole_tensor(self._reader, piece.tensor).astype(np.float64)
        layer = self._report["layers"][piece.layer]
        found = []
        for record in layer["groups"]:
            members = record["members"]
            share = np.ones(len(members))
            if recipe.router == "dominant":
                members, share = [record["dominant"]], np.ones(1)
            elif recipe.router == "combine" and sum(record["coefficients"]) > 0:
                share = np.asarray(record["coefficients"])
            elif recipe.router == "frequency" and sum(layer["usage"][e] for e in members) > 0:
                share = np.asarray([layer["usage"][e] for e in members])
            found.append(np.average(stored[members], axis=0, weights=share))
        values = np.stack(found).ravel()
        return Expected(values, 2.0**-40 * np.abs(stored).max() * np.ones_like(values))

    def _task(self, piece: Task) -> Expected:
        recipe = self._plan.recipe
        assert isinstance(recipe, TaskRecipe)
        size = min(RANGE, self._plan.sources[0].tensors[piece.name].size)
        record = next(u for u in self._report["units"] if u["unit"] == piece.unit)
        if recipe.merge_method in ("dare", "dare_ties", "ties"):
            solver = TaskSolver(self._plan, self._reader, None, Alone(), lambda n: None)  # type: ignore[arg-type]
            values = solver.values(piece.name, 0, min(size, 2**18), record["coefficients"]).astype(np.float64)
            return Expected(values, np.zeros_like(values))
        base = self._read(piece.name, 0, size)
        models = [self._read(piece.name, 0, size, k) for k in range(1, len(self._plan.sources))]
        step = sum(c * (m - base) for c, m in zip(record["coefficients"], models, strict=True))
        spread = np.abs(base) + sum(np.abs(m) for m in models)
        return Expected(base + recipe.scaling_factor * step, 2.0**-21 * spread)
