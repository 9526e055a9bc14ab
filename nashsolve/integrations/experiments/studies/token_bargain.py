"""A bargain for every token: what it changes in a trained model, and what it costs, beside top-k routing."""

from __future__ import annotations

import time
from typing import Any

from pydantic import Field

from ...torch_moe import MoEConfig
from ...torch_moe.merge_rules.token_nash import TokenNashRule
from ...torch_moe.small_transformer import SmallTransformer
from ..book import Book
from ..judging import better
from ..pairing import paired_model
from ..statistics import by_system, mean_sd
from ..study import Claim, Records, Strict
from ..tables import Metric, Table, comparison
from ..training import Optimisation, train
from ._small_model import REDUCED, Sizes, held_out_bits, next_byte_loss, transformer

RULES: dict[str, dict[str, Any]] = {
    "top": {"rule": "smoe"},
    "bargain over outputs": {"rule": "token_nash", "vectors": "outputs"},
    "bargain over parameters": {"rule": "token_nash", "vectors": "parameters"},
}


class Settings(Strict):
    """chosen : experts of a token; seeds : of every variant; balance : coefficient of the balance loss."""

    chosen: list[int] = Field(default=[2, 4])
    seeds: int = Field(default=5, ge=1)
    balance: float = Field(default=0.01, ge=0)
    optimisation: Optimisation = Optimisation(steps=120, lr=4e-3, warmup=15, save_every=60)
    sizes: Sizes = Sizes(d_hidden=64, layers=3)


def layer_of(rule: str, k: int, settings: Settings) -> MoEConfig:
    """One layer; only the rule differs."""
    router = {"options": {"top_k": k, "normalize": True}}
    balance = {"switch": settings.balance}
    return MoEConfig(**settings.sizes.widths, activation="relu", merge=RULES[rule], router=router, balance=balance)


def start(rule: str, k: int, seed: int, settings: Settings) -> SmallTransformer:
    """A model of a rule that begins with the numbers of top-k routing."""

    def build(name: str) -> SmallTransformer:
        return transformer(layer_of(name, k, settings), settings.sizes)

    model = paired_model(build, rule, seed, reference="top")
    assert isinstance(model, SmallTransformer)
    return model


def opposed(model: SmallTransformer) -> float:
    """Share of the last call's tokens whose experts could not agree; zero for top-k."""
    rules = [layer.rule for layer in model.layers() if isinstance(layer.rule, TokenNashRule)]
    shares = [float(rule.opposed) for rule in rules if rule.opposed is not None]
    return sum(shares) / len(shares) if shares else 0.0


def run(settings: Settings, book: Book) -> None:
    """Train every rule and number of experts with every seed; the same start and batches for all rules."""
    units = [f"{rule}, k = {k}/{s}" for s in range(settings.seeds) for k in settings.chosen for rule in RULES]
    for key in book.todo(units):
        name, _, seed = key.rpartition("/")
        rule, _, k = name.rpartition(", k = ")
        model = start(rule, int(k), int(seed), settings).to(book.device)
        begin = time.process_time()
        told = train(
            book, key, model, next_byte_loss(model, settings.sizes, book.device), settings.optimisation, int(seed)
        )
        cpu = (time.process_time() - begin) / settings.optimisation.steps
        bits = float(held_out_bits(model, settings.sizes, book.device).mean())
        numbers = {"bits": bits, "opposed": opposed(model), "step_cpu_seconds": cpu, "final_loss": told["final_loss"]}
        book.record(key, system=name, rule=rule, k=int(k), seed=int(seed), **numbers)


def reduced(settings: Settings) -> Settings:
    """Two steps."""
    how = settings.optimisation.changed(steps=2, log_every=1).model_dump()
    return settings.changed(chosen=[2], seeds=2, sizes=REDUCED, optimisation=how)


def tables(records: Records) -> list[Table]:
    """Bits per byte for every number of chosen experts."""
    found = []
    for k in sorted({r["k"] for r in records}):
        own = [r for r in records if r["k"] == k]
        metrics = [
            Metric("bits", "held-out bits per byte", "lower", 4),
            Metric("step_cpu_seconds", "CPU seconds of a step", "lower", 4),
            Metric("opposed", "tokens without an agreement", "lower", 4),
        ]
        found.append(comparison(own, metrics, f"top, k = {k}", f"{k} experts chosen for every token."))
    return found


def claims(records: Records) -> list[Claim]:
    """The open question about token-level bargaining: effect, then cost."""
    table = by_system(records, "bits")
    found = []
    for k in sorted({r["k"] for r in records}):
        top = f"top, k = {k}"
        for rule in list(RULES)[1:]:
            claim = better(table, f"{rule}, k = {k}", top, "bits per byte", "lower", "open question 1")
            if claim is None:
                continue
            seconds = by_system(records, "step_cpu_seconds")
            ratio = mean_sd([seconds[f"{rule}, k = {k}"][s] / seconds[top][s] for s in seconds[top]])
            without = mean_sd([r["opposed"] for r in records if r["system"] == f"{rule}, k = {k}"])[0]
            told = f"{claim.measured}; {ratio[0]:.2f} ± {ratio[1]:.2f} times the CPU time of a step; no agreement for "
            told += f"{without:.1%} of tokens"
            text = f"With {k} experts a token, a {rule} trains a better model than top-k routing."
            found.append(Claim(text, claim.paper, told, claim.verdict, claim.reason))
    return found
