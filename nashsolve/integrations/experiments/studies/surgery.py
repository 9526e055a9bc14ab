"""Merging the experts of a trained model without training, then with a little: the published LLM tables, in small."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn

from ...torch_moe.config import MoEConfig, RouterConfig
from ...torch_moe.layer import MoE
from ...torch_moe.small_transformer import SmallTransformer
from ..book import Book
from ..data.library_text import VOCAB, draw, library_bytes, spread
from ..judging import better, flat
from ..statistics import by_system
from ..study import Claim, Records, Strict
from ..systems import moe_config
from ..tables import Metric, Table, comparison
from ..training import Optimisation, chains_of, train
from .language_model import bits_per_byte

ORIGINAL = "original"
SYSTEMS = (ORIGINAL, "ep_camex", "namex_full", "namex_full_mean")
ROUTERS = ("linear", "cosine", "stable")


class Settings(Strict):
    """Sizes, and the two trainings.

    Attributes
    ----------
    seeds : pretrained models
    routers : of `ROUTERS`; all but "linear" replace the trained router by an untrained one
    d_model, d_hidden, n_layers, n_heads : of the transformer
    n_experts, top_k, n_shared : routed experts, how many a token takes, shared experts
    length, segment, batch : bytes in a window, bytes that share a merged expert, windows in a step
    eta : step from the base expert (the shared expert) to the merged expert
    pretraining, tuning : of the model, and of each of its descendants
    windows : of the test files
    """

    seeds: int = Field(ge=1)
    routers: list[str] = Field(default=list(ROUTERS), min_length=1)
    d_model: int = 48
    d_hidden: int = 32
    n_layers: int = 3
    n_heads: int = 4
    n_experts: int = 16
    top_k: int = 4
    n_shared: int = 1
    length: int = 128
    segment: int = 32
    batch: int = 8
    eta: float = Field(default=0.5, gt=0)
    pretraining: Optimisation
    tuning: Optimisation
    windows: int = Field(default=64, ge=1)


def build(settings: Settings, system: str, router: str) -> SmallTransformer:
    """The model as it is pretrained ("original", "linear"), or a descendant of it."""
    config = _config(settings, system, router)
    return SmallTransformer(VOCAB, settings.d_model, settings.n_layers, settings.n_heads, lambda: MoE(config))


def _config(settings: Settings, system: str, router: str) -> MoEConfig:
    sizes: dict[str, Any] = {
        "d_model": settings.d_model,
        "d_hidden": settings.d_hidden,
        "n_experts": settings.n_experts,
        "n_shared": settings.n_shared,
        "activation": "swiglu",
    }
    options: dict[str, Any] = {"vocab_size": VOCAB, "reduction": "mean"} if router == "stable" else {}
    if system == ORIGINAL:
        options |= {} if router == "stable" else {"top_k": settings.top_k}
        return MoEConfig(router=RouterConfig(name=router, options=options), **sizes)
    level = {"level": "segment", "segment_length": settings.segment, **options}
    base = {"init": "shared_expert"}
    return moe_config(system, level=level, eta=settings.eta, router=router, base=base, **sizes)


def run(settings: Settings, book: Book) -> None:
    """Measure every descendant as it is and after a short training."""
    keys = [f"{s}/{r}/{seed}" for seed in range(settings.seeds) for r in settings.routers for s in SYSTEMS]
    for key in book.todo(keys):
        system, router, seed = key.split("/")
        given = _pretrained(settings, book, int(seed))
        model = descendant(settings, system, router, given, int(seed)).to(book.device)
        chains = chains_of(model)
        zero_shot = _measure(model, settings, book.device)
        told = train(book, key, model, _loss_of(model, settings, book.device), settings.tuning, int(seed) + 1, chains)
        tuned = _measure(model, settings, book.device)
        record = {"zero_shot_bits": zero_shot, "tuned_bits": tuned, **told}
        book.record(key, system=system, router=router, seed=int(seed), **record)


def descendant(
    settings: Settings, system: str, router: str, given: Mapping[str, Tensor], seed: int
) -> SmallTransformer:
    """A model with every pretrained tensor that it has room for."""
    torch.manual_seed(seed)
    model = build(settings, system, router)
    own = model.state_dict()
    with torch.no_grad():
        for name, tensor in given.items():
            for there in (name, name.replace(".router.", ".router.inner.")):
                if there in own and own[there].shape == tensor.shape:
                    own[there].copy_(tensor)
    return model


def _pretrained(settings: Settings, book: Book, seed: int) -> dict[str, Tensor]:
    from safetensors.torch import load_file, save_file

    def make(path: Path) -> None:
        torch.manual_seed(seed)
        model = build(settings, ORIGINAL, "linear").to(book.device)
        key = f"pretraining-{seed}"
        train(book, key, model, _loss_of(model, settings, book.device), settings.pretraining, seed)
        save_file({name: tensor.cpu() for name, tensor in model.state_dict().items()}, path)

    return load_file(book.shared(f"pretrained-{seed}.safetensors", make))


def _loss_of(model: nn.Module, settings: Settings, device: str) -> Any:
    data = library_bytes("train")

    def loss_of(generator: torch.Generator) -> Tensor:
        x, y = (part.to(device) for part in draw(data, settings.batch, settings.length, generator))
        return nn.functional.cross_entropy(model(x).flatten(0, 1), y.flatten())

    return loss_of


def _measure(model: nn.Module, settings: Settings, device: str) -> float:
    model.eval()
    rows = spread(library_bytes("test"), settings.windows, settings.length)
    return bits_per_byte(model, rows, device)


def reduced(settings: Settings) -> Settings:
    """Two steps of two seeds at small width."""
    quick = {"steps": 2, "log_every": 1, "save_every": 1}
    small = {"d_model": 16, "d_hidden": 8, "n_layers": 2, "n_heads": 2, "n_experts": 4, "top_k": 2, "length": 32}
    return settings.changed(
        **small,
        segment=8,
        batch=2,
        seeds=2,
        windows=2,
        routers=settings.routers[:2],
        pretraining=settings.pretraining.changed(**quick).model_dump(),
        tuning=settings.tuning.changed(**quick).model_dump(),
    )


def tables(records: Records) -> list[Table]:
    """Both stages, one table a router."""
    metrics = [
        Metric("zero_shot_bits", "zero-shot, bits per byte", "lower", 3),
        Metric("tuned_bits", "after a short training", "lower", 3),
    ]
    found = []
    for router in dict.fromkeys(r["router"] for r in records if "router" in r):
        part = [r for r in records if r.get("router") == router]
        found.append(comparison(part, metrics, ORIGINAL, f"Router: {router}."))
    return found


def claims(records: Records) -> list[Claim]:
    """Tables 4, 10, 11 and 17."""
    tuned = {router: by_system(_of(records, router), "tuned_bits") for router in ROUTERS}
    raw = {router: by_system(_of(records, router), "zero_shot_bits") for router in ROUTERS}
    unit = "bits per byte"
    judged = [
        better(table, "namex_full", theirs, unit, "lower", f"{where} against {score}", f"NAMEx-Full {than}, {stage}")
        for table, stage, where, scores in (
            (raw["linear"], "without training", "table 10, zero-shot MMLU: 61.87", ("61.28", "61.54")),
            (tuned["linear"], "after a short training", "table 11, MMLU: 62.10", ("61.50", "61.74")),
        )
        for theirs, than, score in zip(
            (ORIGINAL, "ep_camex"), ("improves the model", "is better than EP-CAMEx"), scores, strict=True
        )
    ]
    judged.append(
        flat(
            tuned["linear"],
            ["namex_full_mean"],
            "namex_full",
            unit,
            "Both disagreement points do equally well",
            "table 17, fine-tuned MMLU: 61.67 against 62.10; the text says the deltas are about 0.04",
        )
    )
    untrained = by_system([r for r in records if r.get("system") == ORIGINAL], "zero_shot_bits", "router")
    where = (
        "table 4, zero-shot MMLU: 44.77 linear, 44.95 cosine, 45.80 stable; how its routers were trained is not said"
    )
    for router in ("cosine", "stable"):
        text = f"A {router} router in place of the trained one improves the model without training"
        judged.append(better(untrained, router, "linear", unit, "lower", where, text))
    return [claim for claim in judged if claim is not None]


def _of(records: Records, router: str) -> list[Mapping[str, Any]]:
    return [record for record in records if record.get("router") == router]
