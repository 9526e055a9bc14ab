"""Merging experts inside models of the transformers library: convert mixtures of experts, upcycle dense models.

Names load at first use, with PyTorch, pydantic and transformers (``pip install 'nashsolve[experiments]'``).
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from nashsolve.core.errors import MissingExtra

_LAZY = {
    "ConvertConfig": "config",
    "Counts": "counting",
    "Merging": "merging",
    "MergingCallback": "callback",
    "UpcycleConfig": "upcycle_config",
    "convert": "conversion",
    "count_upcycled": "counting",
    "from_pretrained": "loading",
    "load_merging": "loading",
    "merging_of": "merging",
    "revert": "conversion",
    "upcycle": "upcycling",
}

__all__ = sorted(_LAZY)


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        return getattr(import_module(f".{_LAZY[name]}", __name__), name)
    except ModuleNotFoundError as error:
        if error.name in ("torch", "pydantic", "transformers", "safetensors"):
            raise MissingExtra(error.name, "experiments", "models of transformers") from error
        raise


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY})
