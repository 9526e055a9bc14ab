"""Merging inside released language models, zero-shot and after training the base experts: tables 4, 8, 10, 11, 16, 17.

Routers stay the models' own. The paper also puts cosine and stable routers in their place, and does not say how these
were trained; `surgery` shows in small what happens without.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from ..book import Book
from ..data.fixtures import write_questions
from ..data.questions import LETTERS, Choice, Sum, arc, chats, gsm8k, last_number, mmlu, source_of
from ..judging import better
from ..models.llm import RELEASED, count_released
from ..statistics import by_system
from ..study import Claim, Records, Strict
from ..systems import few
from ..tables import Metric, Table, comparison
from ..training import Optimisation, train
from ._harness import harness_scores
from ._transformers import PAD, Tokenize, byte_tokens, load, merging_settings, model_tokens

ORIGINAL = "original"
DIVISIBLE = True


class Settings(Strict):
    """Model, systems, questions.

    Attributes
    ----------
    model : name on the hub, or folder
    systems : "original" and those of `known_systems` that merge
    chains : name of a further system -> {"system": ..., "chain": settings of its chain}, such as budgets of CCP
    seeds : of the training; zero-shot numbers are the same for all
    segment : tokens that share a merged expert
    eta : step from the base expert to the merged expert
    tuning : of the shared experts, which are the base experts, and of what merging adds, on SmolTalk; None measures
        zero-shot only. Training all 14 billion weights needs more memory than one GPU has, and is not offered
    questions : of each data set; None for all
    folder : one folder a data set (SmolTalk, MMLU, ARC, GSM8K); None asks the hub
    evaluator : "own" compares the letters' logits and reads the last number; "lm_eval" runs lm-evaluation-harness
    length, batch, answer : tokens of an example, examples in a step, new tokens of an answer in GSM8K
    dtype : of the model's weights
    sizes : of a random model, for reduced runs
    """

    model: str
    systems: list[str] = Field(min_length=1)
    chains: dict[str, dict[str, Any]] = Field(default_factory=dict)
    seeds: int = Field(default=1, ge=1)
    segment: int = Field(default=128, ge=1)
    eta: float = Field(default=0.5, gt=0)
    tuning: Optimisation | None = None
    questions: int | None = Field(default=None, ge=1)
    folder: str | None = None
    evaluator: Literal["own", "lm_eval"] = "own"
    length: int = 1024
    batch: int = 4
    answer: int = 256
    dtype: Literal["bfloat16", "float32"] = "bfloat16"
    sizes: dict[str, int] = Field(default_factory=dict)


def run(settings: Settings, book: Book) -> None:
    """Convert, measure, train the base experts, measure again."""
    folder = str(book.shared("data", write_questions)) if settings.sizes else settings.folder
    arms: dict[str, tuple[str, Any]] = {system: (system, None) for system in settings.systems}
    arms |= {name: (arm["system"], arm.get("chain")) for name, arm in settings.chains.items()}
    for key in book.todo([f"{arm}/{seed}" for seed in range(settings.seeds) for arm in arms]):
        arm, _, seed = key.partition("/")
        tiny = bool(settings.sizes)
        tokenize = byte_tokens(settings.length, end=False) if tiny else model_tokens(settings.model, settings.length)
        model = build(settings, *arms[arm], int(seed)).to(book.device).eval()
        numbers = {f"zero_{k}": v for k, v in measure(settings, model, tokenize, folder, book.device).items()}
        if settings.tuning is not None and arms[arm][0] != ORIGINAL:
            numbers |= _tune(settings, book, key, model, tokenize, folder, int(seed))
            numbers |= {f"tuned_{k}": v for k, v in measure(settings, model, tokenize, folder, book.device).items()}
        book.record(key, system=arm, seed=int(seed), **numbers)


def build(settings: Settings, system: str, chain: dict[str, Any] | None, seed: int) -> Any:
    """The released model, converted."""
    from transformers import AutoModelForCausalLM, Qwen2MoeConfig, Qwen2MoeForCausalLM

    from ...transformers import convert

    torch.manual_seed(seed)
    if settings.sizes:
        config: Any = Qwen2MoeConfig
        model: Any = Qwen2MoeForCausalLM(config(pad_token_id=PAD, **settings.sizes))
    else:
        model = load(AutoModelForCausalLM, settings.model, dtype=getattr(torch, settings.dtype))
    if system != ORIGINAL:
        merging = merging_settings(system, settings.eta, chain)
        # The shared expert is the base expert, as in the paper: a slice of the routed experts' width.
        merging["base"] = {"init": "shared_expert"}
        convert(model, show=False, causal_level="segment", segment_length=settings.segment, **merging)
    return model


def measure(settings: Settings, model: Any, tokenize: Tokenize, folder: str | None, device: str) -> dict[str, float]:
    """MMLU, ARC and GSM8K in per cent."""
    if settings.evaluator == "lm_eval":
        return harness_scores(model, settings.model, folder, settings.questions, settings.batch)

    def source(name: str) -> Any:
        return source_of(name, None if folder is None else f"{folder}/{name}", settings.questions)

    return {
        "MMLU": _choices(settings, model, tokenize, mmlu(source("MMLU")), device),
        "ARC": _choices(settings, model, tokenize, arc(source("ARC")), device),
        "GSM8K": _sums(settings, model, tokenize, gsm8k(source("GSM8K")), device),
    }


@torch.no_grad()
def _choices(settings: Settings, model: Any, tokenize: Tokenize, asked: list[Choice], device: str) -> float:
    told = tokenize([f" {letter}" for letter in LETTERS])
    letters = [int(told.row(k)[-1]) for k in range(len(LETTERS))]
    hits = 0
    for start in range(0, len(asked), settings.batch):
        part = asked[start : start + settings.batch]
        given = tokenize([choice.prompt() for choice in part]).to(device)
        logits = model(input_ids=given.ids, attention_mask=given.mask.long()).logits
        last = logits[torch.arange(len(part)), given.mask.sum(-1) - 1]
        for row, choice in zip(last, part, strict=True):
            hits += int(row[letters[: len(choice.choices)]].argmax()) == choice.answer
    return 100 * hits / len(asked)


@torch.no_grad()
def _sums(settings: Settings, model: Any, tokenize: Tokenize, asked: list[Sum], device: str) -> float:
    hits = 0
    for problem in asked:
        ids = tokenize([f"Question: {problem.question}\nAnswer:"]).row(0)[None].to(device)
        said = model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=settings.answer, do_sample=False, pad_token_id=PAD
        )[0, ids.shape[1] :]
        hits += last_number(_text(settings, said)) == problem.answer
    return 100 * hits / len(asked)


def _text(settings: Settings, ids: Tensor) -> str:
    if settings.sizes:
        return bytes(int(i) - 3 for i in ids if 3 <= int(i) < 259).decode("utf-8", errors="replace")
    from transformers import AutoTokenizer

    return str(load(AutoTokenizer, settings.model).decode(ids, skip_special_tokens=True))


def _tune(
    settings: Settings, book: Book, key: str, model: Any, tokenize: Tokenize, folder: str | None, seed: int
) -> dict[str, Any]:
    source = source_of("SmolTalk", None if folder is None else f"{folder}/SmolTalk")
    texts = ["\n".join(f"{m['role']}: {m['content']}" for m in messages) for messages in chats(source)]
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    shared = [p for name, p in model.named_parameters() if "shared_expert" in name]
    added = [p.requires_grad_(True) for p in [*model.nashsolve.parameters(), *shared]]

    def loss_of(generator: torch.Generator) -> Tensor:
        rows = book.team.share(torch.randint(0, len(texts), (settings.batch,), generator=generator))
        given = tokenize([texts[int(row)] for row in rows]).to(book.device)
        logits = model(input_ids=given.ids, attention_mask=given.mask.long()).logits[:, :-1].float()
        wanted = given.ids[:, 1:].masked_fill(~given.mask[:, 1:], -100)
        # A mean over tokens, of which the ranks have different numbers.
        weight = book.team.weight(int((wanted >= 0).sum()))
        return weight * nn.functional.cross_entropy(logits.flatten(0, 1), wanted.flatten())

    assert settings.tuning is not None
    return train(book, key, model, loss_of, settings.tuning, seed, list(model.nashsolve.chains), added)


def reduced(settings: Settings) -> Settings:
    """Two steps of a tiny random model on four questions."""
    sizes = {
        "vocab_size": 260,
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "intermediate_size": 16,
        "moe_intermediate_size": 8,
        "shared_expert_intermediate_size": 8,
        "num_experts": 4,
        "num_experts_per_tok": 2,
    }
    how = Optimisation(steps=2, lr=1e-3, log_every=1, save_every=1).model_dump()
    chosen = few(settings.systems)
    small: dict[str, Any] = {"length": 96, "segment": 16, "batch": 2, "answer": 4, "dtype": "float32"}
    return settings.changed(sizes=sizes, systems=chosen, chains={}, tuning=how, evaluator="own", **small)


def plan(settings: Settings) -> list[str]:
    """Parameters on the meta device, where the model's sizes are known."""
    lines = []
    if settings.model in RELEASED:
        count = count_released(settings.model)
        lines.append(f"{settings.model}: {count / 1e9:.2f} billion parameters, {2 * count / 2**30:.0f} GiB in bfloat16")
    arms = len(settings.systems) + len(settings.chains)
    return [
        *lines,
        f"{arms * settings.seeds} models, each measured on MMLU, ARC and GSM8K, zero-shot and after training",
    ]


def tables(records: Records) -> list[Table]:
    """Zero-shot and tuned scores."""
    stages = [stage for stage in ("zero", "tuned") if any(f"{stage}_MMLU" in r for r in records)]
    return [
        comparison(
            records,
            [Metric(f"{stage}_{name}", f"{name}, %", "higher", 2) for name in ("MMLU", "GSM8K", "ARC")],
            ORIGINAL,
            {"zero": "Zero-shot.", "tuned": "After training the base experts."}[stage],
        )
        for stage in stages
    ]


def claims(records: Records) -> list[Claim]:
    """Tables 10 and 11."""
    table = by_system(records, "zero_MMLU")
    judged = [better(table, "namex_full", other, "MMLU, %", "higher", "table 10") for other in (ORIGINAL, "ep_camex")]
    return [claim for claim in judged if claim is not None]
