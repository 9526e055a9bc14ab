"""A layer solved: its groups, and for every merged expert the weights by which stored vectors are added."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from . import chain as chains
from .adapters import MoeLayer
from .alignment import match_neurons
from .arithmetic import Arithmetic
from .calibration import Calibration
from .dtypes import ITEMSIZE
from .errors import SolverStopped
from .gram import CentredGram, centred_gram
from .grouping import cosines, distances, group
from .plans import Plan
from .ranks import Alone
from .reader import Reader
from .recipe import ExpertsRecipe
from .rules import Agreement, coefficients
from .vectors import Scratch, ScratchWriter, Stored, Vector, chunks, combination, parts_of, shared_slice, whole_tensor

Array = np.ndarray[Any, Any]

COSINES_SHOWN = 128
"""Layers with more experts keep no cosine map for the report."""


@dataclass(frozen=True)
class SolvedLayer:
    """What the writing pass needs, and what the report shows.

    weights : for every merged expert pairs (row, weight); rows are the experts, then the base
    base : "" for none, "shared", or the name of a scratch file
    router : for every merged expert pairs (row of the router, weight)
    order : name of the file with the neurons' orders, "" for none
    """

    prefix: str
    groups: list[list[int]]
    weights: list[list[tuple[int, float]]]
    router: list[list[tuple[int, float]]]
    base: str = ""
    order: str = ""
    records: list[dict[str, Any]] = field(default_factory=list)
    chain: dict[str, Any] | None = None
    cosines: list[list[float]] | None = None
    usage: list[float] | None = None

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> SolvedLayer:
        """From a line of the journal."""
        pairs = {k: [[(int(r), float(w)) for r, w in slot] for slot in data[k]] for k in ("weights", "router")}
        return cls(**{**data, **pairs})


@dataclass
class LayerSolver:
    """Solves the layers of a plan one after another."""

    plan: Plan
    reader: Reader
    arithmetic: Arithmetic
    group: Alone
    work: Path
    tick: Callable[[int], None]

    def __post_init__(self) -> None:
        recipe = self.plan.recipe
        assert isinstance(recipe, ExpertsRecipe) and self.plan.adapter is not None
        self.recipe = recipe
        file = self.plan.calibration
        source = self.plan.sources[0]
        self.calibration = None if file is None else Calibration(file, source.config, self.plan.adapter)

    def solve(self, k: int) -> SolvedLayer:
        """Groups, coefficients, router rows and scratch files of layer `k`.

        Raises
        ------
        SolverStopped, CheckpointRefused, OSError
        """
        layer, recipe = self.plan.layers[k], self.recipe
        n = layer.num_experts
        experts: list[Vector] = [Stored(self.reader, segments) for segments in layer.experts]
        base, base_name = self._base(k)
        vectors = [*experts, *([base] if base is not None else [])]
        gram = self._gram(layer, vectors)
        usage = None if self.calibration is None else self.calibration.usage(layer, self.reader)
        unit = np.eye(len(vectors))
        importance = usage if recipe.importance == "usage" and usage is not None else gram.norms[:n]
        groups = self._groups(k, gram, usage)
        order, orders = self._orders(k, groups, importance)
        weights: list[list[tuple[int, float]]] = []
        records: list[dict[str, Any]] = []
        for members in groups:
            dominant = max(members, key=lambda e: (importance[e], -e))
            vector = self._base_row(members, dominant, n, len(vectors))
            taus = unit[members] - vector
            if orders is not None:
                taus, gram_here = taus[:, members], self._aligned(layer, members, orders)
            else:
                gram_here = gram
            share = (
                usage[members] if recipe.merge_method == "frequency" and usage is not None else np.ones(len(members))
            )
            found = self._rule(members, dominant, taus, gram_here, share, first=not records)
            weights.append(self._weights(members, found, vector))
            records.append({"members": members, "dominant": dominant, **found.to_dict()})
        chain_record = self._propagate(k, gram, base) if recipe.chain is not None else None
        return SolvedLayer(
            prefix=layer.prefix,
            groups=groups,
            weights=weights,
            router=[self._router(r, usage) for r in records],
            base=self._keep_base(k, base_name, weights, n),
            order=order,
            records=records,
            chain=chain_record,
            cosines=np.round(cosines(gram.of(unit[:n])), 4).tolist() if n <= COSINES_SHOWN else None,
            usage=None if usage is None else [float(u) for u in usage],
        )

    def _gram(self, layer: MoeLayer, vectors: Sequence[Vector]) -> CentredGram:
        size = ITEMSIZE[layer.experts[0]["down"].tensor.dtype]
        parts = parts_of(layer.experts[0])
        centre = min(layer.num_experts, len(vectors))
        return centred_gram(vectors, parts, centre, size, self.arithmetic, self.group, self.tick)

    def _base(self, k: int) -> tuple[Vector | None, str]:
        """The base expert as a vector of its own, where it is not a combination of the layer's experts."""
        if self.recipe.base_expert == "shared":
            return shared_slice(self.reader, self.plan.layers[k]), "shared"
        if self.recipe.chain is not None:
            name = chains.file_name(k)
            # Rank 0 decides for all: another rank may look when rank 0 has written the file already.
            if not self.group.share((self.work / name).exists()):
                chains.start(self.plan.layers, k, self.recipe.chain, self.reader, self.work, self.group)
            return Scratch(self.work / name, parts_of(self.plan.layers[k].experts[0])), name
        return None, ""

    def _base_row(self, members: list[int], dominant: int, n: int, width: int) -> Array:
        """The base as a combination of the rows."""
        row = np.zeros(width)
        kind = self.recipe.base_expert
        if kind == "layer_mean":
            row[:n] = 1 / n
        elif kind == "mean":
            row[members] = 1 / len(members)
        elif kind == "dominant":
            row[dominant] = 1.0
        elif kind in ("shared", "chain"):
            row[n] = 1.0
        return row

    def _groups(self, k: int, gram: CentredGram, usage: Array | None) -> list[list[int]]:
        layer, recipe = self.plan.layers[k], self.recipe.groups
        n = layer.num_experts
        experts = np.eye(len(gram.norms))[:n]
        of_weights = gram.of(experts)
        if recipe.by == "router_usage":
            rows = whole_tensor(self.reader, layer.router).astype(np.float64)
            similarity = cosines(rows @ rows.T)
        else:
            similarity = cosines(of_weights)
        if recipe.on == "outputs" and self.calibration is not None:
            apart = distances(self.calibration.output_gram(layer, self.reader))
        else:
            apart = distances(of_weights)
        kept, limits = self.plan.experts_out, self.plan.routing_groups
        return group(recipe, k, kept, limits, similarity=similarity, distance=apart, usage=usage)

    def _orders(self, k: int, groups: list[list[int]], importance: Array) -> tuple[str, Array | None]:
        """Orders of the neurons of every expert, in a file of the working folder; rank 0 finds them."""
        if self.recipe.align != "neurons":
            return "", None
        layer = self.plan.layers[k]
        name = f"order-{k}.f32"
        found = np.tile(np.arange(layer.experts[0]["up"].rows, dtype=np.int64), (layer.num_experts, 1))
        if self.group.rank == 0:
            for members in groups:
                dominant = max(members, key=lambda e: (importance[e], -e))
                for e in members:
                    if e != dominant:
                        one, two = (Stored(self.reader, layer.experts[i]) for i in (dominant, e))
                        found[e] = match_neurons(one, two)
            with ScratchWriter(self.work / name, (("order", found.size),)) as file:
                file.put(found.ravel())
        return name, np.asarray(self.group.share(found))

    def _aligned(self, layer: MoeLayer, members: list[int], orders: Array) -> CentredGram:
        return self._gram(layer, [Stored(self.reader, layer.experts[e], orders[e]) for e in members])

    def _rule(
        self, members: list[int], dominant: int, taus: Array, gram: CentredGram, share: Array, *, first: bool
    ) -> Agreement:
        recipe = self.recipe
        if len(members) == 1 or recipe.merge_method == "prune":
            return Agreement(np.array([float(e == dominant) for e in members]), "")
        checks = recipe.solver.crosscheck
        found = coefficients(
            recipe.merge_method,
            gram.of(taus),
            weights=share,
            scale=recipe.scale,
            solver=recipe.solver,
            gram_error=gram.error_of(taus),
            crosscheck=checks == "all" or (checks == "sample" and first),
        )
        return settle(found, recipe.on_no_agreement, members.index(dominant))

    def _weights(self, members: list[int], found: Agreement, base: Array) -> list[tuple[int, float]]:
        """merged = base + factor * sum_i c_i (expert_i - base), as weights of the rows."""
        if len(members) == 1 or self.recipe.merge_method == "prune" or not (found.agreed or _is_mean(self.recipe)):
            return [(members[int(np.argmax(found.coefficients))], 1.0)]
        factor = self.recipe.scaling_factor
        moved = factor * found.coefficients
        rest = 1.0 - factor if self.recipe.scale == "sum1" and found.coefficients.any() else 1.0 - float(moved.sum())
        row = rest * base if rest else np.zeros_like(base)
        if self.recipe.base_expert == "layer_mean" and rest:
            row = np.append(np.zeros_like(base), rest)
        row[members] += moved
        return [(int(i), float(row[i])) for i in np.flatnonzero(row)]

    def _keep_base(self, k: int, name: str, weights: list[list[tuple[int, float]]], n: int) -> str:
        """The base must exist as a file when a merged expert holds some of it."""
        if not any(row >= n for slot in weights for row, _ in slot):
            return ""
        if self.recipe.base_expert != "layer_mean":
            return name
        layer = self.plan.layers[k]
        parts = parts_of(layer.experts[0])
        name = f"mean-{k}.f32"
        if self.group.rank == 0:
            experts: list[Vector] = [Stored(self.reader, segments) for segments in layer.experts]
            with ScratchWriter(self.work / name, parts) as file:
                for piece in chunks(parts):
                    file.put(combination([1 / n] * n, experts, *piece))
        self.group.wait()
        return name

    def _router(self, record: dict[str, Any], usage: Array | None) -> list[tuple[int, float]]:
        members, rule = record["members"], self.recipe.router
        if rule == "dominant":
            return [(record["dominant"], 1.0)]
        share = np.full(len(members), 1 / len(members))
        if rule == "frequency" and usage is not None and usage[members].sum() > 0:
            share = usage[members] / usage[members].sum()
        elif rule == "combine":
            found = np.asarray(record["coefficients"])
            share = found / found.sum() if found.sum() > 0 else share
        return [(e, float(s)) for e, s in zip(members, share, strict=True) if s]

    def _propagate(self, k: int, gram: CentredGram, base: Vector | None) -> dict[str, Any]:
        """The whole layer bargains about the step of the base expert to the next layer."""
        recipe = self.recipe
        assert recipe.chain is not None and base is not None
        n = self.plan.layers[k].num_experts
        taus = np.eye(n + 1)[:n]
        taus[:, n] = -1.0
        found = coefficients(
            "nash",
            gram.of(taus),
            weights=np.ones(n),
            scale=recipe.scale,
            solver=recipe.solver,
            gram_error=gram.error_of(taus),
        )
        found = settle(found, recipe.on_no_agreement, None)
        chains.advance(self.plan.layers, k, recipe.chain, found.coefficients, self.reader, self.work, self.group)
        step = float(found.coefficients @ gram.of(taus) @ found.coefficients)
        return {**found.to_dict(), "step": max(step, 0.0) ** 0.5}


def _is_mean(recipe: ExpertsRecipe) -> bool:
    return recipe.on_no_agreement == "average"


def settle(found: Agreement, policy: str, alone: int | None) -> Agreement:
    """What happens without an agreement: stop, the mean instead, or no merge; the record keeps the status.

    Raises
    ------
    SolverStopped
    """
    if found.agreed:
        return found
    if policy == "fail":
        raise SolverStopped(f"{found.status}: {found.message}")
    n = len(found.coefficients)
    instead = np.full(n, 1 / n) if policy == "average" else np.zeros(n)
    if policy == "skip" and alone is not None:
        instead[alone] = 1.0
    words = "the mean instead" if policy == "average" else "not merged"
    return Agreement(**{**found.__dict__, "coefficients": instead, "message": f"{words}. {found.message}"})
