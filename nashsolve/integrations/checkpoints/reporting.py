"""The report as plain values: what was merged with what, by which coefficients, with which certificates."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from nashsolve import __version__

from .plans import Plan
from .solving import SolvedLayer
from .tasks import SolvedUnit


def report_of(plan: Plan, layers: Mapping[int, SolvedLayer], units: Mapping[str, SolvedUnit]) -> dict[str, Any]:
    """Everything that the HTML page shows; no times, paths or memory figures, so that it repeats exactly."""
    identity = plan.identity()
    found: dict[str, Any] = {
        "tool": f"nashsolve {__version__}",
        "job": plan.recipe.job,
        "merge_method": plan.recipe.merge_method,
        "recipe": identity["recipe"],
        "inputs": identity["inputs"],
        "outputs": identity["outputs"],
        "input_bytes": plan.input_bytes,
        "output_bytes": plan.output_bytes,
        "statements": list(plan.statements),
    }
    if plan.layers:
        found |= {
            "experts_before": plan.layers[0].num_experts,
            "experts_after": plan.experts_out,
            "expert_bytes": list(plan.expert_bytes),
            "layers": [_layer(layers[k]) for k in sorted(layers)],
        }
        records = [r for layer in layers.values() for r in layer.records]
    else:
        found["models"] = [source.name for source in plan.sources[1:]]
        found["units"] = [{**u.record, "cosines": u.cosines} for u in units.values()]
        records = [u.record for u in units.values()]
    found["statuses"] = dict(Counter(r["status"] or "no problem to solve" for r in records))
    return found


def _layer(layer: SolvedLayer) -> dict[str, Any]:
    return {
        "prefix": layer.prefix,
        "groups": layer.records,
        "chain": layer.chain,
        "cosines": layer.cosines,
        "usage": layer.usage,
    }
