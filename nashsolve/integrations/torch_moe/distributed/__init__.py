"""The base-expert chain over many processes: DDP, FSDP2, tensor and expert parallel, and their mixtures.

Names load at first use, with PyTorch and pydantic (``pip install 'nashsolve[moe]'``).
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from nashsolve.core.errors import MissingExtra

_LAZY = {
    "DistributedConfig": "config",
    "IndependentBargains": "independent",
    "InvalidShards": "errors",
    "Part": "parts",
    "RankFailed": "errors",
    "RanksDisagree": "errors",
    "ShardedChain": "chain",
    "Team": "team",
    "shard_chains": "sharding",
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
