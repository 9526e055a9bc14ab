"""WikiText-103 at the paper's own sizes."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import torch
from pydantic import Field, field_validator
from torch import Tensor, nn

from ...torch_moe.layer import MoE
from ...torch_moe.strict import nearest
from ..book import Book
from ..curves import plot_curves
from ..data.fixtures import write_wikitext
from ..data.sources import Source
from ..data.wikitext103 import Words, blocks
from ..judging import better
from ..models.wikitext import SIZES, WikiTextModel, WikiTextSize
from ..pairing import paired_model
from ..statistics import by_system
from ..study import Claim, Records, Strict
from ..systems import check_systems, few, moe_config
from ..tables import Metric, Table, comparison
from ..team import ALONE, Team
from ..training import Optimisation, chains_of, parameters, train

REFERENCE = "smear"
DIVISIBLE = True


class Settings(Strict):
    """Size, systems, data.

    Attributes
    ----------
    size : of `SIZES`
    systems, seeds : every system runs with every seed below `seeds`
    data : folder with wiki.train.tokens, or the hub
    segment : tokens that share a merged expert; at least two segments a block, or the router learns nothing
    eta : step from the base expert to the merged expert
    changes : of the size, for reduced runs
    steps : None takes the size's own number
    tiny : True writes a tiny text in place of the data
    """

    size: str
    systems: list[str] = Field(min_length=1)
    seeds: int = Field(ge=1)
    data: Source = Source(hub="Salesforce/wikitext", subset="wikitext-103-v1")
    segment: int = Field(default=128, ge=1)
    eta: float = Field(default=0.5, gt=0)
    changes: dict[str, Any] = Field(default_factory=dict)
    steps: int | None = None
    save_every: int = 1000
    tiny: bool = False

    @field_validator("size")
    @classmethod
    def _exists(cls, size: str) -> str:
        if size not in SIZES:
            raise ValueError(f"size is {size!r}; {nearest(size, list(SIZES))}")
        return size

    @field_validator("systems")
    @classmethod
    def _known(cls, systems: list[str]) -> list[str]:
        check_systems(systems)
        return systems


class Stream(nn.Module):
    """A model and where it is in its text: position and cached states are buffers, so that a save holds them."""

    position: Tensor

    def __init__(self, model: WikiTextModel, ids: Tensor, batch: int, team: Team = ALONE) -> None:
        super().__init__()
        self.model = model
        # Each rank reads its share of the streams, and keeps their states.
        self._blocks = [(team.share(x), team.share(y)) for x, y in blocks(ids, batch, model.size.block)]
        batch //= team.size
        self.register_buffer("position", torch.zeros((), dtype=torch.int64))
        for k, states in enumerate(model.cache(batch)):
            self.register_buffer(f"cache_{k}", states)

    def loss(self, _: torch.Generator) -> Tensor:
        """Of the next block; the text begins anew at its end. Nothing is drawn."""
        at = int(self.position) % len(self._blocks)
        cache = [getattr(self, f"cache_{k}") * (at > 0) for k in range(self.model.size.n_layers)]
        x, y = (part.to(self.position.device) for part in self._blocks[at])
        logits, later = self.model(x, cache)
        for k, states in enumerate(later):
            getattr(self, f"cache_{k}").copy_(states)
        self.position += 1
        return nn.functional.cross_entropy(logits.flatten(0, 1), y.flatten())


def size_of(settings: Settings, vocab: int | None = None) -> WikiTextSize:
    """The published size with the changes of a reduced run and the vocabulary of the data."""
    found = SIZES[settings.size].changed(**settings.changes)
    return found if vocab is None else found.changed(vocab=vocab)


def build(settings: Settings, size: WikiTextSize, system: str) -> WikiTextModel:
    """The transformer with the feed-forwards of a system."""
    sizes: dict[str, Any] = {"d_model": size.d_model, "d_hidden": size.d_model, "n_experts": size.n_experts}
    config = moe_config(
        system,
        level={"level": "segment", "segment_length": settings.segment},
        eta=settings.eta,
        # The published router: softmax over the chosen, so that with one expert it is never trained.
        by_token_options={"softmax": "after", "bias": True},
        activation="relu",
        bias=True,
        **sizes,
    )
    return WikiTextModel(size, lambda: MoE(config))


def run(settings: Settings, book: Book) -> None:
    """Train every system with every seed; perplexities of words on validation and test."""
    data = settings.data
    if settings.tiny:
        data = Source(folder=str(book.shared("data", write_wikitext)))
    keys = [f"{system}/{seed}" for seed in range(settings.seeds) for system in settings.systems]
    words: Words | None = None
    for key in book.todo(keys):
        words = words or Words(data)
        size = size_of(settings, len(words))
        system, _, seed = key.partition("/")
        model = paired_model(partial(build, settings, size), system, int(seed))
        stream = Stream(model, words.ids("train"), size.batch, book.team).to(book.device)
        how = Optimisation(
            steps=settings.steps or size.steps,
            lr=7e-4,
            warmup=size.warmup,
            schedule="constant",
            optimizer="adam",
            weight_decay=0.0,
            clip=None,
            log_every=max(1, (settings.steps or size.steps) // 500),
            save_every=settings.save_every,
        )
        told = train(book, key, stream, stream.loss, how, int(seed), chains_of(model))
        found = {f"{part}_ppl": perplexity(model, words.ids(part), 8, book.device) for part in ("validation", "test")}
        book.record(key, system=system, seed=int(seed), parameters=parameters(model), **found, **told)


@torch.no_grad()
def perplexity(model: WikiTextModel, ids: Tensor, batch: int, device: str) -> float:
    """Of all blocks of a text, read as `batch` streams with a cache."""
    total, count, cache = 0.0, 0, model.cache(batch)
    for x, y in blocks(ids, batch, model.size.block):
        logits, cache = model(x.to(device), cache)
        total += float(nn.functional.cross_entropy(logits.flatten(0, 1), y.to(device).flatten()))
        count += 1
    return math.exp(total / count)


def reduced(settings: Settings) -> Settings:
    """Two steps of two seeds at small width on a tiny text."""
    small = {"d_model": 16, "n_layers": 2, "block": 8, "span": 8, "batch": 2, "warmup": 1, "n_heads": 2, "n_experts": 4}
    chosen = few(settings.systems)
    return settings.changed(changes=small, systems=chosen, segment=4, steps=2, seeds=2, save_every=1, tiny=True)


def plan(settings: Settings) -> list[str]:
    """Parameters on the meta device, tokens, floating-point operations."""
    size = size_of(settings)
    tokens = size.batch * size.block * (settings.steps or size.steps)
    lines = []
    for system in settings.systems:
        with torch.device("meta"):
            count = parameters(build(settings, size, system))
        lines.append(f"{system}: {count / 1e6:.2f} M parameters")
    active = size.vocab * size.d_model + size.n_layers * 6 * size.d_model**2
    lines.append(f"{tokens / 1e9:.2f} billion tokens a run, about {6 * active * tokens / 1e15:,.0f} PFLOP")
    return lines


def tables(records: Records) -> list[Table]:
    """Table 1."""
    metrics = [
        Metric("test_ppl", "test perplexity", "lower", 2, ("table_1", "Small TestPPL")),
        Metric("validation_ppl", "validation perplexity", "lower", 2, ("table_1", "Small ValPPL")),
    ]
    return [comparison(records, metrics, REFERENCE, "Perplexity of words; the paper's column is its small model.")]


def pictures(records: Records, curves: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Figure 7."""
    return {"curves": plot_curves(curves, "loss", "training loss, nats per word")}


def claims(records: Records) -> list[Claim]:
    """Table 1's orderings."""
    table = by_system(records, "test_ppl")
    pairs = (("namex_full", "ep_camex"), ("namex_full", "smear"), ("namex_full", "smoe_top2"), ("camex", "ep_camex"))
    judged = [better(table, *pair, "test perplexity", "lower", "table 1") for pair in pairs]
    return [claim for claim in judged if claim is not None]
