"""Byte-level language models on the standard library's sources: the published comparison of systems, in small."""

from __future__ import annotations

import math
from typing import Any

import torch
from pydantic import Field, field_validator
from torch import Tensor, nn

from ...torch_moe.small_transformer import SmallTransformer
from ..book import Book
from ..curves import plot_curves
from ..data.library_text import PARTS, VOCAB, draw, library_bytes, spread
from ..judging import better, unlike
from ..pairing import paired_model
from ..statistics import by_system
from ..study import Claim, Records, Strict
from ..systems import DENSE, check_systems, few, moe_config
from ..tables import Metric, Table, comparison
from ..training import Optimisation, chains_of, parameters, train

REFERENCE = "smear"
DIVISIBLE = True
MERGING = ("smear", "ep_camex", "ep_camex_mom", "namex", "namex_full", "namex_full_mom", "namex_full_q")
"""Systems that are one and the same function at eta = 1 with identity curvature."""


class Settings(Strict):
    """Sizes of the model, the systems, and the training.

    Attributes
    ----------
    systems, seeds : every system runs with every seed below `seeds`
    d_model, d_hidden, n_layers, n_heads, n_experts : of the transformer
    length, segment, batch : bytes in a window, bytes that share one merged expert, windows in a step
    eta : step from the base expert to the merged expert
    balance : coefficient of the balance loss of systems that route tokens
    optimisation : of every training
    windows : of the test files, at equal distances
    """

    systems: list[str] = Field(min_length=1)
    seeds: int = Field(ge=1)
    d_model: int = 64
    d_hidden: int = 64
    n_layers: int = 3
    n_heads: int = 4
    n_experts: int = 8
    length: int = 256
    segment: int = 64
    batch: int = 8
    eta: float = Field(default=0.5, gt=0)
    balance: float = Field(default=0.0, ge=0)
    optimisation: Optimisation
    windows: int = Field(default=64, ge=1)

    @field_validator("systems")
    @classmethod
    def _known(cls, systems: list[str]) -> list[str]:
        check_systems(systems)
        return systems


def build(settings: Settings, system: str, eta: float | None = None, **more: Any) -> SmallTransformer:
    """The transformer with the feed-forwards of a system; `more` are settings of its layers."""

    def feed_forward() -> nn.Module:
        from ...torch_moe.layer import MoE

        if system == DENSE:
            inner = nn.Linear(settings.d_model, settings.d_hidden), nn.ReLU()
            return nn.Sequential(*inner, nn.Linear(settings.d_hidden, settings.d_model))
        level = {"level": "segment", "segment_length": settings.segment}
        sizes: dict[str, Any] = {
            "d_model": settings.d_model,
            "d_hidden": settings.d_hidden,
            "n_experts": settings.n_experts,
        }
        balance = {"switch": settings.balance} if settings.balance else {}
        config = moe_config(
            system, level=level, eta=eta or settings.eta, balance=balance, activation="relu", bias=True, **sizes, **more
        )
        return MoE(config)

    return SmallTransformer(VOCAB, settings.d_model, settings.n_layers, settings.n_heads, feed_forward)


def run(settings: Settings, book: Book) -> None:
    """Train every system with every seed; check the identity at eta = 1."""
    for key in book.todo(["identity"]):
        book.record(key, largest=identity(settings, book.device))
    train_systems(settings, book)


def train_systems(settings: Settings, book: Book) -> None:
    """Train every system with every seed, and measure it."""
    for key in book.todo([f"{system}/{seed}" for seed in range(settings.seeds) for system in settings.systems]):
        system, _, seed = key.partition("/")
        model = paired_model(lambda name: build(settings, name), system, int(seed)).to(book.device)
        chains = chains_of(model)
        data = library_bytes("train")

        def loss_of(generator: torch.Generator, model: nn.Module = model, data: Tensor = data) -> Tensor:
            drawn = draw(data, settings.batch, settings.length, generator)
            x, y = (book.team.share(part).to(book.device) for part in drawn)
            return nn.functional.cross_entropy(model(x).flatten(0, 1), y.flatten())

        told = train(book, key, model, loss_of, settings.optimisation, int(seed), chains)
        numbers: dict[str, float] = {}
        for part in PARTS[1:]:
            rows = spread(library_bytes(part), settings.windows, settings.length)
            numbers[f"{part}_bits"] = bits_per_byte(model, rows, book.device)
        book.record(key, system=system, seed=int(seed), parameters=parameters(model), **numbers, **told)


