"""What the ranks of a team do in the tests; importable, so that other processes find it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from nashsolve.integrations.experiments.book import Book
from nashsolve.integrations.experiments.recipe import Recipe, find_recipe
from nashsolve.integrations.experiments.runner import run
from nashsolve.integrations.experiments.team import joined

QUICK = {"steps": 6, "lr": 0.01, "log_every": 1, "save_every": 2}


class Killed(BaseException):
    """What a kill looks like from the inside."""


@contextmanager
def double() -> Iterator[None]:
    """Models in float64, whose rounding leaves no doubt about equality."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@contextmanager
def killed_at(step: int | None) -> Iterator[None]:
    """The optimizer raises at its step of this number."""
    done, real = 0, torch.optim.Optimizer.zero_grad

    def zero_grad(self: Any, *rest: Any, **more: Any) -> None:
        nonlocal done
        done += 1
        if done == step:
            raise Killed
        real(self, *rest, **more)

    torch.optim.Optimizer.zero_grad = zero_grad  # type: ignore[method-assign]
    try:
        yield
    finally:
        torch.optim.Optimizer.zero_grad = real  # type: ignore[method-assign]


def language_models(**changes: Any) -> Recipe:
    """Small language models: routed tokens with a balance loss, and a chain."""
    found = find_recipe("mini-x4-language-model")
    study = found.load_study()
    settings = study.reduced(found.chosen("cpu"))
    chosen = {"systems": ["smoe_top2", "namex_full"], "seeds": 1, "windows": 1, "balance": 0.1, "optimisation": QUICK}
    return found.changed(settings=settings.changed(**{**chosen, **changes}).model_dump(), cuda={}, cuda_cost=None)


def words() -> Recipe:
    """The WikiText model, whose states of earlier blocks are kept, without dropout."""
    found = find_recipe("full-table1-small")
    settings = found.load_study().reduced(found.chosen("cpu"))
    changes = settings.changes | {"dropout": 0.0}
    chosen = settings.changed(systems=["namex_full"], seeds=1, steps=6, save_every=2, changes=changes)
    return found.changed(settings=chosen.model_dump())


def tuned() -> Recipe:
    """A converted language model, whose texts have different numbers of tokens."""
    found = find_recipe("full-table10")
    settings = found.load_study().reduced(found.chosen("cpu"))
    chosen = settings.changed(systems=["namex_full"], questions=1, answer=1, tuning=QUICK)
    return found.changed(settings=chosen.model_dump())


RECIPES = {"language_models": language_models, "words": words, "tuned": tuned}


def done(folder: Path) -> dict[str, Any]:
    """Everything but times."""
    book = Book(folder)
    records = {r["key"]: {k: v for k, v in r.items() if "second" not in k and "share" not in k} for r in book.records()}
    return {"records": records, "curves": book.curves()}


def work(
    rank: int, name: str, folder: Path, together: bool, at: int | None = None, more: dict[str, Any] | None = None
) -> str:
    """Run a recipe with changed settings; returns how it ended."""
    os.environ["WORLD_SIZE"] = "2" if together else "1"
    try:
        with double(), killed_at(at):
            run(RECIPES[name](**(more or {})), folder, jobs=1, show=False, data_parallel=together)
    except Killed:
        return "killed"
    except ValueError as error:
        return str(error)
    return "finished"


def clusters(rank: int, together: bool) -> list[list[float]]:
    """Means and spreads that the adaptive router keeps after one batch."""
    from nashsolve.integrations.experiments.models.acmoe import AdaptiveClusterRouter

    torch.manual_seed(0)
    with double():
        router = AdaptiveClusterRouter(6, 3, 1)
        x = torch.randn(4, 5, 6)
        if together:
            with joined("cpu") as team:
                x = team.share(x)
        router(x)
    return [router.mean.flatten().tolist(), router.spread.flatten().tolist()]
