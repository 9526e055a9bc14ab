"""What the experts agreed on, layer by layer and step by step, as plain dicts."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from nashsolve.core.errors import InvalidProblem
from nashsolve.core.status import Status

from .router_output import RouterOutput
from .strict import nearest

LINK_NUMBERS = ("sum", "entropy", "margin", "gap", "step_norm", "base_move", "h", "seconds")
LINK_VECTORS = ("alpha", "coefficients", "gains", "utilities", "norms")
_MATRICES = ("cosines",)


def routing_record(output: RouterOutput) -> dict[str, Any]:
    """How one layer routed its last batch.

    Parameters
    ----------
    output : RouterOutput

    Returns
    -------
    dict with counts [N], max_vio, entropy (nats, mean over rows), dropped (share of choices with weight zero) and
    losses (name -> value)
    """
    from .balance import expert_counts, max_vio

    probs = output.probs.detach()
    rows = probs if output.row_mask is None else probs[output.row_mask]
    weight = output.topk_weight.detach()
    weight = weight if output.row_mask is None else weight[output.row_mask]
    counts = expert_counts(output.topk_index, probs.shape[-1], output.row_mask)
    empty = rows.shape[0] == 0
    return {
        "counts": counts.tolist(),
        "max_vio": None if empty else float(max_vio(counts)),
        "entropy": None if empty else float(-(rows * rows.clamp(min=1e-30).log()).sum(-1).mean()),
        "dropped": None if empty else float((weight == 0).float().mean()),
        "losses": {name: float(value.detach()) for name, value in output.losses.items()},
    }


def snapshot(
    step: int, chains: Iterable[Any] = (), model: Any = None, matrices: bool = False, **numbers: Any
) -> dict[str, Any]:
    """One step of training as a plain dict, ready for JSON.

    Parameters
    ----------
    step : number of the step
    chains : base-expert chains; each gives a list of records under its name
    model : module whose layers with a `router_output` are recorded under their names, and those with a second router
        also under their names and "/hidden"
    matrices : keep the cosines of domain vectors (N x N per layer)
    **numbers : anything else of the step, such as loss=...

    Returns
    -------
    dict with step, chains (name -> list of link records), routing (layer name -> routing record), and the numbers
    """
    links = {}
    for chain in chains:
        if chain.name in links:
            raise InvalidProblem(f"two chains are called {chain.name!r}; give each its own name")
        links[chain.name] = [_link(record, matrices) for record in chain.report()]
    routing = {}
    for name, module in [] if model is None else model.named_modules():
        for attribute, ending in (("router_output", ""), ("hidden_output", "/hidden")):
            output = getattr(module, attribute, None)
            if isinstance(output, RouterOutput):
                routing[name + ending] = routing_record(output)
    return {"step": step, "chains": links, "routing": routing, **numbers}


def scalars(record: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a snapshot under flat names, for ``writer.add_scalar`` of TensorBoard or ``wandb.log``.

    Parameters
    ----------
    record : of `snapshot`

    Returns
    -------
    dict such as ``{"chain/layer03/alpha/0": 0.12, "chain/layer03/agreed": 1.0, "routing/blocks.0/max_vio": 0.4}``;
    what does not exist in this step is left out
    """
    flat: dict[str, float] = {}
    for name, value in record.items():
        if isinstance(value, int | float) and not isinstance(value, bool) and name != "step":
            flat[name] = float(value)
    for chain, links in record["chains"].items():
        for link in links:
            group = "" if link["group"] == "all" else f"/{link['group']}"
            where = f"{chain}/layer{link['layer']:02d}{group}"
            flat[f"{where}/agreed"] = float(agreed(link))
            flat |= {f"{where}/{key}": link[key] for key in LINK_NUMBERS if link.get(key) is not None}
            for key in LINK_VECTORS:
                entries = enumerate(link.get(key) or [])
                flat |= {f"{where}/{key}/{i}": entry for i, entry in entries if entry is not None}
    for layer, routed in record["routing"].items():
        flat |= {f"routing/{layer}/{k}": routed[k] for k in ("max_vio", "entropy", "dropped") if routed[k] is not None}
        flat |= {f"routing/{layer}/losses/{k}": value for k, value in routed["losses"].items()}
    return flat


