"""Every solution concept by name; a new one is a file with a function `agree` and a row here."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from importlib import import_module
from typing import Any

from nashsolve.core.errors import InvalidProblem
from nashsolve.problems.family import nearest


@dataclass(frozen=True)
class Row:
    """title for people; place "module:function"; most players it is defined for; whether it needs a frontier."""

    name: str
    title: str
    place: str
    most: int | None = None
    frontier: bool = False


CONCEPTS = (
    Row("nash", "Nash", "nash:agree"),
    Row("kalai_smorodinsky", "Kalai-Smorodinsky", "kalai_smorodinsky:agree"),
    Row("egalitarian", "egalitarian", "egalitarian:agree"),
    Row("utilitarian", "utilitarian", "utilitarian:agree"),
    Row("alpha_fairness", "alpha-fair", "alpha_fairness:agree"),
    Row("min_norm", "min-norm (max-min)", "min_norm:agree"),
    Row("equal_area", "equal area", "equal_area:agree", most=2, frontier=True),
    Row("raiffa_discrete", "discrete Raiffa", "raiffa:agree_discrete", most=2, frontier=True),
    Row("raiffa_continuous", "continuous Raiffa", "raiffa:agree_continuous", most=2, frontier=True),
)
_OF_SOLVE = ("concept", "on_failure")
"""Arguments of solve() itself, for those who mistype one."""
NAMES = tuple(row.name for row in CONCEPTS)


def row(name: Any) -> Row:
    """The row of a concept; an unknown name raises with the nearest one."""
    for found in CONCEPTS:
        if found.name == name:
            return found
    raise nearest(str(name), NAMES, "concept")


@lru_cache
def load(name: str) -> Callable[..., Any]:
    """The function `agree` of a concept."""
    module, _, function = row(name).place.partition(":")
    found: Callable[..., Any] = getattr(import_module(f".{module}", __package__), function)
    return found


@lru_cache
def options_of(name: str) -> tuple[str, ...]:
    """Names of the options of a concept."""
    return tuple(inspect.signature(load(name)).parameters)[1:]


def split_options(name: str, options: dict[str, Any], engine: tuple[str, ...]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Options of the concept and of the engine; an unknown one raises with the nearest valid name."""
    known = options_of(name)
    for key in options:
        if key not in (*known, *engine):
            if not known and not engine:
                raise InvalidProblem(f"concept {name!r} has no options, but {key!r} is given")
            raise nearest(key, (*known, *engine, *_OF_SOLVE), f"option of concept {name!r}:")
    return (
        {k: v for k, v in options.items() if k in known},
        {k: v for k, v in options.items() if k in engine},
    )
