"""Mixture-of-experts layers that merge by bargaining: experts, routers, merge rules, the base-expert chain.

Names load at first use, with PyTorch and pydantic (``pip install 'nashsolve[moe]'``).
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from nashsolve.core.errors import MissingExtra

_LAZY = {
    "BargainConfig": "config",
    "BaseConfig": "config",
    "BaseExpertChain": "chain",
    "ChainClock": "chain_clock",
    "ChainConfig": "config",
    "CurvatureConfig": "config",
    "ExpertView": "experts",
    "FusedExperts": "feed_forward",
    "MergeConfig": "config",
    "MoE": "layer",
    "MoEConfig": "config",
    "MomentumConfig": "config",
    "PlainMember": "chain",
    "RouterConfig": "config",
    "RouterOutput": "router_output",
    "SYSTEMS": "presets",
    "Telemetry": "telemetry",
    "align_experts": "permutation",
    "balance_losses": "balance",
    "bargain_over_base": "bargain",
    "domain_gram": "domain",
    "follow": "routers",
    "gathered": "chain_gather",
    "link": "linking",
    "make_router": "routers",
    "shared_slices": "base",
}

__all__ = sorted(_LAZY)


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        return getattr(import_module(f".{_LAZY[name]}", __name__), name)
    except ModuleNotFoundError as error:
        if error.name in ("torch", "pydantic"):
            raise MissingExtra(error.name, "moe", "layers that merge experts") from error
        raise


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY})
