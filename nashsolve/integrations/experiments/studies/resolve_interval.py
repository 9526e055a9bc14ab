"""How often the experts bargain anew along the layers, what that changes, and what part of a step the solves take."""

from __future__ import annotations

from typing import Any

import torch
from pydantic import Field
from torch import nn

from ..book import Book
from ..data.library_text import draw, library_bytes
from ..judging import flat
from ..pairing import paired_model
from ..statistics import by_system
from ..study import Claim, Records
from ..systems import title
from ..tables import Metric, Table, comparison
from ..training import chains_of, train
from . import language_model as lm

EVERY = "namex_full"


class Settings(lm.Settings):
    """As of the language models, with a timing.

    Attributes
    ----------
    timed : solver -> settings of its bargain, for the share of the step
    timed_steps : optimizer steps
    timed_width, timed_length, timed_batch : of a larger model, where the tokens of a step are more than a handful
    """

    timed: dict[str, dict[str, Any]] = Field(default={"newton": {"solver": "newton"}})
    timed_steps: int = Field(default=6, ge=1)
    timed_width: int = 128
    timed_length: int = 256
    timed_batch: int = 16


def run(settings: Settings, book: Book) -> None:
    """Train at every interval; then time the solves of every solver at every interval."""
    lm.train_systems(settings, book)
    keys = [f"time/{solver}/{system}" for solver in settings.timed for system in settings.systems]
    for key in book.todo(keys):
        _, solver, system = key.split("/")
        book.record(key, solver=solver, timed=system, **_time(settings, book, key, system, settings.timed[solver]))


def _time(settings: Settings, book: Book, key: str, system: str, bargain: dict[str, Any]) -> dict[str, Any]:
    width, length, batch = settings.timed_width, settings.timed_length, settings.timed_batch
    larger = settings.changed(d_model=width, d_hidden=width, length=length, batch=batch, segment=length // 4)
    chain: dict[str, Any] = {"chain": {"bargain": bargain}}
    model = paired_model(lambda name: lm.build(larger, name, **({} if name == lm.REFERENCE else chain)), system, 0)
    model = model.to(book.device)
    data = library_bytes("train")

    def loss_of(generator: torch.Generator) -> torch.Tensor:
        x, y = (part.to(book.device) for part in draw(data, batch, length, generator))
        return nn.functional.cross_entropy(model(x).flatten(0, 1), y.flatten())

    how = settings.optimisation.changed(steps=settings.timed_steps, log_every=1, save_every=settings.timed_steps + 1)
    told = train(book, key, model, loss_of, how, 0, chains_of(model))
    names = ("step_seconds", "chain_share", "solve_share", "no_agreement")
    return {"tokens": batch * length, **{name: told[name] for name in names}}


def reduced(settings: Settings) -> Settings:
    """Two steps of two seeds at small width."""
    small = {"timed_width": 16, "timed_length": 16, "timed_batch": 2, "timed_steps": 2, "n_layers": 4}
    return settings.changed(**lm.reduced(settings).changed(**small).model_dump())


def plan(settings: Settings) -> list[str]:
    """As of the language models."""
    return lm.plan(settings)


def tables(records: Records) -> list[Table]:
    """Bits per byte by interval, and the shares of time beside table 12."""
    metric = Metric("test_bits", "test bits per byte", "lower", 4)
    rows = [
        [
            r["solver"],
            title(r["timed"]),
            f"{r['tokens']:,}",
            f"{r['step_seconds']:.2f}",
            f"{100 * r['chain_share']:.2f}",
            f"{100 * r['solve_share']:.3f}",
            f"{100 * r['no_agreement']:.0f}",
        ]
        for r in records
        if "timed" in r
    ]
    header = ["solver", "system", "tokens a step", "s a step", "chain, %", "solves, %", "links without agreement, %"]
    caption = "Time in a training step; table 12 reports 85.96, 71.18, 42.11 and 4.35 % for intervals 1, 2, 5 and L."
    return [comparison(records, [metric], EVERY, "Bits per byte by interval."), Table(caption, header, rows)]


def claims(records: Records) -> list[Claim]:
    """The interval does not matter; the solver's share."""
    table = by_system(records, "test_bits")
    where = "table 6: MRPC 92.85, 92.38, 92.09, 92.01 for intervals 1, 2, 5 and L"
    judged = flat(
        table, list(table), EVERY, "bits per byte", "The interval of solving changes the result", where, False
    )
    found = [judged] if judged else []
    shares = {r["solver"]: 100 * r["solve_share"] for r in records if r.get("timed") == EVERY}
    if shares:
        measured = ", ".join(f"{solver} {share:.2f} %" for solver, share in shares.items())
        found.append(
            Claim(
                "Bargaining in every layer takes most of a training step",
                "table 12: 85.96 % of a step at interval 1",
                f"share of the step at interval 1: {measured}",
                "reproduced" if min(shares.values()) > 50 else "not reproduced",
                "the share is the solver's choice: Newton solves eight players in a fraction of a millisecond",
            )
        )
    return found
