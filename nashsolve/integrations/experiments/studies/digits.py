"""Images in small: digits with the robust sets of the vision tables, in one shape of experts or two."""

from __future__ import annotations

from typing import Any

import torch
from pydantic import Field, field_validator
from torch import Tensor, nn

from ...torch_moe.layer import MoE
from ..book import Book
from ..curves import plot_curves
from ..data.digits import Digits, aupr, load_digits, noisy, occluded, shifted
from ..judging import better
from ..models.small_vision import SmallVision
from ..pairing import paired_model
from ..statistics import by_system
from ..study import Claim, Records, Strict
from ..systems import DENSE, check_systems, few, moe_config
from ..tables import Metric, Table, comparison
from ..training import Optimisation, chains_of, parameters, train

REFERENCE = "smear"
DIVISIBLE = True


class Settings(Strict):
    """Sizes of the model, the systems, and the training.

    Attributes
    ----------
    systems, seeds : every system runs with every seed below `seeds`
    widths, depths : of the stages; two widths make two chains
    n_heads, n_experts : of every block
    patch : side of a patch in pixels
    eta : step from the base expert to the merged expert
    balance : coefficient of the balance loss of systems that route tokens
    held_out : classes that the unknown set is made of
    batch : images in a step
    optimisation : of every training
    """

    systems: list[str] = Field(min_length=1)
    seeds: int = Field(ge=1)
    widths: list[int] = Field(default=[32], min_length=1)
    depths: list[int] = Field(default=[4], min_length=1)
    n_heads: int = 2
    n_experts: int = 8
    patch: int = 2
    eta: float = Field(default=0.5, gt=0)
    balance: float = Field(default=0.01, ge=0)
    held_out: list[int] = Field(default=[8, 9])
    batch: int = 64
    optimisation: Optimisation

    @field_validator("systems")
    @classmethod
    def _known(cls, systems: list[str]) -> list[str]:
        check_systems(systems)
        return systems


def build(settings: Settings, system: str, n_classes: int) -> SmallVision:
    """The classifier with the feed-forwards of a system."""

    def feed_forward(width: int) -> nn.Module:
        if system == DENSE:
            return nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))
        sizes: dict[str, Any] = {"d_model": width, "d_hidden": 2 * width, "n_experts": settings.n_experts}
        level = {"level": "sequence"}
        return MoE(
            moe_config(system, level=level, eta=settings.eta, balance={"switch": settings.balance}, bias=True, **sizes)
        )

    return SmallVision(8, settings.patch, settings.widths, settings.depths, settings.n_heads, n_classes, feed_forward)


def run(settings: Settings, book: Book) -> None:
    """Train every system with every seed, measure on every set."""
    data = load_digits(settings.held_out)
    images, labels = (part.to(book.device) for part in data.train)
    for key in book.todo([f"{system}/{seed}" for seed in range(settings.seeds) for system in settings.systems]):
        system, _, seed = key.partition("/")
        model = paired_model(lambda name: build(settings, name, data.n_classes), system, int(seed)).to(book.device)
        chains = chains_of(model)

        def loss_of(generator: torch.Generator, model: nn.Module = model) -> Tensor:
            rows = book.team.share(torch.randint(0, len(labels), (settings.batch,), generator=generator))
            return nn.functional.cross_entropy(model(images[rows]), labels[rows])

        told = train(book, key, model, loss_of, settings.optimisation, int(seed), chains)
        found = measure(model, data, book.device)
        book.record(key, system=system, seed=int(seed), chains=len(chains), **found, **told)


@torch.no_grad()
def measure(model: nn.Module, data: Digits, device: str) -> dict[str, float]:
    """Accuracies in per cent on the test images and their disturbed copies, and AUPR of the unknown classes."""
    images, labels = data.test
    sets = {"top1": images, "shift": shifted(images), "noise": noisy(images), "occlusion": occluded(images)}
    found = {}
    for name, given in sets.items():
        logits = model(given.to(device)).cpu()
        found[name] = 100 * float((logits.argmax(-1) == labels).float().mean())
    if len(data.unknown):
        doubt = [1 - model(x.to(device)).softmax(-1).amax(-1).cpu() for x in (data.unknown, images)]
        found["aupr"] = 100 * aupr(*doubt)
    return found


def reduced(settings: Settings) -> Settings:
    """Two steps of two seeds at small width."""
    how = settings.optimisation.changed(steps=2, log_every=1, save_every=1).model_dump()
    small: dict[str, Any] = {
        "widths": [8 * 2**k for k in range(len(settings.widths))],
        "depths": [2 for _ in settings.depths],
    }
    small |= {"systems": few(settings.systems), "n_experts": 4, "batch": 4}
    return settings.changed(**small, seeds=2, optimisation=how)


def plan(settings: Settings) -> list[str]:
    """Parameters of each system."""
    lines = [f"{settings.optimisation.steps} steps of {settings.batch} images, {settings.seeds} seeds"]
    for system in settings.systems:
        with torch.device("meta"):
            count = parameters(build(settings, system, 10 - len(settings.held_out)))
        lines.append(f"{system}: {count / 1e6:.2f} M parameters")
    return lines


def tables(records: Records) -> list[Table]:
    """Accuracies beside the paper's."""
    smoe = {"smoe_top1": "SMoE"}
    sets = (
        ("top1", "test accuracy, %", "Acc@1"),
        ("aupr", "AUPR of unknown classes, %", "INet-O"),
        ("shift", "shifted, %", "INet-A"),
        ("noise", "noise, %", None),
        ("occlusion", "occluded, %", "INet-R"),
    )
    metrics = [
        Metric(key, name, "higher", 2, ("table_3", column) if column else None, smoe) for key, name, column in sets
    ]
    caption = "Digits; the paper's columns are ImageNet-1k, O, A and R."
    return [comparison(records, [metric], REFERENCE, caption if not k else "") for k, metric in enumerate(metrics)]


def pictures(records: Records, curves: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Learning curves, as figure 3 has them for accuracy."""
    return {"curves": plot_curves(curves, "loss", "training loss")}


def claims(records: Records) -> list[Claim]:
    """Orderings of table 3."""
    top1, shift, unknown = (by_system(records, key) for key in ("top1", "shift", "aupr"))
    judged = [
        better(top1, "namex_full", "smoe_top1", "test accuracy, %", "higher", "table 3: 84.27 against 83.15"),
        better(top1, "namex_full", "smear", "test accuracy, %", "higher", "table 3: 84.27 against 83.15"),
        better(top1, "namex_full", "ep_camex", "test accuracy, %", "higher", "table 3: 84.27 against 83.23"),
        better(top1, "namex_full_mom", "namex_full", "test accuracy, %", "higher", "table 3: 84.52 against 84.27"),
        better(shift, "ep_camex_mom", "ep_camex", "shifted, %", "higher", "table 3, INet-A: 33.22 against 24.22"),
        better(shift, "namex_full_mom", "namex_full", "shifted, %", "higher", "table 3, INet-A: 35.27 against 25.74"),
        better(unknown, "namex_full", "smear", "AUPR, %", "higher", "table 3, INet-O: 50.66 against 43.35"),
    ]
    return [claim for claim in judged if claim is not None]
