"""Models of transformers at their published shapes, scaled: a step as it was, and a step that merges.

Used by `benchmarks.step_overhead`, and run alone to compare the two ways by which a block comes to merge:

    python -m benchmarks.model_steps [--width 0.125] [--rounds 5] [--json FILE]
"""

from __future__ import annotations

import argparse
import copy
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # run as a file, too

from benchmarks import measure
from nashsolve.integrations.torch_moe.chain_clock import ChainClock
from nashsolve.integrations.transformers import convert, revert, upcycle

VOCAB = 512
WARM = 2
"""Rounds that are not timed."""
CAMEX = {"rule": "camex", "eta": 0.5}


@dataclass(frozen=True)
class Family:
    """A published model.

    Attributes
    ----------
    name : of its classes, before "Config" and `kind`
    kind : end of the name of its class
    widths : settings that scale, hidden size first
    heads : name of the setting, and number of heads
    fixed : other settings
    depth : settings that hold a number of layers, and how many there are
    half : settings that hold the number of sparse layers, every second one
    dense : feed-forwards are upcycled to eight experts
    """

    name: str
    widths: dict[str, int]
    heads: tuple[str, int]
    fixed: dict[str, Any]
    depth: tuple[tuple[str, ...], int]
    kind: str = "ForCausalLM"
    half: tuple[str, ...] = ()
    dense: bool = False

    def build(self, width: float, layers: int | None) -> Any:
        """The model with all widths multiplied, and some of its layers."""
        import transformers

        name, heads = self.heads
        scaled = {key: max(8, round(value * width)) for key, value in self.widths.items()}
        first = next(iter(scaled))
        scaled[first] = max(2, 2 * round(scaled[first] / heads / 2)) * heads
        names, number = self.depth
        settings = self.fixed | scaled | {name: heads} | dict.fromkeys(names, layers or number)
        settings |= dict.fromkeys(self.half, (layers or number) // 2)
        config = getattr(transformers, f"{self.name}Config")(vocab_size=VOCAB, **settings)
        torch.manual_seed(0)
        return getattr(transformers, f"{self.name}{self.kind}")(config)


_TOKENS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
_DEEPSEEK = _TOKENS | {"first_k_dense_replace": 0, "n_group": 1, "topk_group": 1, "q_lora_rank": None}
_T5 = _TOKENS | {"decoder_start_token_id": 0}
_LAYERS = ("num_hidden_layers",)
MODELS = {
    "mixtral": Family(
        "Mixtral",
        {"hidden_size": 4096, "intermediate_size": 14336},
        ("num_attention_heads", 32),
        _TOKENS | {"num_key_value_heads": 8, "num_local_experts": 8, "num_experts_per_tok": 2},
        (_LAYERS, 32),
    ),
    "qwen2_moe": Family(
        "Qwen2Moe",
        {"hidden_size": 2048, "moe_intermediate_size": 1408, "shared_expert_intermediate_size": 5632},
        ("num_attention_heads", 16),
        _TOKENS | {"num_key_value_heads": 16, "num_experts": 60, "num_experts_per_tok": 4},
        (_LAYERS, 24),
    ),
    "qwen3_moe": Family(
        "Qwen3Moe",
        {"hidden_size": 2048, "moe_intermediate_size": 768, "head_dim": 128},
        ("num_attention_heads", 32),
        _TOKENS | {"num_key_value_heads": 4, "num_experts": 128, "num_experts_per_tok": 8},
        (_LAYERS, 48),
    ),
    "olmoe": Family(
        "Olmoe",
        {"hidden_size": 2048, "intermediate_size": 1024},
        ("num_attention_heads", 16),
        _TOKENS | {"num_key_value_heads": 16, "num_experts": 64, "num_experts_per_tok": 8},
        (_LAYERS, 16),
    ),
    "deepseek_v2": Family(
        "DeepseekV2",
        {"hidden_size": 2048, "moe_intermediate_size": 1408, "kv_lora_rank": 512},
        ("num_attention_heads", 16),
        _DEEPSEEK
        | {"num_key_value_heads": 16, "n_routed_experts": 64, "num_experts_per_tok": 6, "n_shared_experts": 2},
        (_LAYERS, 27),
    ),
    "switch": Family(
        "SwitchTransformers",
        {"d_model": 768, "d_ff": 3072},
        ("num_heads", 12),
        _T5 | {"num_experts": 8},
        (("num_layers", "num_decoder_layers"), 12),
        kind="ForConditionalGeneration",
        half=("num_sparse_encoder_layers", "num_sparse_decoder_layers"),
    ),
    "t5": Family(
        "T5",
        {"d_model": 768, "d_ff": 3072},
        ("num_heads", 12),
        _T5,
        (("num_layers",), 12),
        kind="ForConditionalGeneration",
        dense=True,
    ),
}
"""Name -> family, at the widths of Mixtral 8x7B, Qwen1.5-MoE, Qwen3-30B, OLMoE 7B, DeepSeek-V2-Lite, Switch and T5."""


def inputs(family: Family, batch: int, length: int, device: torch.device) -> dict[str, Any]:
    """Token ids and labels."""
    ids = torch.randint(3, VOCAB, (batch, length), generator=torch.Generator().manual_seed(0)).to(device)
    return {"input_ids": ids, "labels": ids} | (
        {} if family.name in ("T5", "SwitchTransformers") else {"use_cache": False}
    )


def merge(family: Family, model: Any, segment: int, way: str = "experts_function") -> Any:
    """Merging with a bargain in every layer and every step."""
    levels: dict[str, Any] = {"causal_level": "segment", "segment_length": segment}
    if family.kind != "ForCausalLM":
        levels["level"] = "sequence"
    if family.dense:
        return upcycle(model, show=False, experts=8, **levels)
    return convert(model, show=False, merge=CAMEX, chain={}, across_dense=True, way=way, **levels)


class Step:
    """One training step of a model, with or without merging."""

    def __init__(self, model: Any, given: dict[str, Any], merging: Any = None) -> None:
        self.model, self.given, self.merging = model.train(), given, merging
        self.now = clock_of(next(model.parameters()).device)
        self.optimizer = torch.optim.SGD(model.parameters(), lr=1e-4)
        self.clocks: list[ChainClock] = []

    def __call__(self) -> None:
        clock = ChainClock(now=self.now)
        with clock.gathered(() if self.merging is None else self.merging.chains):
            self.model(**self.given).loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.clocks.append(clock)
        if torch.cuda.is_available():
            torch.cuda.synchronize()


def compared(options: Any, width: float, device: torch.device) -> dict[str, Any]:
    """Median seconds of a step as it was and of one that merges, interleaved, and of the chain in the latter."""
    family = MODELS[options.model]
    given = inputs(family, options.batch[0], options.length, device)
    before = family.build(width, options.layers).to(device)
    after = copy.deepcopy(before)
    merging = merge(family, after, options.segment)
    steps = {"before": Step(before, given), "merging": Step(after, given, merging)}
    found = medians(dict(steps), options.rounds, clock_of(device))
    clocks = steps["merging"].clocks[WARM:]
    chain = statistics.median(clock.total for clock in clocks)
    view = merging.members[0].expert_view()
    return {
        "model": options.model,
        "width": width,
        "layers": len(merging.members),
        "experts": view.n,
        "per_expert": view.size,
        "tokens": given["input_ids"].numel(),
        "before_seconds": found["before"],
        "step_seconds": found["merging"],
        "chain_seconds": chain,
        "solve_seconds": statistics.median(clock.solves for clock in clocks),
        "share_percent": 100 * chain / found["merging"],
    }


def clock_of(device: torch.device) -> Callable[[], float]:
    """CPU time where everything runs on one core, which other work on the machine does not disturb."""
    return time.process_time if device.type == "cpu" else time.perf_counter


def medians(calls: dict[str, Callable[[], object]], rounds: int, now: Callable[[], float]) -> dict[str, float]:
    """Median seconds of each call, made in turn; the first `WARM` rounds do not count."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(WARM + rounds):
        for name, call in calls.items():
            begin = now()
            call()
            times[name].append(now() - begin)
    return {name: statistics.median(found[WARM:]) for name, found in times.items()}


def print_compared(found: dict[str, Any], goal: float, device: torch.device) -> None:
    """Both steps, the chain in one of them, and the tokens at which its share is the goal."""
    before, step, chain = (found[f"{name}_seconds"] for name in ("before", "step", "chain"))
    name = "dense, before upcycling" if MODELS[found["model"]].dense else "before conversion"
    rows = [
        [f"step {name}", f"{before:.3g}", f"{100 * before / step:.1f}"],
        ["step that merges", f"{step:.3g}", "100"],
        ["  of which chain, forward and backward", f"{chain:.3g}", f"{found['share_percent']:.2f}"],
        ["  of which solves", f"{found['solve_seconds']:.3g}", f"{100 * found['solve_seconds'] / step:.2f}"],
    ]
    title = (
        f"{found['model']} of transformers on {device.type}, {found['width']:.3g} of its widths: {found['layers']} "
        f"layers of {found['experts']} experts of {found['per_expert']:,} parameters, {found['tokens']} tokens, SGD"
    )
    print(measure.table(title, ["", "CPU seconds" if device.type == "cpu" else "seconds", "per cent"], rows))
    needed = found["tokens"] * chain * (100 / goal - 1) / (step - chain)
    print(
        "a solve in every layer and every step; the chain's cost does not depend on the tokens, and is "
        f"{goal:g} % of a step from about {needed:,.0f} tokens on; no collective is needed on one process"
    )


def ways(width: float, rounds: int) -> dict[str, dict[str, float]]:
    """Median seconds of forward passes and of training steps of each way, interleaved, and without merging."""
    found: dict[str, dict[str, float]] = {}
    device = torch.device("cpu")
    for name in ("mixtral", "qwen2_moe", "olmoe"):
        family = MODELS[name]
        given = inputs(family, 4, 128, device)
        plain = family.build(width, 4)
        models = {"not converted": plain}
        for way in ("experts_function", "block"):
            models[way] = copy.deepcopy(plain)
            merge(family, models[way], 64, way)
        calls: dict[str, Callable[[], object]] = {}
        for way, model in models.items():
            calls[f"{way}, step"] = Step(model, given, getattr(model, "nashsolve", None))
            neutral = copy.deepcopy(model)
            if way != "not converted":
                revert(neutral)
                convert(neutral, show=False, way=way)
            calls[f"{way}, neutral forward"] = _forward(neutral, given)
        found[name] = medians(calls, rounds, time.process_time)
    return found


def _forward(model: Any, given: dict[str, Any]) -> Callable[[], object]:
    model.eval()

    @torch.no_grad()
    def forward() -> object:
        return model(**given).logits

    return forward


def main(arguments: Sequence[str] | None = None) -> int:
    """Compare the ways, print, write."""
    parser = argparse.ArgumentParser(
        prog="model_steps", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--width", type=float, default=1 / 8)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args(arguments)
    measure.limit_torch_threads()
    print(measure.banner())
    found = ways(options.width, options.rounds)
    for kind in ("step", "neutral forward"):
        rows = []
        for name, seconds in found.items():
            one, function, block = (seconds[f"{way}, {kind}"] for way in ("not converted", "experts_function", "block"))
            rows.append(
                [name, f"{one * 1e3:.1f}", f"{function * 1e3:.1f}", f"{block * 1e3:.1f}", f"{block / function:.3f}"]
            )
        title = f"{kind}, milliseconds of CPU time, 4 layers at {options.width:.3g} of the widths, 512 tokens"
        print(measure.table(title, ["", "not converted", "function", "block", "block / function"], rows))
    if options.json:
        measure.write_json(options.json, {"width": options.width, "seconds": found})
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
