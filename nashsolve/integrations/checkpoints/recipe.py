"""Recipes: what to merge and how, every key checked, in the words that people who merge models use."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any, Literal

from pydantic import Field, TypeAdapter, model_validator

from nashsolve.backends import catalog

from .errors import CheckpointRefused
from .header import show
from .strict_yaml import Strict, load_file, validate

ExpertMethod = Literal["nash", "mean", "frequency", "min_norm", "utilitarian", "prune"]
TaskMethod = Literal["nash", "mean", "task_arithmetic", "ties", "dare", "dare_ties", "utilitarian", "min_norm"]
Scale = Literal["sum1", "exact", "unit", "match_mean"]
Dtype = Literal["keep", "float64", "float32", "float16", "bfloat16"]


class Solver(Strict):
    """How bargaining problems are solved."""

    name: str = Field(default="auto", description="a solver of nashsolve, such as auto, newton or cvxpy")
    rtol: float = Field(default=1e-8, gt=0, lt=1, description="relative accuracy wanted of every alpha")
    crosscheck: Literal["none", "sample", "all"] = Field(
        default="none", description="let a second solver judge one problem a layer, or every problem"
    )


class Groups(Strict):
    """Which experts become one."""

    by: Literal["given", "weight_cosine", "hierarchical", "router_usage"] = "hierarchical"
    num_experts_out: int | None = Field(default=None, ge=1, description="experts left in every layer")
    on: Literal["weights", "outputs"] = Field(default="weights", description="what hierarchical clustering compares")
    linkage: Literal["average", "complete", "single"] = "average"
    given: list[list[int]] | None = Field(default=None, description="groups of every layer, for by: given")
    given_by_layer: list[list[list[int]]] | None = Field(default=None, description="groups of each layer in order")

    @model_validator(mode="after")
    def _consistent(self) -> Groups:
        given = (self.given is not None) + (self.given_by_layer is not None)
        if (self.by == "given") != bool(given) or given > 1:
            raise ValueError("by: given needs exactly one of given and given_by_layer, and nothing else may have them")
        if self.by != "given" and self.num_experts_out is None:
            raise ValueError("num_experts_out is missing: how many experts are left in every layer")
        if self.by == "given" and self.num_experts_out is not None:
            raise ValueError("num_experts_out follows from the given groups; leave it out")
        if self.by != "hierarchical" and (self.on != "weights" or self.linkage != "average"):
            raise ValueError("on and linkage belong to by: hierarchical")
        return self


class Chain(Strict):
    """The base expert propagated over the layers, with momentum (NAMEx)."""

    gamma: float = Field(default=1.0, gt=0, description="step along the layer's agreement")
    beta: list[float] = Field(
        default_factory=list, description="momentum: nothing, [b], complex [r, u] or quaternion [a, b, c, d]"
    )
    initial: Literal["zero", "shared", "dominant"] = "zero"

    @model_validator(mode="after")
    def _consistent(self) -> Chain:
        if len(self.beta) not in (0, 1, 2, 4):
            raise ValueError("beta holds 0, 1, 2 (complex) or 4 (quaternion) numbers")
        if sum(b * b for b in self.beta) >= 1:
            raise ValueError("the modulus of beta must be below 1, or the momentum grows without end")
        return self


class ExpertsRecipe(Strict):
    """Merge the experts inside one Mixture-of-Experts checkpoint."""

    version: Literal[1] = 1
    job: Literal["experts"]
    model: str = Field(description="folder of the checkpoint, or owner/name with a revision")
    revision: str | None = Field(default=None, description="full commit of a model on the hub")
    architecture: str | None = Field(default=None, description="YAML file with an adapter of your own")
    merge_method: ExpertMethod = "nash"
    groups: Groups
    base_expert: Literal["layer_mean", "zero", "dominant", "shared", "mean", "chain"] = "layer_mean"
    chain: Chain | None = None
    scale: Scale = "sum1"
    scaling_factor: float = Field(default=1.0, gt=0, description="steps from the base along the merged domain vector")
    align: Literal["none", "neurons"] = Field(default="none", description="permute neurons to match before merging")
    importance: Literal["norm", "usage"] = Field(default="norm", description="what makes an expert dominant")
    router: Literal["keep", "mean", "combine", "dominant", "frequency"]
    top_k: Literal["keep"] | int = "keep"
    calibration: str | None = Field(default=None, description="safetensors file with the inputs of every MoE layer")
    solver: Solver = Solver()
    on_no_agreement: Literal["fail", "average", "skip"] = "fail"
    dtype: Dtype = "keep"
    layout: Literal["keep", "per_expert", "fused"] = "keep"
    max_shard_size: Literal["keep"] | int = Field(default="keep", description="bytes, or keep the files as they are")

    @model_validator(mode="after")
    def _consistent(self) -> ExpertsRecipe:
        if self.merge_method in ("nash", "min_norm") and self.base_expert == "mean":
            raise ValueError(
                "base_expert: mean is the mean of the group itself, from which domain vectors cancel, so no agreement "
                "exists; use layer_mean, zero, shared, dominant or chain"
            )
        if (self.base_expert == "chain") != (self.chain is not None):
            raise ValueError("base_expert: chain and the key chain go together")
        needs = []
        if self.merge_method == "frequency":
            needs.append("merge_method: frequency")
        if self.router == "frequency":
            needs.append("router: frequency")
        if self.importance == "usage":
            needs.append("importance: usage")
        if self.groups.by == "router_usage":
            needs.append("groups.by: router_usage")
        if self.groups.on == "outputs":
            needs.append("groups.on: outputs")
        if needs and self.calibration is None:
            raise ValueError(f"{needs[0]} needs calibration, a file made by record_calibration")
        if self.calibration is not None and not needs:
            raise ValueError("calibration is given, but nothing in the recipe uses it")
        if self.merge_method in ("mean", "frequency", "prune") and self.scale != "sum1":
            raise ValueError("scale belongs to nash, utilitarian and min_norm")
        if self.merge_method == "prune" and self.scaling_factor != 1.0:
            raise ValueError("scaling_factor changes nothing for prune; leave it out")
        if self.align == "neurons" and self.base_expert not in ("zero", "dominant", "mean"):
            raise ValueError("align: neurons works with base_expert zero, dominant or mean")
        _check_shard_size(self.max_shard_size)
        if isinstance(self.top_k, int) and self.top_k < 1:
            raise ValueError("top_k must be at least 1")
        return self


class Member(Strict):
    """One fine-tuned model."""

    model: str
    revision: str | None = None
    weight: float = Field(default=1.0, gt=0, description="bargaining power, or the weight of the average")
    density: float | None = Field(default=None, gt=0, le=1, description="share kept by ties and dare")


class TaskRecipe(Strict):
    """Merge fine-tunes of one base model by their task vectors."""

    version: Literal[1] = 1
    job: Literal["task_vectors"]
    base_model: str
    revision: str | None = None
    models: list[Member] = Field(min_length=1)
    merge_method: TaskMethod = "nash"
    per: Literal["global", "layer", "tensor"] = Field(default="layer", description="what bargains as one problem")
    disagreement: Literal["zero", "mean"] = "zero"
    radius: float = Field(default=2.0, gt=1, description="of the ball, in lengths of the mean")
    scale: Scale = "sum1"
    scaling_factor: float = Field(default=1.0, gt=0)
    density: float = Field(default=1.0, gt=0, le=1)
    normalize: bool = Field(True, description="divide by the weights that take part")
    seed: int = Field(default=0, ge=0, description="of the random choice of dare")
    solver: Solver = Solver()
    on_no_agreement: Literal["fail", "average", "skip"] = "fail"
    dtype: Dtype = "keep"
    max_shard_size: Literal["keep"] | int = "keep"
    notes: list[str] = Field(default_factory=list, description="what was read from another tool's recipe")

    @model_validator(mode="after")
    def _consistent(self) -> TaskRecipe:
        if self.disagreement == "mean" and self.merge_method != "nash":
            raise ValueError("disagreement belongs to merge_method: nash")
        if self.radius != 2.0 and self.disagreement != "mean":
            raise ValueError("radius belongs to disagreement: mean")
        sparse = self.merge_method in ("ties", "dare", "dare_ties")
        if not sparse and (self.density != 1.0 or any(m.density is not None for m in self.models)):
            raise ValueError("density belongs to ties, dare and dare_ties")
        solved = self.merge_method in ("nash", "utilitarian", "min_norm")
        if not solved and self.scale != "sum1":
            raise ValueError("scale belongs to nash, utilitarian and min_norm")
        if not solved and self.per != "layer":
            raise ValueError("per belongs to nash, utilitarian and min_norm")
        if (solved or self.merge_method == "mean") and not self.normalize:
            raise ValueError("normalize belongs to task_arithmetic, ties, dare and dare_ties")
        if self.seed and self.merge_method not in ("dare", "dare_ties"):
            raise ValueError("seed belongs to dare and dare_ties")
        _check_shard_size(self.max_shard_size)
        return self


Recipe = ExpertsRecipe | TaskRecipe


def load_recipe(source: Any) -> Recipe:
    """A recipe from a YAML file, a mapping, or a recipe itself; mergekit's form for fine-tunes is understood.

    Raises
    ------
    CheckpointRefused
        With the key, its value, and the nearest valid name.
    """
    if isinstance(source, ExpertsRecipe | TaskRecipe):
        return source
    data = source if isinstance(source, Mapping) else load_file(source)
    name = "recipe" if isinstance(source, Mapping) else os.path.basename(os.fspath(source))
    if not isinstance(data, Mapping):
        raise CheckpointRefused(f"{name} holds {show(data)}; a mapping of keys to values is needed")
    job = data.get("job")
    if job == "experts":
        return validate(ExpertsRecipe, data, name)
    if job == "task_vectors":
        return validate(TaskRecipe, data, name)
    if job is not None:
        raise CheckpointRefused(f"{name}: job is {show(job)}; choose experts or task_vectors")
    if "models" in data or "slices" in data:
        from .mergekit import from_mergekit

        return validate(TaskRecipe, from_mergekit(data, name), name)
    raise CheckpointRefused(f"{name}: job is missing; choose experts (inside one MoE) or task_vectors (fine-tunes)")


def schema() -> dict[str, Any]:
    """JSON schema of both kinds of recipe, for editors."""
    found = TypeAdapter(Recipe).json_schema()
    found["title"] = "nashsolve merge recipe"
    return found


def canonical(recipe: Recipe) -> dict[str, Any]:
    """Plain values of every key, in one order."""
    return json.loads(recipe.model_dump_json())


def check_solver(recipe: Recipe) -> None:
    """The solver's name is one of the catalog.

    Raises
    ------
    CheckpointRefused
    """
    names = ("auto", *catalog.names())
    if recipe.solver.name not in names:
        near = get_close_matches(recipe.solver.name, names, 1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise CheckpointRefused(f"solver.name is {show(recipe.solver.name)}; choose one of {', '.join(names)}.{hint}")


def _check_shard_size(value: Any) -> None:
    if value != "keep" and value < 2**20:
        raise ValueError("max_shard_size must be at least 1048576 bytes")