@torch.no_grad()
def bits_per_byte(model: nn.Module, rows: Tensor, device: str) -> float:
    """Mean code length on windows (count, length + 1)."""
    total = 0.0
    for part in rows.split(16):
        part = part.to(device)
        logits = model(part[:, :-1]).flatten(0, 1)
        total += float(nn.functional.cross_entropy(logits, part[:, 1:].flatten(), reduction="sum"))
    return total / (rows.shape[0] * (rows.shape[1] - 1)) / math.log(2)


@torch.no_grad()
def identity(settings: Settings, device: str) -> float:
    """Largest difference of losses between merging systems at eta = 1 with the same parameters."""
    x = spread(library_bytes("test"), 4, settings.length).to(device)
    losses = []
    for system in MERGING:
        model = paired_model(lambda name: build(settings, name, eta=1.0), system, 0).to(device).eval()
        chains_of(model)
        losses.append(float(nn.functional.cross_entropy(model(x[:, :-1]).flatten(0, 1), x[:, 1:].flatten())))
    return max(losses) - min(losses)


def reduced(settings: Settings) -> Settings:
    """Two steps of two seeds at small width."""
    small = {"d_model": 16, "d_hidden": 16, "n_heads": 2, "n_experts": 4, "length": 32, "segment": 8, "batch": 2}
    how = settings.optimisation.changed(steps=2, log_every=1, save_every=1).model_dump()
    return settings.changed(**small, systems=few(settings.systems), seeds=2, windows=2, optimisation=how)


def plan(settings: Settings) -> list[str]:
    """Parameters and tokens of each system."""
    lines = [f"{settings.optimisation.steps} steps of {settings.batch * settings.length} bytes, {settings.seeds} seeds"]
    for system in settings.systems:
        with torch.device("meta"):
            count = parameters(build(settings, system))
        lines.append(f"{system}: {count / 1e6:.2f} M parameters")
    return lines


def tables(records: Records) -> list[Table]:
    """Test and validation bits per byte beside the paper's perplexities."""
    metrics = [
        Metric("test_bits", "test bits per byte", "lower", 4, ("table_1", "Small TestPPL")),
        Metric("validation_bits", "validation bits per byte", "lower", 4),
    ]
    return [comparison(records, metrics, REFERENCE, "Bits per byte; the paper's numbers are perplexities of words.")]


def pictures(records: Records, curves: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Learning curves as figure 7 has them, and the moves of the base expert."""
    return {"curves": plot_curves(curves, "loss", "training loss, nats per byte")}


def claims(records: Records) -> list[Claim]:
    """Table 1's orderings."""
    table = by_system(records, "test_bits")
    unit = "bits per byte"
    where = "table 1, small"
    judged = [
        better(table, "namex_full", "ep_camex", unit, "lower", f"{where}: test PPL 83.16 against 85.03"),
        better(table, "namex", "ep_camex", unit, "lower", f"{where}: 84.12 against 85.03"),
        better(table, "namex_full", "smear", unit, "lower", f"{where}: 83.16 against 87.24"),
        better(table, "namex_full", "smoe_top2", unit, "lower", f"{where}: 83.16 against 84.81"),
        better(table, "smoe_top2", "smoe_top1_published", unit, "lower", f"{where}: 84.81 against 87.79"),
        better(table, "smear", "smoe_top1_published", unit, "lower", f"{where}: 87.24 against 87.79"),
        better(table, "camex", "ep_camex", unit, "lower", f"{where}: 84.48 against 85.03"),
        better(table, "namex_full_mom", "namex_full", unit, "lower", f"{where}: 82.94 against 83.16"),
    ]
    found = [claim for claim in judged if claim is not None]
    largest = next((r["largest"] for r in records if r["key"] == "identity"), None)
    if largest is not None:
        found.append(
            unlike(
                "NAMEx, EP-CAMEx and SMEAR are different functions",
                "sections 2 and 3; eta is not given",
                f"largest difference of losses at eta = 1: {largest:.1e} nats",
                same=largest < 1e-5,
                reason="with eta = 1, identity curvature and weights that sum to one the base expert cancels",
            )
        )
    return found
