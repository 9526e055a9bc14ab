"""`nashsolve doctor`: what is installed, what can run, and a self test."""

from __future__ import annotations

import importlib
import platform
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from typing import Annotated, Any

import numpy as np
import typer

import nashsolve
from nashsolve.backends import catalog
from nashsolve.core.arrays import to_numpy
from nashsolve.core.errors import NashSolveError
from nashsolve.core.problem import BargainingProblem
from nashsolve.core.status import Status
from nashsolve.solve import solve

from .arguments import JSON
from .exits import Exit, emit, finish
from .tables import show

_PACKAGES = (
    "numpy",
    "scipy",
    "array-api-compat",
    "torch",
    "cvxpy",
    "clarabel",
    "cupy",
    "matplotlib",
    "scikit-learn",
)
_AGREED = 1e-6
"""How far from the planted answer an engine may be: what a conic solver reaches by default."""


def doctor(as_json: Annotated[bool, JSON] = False) -> None:
    """Versions, solvers, GPU, and a self test; exit 0 if every installed solver passes."""
    versions: dict[str, str | None] = {
        "nashsolve": nashsolve.__version__,
        "python": platform.python_version(),
    }
    versions |= {name: _version(name) for name in _PACKAGES}
    solvers = {name: _solver(name) for name in catalog.names()}
    gpu = _gpu()
    good = all(found["ok"] or not found["installed"] for found in solvers.values())
    code = Exit.SOLVED if good else Exit.NO_ANSWER
    if as_json:
        emit({"versions": versions, "solvers": solvers, "gpu": gpu, "ok": good, "exit_code": int(code)})
    else:
        show([["package", "version"], *[[k, v or "not installed"] for k, v in versions.items()]])
        show([["solver", "self test"], *[[k, v["says"]] for k, v in solvers.items()]])
        typer.echo(f"GPU: {gpu}")
        typer.echo("All installed solvers pass." if good else "A solver failed its self test; see the table.")
    finish(code)


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _solver(name: str) -> dict[str, Any]:
    """Run one engine on a pair with a known agreement and on a pair with none."""
    try:
        catalog.make(name)
    except NashSolveError as error:
        return {"installed": False, "ok": False, "says": str(error)}
    except ImportError as error:
        return {"installed": True, "ok": False, "says": f"cannot be loaded: {error}"}
    row = catalog.row(name)
    place: Callable[[Any], Any] = np.asarray
    if row is not None and "numpy" not in row.libraries:  # it lives on a device
        if _gpu().startswith("none found"):
            return {"installed": False, "ok": False, "says": "there is no device to test it on"}
        place = importlib.import_module(row.libraries[0]).asarray
    try:
        found = solve(_known(place), solver=name, on_failure="return")
        none = solve(_opposed(place), solver=name, on_failure="return")
    except Exception as error:  # a broken installation can raise anything, and this command is there to say so
        return {"installed": True, "ok": False, "says": f"raised {type(error).__name__}: {error}"}
    error_of_alpha = float(np.max(np.abs(to_numpy(found.alpha) / _ALPHA - 1)))
    good = found.success and error_of_alpha <= _AGREED and not none.success
    says = f"{found.status.name}, error {error_of_alpha:.0e}; opposed players: {Status(none.status).name}"
    return {"installed": True, "ok": good, "says": says}


_ALPHA = np.array([1.0, 2.0])


def _known(place: Callable[[Any], Any] = np.asarray) -> BargainingProblem:
    """Planted: for any alpha, the weights alpha * (A alpha) make it the answer."""
    gram = np.array([[2.0, 0.5], [0.5, 1.0]])
    return BargainingProblem(gram=place(gram), weights=place(_ALPHA * (gram @ _ALPHA)))


def _opposed(place: Callable[[Any], Any] = np.asarray) -> BargainingProblem:
    return BargainingProblem(vectors=place(np.array([[1.0, 0.0], [-1.0, 0.0]])))


def _gpu() -> str:
    """The first device that torch or cupy sees, or why there is none."""
    reasons = []
    try:
        import torch

        if torch.cuda.is_available():
            return f"{torch.cuda.get_device_name(0)} (torch, CUDA {torch.version.cuda})"
        reasons.append("torch sees none")
    except ImportError:
        reasons.append("torch is not installed")
    try:
        import cupy

        return f"{cupy.cuda.runtime.getDeviceProperties(0)['name'].decode()} (cupy)"
    except ImportError:
        reasons.append("cupy is not installed")
    except Exception as error:  # cupy raises errors of the driver, of classes that exist only with cupy
        reasons.append(f"cupy sees none ({error})")
    return f"none found: {', '.join(reasons)}"
