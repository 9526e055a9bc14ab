"""Merge checkpoints from safetensors to safetensors: plan, run, verify, report; in bounded memory, surviving kills.

`init`, `inspect`, `plan`, `run`, `verify`, `report` and `schema` are what ``nashsolve merge`` calls; they and the
errors are loaded when they are first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

_WHERE = {
    "CheckpointRefused": "errors",
    "LockHeld": "errors",
    "MemoryExceeded": "errors",
    "OutputFailed": "errors",
    "ResumeMismatch": "errors",
    "SolverStopped": "errors",
    "Adapter": "adapters",
    "ExpertsRecipe": "recipe",
    "TaskRecipe": "recipe",
    "init": "starting",
    "inspect": "inspection",
    "load_recipe": "recipe",
    "plan": "planning",
    "record_calibration": "recording",
    "report": "report_page",
    "run": "running",
    "schema": "recipe",
    "verify": "verifying",
}

__all__ = sorted(_WHERE)


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        return getattr(import_module(f"{__name__}.{_WHERE[name]}"), name)
    except ImportError as error:
        if (error.name or "").partition(".")[0] not in ("pydantic", "yaml"):
            raise
        from nashsolve.core.errors import MissingExtra

        raise MissingExtra(str(error.name), "moe", "merging checkpoints") from None


def __dir__() -> list[str]:
    return __all__
