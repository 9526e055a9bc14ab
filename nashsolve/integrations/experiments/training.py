"""One training of one unit, which a kill cannot spoil: it goes on from its last save as if nothing had happened."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn

from ..torch_moe import link
from ..torch_moe.chain import BaseExpertChain
from ..torch_moe.chain_clock import ChainClock
from ..torch_moe.layer import MoE
from ..torch_moe.routers import follow
from ..torch_moe.strict import Strict
from ..torch_moe.telemetry import agreed
from .book import Book
from .saving import STATE, load_state, save_state
from .saving_together import load_together, refuse_parts, save_together
from .team import Team

RANK_STRIDE = 2**20
"""Between the seeds of dropout and noise on two ranks; the data's generator is one for all."""


class Optimisation(Strict):
    """How a model is trained.

    Attributes
    ----------
    steps : optimizer steps
    lr : largest learning rate, > 0
    warmup : steps of linear warm-up
    schedule : "cosine" falls to a tenth of lr, "constant" stays after the warm-up (as the WikiText code does)
    optimizer : "adamw" or "adam"
    weight_decay : >= 0
    clip : largest norm of the gradient; None clips nothing
    log_every : steps between two points of the curve
    save_every : steps between two saves
    """

    steps: int = Field(ge=1)
    lr: float = Field(gt=0)
    warmup: int = Field(default=0, ge=0)
    schedule: str = Field(default="cosine", pattern="^(cosine|constant)$")
    optimizer: str = Field(default="adamw", pattern="^(adam|adamw)$")
    weight_decay: float = Field(default=0.01, ge=0)
    clip: float | None = Field(default=1.0, gt=0)
    log_every: int = Field(default=20, ge=1)
    save_every: int = Field(default=100, ge=1)

    def rate(self, step: int) -> float:
        """Learning rate of a step, counted from zero."""
        warm = min(1.0, (step + 1) / self.warmup) if self.warmup else 1.0
        if self.schedule == "constant":
            return self.lr * warm
        return self.lr * warm * (0.1 + 0.45 * (1 + math.cos(math.pi * step / self.steps)))


def chains_of(model: nn.Module) -> list[Any]:
    """Join the layers of a model that have a chain; none where there is none."""
    chained = any(isinstance(m, MoE) and m.config.chain is not None for m in model.modules())
    return link(model) if chained else []


def parameters(model: nn.Module) -> int:
    """How many a model has once its chains are joined, which leaves one base expert a chain."""
    if not any(isinstance(m, BaseExpertChain) for m in model.modules()):
        chains_of(model)
    return sum(p.numel() for p in model.parameters())


def train(
    book: Book,
    key: str,
    model: nn.Module,
    loss_of: Callable[[torch.Generator], Tensor],
    how: Optimisation,
    seed: int,
    chains: list[Any] | None = None,
    trained: list[Tensor] | None = None,
) -> dict[str, Any]:
    """Train, log the curve, save, and go on after a kill.

    Parameters
    ----------
    book, key : where the curve and the saved state go; the key of the unit, or of a part of it
    model : on its device
    loss_of : draws a batch with the generator that it is given and returns the model's loss on it, without balance
        losses
    how : the optimisation
    seed : of the data's generator and of dropout and noise
    chains : of the model, as `chains_of` gives them
    trained : the parameters to train; by default all

    Returns
    -------
    dict with final_loss (mean over the last tenth of the logged points), step_seconds, chain_share and solve_share (of
    the step's time), no_agreement (share of the logged links without an agreement)
    """
    layers = [m for m in model.modules() if isinstance(m, MoE)]
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed + RANK_STRIDE * book.team.rank)
    trained = trained or list(model.parameters())
    book.team.agree(trained)
    optimizer = _optimizer(how, trained)
    counts = any(callable(getattr(m, "after_step", None)) for m in model.modules())
    handle = follow(optimizer, model) if counts else None
    saved = _load(book, key, model, optimizer, generator)
    begin, history = (0, {"losses": [], "links": 0, "without": 0}) if saved is None else saved
    clock, chains = ChainClock(), chains or []
    model.train()
    started = time.perf_counter()
    for step in range(begin, how.steps):
        for group in optimizer.param_groups:
            group["lr"] = how.rate(step)
        clock.compute(chains)
        loss = loss_of(generator)
        optimizer.zero_grad(set_to_none=True)
        _backward(loss, model, layers, how.clip, trained, book.team)
        if step % how.log_every == 0 or step + 1 == how.steps:
            _log(book, key, step, book.team.mean(float(loss.detach())), chains, history)
        optimizer.step()
        book.progress(key, step + 1, how.steps)
        if (step + 1) % how.save_every == 0:
            _save(book, key, model, optimizer, generator, step + 1, history)
    seconds = time.perf_counter() - started
    if handle is not None:
        handle.remove()
    model.eval()
    book.team.wait()  # the curve is whole for every rank
    return _summary(history, clock, seconds, how.steps - begin)


def _backward(
    loss: Tensor, model: nn.Module, layers: list[MoE], clip: float | None, trained: list[Tensor], team: Team
) -> None:
    extra = sum((team.balanced(layer) for layer in layers), loss.new_zeros(()))
    (loss + extra).backward()
    team.average(trained)
    if clip is not None:
        nn.utils.clip_grad_norm_(model.parameters(), clip)


def _load(
    book: Book, key: str, model: nn.Module, optimizer: torch.optim.Optimizer, generator: torch.Generator
) -> tuple[int, dict[str, Any]] | None:
    folder = book.work(key)
    if book.team.size > 1:
        return load_together(folder, book.team, model, optimizer, generator)
    refuse_parts(folder)
    path = folder / STATE
    return load_state(path, model, optimizer, generator) if path.exists() else None


def _save(
    book: Book,
    key: str,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    generator: torch.Generator,
    step: int,
    history: dict[str, Any],
) -> None:
    if book.team.size > 1:
        save_together(book.work(key), book.team, model, optimizer, generator, step, **history)
    else:
        save_state(book.work(key) / STATE, model, optimizer, generator, step, **history)


def _optimizer(how: Optimisation, parameters: list[Tensor]) -> torch.optim.Optimizer:
    if how.optimizer == "adam":
        return torch.optim.Adam(parameters, lr=how.lr, weight_decay=how.weight_decay)
    return torch.optim.AdamW(parameters, lr=how.lr, betas=(0.9, 0.98), weight_decay=how.weight_decay)


def _log(book: Book, key: str, step: int, loss: float, chains: list[Any], history: dict[str, Any]) -> None:
    links = [record for chain in chains for record in chain.report()]
    without = sum(not agreed(record) for record in links)
    history["losses"].append(loss)
    history["links"] += len(links)
    history["without"] += without
    numbers: dict[str, Any] = {"loss": loss}
    if links:
        numbers |= {"without_agreement": without, "base_move": [record["base_move"] for record in links]}
    book.curve(key, step, **numbers)


def _summary(history: dict[str, Any], clock: ChainClock, seconds: float, steps: int) -> dict[str, Any]:
    losses = history["losses"]
    tail = losses[-max(1, len(losses) // 10) :]
    seconds = max(seconds, 1e-9)
    return {
        "final_loss": sum(tail) / len(tail),
        "step_seconds": seconds / max(steps, 1),
        "chain_share": clock.total / seconds,
        "solve_share": clock.solves / seconds,
        "no_agreement": history["without"] / max(history["links"], 1),
    }
