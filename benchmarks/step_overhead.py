"""What merging costs: the base-expert chain within a training step, and tokens per second of all systems.

    python -m benchmarks.step_overhead [--quick] [--model t5-base] [--batch 8] [--length 256] [--json FILE]
    python -m benchmarks.step_overhead --model qwen2_moe|t5|... [--width 0.25] [--layers 4] [--segment 64]
    python -m benchmarks.step_overhead --systems [--quick]

The first form trains NAMEx-Full (bargaining anew in every layer and every step) and reads the clock around the chain,
forward and backward; beside it, in the same run, the chain done naively: domain vectors stacked, autograd through the
loop, alpha by CCP. The second form takes models of transformers, on a CPU scaled down: a step as it was (before
conversion, or dense before upcycling) and one that merges. The third form times steps of all systems on one stack,
interleaved, without an optimizer.

On Linux, glibc returns large gradients to the system in every step and gets them back page by page, which the chain's
backward pass feels. MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=1000000000000 in the environment keeps them.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # run as a file, too

import nashsolve
from benchmarks import measure
from benchmarks.model_steps import MODELS, compared, print_compared
from benchmarks.moe_shapes import SHAPES, Shape, build
from nashsolve.integrations.torch_moe import SYSTEMS, link
from nashsolve.integrations.torch_moe.chain_clock import ChainClock
from nashsolve.integrations.torch_moe.small_transformer import SmallTransformer

VOCAB = 512
PUBLISHED_SHARE = 85.96
"""Per cent of the step that bargaining took, as published for T5-base with a solve in every layer."""
BY_TOKEN = ("smoe", "token_nash", "usage")
SEQUENCE = {"router": {"name": "linear", "options": {"level": "sequence"}}}
GOAL = 1.0
"""Per cent of the step that the chain may take."""


def loss_of(model: SmallTransformer, ids: torch.Tensor) -> torch.Tensor:
    """A scalar that trains everything."""
    return nn.functional.cross_entropy(model(ids).flatten(0, 1), ids.flatten()) + model.auxiliary_loss()


def seconds(call: Callable[[], object]) -> float:
    """Wall seconds of a call, to the end of its work on the device."""
    begin = time.perf_counter()
    call()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - begin


def naive_chain(model: SmallTransformer, solver: str) -> None:
    """Forward and backward of the chain, written down: stacked domain vectors, a loop, alpha a constant."""
    layers = model.layers()
    base = torch.cat([tensor.flatten() for tensor in layers[0].own_base().values()])
    total = base.new_zeros(())
    for layer in layers[:-1]:
        experts = torch.cat([slot.detach().flatten(1) for slot in layer.experts.parameters()], dim=1).requires_grad_()
        domain = experts - base
        gram = (domain @ domain.T).detach().double().cpu().numpy()
        size = float((gram**2).sum() ** 0.5)
        alpha = nashsolve.solve(gram / size, solver=solver, on_failure="return").alpha
        weights = torch.as_tensor(alpha / alpha.sum(), dtype=domain.dtype, device=domain.device)
        base = base + weights @ domain
        total = total + base.sum()
    total.backward()


def overhead(shape: Shape, options: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    """Median seconds of a step of NAMEx-Full and of the chain in it, and of the naive chain."""
    torch.manual_seed(0)
    model = build(shape, "namex_full", VOCAB, merge={"eta": 0.5}, **SEQUENCE).to(device)
    chains = link(model)
    ids = torch.randint(0, VOCAB, (options.batch, options.length), device=device)
    optimizer: torch.optim.Optimizer
    if options.optimizer == "adamw":
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    else:
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-4)
    steps, clocks, naive = [], [], []
    for turn in range(options.rounds + 1):
        clock = ChainClock()

        def step(clock: ChainClock = clock) -> None:
            clock.compute(chains)
            loss_of(model, ids).backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

        took = seconds(step)
        if turn:  # the first step builds the optimizer's state
            steps.append(took)
            clocks.append(clock)
        if turn and options.naive:
            naive.append(seconds(lambda: naive_chain(model, options.naive)))
    chain = statistics.median(clock.total for clock in clocks)
    step_time = statistics.median(steps)
    return {
        "model": options.model,
        "built_layers": shape.layers,
        "layers": shape.of,
        "experts": shape.experts,
        "per_expert": shape.per_expert,
        "d_model": shape.d_model,
        "tokens": options.batch * options.length,
        "optimizer": options.optimizer,
        "step_seconds": step_time,
        "chain_seconds": chain,
        "forward_seconds": statistics.median(clock.forward for clock in clocks),
        "solve_seconds": statistics.median(clock.solves for clock in clocks),
        "share_percent": 100 * chain / step_time,
        "naive_seconds": statistics.median(naive) if naive else float("nan"),
    }


def print_overhead(found: dict[str, Any], device: torch.device) -> None:
    """The measured share, the published one, and the tokens at which the goal is met."""
    step, chain, naive = found["step_seconds"], found["chain_seconds"], found["naive_seconds"]
    rows = [
        ["whole step", f"{step:.3g}", "100"],
        ["chain, forward and backward", f"{chain:.3g}", f"{found['share_percent']:.2f}"],
        ["  of which solves", f"{found['solve_seconds']:.3g}", f"{100 * found['solve_seconds'] / step:.2f}"],
    ]
    if naive == naive:
        rows.append(["the same chain, naively", f"{naive:.3g}", f"{100 * naive / (step - chain + naive):.2f}"])
    title = (
        f"{found['model']} on {device.type}: {found['built_layers']} of {found['layers']} layers, {found['experts']} "
        f"experts of {found['per_expert']:,} parameters, {found['tokens']} tokens a step, {found['optimizer']}"
    )
    print(measure.table(title, ["", "seconds", "per cent"], rows))
    if naive == naive:
        print(f"the naive chain takes {naive / chain:.1f} times as long")
    needed = found["tokens"] * chain * (100 / GOAL - 1) / (step - chain)
    print(
        f"published share of bargaining: {PUBLISHED_SHARE} %, here: {found['share_percent']:.2f} %; the chain's cost "
        f"does not depend on the tokens, and is {GOAL:g} % of a step from about {needed:,.0f} tokens on"
    )


def system_settings(system: str) -> dict[str, Any]:
    """What a system needs beside its name: eta over a base expert, and a router of sequences where it merges."""
    own = SYSTEMS[system]
    settings: dict[str, Any] = {}
    if not system.startswith(BY_TOKEN):
        router = own.get("router", {"name": "linear"})
        level = {"level": "segment", "segment_length": 64} if system == "lory" else {"level": "sequence"}
        settings["router"] = {"name": router["name"], "options": router.get("options", {}) | level}
    if own["merge"]["rule"] == "camex" and "eta" not in own["merge"]:
        settings["merge"] = {"eta": 0.5}
    return settings


def systems(shape: Shape, options: argparse.Namespace, device: torch.device) -> dict[str, float]:
    """Tokens per second of forward and backward passes of every system, interleaved."""
    ids = torch.randint(0, VOCAB, (options.batch, options.length), device=device)
    calls: dict[str, Callable[[], object]] = {}
    first: dict[str, float] = {}
    for system in SYSTEMS:
        torch.manual_seed(0)
        model = build(shape, system, VOCAB, **system_settings(system)).to(device)
        chains = link(model) if any(layer.config.chain is not None for layer in model.layers()) else []

        def step(model: SmallTransformer = model, chains: list[Any] = chains) -> None:
            for chain in chains:
                chain.invalidate()  # as after an optimizer step
            loss_of(model, ids).backward()
            model.zero_grad(set_to_none=True)
            if device.type == "cuda":
                torch.cuda.synchronize()

        step()
        calls[system], first[system] = step, seconds(step)
    found = measure.interleaved(calls, first, rounds=options.rounds, shortest=0.0, slow=60.0)
    return {system: ids.numel() / took for system, took in found.items()}


def of_transformers(options: argparse.Namespace) -> int:
    """Steps of a model of transformers: run, print, write."""
    device = torch.device(options.device)
    if device.type == "cpu":
        measure.limit_torch_threads()
        options.layers = options.layers or 4
    width = options.width or (1.0 if device.type == "cuda" else 1 / 16 if options.quick else 1 / 4)
    print(measure.banner())
    found = compared(options, width, device)
    print_compared(found, GOAL, device)
    if options.json:
        measure.write_json(options.json, found)
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run, print, write."""
    parser = argparse.ArgumentParser(
        prog="step_overhead", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", choices=[*sorted(SHAPES), *sorted(MODELS)], default="t5-base")
    parser.add_argument("--width", type=float, help="factor on all widths (1; for --systems 1/3, --quick 1/6)")
    parser.add_argument("--segment", type=int, default=64, help="tokens in a segment, for models of transformers")
    parser.add_argument("--layers", type=int, help="layers to build")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--length", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--optimizer", choices=["adamw", "sgd"], default="adamw")
    parser.add_argument("--naive", default="ccp", help="solver of the naive chain, or '' to leave it out")
    parser.add_argument("--systems", action="store_true", help="tokens per second of all systems")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args(arguments)
    if options.model in MODELS:
        return of_transformers(options)
    width = options.width or (1 / 6 if options.quick else 1 / 3 if options.systems else 1.0)
    layers = options.layers or (4 if options.systems else None)
    shape, device = SHAPES[options.model].scaled(width, layers), torch.device(options.device)
    if device.type == "cpu":
        measure.limit_torch_threads()
    print(measure.banner())
    content: dict[str, Any]
    if options.systems:
        rates = systems(shape, options, device)
        best = max(rates.values())
        rows = [[name, f"{rate:,.0f}", f"{rate / best:.2f}"] for name, rate in rates.items()]
        title = f"{options.model} at {width:.3g} of its widths, {shape.layers} layers: forward and backward"
        print(measure.table(title, ["", "tokens/s", "of the fastest"], rows))
        content = {"width": width, "layers": shape.layers, "tokens_per_second": rates}
    else:
        content = overhead(shape, options, device) | {"width": width}
        print_overhead(content, device)
    if options.json:
        measure.write_json(options.json, content)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
