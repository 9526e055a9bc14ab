"""Swin-MoE-S on ImageNet-1k and its robust sets, with ACMoE-style routing on it: tables 3, 14 and 15 at full size."""

from __future__ import annotations

from typing import Any

import torch
from pydantic import Field, field_validator
from torch import Tensor, nn
from torch.utils.data import DataLoader

from ...torch_moe.layer import MoE
from ..book import Book
from ..curves import plot_curves
from ..data.digits import aupr
from ..data.fixtures import write_imagenet
from ..data.imagenet import ImageFolders, class_names
from ..judging import better
from ..models.acmoe import NAME as ADAPTIVE
from ..models.swin import EVERY_SECOND, SwinMoE, swin_config
from ..pairing import paired_model
from ..statistics import by_system
from ..study import Claim, Records, Strict
from ..systems import check_systems, few, moe_config
from ..tables import Metric, Table, comparison
from ..training import Optimisation, chains_of, parameters, train
from ._transformers import load

SIDE = 192
DIVISIBLE = True
ACMOE = {"acmoe_top1": "smoe_top1", "acmoe_top2": "smoe_top2"}
"""Systems of table 15 that route tokens by adaptive clusters."""


class Settings(Strict):
    """Systems, data, training.

    Attributes
    ----------
    systems : of `known_systems`, and those of `ACMOE`
    seeds : every system runs with every seed below `seeds`
    root : folder with train, val, imagenet-a, imagenet-o and imagenet-r, each of class folders
    dense : checkpoint of a dense Swin-S whose feed-forwards the experts start from; None starts at random
    experts : of each of the ten feed-forwards
    eta, jitter : of merging, and of copied experts
    adaptive : True routes merging systems by adaptive clusters, too, as table 15 has it
    batch, workers : images in a step, processes that read them
    optimisation : of every training
    sizes, blocks : of a small Swin, for reduced runs
    """

    systems: list[str] = Field(min_length=1)
    seeds: int = Field(ge=1)
    root: str = "imagenet"
    dense: str | None = "microsoft/swin-small-patch4-window7-224"
    experts: int = Field(default=8, ge=2)
    eta: float = Field(default=0.5, gt=0)
    jitter: float = Field(default=0.1, ge=0)
    adaptive: bool = False
    batch: int = 96
    workers: int = Field(default=8, ge=0)
    optimisation: Optimisation
    sizes: dict[str, Any] = Field(default_factory=dict)
    blocks: dict[int, list[int]] | None = None

    @field_validator("systems")
    @classmethod
    def _known(cls, systems: list[str]) -> list[str]:
        check_systems([ACMOE.get(system, system) for system in systems])
        return systems


def build(settings: Settings, classes: int, system: str) -> SwinMoE:
    """Swin with the feed-forwards of a system in its ten places."""

    def feed_forward(width: int) -> nn.Module:
        router = ADAPTIVE if system in ACMOE or settings.adaptive else None
        top_k = {"top_k": 2 if system.endswith("2") else 1} if router else {}
        sizes: dict[str, Any] = {"d_model": width, "d_hidden": 4 * width, "n_experts": settings.experts}
        return MoE(
            moe_config(
                ACMOE.get(system, system),
                level={"level": "sequence"},
                eta=settings.eta,
                router=router,
                by_token_options=top_k,
                balance={"switch": 0.01},
                bias=True,
                **sizes,
            )
        )

    blocks = {stage: tuple(numbers) for stage, numbers in (settings.blocks or EVERY_SECOND).items()}
    return SwinMoE(swin_config(num_labels=classes, **settings.sizes), feed_forward, blocks)


def run(settings: Settings, book: Book) -> None:
    """Train every system with every seed and measure it on every set."""
    keys = [f"{system}/{seed}" for seed in range(settings.seeds) for system in settings.systems]
    for key in book.todo(keys):
        root = str(book.shared("data", write_imagenet)) if settings.sizes else settings.root
        system, _, seed = key.partition("/")
        classes = len(class_names(root))
        model = paired_model(lambda name, classes=classes: build(settings, classes, name), system, int(seed))  # type: ignore[misc]
        if settings.dense is not None and not settings.sizes:
            from transformers import SwinForImageClassification

            dense = load(SwinForImageClassification, settings.dense)
            model.upcycle_from(dense, settings.jitter, torch.Generator().manual_seed(int(seed)))
        model = model.to(book.device)
        side = int(settings.sizes.get("image_size", SIDE))
        images = ImageFolders(root, "train", side)

        def loss_of(generator: torch.Generator, model: nn.Module = model, images: ImageFolders = images) -> Tensor:
            rows = book.team.share(torch.randint(0, len(images), (settings.batch,), generator=generator))
            found = [images[int(row)] for row in rows]
            x = torch.stack([image for image, _ in found]).to(book.device)
            y = torch.tensor([label for _, label in found], device=book.device)
            return nn.functional.cross_entropy(model(x), y, label_smoothing=0.1)

        told = train(book, key, model, loss_of, settings.optimisation, int(seed), chains_of(model))
        found = measure(settings, model, root, side, book.device)
        count = parameters(model)
        book.record(key, system=system, seed=int(seed), parameters=count, **found, **told)


