"""The engines, as strings only: what is listed here is tested, offered by the CLI and documented."""

from __future__ import annotations

import importlib
from dataclasses import dataclass, fields
from difflib import get_close_matches
from functools import cache
from importlib.metadata import entry_points
from typing import Any

from nashsolve import kernels
from nashsolve.core.errors import InvalidProblem, MissingExtra


@dataclass(frozen=True)
class Row:
    """One engine: where it lives, what it needs, what it can do."""

    name: str
    target: str
    extra: str | None
    requires: str | None
    disagreement: bool
    batch: bool
    libraries: tuple[str, ...]
    summary: str


CATALOG = (
    Row(
        "closed_form",
        "nashsolve.backends.closed_form:ClosedForm",
        None,
        None,
        False,
        True,
        ("numpy", "torch", "array_api_strict"),
        "formulas for one or two players and diagonal Grams",
    ),
    Row(
        "newton",
        "nashsolve.backends.newton:Newton",
        None,
        None,
        True,
        True,
        ("numpy", "torch", "array_api_strict"),
        "primal-dual Newton with corrector and radial rescaling",
    ),
    Row(
        "compiled",
        "nashsolve.backends.compiled:Compiled",
        "compiled",
        "nashsolve.kernels._native",
        True,
        True,
        ("numpy", "torch"),
        "the same steps in C++, in vector registers and on all cores",
    ),
    Row(
        "cupy",
        "nashsolve.backends.cupy_batched:CupyBatched",
        None,
        "cupy",
        True,
        True,
        ("cupy",),
        "the same source on a CUDA device, for CuPy arrays and torch tensors",
    ),
    Row(
        "cvxpy",
        "nashsolve.backends.cvxpy_exact:CvxpyExact",
        "cvxpy",
        "cvxpy",
        True,
        False,
        ("numpy", "torch"),
        "exact conic model; takes extra convex constraints",
    ),
    Row(
        "ccp",
        "nashsolve.backends.ccp:SequentialCCP",
        "cvxpy",
        "cvxpy",
        False,
        False,
        ("numpy", "torch"),
        "the procedure of Navon et al. 2022, as published",
    ),
)


_OF_SOLVE = ("solver", "start", "on_failure", "concept")
"""Arguments of solve() itself, for those who mistype one."""
_KERNEL_LINE = "pip install --force-reinstall --no-deps nashsolve  where a wheel fits or a C++ compiler is found"


def names() -> tuple[str, ...]:
    """Every known engine, third parties' entry points included."""
    return tuple(row.name for row in CATALOG) + tuple(e.name for e in entry_points(group="nashsolve.solvers"))


def row(name: str) -> Row | None:
    """The catalog row of a first-party engine."""
    return next((r for r in CATALOG if r.name == name), None)


def missing(name: str) -> str | None:
    """The package that engine `name` lacks here, None when it can run."""
    found = row(name)
    if found is None or found.requires is None:
        return None
    if name == "compiled":
        return None if kernels.load() is not None else found.requires
    try:
        importlib.import_module(found.requires)
    except ImportError:
        return found.requires
    return None


def make(name: str, **options: Any) -> Any:
    """Build the engine `name` with its options; unknown names and options raise with the nearest valid one."""
    found = row(name)
    if found is None:
        external = {e.name: e for e in entry_points(group="nashsolve.solvers")}
        if name not in external:
            raise InvalidProblem(_unknown("solver", name, ("auto", *names())))
        return external[name].load()(**options)
    if name == "compiled" and missing(name):
        raise MissingExtra("the compiled kernel", "compiled", kernels.reason(), _KERNEL_LINE)
    if found.extra is not None and missing(name):
        raise MissingExtra(str(found.requires), found.extra, f"solver={name!r}")
    if found.extra is None and missing(name):
        raise MissingExtra(
            str(found.requires), "", f"solver={name!r}", "pip install cupy-cuda13x, or cupy-cuda12x for CUDA 12"
        )
    factory, allowed = _factory(found.target)
    for option in options:
        if option not in allowed:
            raise InvalidProblem(_unknown(f"option of solver {name!r}", option, (*allowed, *_OF_SOLVE)))
    return factory(**options)


@cache
def _factory(target: str) -> tuple[Any, tuple[str, ...]]:
    """The class of an engine and the names of its options."""
    module, _, attribute = target.partition(":")
    factory = getattr(importlib.import_module(module), attribute)
    return factory, tuple(f.name for f in fields(factory) if f.name != "name")


def _unknown(what: str, given: str, allowed: tuple[str, ...]) -> str:
    near = get_close_matches(str(given), allowed, 1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return f"unknown {what} {given!r}.{hint} Choices: {', '.join(allowed)}."
