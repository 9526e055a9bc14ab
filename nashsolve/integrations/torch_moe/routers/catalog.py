"""Routers by name."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from importlib import import_module
from typing import Any

import torch
from torch import nn

from nashsolve.core.errors import InvalidProblem

from ..strict import nearest
from .base import Router
from .segment import SegmentRouter
from .sequence import SequenceRouter

ROUTERS: dict[str, tuple[str, str] | type[Router]] = {
    "linear": ("linear", "LinearRouter"),
    "noisy_topk": ("noisy_topk", "NoisyTopKRouter"),
    "cosine": ("cosine", "CosineRouter"),
    "xmoe": ("xmoe", "XMoERouter"),
    "stable": ("stable", "StableRouter"),
    "sigmoid": ("sigmoid", "SigmoidRouter"),
}
"""Name -> file and class, or a class of your own."""

LEVELS = ("token", "sequence", "segment")


def make_router(
    name: str,
    *,
    d_model: int,
    n_experts: int,
    top_k: int | None = None,
    level: str = "token",
    segment_length: int | None = None,
    **options: Any,
) -> Router:
    """A router by name, for tokens, sequences or segments.

    Parameters
    ----------
    name : of `ROUTERS`
    d_model, n_experts, top_k : as in Router; top_k None chooses all experts (one for "stable")
    level : "token", "sequence" or "segment"
    segment_length : tokens in a segment, for that level
    **options : of the router, and for other levels than "token" those of SequenceRouter or SegmentRouter

    Returns
    -------
    Router

    Raises
    ------
    InvalidProblem
        For an unknown name, level or option, with the nearest valid one.
    """
    if name not in ROUTERS:
        raise InvalidProblem(f"router is {name!r}; {nearest(str(name), list(ROUTERS))}")
    if level not in LEVELS:
        raise InvalidProblem(f"level is {level!r}; {nearest(str(level), list(LEVELS))}")
    if (level == "segment") != (segment_length is not None):
        raise InvalidProblem(f"segment_length is {segment_length} at level {level!r}; it belongs to level 'segment'")
    kind = _kind(name)
    wrapper = {"token": None, "sequence": SequenceRouter, "segment": SegmentRouter}[level]
    outer = {} if wrapper is None else {key: options.pop(key) for key in _options(wrapper) if key in options}
    known = _options(kind)
    for key in options:
        if key not in known:
            allowed = known + ([] if wrapper is None else _options(wrapper))
            raise InvalidProblem(f"router {name!r} has no option {key!r}; {nearest(key, allowed)}")
    try:
        inner = kind(d_model, n_experts, top_k, **options)
    except TypeError as error:
        if "required" in str(error):
            raise InvalidProblem(f"router {name!r} needs an option: {error}") from None
        raise
    if wrapper is None:
        return inner
    if segment_length is not None:
        outer["length"] = segment_length
    return wrapper(inner, **outer)


def _kind(name: str) -> type[Router]:
    entry = ROUTERS[name]
    if not isinstance(entry, tuple):
        return entry
    file, owner = entry
    kind: type[Router] = getattr(import_module(f".{file}", __package__), owner)
    return kind


def follow(optimizer: torch.optim.Optimizer, model: nn.Module) -> Any:
    """Call `after_step` of every router or merging layer in `model` after each step of `optimizer`.

    A module that has an `after_step` looks after the modules inside it. Call it by hand, or use this, not both.

    Parameters
    ----------
    optimizer : its `step` is followed
    model : module that holds routers, alone or within layers

    Returns
    -------
    a handle whose `remove()` ends it

    Raises
    ------
    InvalidProblem
        For a model without such modules.
    """
    followed = list(_followed(model, set()))
    if not followed:
        raise InvalidProblem("model holds no router and no merging layer: there is nothing to follow")

    def hook(*_: Any) -> None:
        for module in followed:
            module.after_step()

    return optimizer.register_step_post_hook(hook)


def _followed(module: nn.Module, seen: set[nn.Module]) -> Iterator[Any]:
    """The outermost modules with an `after_step`, each once."""
    if module in seen:
        return
    seen.add(module)
    if callable(getattr(module, "after_step", None)):
        yield module
        return
    for child in module.children():
        yield from _followed(child, seen)


def _options(kind: type) -> list[str]:
    """Keyword options of a class and of the classes that its **options go to."""
    names: list[str] = []
    for owner in kind.__mro__:
        if "__init__" not in vars(owner):
            continue
        parameters = inspect.signature(vars(owner)["__init__"]).parameters.values()
        names += [p.name for p in parameters if p.kind is p.KEYWORD_ONLY and p.name not in (*names, "length")]
        if not any(p.kind is p.VAR_KEYWORD for p in parameters):
            break
    return names
