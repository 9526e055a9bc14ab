"""T5-base upcycled to eight experts in all its feed-forwards, fine-tuned on GLUE: tables 2, 5, 6 and 7 at full size."""

from __future__ import annotations

from typing import Any

import torch
from pydantic import Field, field_validator
from torch import Tensor, nn

from ..book import Book
from ..data.fixtures import write_glue
from ..data.glue import GLUE, glue_examples, glue_score
from ..data.sources import Source
from ..judging import better
from ..statistics import by_system
from ..study import Claim, Records, Strict
from ..systems import DENSE, check_systems, few
from ..tables import Metric, Table, comparison
from ..training import Optimisation, train
from ._transformers import (
    Tokenize,
    Tokens,
    byte_tokens,
    load,
    merging_settings,
    model_tokens,
    router_settings,
    t5_config,
)

DIVISIBLE = True


class Settings(Strict):
    """Systems, tasks, training.

    Attributes
    ----------
    systems : of the comparison
    chains : name of a further system -> {"system": ..., "chain": settings of its chain}, such as other phases
    tasks : of GLUE
    seeds : every system runs on every task with every seed below `seeds`
    model : name on the hub, or folder
    experts : in each feed-forward
    eta : start of the learned step from the base expert to the merged expert
    folder : one folder a task with train.jsonl and validation.jsonl; None asks the hub
    length, batch : tokens of an example, examples in a step
    optimisation : of every fine-tuning
    sizes : of a model without pretraining, for reduced runs
    """

    systems: list[str] = Field(min_length=1)
    chains: dict[str, dict[str, Any]] = Field(default_factory=dict)
    tasks: list[str] = Field(default=list(GLUE), min_length=1)
    seeds: int = Field(ge=1)
    model: str = "google-t5/t5-base"
    experts: int = Field(default=8, ge=2)
    eta: float = Field(default=1.0, gt=0)
    folder: str | None = None
    length: int = 128
    batch: int = 32
    optimisation: Optimisation
    sizes: dict[str, int] = Field(default_factory=dict)

    @field_validator("systems")
    @classmethod
    def _known(cls, systems: list[str]) -> list[str]:
        check_systems(systems)
        return systems


def run(settings: Settings, book: Book) -> None:
    """Fine-tune every system on every task with every seed."""
    tiny = bool(settings.sizes)
    folder = str(book.shared("data", write_glue)) if tiny else settings.folder
    tokenize = byte_tokens(settings.length) if tiny else None
    arms = {system: (system, None) for system in settings.systems}
    arms |= {name: (arm["system"], arm.get("chain")) for name, arm in settings.chains.items()}
    keys = [f"{arm}/{task}/{seed}" for seed in range(settings.seeds) for task in settings.tasks for arm in arms]
    for key in book.todo(keys):
        arm, task, seed = key.split("/")
        tokenize = tokenize or model_tokens(settings.model, settings.length)
        found = _fine_tune(settings, book, key, *arms[arm], task, int(seed), folder, tokenize)
        book.record(key, system=arm, task=task, seed=int(seed), **found)


def build(settings: Settings, system: str, chain: dict[str, Any] | None, task: str, seed: int) -> Any:
    """T5 with a head for the task, and the experts of a system."""
    from transformers import T5ForSequenceClassification

    from ...transformers import upcycle

    torch.manual_seed(seed)
    labels = GLUE[task].n_classes
    if settings.sizes:
        model: Any = T5ForSequenceClassification(t5_config(num_labels=labels, **settings.sizes))
    else:
        model = load(T5ForSequenceClassification, settings.model, num_labels=labels)
    if system == DENSE:
        return model
    merging = merging_settings(system, settings.eta, chain)
    levels = (
        {} if merging["merge"].rule in ("smoe", "token_nash") else {"level": "sequence", "causal_level": "sequence"}
    )
    upcycle(model, show=False, experts=settings.experts, seed=seed, router=router_settings(system), **levels, **merging)
    return model


