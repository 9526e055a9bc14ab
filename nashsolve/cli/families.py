"""Problem files in YAML: one key `family` says which kind of problem the other keys state."""

from __future__ import annotations

from collections.abc import Callable
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal

import numpy as np
import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

import nashsolve as ns
from nashsolve.core.errors import InvalidProblem
from nashsolve.problems.domains import Domain

from .formulas import function_of

SUFFIXES = (".yaml", ".yml")

Numbers = list[float]
Table = list[list[float]]
ByPlayer = list[float] | dict[str, float]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")

    family: str
    names: list[str] | None = None
    concept: str = "nash"
    options: dict[str, float | bool | str | list[float]] = {}


class Ball(_Strict):
    """Linear utilities over a ball; the arguments of BargainingProblem."""

    vectors: Table | None = None
    gram: Table | None = None
    weights: Numbers | None = None
    disagreement: Numbers | None = None
    radius: float | None = None
    metric: Table | Numbers | None = None
    gram_error: float = 0.0


class Outcomes(_Strict):
    """A table of outcomes."""

    payoffs: Table
    weights: ByPlayer | None = None
    disagreement: ByPlayer | None = None
    lotteries: bool = True
    labels: list[str] | None = None


class Area(BaseModel):
    """The keys of `domain`, as in Domain."""

    model_config = ConfigDict(extra="forbid")

    size: int
    lower: Numbers | float | None = None
    upper: Numbers | float | None = None
    matrix: Table | None = None
    limit: Numbers | float | None = None
    equal: Table | None = None
    total: Numbers | float | None = None
    radius: float | None = None


class Linear(_Strict):
    """Linear utilities over a domain."""

    utilities: Table
    domain: Area
    offset: ByPlayer | None = None
    weights: ByPlayer | None = None
    disagreement: ByPlayer | None = None


class Functions(_Strict):
    """Concave formulas in x[0], x[1], ... over a domain."""

    utilities: list[str] | dict[str, str]
    domain: Area
    weights: ByPlayer | None = None
    disagreement: ByPlayer | None = None


class Frontier(_Strict):
    """Two players: points, or a formula in u with the span of u."""

    points: Table | None = None
    formula: str | None = None
    span: Numbers | None = None
    weights: ByPlayer | None = None
    disagreement: ByPlayer | None = None


class Split(_Strict):
    """A sum to share."""

    total: float
    players: int | None = None
    weights: ByPlayer | None = None
    disagreement: ByPlayer | None = None
    outside: ByPlayer | None = None


class Fisher(_Strict):
    """Buyers with budgets, divisible goods."""

    valuations: Table
    budgets: Numbers | None = None
    supply: Numbers | None = None
    utility: Literal["linear", "cobb_douglas"] = "linear"


class Exchange(_Strict):
    """Traders with endowments."""

    endowments: Table
    exponents: Table | None = None
    weights: ByPlayer | None = None


class Network(_Strict):
    """Flows over links."""

    routing: Table
    capacity: Numbers | float
    weights: ByPlayer | None = None


class Risk(_Strict):
    """Assets with risk budgets."""

    covariance: Table
    budgets: Numbers | None = None


def _ball(f: Any) -> Any:
    return ns.BargainingProblem(**{k: v if k in ("names", "gram_error") else _array(v) for k, v in f.items()})


def _functions(f: Any) -> Any:
    given, size = f.pop("utilities"), f["domain"]["size"]
    texts = list(given.values()) if isinstance(given, dict) else given
    made = [function_of(text, f"utilities[{i}]", "x", size) for i, text in enumerate(texts)]
    utilities = dict(zip(given, made, strict=True)) if isinstance(given, dict) else made
    return ns.ConvexBargainingProblem(utilities=utilities, constraints=_area(f.pop("domain")), **f)


def _linear(f: Any) -> Any:
    rows = np.asarray(f.pop("utilities"), dtype=float)
    return ns.ConvexBargainingProblem(utilities=rows, constraints=_area(f.pop("domain")), **f)


