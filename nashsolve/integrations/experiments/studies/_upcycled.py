"""What the fine-tuning studies share: a dense model pretrained on bytes, copied into experts, and tasks."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from pydantic import Field, field_validator
from scipy import stats
from torch import Tensor, nn

from ...torch_moe.layer import MoE
from ...torch_moe.small_transformer import SmallTransformer
from ..book import Book
from ..data.library_tasks import TASKS, Task, load_task
from ..data.library_text import VOCAB, draw, library_bytes
from ..study import Records, Strict
from ..systems import DENSE, moe_config
from ..training import Optimisation, chains_of, train

_DENSE_NAMES = {"up_proj": "0.weight", "up_proj_bias": "0.bias", "down_proj": "2.weight", "down_proj_bias": "2.bias"}


class Upcycling(Strict):
    """Sizes and trainings that all arms of a study share.

    Attributes
    ----------
    tasks : of `TASKS`
    seeds : of heads, jitter and order; the pretrained model is one for all
    d_model, d_hidden, n_layers, n_heads, n_experts : of the transformer
    length : bytes of an example
    many_train, many_test : examples of a task
    batch : examples in a step
    eta : step from the base expert to the merged expert
    jitter : deviation of the noise on copied experts, relative to their entries'
    pretraining, optimisation : of the dense model on bytes, and of each fine-tuning
    """

    tasks: list[str] = Field(default=list(TASKS), min_length=1)
    seeds: int = Field(ge=1)
    d_model: int = 48
    d_hidden: int = 96
    n_layers: int = 3
    n_heads: int = 4
    n_experts: int = 8
    length: int = 64
    many_train: int = 2000
    many_test: int = 500
    batch: int = 16
    eta: float = Field(default=0.5, gt=0)
    jitter: float = Field(default=0.1, ge=0)
    pretraining: Optimisation
    optimisation: Optimisation

    @field_validator("tasks")
    @classmethod
    def _known(cls, tasks: list[str]) -> list[str]:
        unknown = [task for task in tasks if task not in TASKS]
        if unknown:
            raise ValueError(f"task {unknown[0]!r} is unknown; known are {', '.join(TASKS)}")
        return tasks


class Tuned(nn.Module):
    """A backbone and a head over the mean of its features; of a pair, over how far the two means are apart."""

    def __init__(self, backbone: SmallTransformer, n_classes: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = nn.Linear(backbone.embedding.embedding_dim, n_classes)

    def forward(self, ids: Tensor) -> Tensor:
        """Logits (batch, classes) of bytes (batch, length), or of pairs (batch, 2, length)."""
        means = self.backbone.features(ids.flatten(0, -2)).mean(dim=1)
        if ids.dim() == 3:
            one, other = means.view(len(ids), 2, -1).unbind(1)
            means = (one - other).abs()
        return self.head(means)


def dense_backbone(settings: Upcycling) -> SmallTransformer:
    """The model that is pretrained."""

    def feed_forward() -> nn.Module:
        inner = nn.Linear(settings.d_model, settings.d_hidden)
        return nn.Sequential(inner, nn.ReLU(), nn.Linear(settings.d_hidden, settings.d_model))

    return SmallTransformer(VOCAB, settings.d_model, settings.n_layers, settings.n_heads, feed_forward)


def pretrained(settings: Upcycling, book: Book) -> dict[str, Tensor]:
    """Parameters of the dense language model, trained once for all units."""

    def make(path: Path) -> None:
        from safetensors.torch import save_file

        torch.manual_seed(0)
        model = dense_backbone(settings).to(book.device)
        data = library_bytes("train")

        def loss_of(generator: torch.Generator) -> Tensor:
            drawn = draw(data, settings.batch, settings.length, generator)
            x, y = (book.team.share(part).to(book.device) for part in drawn)
            return nn.functional.cross_entropy(model(x).flatten(0, 1), y.flatten())

        train(book, "pretraining", model, loss_of, settings.pretraining, 0)
        save_file({name: tensor.cpu() for name, tensor in model.state_dict().items()}, path)

    from safetensors.torch import load_file

    return load_file(book.shared("pretrained.safetensors", make))


def upcycled(settings: Upcycling, system: str, given: Mapping[str, Tensor], seed: int, **more: Any) -> SmallTransformer:
    """The pretrained model with the feed-forwards of a system, every expert a copy with jitter."""
    torch.manual_seed(seed)
    if system == DENSE:
        model = dense_backbone(settings)
        model.load_state_dict(dict(given))
        return model
    sizes: dict[str, Any] = {
        "d_model": settings.d_model,
        "d_hidden": settings.d_hidden,
        "n_experts": settings.n_experts,
    }
    config = moe_config(
        system,
        level={"level": "sequence"},
        eta=settings.eta,
        # Weights that sum to one, so that copies start as the dense model.
        by_token_options={"softmax": "after"},
        activation="relu",
        bias=True,
        **sizes,
        **more,
    )
    if config.needs_base:
        config = config.changed(base={"init": "given"})
    model = SmallTransformer(VOCAB, settings.d_model, settings.n_layers, settings.n_heads, lambda: MoE(config))
    model.load_state_dict({k: t for k, t in given.items() if ".feed_forward." not in k}, strict=False)
    noise = torch.Generator().manual_seed(seed)
    for number, layer in enumerate(model.layers()):
        dense = {name: given[f"blocks.{number}.feed_forward.{there}"] for name, there in _DENSE_NAMES.items()}
        layer.experts.upcycle(dense, settings.jitter, noise)
        if layer.base is not None:
            layer.set_base(dense)
    return model


def fine_tune(
    settings: Upcycling, book: Book, key: str, model: SmallTransformer, task: Task, seed: int
) -> dict[str, Any]:
    """Train on a task and measure; the head and the order depend on the seed only."""
    torch.manual_seed(seed)
    tuned = Tuned(model, task.n_classes).to(book.device)
    chains = chains_of(model)
    x, y = (part.to(book.device) for part in task.train)

    def loss_of(generator: torch.Generator) -> Tensor:
        rows = book.team.share(torch.randint(0, len(y), (settings.batch,), generator=generator))
        logits = tuned(x[rows])
        if task.n_classes == 1:
            return nn.functional.mse_loss(logits.squeeze(-1), y[rows])
        return nn.functional.cross_entropy(logits, y[rows])

    told = train(book, key, tuned, loss_of, settings.optimisation, seed, chains)
    return {"score": score(tuned, task, book.device), "start_agreed": _start_agreed(book, key), **told}


@torch.no_grad()
def score(model: nn.Module, task: Task, device: str) -> float:
    """Accuracy, or for a regression Spearman's correlation, in per cent of the test examples."""
    x, y = task.test
    logits = torch.cat([model(part.to(device)).cpu() for part in x.split(128)])
    if task.n_classes == 1:
        return 100 * float(stats.spearmanr(logits.squeeze(-1).numpy(), y.numpy()).statistic)
    return 100 * float((logits.argmax(-1) == y).float().mean())