@torch.no_grad()
def measure(settings: Settings, model: nn.Module, root: str, side: int, device: str) -> dict[str, float]:
    """Top-1 and top-5 accuracy, top-1 on A and R, AUPR on O, in per cent."""
    found: dict[str, float] = {}
    doubt: dict[str, Tensor] = {}
    for part in ("validation", "A", "R", "O"):
        images = ImageFolders(root, part, side)
        loader = DataLoader(images, batch_size=settings.batch, num_workers=settings.workers)
        hits, hits5, doubts = 0, 0, []
        for x, y in loader:
            logits = model(x.to(device)).float().cpu()
            best = logits.topk(min(5, logits.shape[-1])).indices
            hits += int((best[:, 0] == y).sum())
            hits5 += int((best == y[:, None]).any(-1).sum())
            doubts.append(1 - logits.softmax(-1).amax(-1))
        doubt[part] = torch.cat(doubts)
        if part != "O":
            found[f"{part}_top1"] = 100 * hits / len(images)
        if part == "validation":
            found["validation_top5"] = 100 * hits5 / len(images)
    return found | {"O_aupr": 100 * aupr(doubt["O"], doubt["validation"])}


def reduced(settings: Settings) -> Settings:
    """Two steps of one seed of a small Swin on noise."""
    sizes = {"embed_dim": 8, "depths": [2, 2], "num_heads": [1, 2], "window_size": 2, "image_size": 32}
    how = settings.optimisation.changed(steps=2, log_every=1, save_every=1).model_dump()
    small: dict[str, Any] = {"sizes": sizes, "blocks": {0: [0, 1], 1: [1]}, "experts": 4, "batch": 2, "workers": 0}
    return settings.changed(**small, systems=few(settings.systems), seeds=2, optimisation=how)


def plan(settings: Settings) -> list[str]:
    """Parameters on the meta device."""
    lines = []
    for system in settings.systems:
        with torch.device("meta"):
            count = parameters(build(settings, 1000, system))
        lines.append(f"{system}: {count / 1e6:.1f} M parameters")
    images = settings.optimisation.steps * settings.batch
    return [*lines, f"{images / 1e6:.1f} million images a run, {images / 1_281_167:.1f} epochs"]


def tables(records: Records) -> list[Table]:
    """Table 3, or 15 where the routing is adaptive."""
    name = "table_15" if any(r.get("system") in ACMOE for r in records) else "table_3"
    rows = {"smoe_top1": "SMoE", "acmoe_top1": "ACMoE-Top1", "acmoe_top2": "ACMoE-Top2"}
    columns = {"validation_top1": "Acc@1", "validation_top5": "Acc@5", "O_aupr": "INet-O", "A_top1": "INet-A"}
    columns |= {"R_top1": "INet-R"}
    metrics = [Metric(key, f"{text}, %", "higher", 2, (name, text), rows) for key, text in columns.items()]
    reference = "ep_camex" if any(r.get("system") == "ep_camex" for r in records) else "acmoe_top1"
    return [comparison(records, [metric], reference, metric.name) for metric in metrics]


def pictures(records: Records, curves: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Figure 3, as losses."""
    return {"curves": plot_curves(curves, "loss", "training loss")}


def claims(records: Records) -> list[Claim]:
    """Orderings of tables 3 and 15."""
    table, hard = by_system(records, "validation_top1"), by_system(records, "A_top1")
    judged = [
        better(table, "namex_full", "smoe_top1", "top-1, %", "higher", "table 3: 84.27 against 83.15"),
        better(table, "namex_full", "ep_camex", "top-1, %", "higher", "table 3: 84.27 against 83.23"),
        better(hard, "namex_full_mom", "namex_full", "ImageNet-A, %", "higher", "table 3: 35.27 against 25.74"),
        better(table, "namex_full", "acmoe_top1", "top-1, %", "higher", "table 15: 77.42 against 75.39"),
    ]
    return [claim for claim in judged if claim is not None]