def agreed(link: Mapping[str, Any]) -> bool:
    """Whether a link's coefficients are an agreement (or the mean step, where none was sought), not a policy's."""
    if link["status"] == "UNIFORM":
        return True
    return bool(link["policy"] == "" and Status[link["status"]].success)


@dataclass
class Telemetry:
    """History of snapshots.

    Parameters
    ----------
    records : of `snapshot`, in order of their steps
    """

    records: list[dict[str, Any]] = field(default_factory=list)

    def log(self, step: int, chains: Iterable[Any] = (), model: Any = None, **numbers: Any) -> dict[str, Any]:
        """Take a snapshot and keep it; returns it."""
        record = snapshot(step, chains, model, **numbers)
        self.records.append(record)
        return record

    @property
    def steps(self) -> list[int]:
        """Numbers of the steps."""
        return [record["step"] for record in self.records]

    def links(self, key: str, chain: str | None = None, group: str = "all") -> np.ndarray:
        """One number, or vector, of every link over time.

        Parameters
        ----------
        key : of the link records, such as "alpha", "entropy" or "base_move"
        chain : name; needed where there are several
        group : of the link records

        Returns
        -------
        float64 (steps, layers) for numbers, (steps, layers, N) for vectors; NaN where a number does not exist

        Raises
        ------
        InvalidProblem
            For an unknown key, chain or group, and for an empty history.
        """
        if key not in LINK_NUMBERS + LINK_VECTORS:
            raise InvalidProblem(f"key is {key!r}; {nearest(key, [*LINK_NUMBERS, *LINK_VECTORS])}")
        found = [[link for link in self._chain(record, chain) if link["group"] == group] for record in self.records]
        depth = max((len(links) for links in found), default=0)
        if depth == 0:
            raise InvalidProblem(f"no link of group {group!r} was recorded; {self._groups(chain)}")
        width = max(link["players"] for links in found for link in links)
        shape = (len(found), depth, width) if key in LINK_VECTORS else (len(found), depth)
        values = np.full(shape, np.nan)
        for t, links in enumerate(found):
            for link in links:
                value = link.get(key)
                if value is not None:
                    values[t, link["layer"]] = np.array(value, dtype=np.float64)
        return values

    def numbers(self, key: str) -> np.ndarray:
        """A number of every step, such as "loss": float64 (steps,), NaN where it was not logged."""
        return np.array([float(record.get(key, np.nan)) for record in self.records])

    def save(self, path: str | Path) -> Path:
        """Write one JSON object a line; returns the path."""
        lines = [json.dumps(record, allow_nan=False) for record in self.records]
        Path(path).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        return Path(path)

    @classmethod
    def load(cls, path: str | Path) -> Telemetry:
        """Read what `save` wrote."""
        return cls([json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines()])

    def _groups(self, chain: str | None) -> str:
        names = {link["group"] for record in self.records for link in self._chain(record, chain)}
        return f"groups are {', '.join(sorted(names))}" if names else "log with chains=..."

    def _chain(self, record: Mapping[str, Any], chain: str | None) -> Sequence[Mapping[str, Any]]:
        names = list(record["chains"])
        if chain is None and len(names) == 1:
            chain = names[0]
        if chain not in names:
            raise InvalidProblem(f"chain is {chain!r}; recorded are {', '.join(names) or 'none'}")
        links: Sequence[Mapping[str, Any]] = record["chains"][chain]
        return links


def _link(record: Mapping[str, Any], matrices: bool) -> dict[str, Any]:
    return {key: value for key, value in record.items() if matrices or key not in _MATRICES}
