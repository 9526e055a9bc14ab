"""Every system of the paper by one name, as the settings of its feed-forwards."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from nashsolve.core.errors import InvalidProblem

from ..torch_moe.config import MoEConfig
from ..torch_moe.presets import SYSTEMS
from ..torch_moe.strict import nearest

DENSE = "dense"
_MEAN = {"bargain": {"disagreement": "mean", "radius_factor": 2.0}}

NAMES: dict[str, str] = {
    DENSE: "Dense",
    "smoe_top1": "SMoE (Top-1), trained router",
    "smoe_top1_published": "SMoE (Top-1)",
    "smoe_top2": "SMoE (Top-2)",
    "smear": "SMEAR",
    "camex": "CAMEx",
    "ep_camex": "EP-CAMEx",
    "ep_camex_mom": "EP-CAMEx-Mom",
    "ep_camex_q": "EP-CAMEx-Q",
    "namex": "NAMEx",
    "namex_mom": "NAMEx-Mom",
    "namex_q": "NAMEx-Q",
    "namex_full": "NAMEx-Full",
    "namex_full_mom": "NAMEx-Full-Mom",
    "namex_full_q": "NAMEx-Full-Q",
    "namex_full_mean": "NAMEx-Full (mean disagreement point)",
}
"""How the paper's tables call the systems. Its top-1 baseline never trains its router; smoe_top1 does."""


def title(system: str) -> str:
    """The name for a table."""
    return NAMES.get(system, system)


def known_systems() -> list[str]:
    """Every name that `moe_config` takes; namex_every_K stands for any K."""
    return [DENSE, *SYSTEMS, "namex_full_mean", "namex_every_2", "namex_every_5"]


def by_token(system: str) -> bool:
    """Whether every token selects experts of its own, so that nothing is merged."""
    return _split(system)[0] in ("smoe_top1", "smoe_top1_published", "smoe_top2", "token_nash", "usage")


def check_systems(systems: list[str]) -> None:
    """Raise InvalidProblem for a system that does not exist."""
    for system in systems:
        if system != DENSE:
            _split(system)


def few(systems: list[str]) -> list[str]:
    """The first and the last, for reduced runs."""
    return list(dict.fromkeys((systems[0], systems[-1])))


def moe_config(
    system: str,
    *,
    level: Mapping[str, Any],
    eta: float,
    router: str | None = None,
    by_token_options: Mapping[str, Any] | None = None,
    balance: Mapping[str, float] | None = None,
    **settings: Any,
) -> MoEConfig:
    """One layer of a system.

    Parameters
    ----------
    system : of `known_systems`, but not "dense"
    level : options of the router where experts are merged: ``{"level": "sequence"}``, or "segment" and its length
    eta : step from the base expert to the merged expert, > 0, where the system has one
    router : in place of the system's own
    by_token_options : more options of the router where tokens select experts, such as ``{"softmax": "after"}``
    balance : balance losses of systems that route tokens
    **settings : of MoEConfig, such as d_model, d_hidden, n_experts, activation, chain

    Raises
    ------
    InvalidProblem
        For an unknown system, with the nearest name.
    """
    preset, changes = _split(system)
    own = SYSTEMS[preset]
    options = dict(own.get("router", {}).get("options", {})) if router is None else {}
    options |= (by_token_options or {}) if by_token(system) else level
    name = router or own.get("router", {}).get("name", "linear")
    merged: dict[str, Any] = {"router": {"name": name, "options": options}}
    if own["merge"]["rule"] == "camex" and "eta" not in own["merge"]:
        merged["merge"] = {"eta": eta}
    if by_token(system) and balance:
        merged["balance"] = dict(balance)
    for key, value in changes.items():
        merged[key] = value | settings.pop(key, {})
    return MoEConfig.preset(preset, **merged, **settings)


def _split(system: str) -> tuple[str, dict[str, Any]]:
    """Preset and what a variant of it changes."""
    if system == "namex_full_mean":
        return "namex_full", {"chain": _MEAN}
    every = re.fullmatch(r"namex_every_([1-9]\d*)", system)
    if every:
        return "namex_full", {"chain": {"interval": int(every[1])}}
    if system not in SYSTEMS:
        raise InvalidProblem(f"system is {system!r}; {nearest(system, known_systems())}")
    return system, {}
