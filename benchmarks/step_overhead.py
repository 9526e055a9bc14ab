"""What merging costs: the base-expert chain within a training step, and tokens per second of all systems.

    python -m benchmarks.step_overhead [--quick] [--model t5-base] [--batch 8,32,96] [--length 256] [--json FILE]
    python -m benchmarks.step_overhead --model qwen2_moe|t5|... [--width 0.25] [--layers 4] [--segment 64]
    python -m benchmarks.step_overhead --systems [--quick]

The first form trains NAMEx-Full (bargaining anew in every layer and every step) and reads the clock around the chain,
forward and backward, in steps of several sizes. A step larger than `--micro` sequences accumulates gradients over
micro-batches; the chain is computed once for all of them, and so is its backward pass (`gathered`). 96 sequences of 256
tokens are the published batch of WikiText; with T5-base's widths all of it takes about six minutes on two cores. Beside
it, in the same run, the smallest step without `gathered`, and the chain done naively: domain vectors stacked, autograd
through the loop, alpha by CCP. The second form takes models of transformers, on a CPU scaled down: a step as it was
(before conversion, or dense before upcycling) and one that merges. The third form times steps of all systems on one
stack, interleaved, without an optimizer.

On a CPU times are those of the process, on one thread. On Linux, glibc returns large tensors to the system and gets
them back page by page, which merging feels more than the rest of a step, and the chain without `gathered` most of all.
MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=1000000000000 in the environment keeps them.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # run as a file, too

import nashsolve
from benchmarks import measure
from benchmarks.model_steps import MODELS, clock_of, compared, print_compared
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


class Training:
    """A model of NAMEx-Full in training, step by step.

    Parameters
    ----------
    shape : of the model
    optimizer : "adamw" or "sgd"
    length : of the sequences
    micro : sequences of a micro-batch at most
    """

    def __init__(self, shape: Shape, optimizer: str, length: int, micro: int, device: torch.device) -> None:
        torch.manual_seed(0)
        self.model = build(shape, "namex_full", VOCAB, merge={"eta": 0.5}, **SEQUENCE).to(device)
        self.chains = link(self.model)
        kinds: dict[str, Callable[..., torch.optim.Optimizer]] = {"adamw": torch.optim.AdamW, "sgd": torch.optim.SGD}
        self.optimizer = kinds[optimizer](self.model.parameters(), lr=1e-4)
        self.length, self.micro, self.device = length, micro, device
        self.now = clock_of(device)

    def step(self, sequences: int, gather: bool = True) -> tuple[float, ChainClock]:
        """Seconds of a step, and the clock that was read in it."""
        clock = ChainClock(now=self.now)
        ids = torch.randint(0, VOCAB, (sequences, self.length), device=self.device)
        begin = self._time()
        if not gather:
            clock.compute(self.chains)
        with clock.gathered(self.chains) if gather else nullcontext():
            for part in ids.split(self.micro):
                (loss_of(self.model, part) * (len(part) / sequences)).backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return self._time() - begin, clock

    def _time(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        return self.now()

    def run(self, sequences: int, rounds: int, gather: bool = True) -> dict[str, Any]:
        """Medians over steps of one size."""
        steps, clocks = zip(*(self.step(sequences, gather) for _ in range(rounds)), strict=True)
        step = statistics.median(steps)
        chain = statistics.median(clock.total for clock in clocks)
        return {
            "tokens": sequences * self.length,
            "micro_batches": -(-sequences // self.micro),
            "gathered": gather,
            "steps": rounds,
            "step_seconds": step,
            "chain_seconds": chain,
            "forward_seconds": statistics.median(clock.forward for clock in clocks),
            "backward_seconds": statistics.median(clock.backward for clock in clocks),
            "solve_seconds": statistics.median(clock.solves for clock in clocks),
            "share_percent": 100 * chain / step,
        }


def overhead(shape: Shape, options: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    """Steps of NAMEx-Full of several sizes and the chain in them, and the naive chain."""
    training = Training(shape, options.optimizer, options.length, options.micro, device)
    sizes = sorted(options.batch)
    training.step(min(sizes[0], options.micro))  # builds the optimizer's state
    runs = [training.run(sizes[0], options.rounds, gather=False)]
    for size in sizes:
        runs.append(training.run(size, options.rounds))
    naive = float("nan")
    if options.naive:
        begin = training.now()
        naive_chain(training.model, options.naive)
        naive = training.now() - begin
    return {
        "model": options.model,
        "built_layers": shape.layers,
        "layers": shape.of,
        "experts": shape.experts,
        "per_expert": shape.per_expert,
        "d_model": shape.d_model,
        "optimizer": options.optimizer,
        "bytes_read_and_written": chain_bytes(shape),
        "runs": runs,
        "naive_seconds": naive,
        "peak_bytes": peak_bytes(device),
    }


def chain_bytes(shape: Shape) -> int:
    """Bytes that a chain in float32 cannot avoid: for every link the experts are read for the Gram and again for the
    step, and their gradients are read and written; the base expert moves beside them four times."""
    return (shape.layers - 1) * 4 * shape.per_expert * (4 * shape.experts + 4)


def peak_bytes(device: torch.device) -> int:
    """Memory of the process at its peak, or of the device."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def print_overhead(found: dict[str, Any], device: torch.device) -> None:
    """The measured shares, the published one, and the tokens at which the goal is met."""
    kind = "CPU seconds" if device.type == "cpu" else "seconds"
    rows = []
    for run in found["runs"]:
        name = f"{run['tokens']:,}" + ("" if run["gathered"] else ", without gathered")
        numbers = [run[f"{part}_seconds"] for part in ("step", "chain", "forward", "backward", "solve")]
        rows.append([name, str(run["micro_batches"]), *(f"{x:.3g}" for x in numbers), f"{run['share_percent']:.2f}"])
    title = (
        f"{found['model']} on {device.type}: {found['built_layers']} of {found['layers']} layers, {found['experts']} "
        f"experts of {found['per_expert']:,} parameters, {found['optimizer']}, {kind}"
    )
    header = ["tokens in a step", "parts", "step", "chain", "forward", "backward", "solves", "per cent"]
    print(measure.table(title, header, rows))
    small, large = found["runs"][1], found["runs"][-1]
    if found["naive_seconds"] == found["naive_seconds"]:
        naive = found["naive_seconds"]
        share = 100 * naive / (small["step_seconds"] - small["chain_seconds"] + naive)
        print(
            f"the chain done naively takes {naive:.3g} seconds, {naive / small['chain_seconds']:.1f} times as long, "
            f"{share:.2f} % of the smallest step"
        )
    needed = large["tokens"] * large["chain_seconds"] * (100 / GOAL - 1)
    needed /= large["step_seconds"] - large["chain_seconds"]
    rate = found["bytes_read_and_written"] / large["chain_seconds"] / 1e9
    print(
        f"published share of bargaining: {PUBLISHED_SHARE} %; here with {large['tokens']:,} tokens: "
        f"{large['share_percent']:.2f} %, and {GOAL:g} % from about {needed:,.0f} tokens on\n"
        f"the chain moves at least {found['bytes_read_and_written'] / 1e9:.2f} GB and did so at {rate:.1f} GB/s; "
        f"peak memory {found['peak_bytes'] / 1e9:.1f} GB"
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
    ids = torch.randint(0, VOCAB, (options.batch[0], options.length), device=device)
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


def _sizes(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run, print, write."""
    parser = argparse.ArgumentParser(
        prog="step_overhead", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", choices=[*sorted(SHAPES), *sorted(MODELS)], default="t5-base")
    parser.add_argument("--width", type=float, help="factor on all widths (1; for --systems 1/3, --quick 1/6)")
    parser.add_argument("--segment", type=int, default=64, help="tokens in a segment, for models of transformers")
    parser.add_argument("--layers", type=int, help="layers to build")
    parser.add_argument("--batch", type=_sizes, help="sequences in a step, several separated by commas (8,32,96; 8)")
    parser.add_argument("--micro", type=int, default=8, help="sequences in a micro-batch at most")
    parser.add_argument("--length", type=int, default=256, help="tokens in a sequence")
    parser.add_argument("--rounds", type=int, help="steps of every size (3; 1 where there are several sizes)")
    parser.add_argument("--optimizer", choices=["adamw", "sgd"], default="adamw")
    parser.add_argument("--naive", default="ccp", help="solver of the naive chain, or '' to leave it out")
    parser.add_argument("--systems", action="store_true", help="tokens per second of all systems")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args(arguments)
    if options.batch is None:
        options.batch = [8] if options.systems or options.quick or options.model != "t5-base" else [8, 32, 96]
    options.rounds = options.rounds or (3 if len(options.batch) == 1 else 1)
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