def _start_agreed(book: Book, key: str) -> bool:
    """Whether every layer agreed in the first step, where copies differ by jitter only."""
    first = book.curves()[key][0]
    return not first.get("without_agreement", 0)


def tasks_of(settings: Upcycling) -> dict[str, Task]:
    """The tasks by name."""
    sizes = settings.length, settings.many_train, settings.many_test
    return {name: load_task(name, *sizes) for name in settings.tasks}


def wide(records: Records, of: str) -> list[dict[str, Any]]:
    """One record for each arm and seed, with the score of every task under the task's name, and their mean."""
    rows: dict[tuple[str, int], dict[str, Any]] = {}
    for record in records:
        if of in record and "task" in record:
            row = rows.setdefault((record[of], record["seed"]), {of: record[of], "seed": record["seed"]})
            row[record["task"]] = record["score"]
    tasks = {task for row in rows.values() for task in row} - {of, "seed"}
    whole = [row for row in rows.values() if tasks <= set(row)]
    return [row | {"mean": sum(row[task] for task in tasks) / len(tasks)} for row in whole]


def small(settings: Any) -> dict[str, Any]:
    """Changes that make two steps of any study of this kind."""
    quick = {"steps": 2, "log_every": 1, "save_every": 1}
    return {
        "d_model": 16,
        "d_hidden": 16,
        "n_layers": 2,
        "n_heads": 2,
        "n_experts": 4,
        "length": 32,
        "many_train": 20,
        "many_test": 20,
        "batch": 2,
        "seeds": 2,
        "tasks": ["package"],
        "pretraining": settings.pretraining.changed(**quick).model_dump(),
        "optimisation": settings.optimisation.changed(**quick).model_dump(),
    }