def _frontier(f: Any) -> Any:
    points, formula, span = (f.pop(k, None) for k in ("points", "formula", "span"))
    if (points is None) == (formula is None):
        raise InvalidProblem("a frontier needs exactly one of points and formula")
    if points is not None:
        return ns.frontier(np.asarray(points, dtype=float), span, **f)
    return ns.frontier(function_of(formula, "formula", "u", 0), None if span is None else tuple(span), **f)


def _area(f: Any) -> Domain:
    keep = ("size", "radius")
    ready: dict[str, Any] = {k: v if k in keep or v is None else np.asarray(v, dtype=float) for k, v in f.items()}
    return Domain(**ready)


def _array(value: Any) -> Any:
    return np.asarray(value, dtype=float)


FAMILIES: dict[str, tuple[type[_Strict], Callable[[Any], Any]]] = {
    "ball": (Ball, _ball),
    "outcomes": (Outcomes, lambda f: ns.OutcomeBargainingProblem(np.asarray(f.pop("payoffs"), dtype=float), **f)),
    "linear": (Linear, _linear),
    "functions": (Functions, _functions),
    "frontier": (Frontier, _frontier),
    "split": (Split, lambda f: ns.split(f.pop("total"), f.pop("players", None), **f)),
    "fisher": (Fisher, lambda f: ns.fisher_market(f.pop("valuations"), f.pop("budgets", None), **f)),
    "exchange": (Exchange, lambda f: ns.exchange(f.pop("endowments"), f.pop("exponents", None), **f)),
    "network": (Network, lambda f: ns.network(f.pop("routing"), f.pop("capacity"), **f)),
    "risk": (Risk, lambda f: ns.risk_budgeting(f.pop("covariance"), f.pop("budgets", None), **f)),
}


def read_family(file: Path, **overrides: Any) -> tuple[Any, str, dict[str, Any]]:
    """Problem, concept and options of a YAML file; `weights` and `disagreement` given here stand in place of its own.

    Raises
    ------
    InvalidProblem, OSError
    """
    data = _load(file)
    family = data.get("family", "ball")
    if family not in FAMILIES:
        raise InvalidProblem(f"{file.name}: unknown family {family!r}.{_near(str(family), FAMILIES)}")
    model, build = FAMILIES[family]
    for key in data:
        if key not in model.model_fields:
            raise InvalidProblem(f"{file.name} has an unknown key {key!r}.{_near(str(key), model.model_fields)}")
    for name, value in overrides.items():
        if value is not None:
            if name not in model.model_fields or value is True:
                raise InvalidProblem(f"--{name} has no effect on the family {family!r}; leave it out")
            data[name] = np.asarray(value).tolist()
    try:
        found = model.model_validate({"family": family, **data}).model_dump(exclude_none=True)
    except ValidationError as error:
        first = error.errors()[0]
        place = "".join(f"[{p}]" if isinstance(p, int) else f".{p}" for p in first["loc"]).lstrip(".")
        raise InvalidProblem(f"{file.name}: {place}: {first['msg']}") from None
    found.pop("family")
    concept, options = found.pop("concept"), found.pop("options")
    return build(found), concept, options


def _near(key: str, known: Any) -> str:
    close = get_close_matches(key, list(known), 1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    return f"{hint} Known: {', '.join(known)}."


class _Loader(yaml.SafeLoader):
    """Refuses keys that stand twice, of which YAML would silently keep the last."""


def _mapping(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    keys = [loader.construct_object(k) for k, _ in node.value]
    twice = next((k for k in keys if keys.count(k) > 1), None)
    if twice is not None:
        raise InvalidProblem(f"the key {twice!r} stands twice")
    return {loader.construct_object(k): loader.construct_object(v, deep=True) for k, v in node.value}


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)


def _load(file: Path) -> dict[str, Any]:
    try:
        text = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise InvalidProblem(f"{file.name} is not text in UTF-8") from None
    try:
        data = yaml.load(text, Loader=_Loader)
    except (yaml.YAMLError, RecursionError) as error:
        raise InvalidProblem(f"{file.name} is not YAML: {' '.join(str(error).split())[:200]}") from None
    except InvalidProblem as error:
        raise InvalidProblem(f"{file.name}: {error}") from None
    if not isinstance(data, dict):
        raise InvalidProblem(f"{file.name} holds no mapping; start with the key family")
    return data
