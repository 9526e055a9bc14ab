"""Task vectors: fine-tunes minus their base, added by the rule of the recipe."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from . import memory
from .adapters import whole
from .arithmetic import Arithmetic
from .dtypes import FLOATS, ITEMSIZE
from .gram import centred_gram
from .grouping import cosines
from .outputs import unit_of
from .plans import Plan
from .ranks import Alone
from .reader import Reader
from .recipe import TaskRecipe
from .rules import Agreement, coefficients
from .solving import settle
from .vectors import Stored, Vector, chunks

Array = np.ndarray[Any, Any]

SOLVED = ("nash", "utilitarian", "min_norm")


@dataclass(frozen=True)
class SolvedUnit:
    """Coefficients of the task vectors in one unit (layer, tensor or all parameters)."""

    unit: str
    coefficients: list[float]
    record: dict[str, Any]
    cosines: list[list[float]] | None = None


@dataclass
class TaskSolver:
    """Finds the coefficients of a plan's units, and the values of its tensors."""

    plan: Plan
    reader: Reader
    arithmetic: Arithmetic
    group: Alone
    tick: Callable[[int], None]

    def __post_init__(self) -> None:
        assert isinstance(self.plan.recipe, TaskRecipe)
        self.recipe = self.plan.recipe
        self.weights = np.array([m.weight for m in self.recipe.models])
        self._threshold = lru_cache(maxsize=64)(self._find_threshold)

    def units(self) -> list[str]:
        """Units in the order of the base's tensors."""
        names = (t.name for t in self.plan.sources[0].tensors.values() if t.dtype in FLOATS)
        return list(dict.fromkeys(unit_of(name, self.recipe.per) for name in names))

    def solve(self, unit: str) -> SolvedUnit:
        """Coefficients of a unit; those of the baselines do not look at the weights.

        Raises
        ------
        SolverStopped, CheckpointRefused, OSError
        """
        recipe = self.recipe
        if recipe.merge_method not in SOLVED:
            share = self.weights / self.weights.sum() if recipe.normalize else self.weights
            found = Agreement(share, "")
            return SolvedUnit(unit, [float(c) for c in share], {**found.to_dict(), "unit": unit})
        base = self.plan.sources[0]
        chosen = [t for t in base.tensors.values() if t.dtype in FLOATS and unit_of(t.name, recipe.per) == unit]
        vectors: list[Vector] = [self._vector(i, [t.name for t in chosen]) for i in range(1, len(self.plan.sources))]
        vectors.append(self._vector(0, [t.name for t in chosen]))
        size = max(ITEMSIZE[t.dtype] for t in chosen)
        parts = tuple((t.name, t.size) for t in chosen)
        gram = centred_gram(vectors, parts, len(vectors), size, self.arithmetic, self.group, self.tick)
        n = len(vectors) - 1
        taus = np.eye(n + 1)[:n]
        taus[:, n] = -1.0
        between = gram.of(taus)
        checks = recipe.solver.crosscheck
        found = coefficients(
            recipe.merge_method,
            between,
            weights=self.weights,
            scale=recipe.scale,
            solver=recipe.solver,
            gram_error=gram.error_of(taus),
            crosscheck=checks == "all" or (checks == "sample" and unit == self.first),
            mean_radius=recipe.radius if recipe.disagreement == "mean" else None,
        )
        found = settle(found, recipe.on_no_agreement, None)
        shown = np.round(cosines(between), 4).tolist()
        return SolvedUnit(unit, [float(c) for c in found.coefficients], {**found.to_dict(), "unit": unit}, shown)

    @property
    def first(self) -> str:
        """The unit that crosscheck: sample looks at."""
        return self.units()[0]

    def values(self, name: str, start: int, count: int, shares: list[float]) -> Array:
        """Merged values of a piece: base + factor * merged task vector.

        Parameters
        ----------
        start : a multiple of the chunk size, for the draws of dare
        shares : coefficients of the unit
        """
        base = self._vector(0, [name]).read(name, start, count)
        if self.recipe.merge_method in ("ties", "dare", "dare_ties"):
            step = self._sparse(name, start, count, base)
        else:
            step = np.zeros_like(base)
            for i, share in enumerate(shares):
                if share:
                    step = step + np.float32(share) * (self._vector(i + 1, [name]).read(name, start, count) - base)
        return np.asarray(base + np.float32(self.recipe.scaling_factor) * step)

    def _vector(self, source: int, names: list[str]) -> Stored:
        tensors = self.plan.sources[source].tensors
        return Stored(self.reader, {name: whole(tensors[name], source) for name in names})

    def _sparse(self, name: str, start: int, count: int, base: Array) -> Array:
        """Trimmed or dropped task vectors, with or without election of signs."""
        recipe = self.recipe
        kept = []
        for i, member in enumerate(recipe.models):
            density = member.density if member.density is not None else recipe.density
            delta = self._vector(i + 1, [name]).read(name, start, count) - base
            if recipe.merge_method == "ties":
                delta = np.where(np.abs(delta) >= self._threshold(name, i, density), delta, 0)
            elif density < 1.0:
                draw = np.random.default_rng((recipe.seed, i, zlib.crc32(name.encode()), start // memory.CHUNK))
                delta = np.where(draw.random(count, dtype=np.float32) < density, delta / np.float32(density), 0)
            kept.append(np.float32(member.weight) * delta)
        if recipe.merge_method == "dare":
            whole_weight = self.weights.sum() if recipe.normalize else 1.0
            return np.asarray(sum(kept[1:], kept[0]) / np.float32(whole_weight))
        sign = np.sign(sum(kept[1:], kept[0]))
        total, weight = np.zeros_like(base), np.zeros_like(base)
        for delta, member in zip(kept, recipe.models, strict=True):
            agree = (np.sign(delta) == sign) & (delta != 0)
            total += np.where(agree, delta, 0)
            weight += np.where(agree, np.float32(member.weight), 0)
        if not recipe.normalize:
            return total
        return np.divide(total, weight, out=np.zeros_like(total), where=weight > 0)

    def _find_threshold(self, name: str, model: int, density: float) -> float:
        """Size of the smallest entry kept, by counting bit patterns: exact, and no tensor is held in memory."""
        size = self.plan.sources[0].tensors[name].size
        keep = max(1, int(density * size))
        if keep >= size:
            return 0.0
        high = self._count(name, model, None)
        above = np.cumsum(high[::-1])[::-1]
        bin_ = int(np.flatnonzero(above >= keep)[-1])
        rest = keep - (int(above[bin_ + 1]) if bin_ + 1 < len(above) else 0)
        low = np.cumsum(self._count(name, model, bin_)[::-1])[::-1]
        bits = (bin_ << 16) | int(np.flatnonzero(low >= rest)[-1])
        return float(np.array([bits], dtype=np.uint32).view(np.float32)[0])

    def _count(self, name: str, model: int, bin_: int | None) -> Array:
        """Histogram of the upper halves of the bit patterns of |task vector|, or of the lower ones in one bin."""
        total = np.zeros(2**16, dtype=np.int64)
        size = self.plan.sources[0].tensors[name].size
        for piece in chunks(((name, size),)):
            delta = self._vector(model + 1, [name]).read(*piece) - self._vector(0, [name]).read(*piece)
            bits = np.abs(delta.astype(np.float32)).view(np.uint32)
            upper, lower = bits >> np.uint32(16), bits & np.uint32(0xFFFF)
            total += np.bincount(upper if bin_ is None else lower[upper == bin_], minlength=2**16)
        return total
