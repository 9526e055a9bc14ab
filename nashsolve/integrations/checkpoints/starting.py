"""A first recipe for a checkpoint, with every choice explained, from its headers alone."""

from __future__ import annotations

import os

from .errors import CheckpointRefused
from .inspection import inspect

_EXPERTS = """\
# Merge the experts inside {name}: {layers} layers of {experts} experts.
version: 1
job: experts
model: {model}
merge_method: {method}        # nash | mean | frequency | min_norm | utilitarian | prune
groups:
  by: hierarchical          # given | weight_cosine | hierarchical | router_usage
  num_experts_out: {kept}
base_expert: {base}   # layer_mean | zero | dominant | shared | mean | chain
scale: sum1                 # sum1 | exact | unit | match_mean
scaling_factor: 1.0
router: mean                # keep | mean | combine | dominant | frequency
top_k: keep
on_no_agreement: fail       # fail | average | skip
dtype: keep
layout: keep                # keep | per_expert | fused
"""

_TASKS = """\
# Merge fine-tunes of {name}. Put the folders of the fine-tuned models under models.
version: 1
job: task_vectors
base_model: {model}
models:
  - model: path/to/fine-tune-1
    weight: 1.0             # bargaining power
  - model: path/to/fine-tune-2
    weight: 1.0
merge_method: {method}        # nash | mean | task_arithmetic | ties | dare | dare_ties | utilitarian | min_norm
per: layer                  # global | layer | tensor
scale: sum1                 # sum1 | exact | unit | match_mean
scaling_factor: 1.0
on_no_agreement: fail       # fail | average | skip
dtype: keep
"""


def init(model: str | os.PathLike[str], *, num_experts_out: int | None = None, merge_method: str = "nash") -> str:
    """YAML of a recipe that runs as it is for a MoE, and nearly so for fine-tunes of anything else.

    Parameters
    ----------
    model : folder of the checkpoint
    num_experts_out : experts left in a layer; half of them by default
    merge_method : the rule written into the recipe

    Raises
    ------
    CheckpointRefused, OSError
    """
    found = inspect(model)
    text = os.fspath(model)
    if found.unsupported:
        if num_experts_out is not None:
            raise CheckpointRefused(f"{found.name} has no experts to merge: {found.unsupported}")
        return _TASKS.format(name=found.name, model=text, method=merge_method)
    kept = num_experts_out if num_experts_out is not None else max(1, found.experts // 2)
    return _EXPERTS.format(
        name=found.name,
        model=text,
        layers=found.moe_layers,
        experts=found.experts,
        kept=kept,
        method=merge_method,
        base="zero      " if kept == 1 else "layer_mean",
    )