def _fine_tune(
    settings: Settings,
    book: Book,
    key: str,
    system: str,
    chain: dict[str, Any] | None,
    task: str,
    seed: int,
    folder: str | None,
    tokenize: Tokenize,
) -> dict[str, Any]:
    spec = GLUE[task]
    source = Source(folder=None if folder is None else f"{folder}/{spec.subset}")
    model = build(settings, system, chain, task, seed).to(book.device)
    texts, labels = glue_examples(source, task, "train")
    given, wanted = tokenize(texts), torch.tensor(labels)

    def loss_of(generator: torch.Generator) -> Tensor:
        rows = book.team.share(torch.randint(0, len(wanted), (settings.batch,), generator=generator))
        logits = _logits(model, given[rows].to(book.device))
        right = wanted[rows].to(book.device)
        if spec.n_classes == 1:
            return nn.functional.mse_loss(logits.squeeze(-1), right)
        return nn.functional.cross_entropy(logits, right.long())

    chains = [] if system == DENSE else list(model.nashsolve.chains)
    told = train(book, key, model, loss_of, settings.optimisation, seed, chains)
    texts, labels = glue_examples(source, task, "validation")
    with torch.no_grad():
        asked, starts = tokenize(texts), range(0, len(texts), settings.batch)
        parts = [asked[start : start + settings.batch].to(book.device) for start in starts]
        logits = torch.cat([_logits(model, part).float().cpu() for part in parts])
    predicted = logits.squeeze(-1) if spec.n_classes == 1 else logits.argmax(-1)
    count = sum(p.numel() for p in model.parameters())
    return {"score": glue_score(spec.metric, predicted.numpy(), labels), "parameters": count, **told}


def _logits(model: Any, given: Tokens) -> Tensor:
    return model(input_ids=given.ids, attention_mask=given.mask.long()).logits


def reduced(settings: Settings) -> Settings:
    """Two steps of two seeds of a tiny T5."""
    sizes = {"d_model": 16, "d_ff": 16, "d_kv": 8, "num_layers": 2, "num_heads": 2, "vocab_size": 260}
    how = settings.optimisation.changed(steps=2, log_every=1, save_every=1).model_dump()
    chosen: dict[str, Any] = {
        "systems": few(settings.systems),
        "chains": dict(list(settings.chains.items())[:1]),
        "tasks": settings.tasks[:1],
    }
    return settings.changed(sizes=sizes, experts=4, length=24, batch=2, seeds=2, optimisation=how, **chosen)


def plan(settings: Settings) -> list[str]:
    """Parameters on the meta device."""
    from transformers import T5ForConditionalGeneration

    from ...transformers import count_upcycled

    found = count_upcycled(
        T5ForConditionalGeneration,
        t5_config(),
        experts=settings.experts,
        level="sequence",
        causal_level="sequence",
    )
    runs = (len(settings.systems) + len(settings.chains)) * len(settings.tasks) * settings.seeds
    return [
        f"T5-base: {found.before / 1e6:.1f} M parameters; with {settings.experts} experts {found.model / 1e6:.1f} M, "
        f"and {found.merging / 1e6:.1f} M of merging",
        f"{runs} fine-tunings of {settings.optimisation.steps} steps of {settings.batch} examples",
    ]


def tables(records: Records) -> list[Table]:
    """Table 2, one column at a time."""
    found = []
    for task in dict.fromkeys(r["task"] for r in records if "task" in r):
        part = [r for r in records if r.get("task") == task]
        metric = Metric("score", f"{task}, %", "higher", 2, ("table_2", task))
        found.append(comparison(part, [metric], DENSE, f"{task} ({GLUE[task].metric})."))
    return found


def claims(records: Records) -> list[Claim]:
    """Table 2's orderings, task by task."""
    judged = []
    for task in dict.fromkeys(r["task"] for r in records if "task" in r):
        table = by_system([r for r in records if r.get("task") == task], "score")
        for ours, theirs in (("namex_full", DENSE), ("namex_full", "ep_camex"), ("namex_full_mom", "namex_full")):
            judged.append(better(table, ours, theirs, f"{task}, %", "higher", "table 2"))
    return [claim for claim in judged if claim is not None]
