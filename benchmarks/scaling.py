"""What the base-expert chain costs on 8 to 4,096 GPUs, on paper: memory, bytes, collectives and time of a step.

    python -m benchmarks.scaling [--model t5-base] [--layout columns] [--measure] [--json FILE]

Counts are exact for this code (``tests/torch_moe/distributed/test_scaling.py`` compares them with what real ranks
count). Times are bounds, not measurements: no GPU has been timed. They divide bytes by the speeds of `Machine`, which
are stated there with their source. Times of solves on the host are measured, by ``--measure``, and kept in
``benchmarks/results/scaling_solves.json``; times on processor cores use ``benchmarks/results/gram_bandwidth.json``.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # run as a file, too

from benchmarks import measure

RESULTS = Path(__file__).parent / "results"
SOLVES = RESULTS / "scaling_solves.json"
GPUS = (8, 64, 512, 4096)
FLOAT, BFLOAT = 4, 2


@dataclass(frozen=True)
class Machine:
    """Speeds that the times rest on. Sources: the datasheets of the parts, and estimates that wait for a measurement.

    memory : bytes a second that a Gram or combination reads, 85 % of 3.0 TB/s, the copy rate of one H100
    inside, outside : bytes a second of one GPU to others of its node (NVLink) and of other nodes (400 Gb/s)
    hop, far_hop : seconds that a small all_reduce takes within a node, and for each doubling of the number of nodes
    node : GPUs of a node
    dense : operations a second in a training step, 40 % of 798 Tflop/s in bfloat16
    device_solve : seconds of one solve by a kernel on the GPU, by the most experts that it holds for
    """

    memory: float = 0.85 * 3.0e12
    inside: float = 400e9
    outside: float = 50e9
    hop: float = 20e-6
    far_hop: float = 10e-6
    node: int = 8
    dense: float = 0.4 * 798e12
    device_solve: tuple[tuple[int, float], ...] = ((32, 30e-6), (64, 65e-6))

    def speed(self, gpus: int) -> float:
        """Bytes a second of a collective over so many neighbouring GPUs."""
        return self.inside if gpus <= self.node else self.outside

    def latency(self, gpus: int) -> float:
        """Seconds of a small all_reduce."""
        if gpus == 1:
            return 0.0
        return self.hop + self.far_hop * max(0.0, math.log2(gpus / self.node))


@dataclass(frozen=True)
class Model:
    """One model.

    chains : layers of every chain
    experts, size : of a layer, and parameters of one expert
    total, active : parameters, and those that a token meets
    rows : length of the first axis of an expert's largest matrix, which Shard(1) cuts
    slots : share of an expert's parameters in each of its tensors
    """

    chains: tuple[int, ...]
    experts: int
    size: int
    total: float
    active: float
    rows: int
    slots: tuple[float, ...] = (2 / 3, 1 / 3)

    @property
    def links(self) -> int:
        """Layers that move a base expert."""
        return sum(layers - 1 for layers in self.chains)


MODELS = {
    "t5-base": Model((12, 12), 8, 4_718_592, 1.0e9, 0.25e9, 3072, (0.5, 0.5)),
    "qwen1.5-moe": Model((24,), 60, 8_650_752, 14.3e9, 2.7e9, 2816),
    "deepseek-moe-16b": Model((27,), 64, 8_650_752, 16.4e9, 2.8e9, 2816),
    "one-trillion": Model((60,), 384, 44_040_192, 1.03e12, 32e9, 4096),
}
"""T5-base with 8 experts in all 24 feed-forwards; the last is a sketch: width 7168, inner width 2048, 60 layers."""
KINDS = ("columns", "hybrid", "experts", "tensor")
TOKENS = 8192
"""Tokens that every GPU trains on in a step."""
STATE = 16
"""Bytes a parameter of a training run: bfloat16 weight and gradient, float32 weight and two moments."""
EXCHANGE = 2**26
"""Bytes for experts on their way, the default of `DistributedConfig.exchange_bytes`."""
ROOM = 40e9
"""Bytes of a GPU that this state may take."""


@dataclass(frozen=True)
class Layout:
    """How experts lie over the GPUs.

    kind : "columns" (Shard(1) over all), "hybrid" (Shard(1) over the fewest GPUs that hold the model, replicas of
        that), "experts" (Shard(0): FSDP2's default, and expert parallel), "tensor" (columns over a node, whose layers
        use base experts cut like the experts), the latter two with replicas as well
    gpus, shards, copies : all, those of one replica, and replicas
    """

    kind: str
    gpus: int
    shards: int

    @property
    def copies(self) -> int:
        return self.gpus // self.shards


def layout_of(model: Model, kind: str, gpus: int) -> Layout | None:
    """The layout on so many GPUs; None where it does not exist or does not fit."""
    fewest = 2 ** math.ceil(math.log2(max(8.0, model.total * STATE / ROOM)))
    if gpus < fewest:
        return None
    if (kind == "experts" and fewest > model.experts) or (kind == "tensor" and fewest > Machine.node):
        return None
    shards = min(gpus, model.rows) if kind == "columns" else fewest
    return Layout(kind, gpus, 2 ** int(math.log2(shards)))


@dataclass(frozen=True)
class Cost:
    """One step of one GPU; bytes, counts and seconds.

    memory : beside the model's own state
    sent : by this GPU
    counts : collective -> number in a step
    parts : what the time is made of, name -> seconds
    """

    memory: float
    sent: float
    counts: dict[str, int]
    parts: dict[str, float]

    @property
    def seconds(self) -> float:
        return sum(self.parts.values())

    @property
    def limit(self) -> str:
        """The largest part."""
        return max(self.parts, key=lambda name: self.parts[name])


def counts_of(model: Model, layout: Layout, every: int = 1) -> dict[str, int]:
    """Collectives of one step, forward and backward, as `ShardedChain` makes them."""
    cut, copies, many = layout.kind == "experts", layout.copies > 1, layout.shards > 1
    solves = solves_of(model, every)
    given = model.links if many and layout.kind != "tensor" else 0
    held = model.experts * model.size * BFLOAT / layout.gpus
    rounds = sum(math.ceil(2 * held * share / EXCHANGE) for share in model.slots)
    found = {
        "all_reduce": solves + model.links * (cut and many) + model.links * copies,
        "all_gather": given + len(model.chains) * many + model.links * (cut and many),
        "reduce_scatter": given,
        "all_to_all": solves * rounds * (cut and many),
    }
    return {kind: count for kind, count in found.items() if count}


def solves_of(model: Model, every: int) -> int:
    """Bargains of one step."""
    return sum(math.ceil((layers - 1) / every) for layers in model.chains)


def cost(model: Model, layout: Layout, machine: Machine, solve: float, every: int = 1) -> Cost:
    """On paper.

    Parameters
    ----------
    model, layout, machine : what is computed where
    solve : seconds of one solve
    every : layers between two solves
    """
    shards, gpus, cut = layout.shards, layout.gpus, layout.kind == "experts"
    solves = solves_of(model, every)
    whole = model.size * FLOAT
    used = 0 if layout.kind == "tensor" else model.links
    away = (shards - 1) / shards
    # Everybody reads each expert's columns once for the Gram, shared among replicas, and once for the combination.
    read = (model.experts + 1) * model.size * BFLOAT
    gram = solves * read / gpus / machine.memory
    combined = model.links * read / shards / machine.memory
    # The adjoint reads a gradient, adds a multiple to every expert's, and writes it, all in float32.
    # Whole base experts for the layers in bfloat16, and their gradients back; the gradient of the first one.
    moved = (used * (model.size * BFLOAT + whole) + len(model.chains) * whole) * away
    if cut:  # experts to columns, a sum of steps, and the adjoint to all columns again
        moved += solves * model.experts * model.size * BFLOAT / gpus * away + model.links * 3 * whole * away
    between = model.links * 2 * whole / shards * (layout.copies - 1) / layout.copies
    reduced = solves * 2 * 8 * (model.experts**2 + 10)
    counts = counts_of(model, layout, every)
    within = sum(counts.values()) - counts["all_reduce"]
    far = machine.outside if gpus > machine.node else machine.inside
    parts = {
        "Gram": gram,
        "combination": combined,
        "adjoint": model.links * model.experts * model.size * 3 * FLOAT / shards / machine.memory,
        "solves": solves * solve,
        "waiting": counts["all_reduce"] * machine.latency(gpus) + within * machine.latency(shards),
        "moving": moved / machine.speed(shards) + (between + reduced) / far,
    }
    own = whole if cut else whole / shards
    kept = 2 * model.links * whole / shards
    memory = kept + 2 * whole * bool(used) + 4 * own + (EXCHANGE if cut else 0)
    return Cost(memory, moved + between + reduced, counts, parts)


def step_seconds(model: Model, machine: Machine) -> float:
    """A training step without a chain: six operations for every active parameter and token."""
    return 6 * model.active * TOKENS / machine.dense


def device_solve(machine: Machine, experts: int) -> float:
    """Seconds of a solve on the GPU; NaN where no figure is stated."""
    return next((seconds for most, seconds in machine.device_solve if experts <= most), float("nan"))


def host_solves() -> dict[int, float]:
    """Measured seconds of one bargain on the host, by number of experts."""
    return {int(n): float(seconds) for n, seconds in json.loads(SOLVES.read_text())["seconds"].items()}


def measure_solves() -> None:
    """Time the bargains of a chain by the compiled engine, and keep the medians."""
    import numpy as np

    from nashsolve.integrations.torch_moe import BargainConfig, bargain_over_base
    from nashsolve.integrations.torch_moe.domain import DomainGram

    found = {}
    for n in sorted({model.experts for model in MODELS.values()}):
        rows = np.random.default_rng(0).standard_normal((n, 4 * n)) + 1
        domain, config = DomainGram(rows @ rows.T, 1e-6), BargainConfig(solver="compiled")
        times = []
        for _ in range(12):
            begin = time.perf_counter()
            bargain_over_base(domain, config)
            times.append(time.perf_counter() - begin)
        found[str(n)] = sorted(times[2:])[5]
    measure.write_json(SOLVES, {"what": "bargain_over_base, solver compiled, median of 10", "seconds": found})


def rows_of(model: Model, kind: str, machine: Machine, host: float) -> list[list[str]]:
    """A line for every number of GPUs."""
    device = device_solve(machine, model.experts)
    found = []
    for gpus in GPUS:
        layout = layout_of(model, kind, gpus)
        if layout is None:
            continue
        solve = device if device == device else host
        c = cost(model, layout, machine, solve)
        on_host = cost(model, layout, machine, host).seconds
        step = step_seconds(model, machine)
        figures = [1e3 * sum(c.parts[part] for part in group) for group in GROUPS.values()]
        share, host_share = 100 * c.seconds / step, 100 * on_host / step
        found.append(
            [
                f"{gpus:,}",
                f"{layout.shards:,} x {layout.copies:,}",
                measure.figure(c.memory / 1e9),
                measure.figure(c.sent / 1e9),
                measure.figure(100 * c.sent / (3 * BFLOAT * model.total)),
                str(sum(c.counts.values())),
                *(measure.figure(x) for x in figures),
                measure.figure(1e3 * c.seconds),
                measure.figure(share),
                measure.figure(host_share),
                c.limit,
            ]
        )
    return found


GROUPS = {"passes": ("Gram", "combination", "adjoint"), "solve": ("solves",), "wait": ("waiting",), "move": ("moving",)}
"""Column -> parts of the time."""
HEADER = [
    "GPUs",
    "shards x copies",
    "GB kept",
    "GB sent",
    "% of FSDP's",
    "collectives",
    *GROUPS,
    "ms",
    "% of step",
    "host solves",
    "limit",
]


def tables(machine: Machine, wanted: list[str], kinds: list[str]) -> str:
    """All tables of the page."""
    host = host_solves()
    parts = []
    for name in wanted:
        model = MODELS[name]
        step = measure.figure(1e3 * step_seconds(model, machine))
        for kind in kinds:
            rows = rows_of(model, kind, machine, host[model.experts])
            if rows:
                title = f"{name}, {kind}: step without a chain {step} ms; milliseconds on one GPU"
                parts.append(measure.table(title, HEADER, rows))
    return "\n".join(parts)


def solve_table(machine: Machine) -> str:
    """Solves by number of experts, and the step that they are a part of."""
    host = host_solves()
    rows = []
    for name, model in MODELS.items():
        step, device = step_seconds(model, machine), device_solve(machine, model.experts)
        total = model.links * host[model.experts]
        every = max(1, math.ceil(total / (0.01 * step)))
        figures = [1e3 * host[model.experts], 1e6 * device, 1e3 * step, 100 * total / step]
        rows.append(
            [name, str(model.experts), *(measure.figure(x) for x in figures), str(min(every, max(model.chains)))]
        )
    header = ["", "experts", "host, ms", "GPU kernel, us", "step, ms", "all solves on the host, %", "interval for 1 %"]
    return measure.table("One solve, and all solves of a step", header, rows)


def processor_table() -> str:
    """The same pass over the experts on processor cores, from measured kernels."""
    rows_in = json.loads((RESULTS / "gram_bandwidth.json").read_text())["rows"]
    rate = {
        (r["operation"], r["n"]): (r["n"] + 1) * r["d"] * FLOAT / (r["ms"] / 1e3)
        for r in rows_in
        if r["method"] == "auto" and r["dtype"] == "float32" and r["threads"] == 1
    }
    known = sorted({n for _, n in rate})
    rows = []
    for name, model in MODELS.items():
        near = min(known, key=lambda n: abs(math.log(n / model.experts)))
        read = (model.experts + 1) * model.size * FLOAT * model.links
        seconds = [read / rate[operation, near] for operation in ("gram", "combine")]
        rows.append([name, str(near), *(measure.figure(s) for s in seconds), measure.figure(sum(seconds) / 64)])
    header = ["", "kernel measured at n =", "Gram, s", "combination, s", "both on 64 cores, s"]
    return measure.table("One core, float32, all layers", header, rows)


def as_records(machine: Machine) -> list[dict[str, Any]]:
    """Every figure, for JSON."""
    host = host_solves()
    found = []
    for name, model in MODELS.items():
        for kind in KINDS:
            for gpus in GPUS:
                layout = layout_of(model, kind, gpus)
                if layout is not None:
                    c = cost(model, layout, machine, host[model.experts])
                    where = {"model": name, "layout": kind, "gpus": gpus, "shards": layout.shards}
                    found.append({**where, "memory": c.memory, "sent": c.sent, "counts": c.counts, "parts": c.parts})
    return found


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--model", choices=sorted(MODELS), action="append")
    parser.add_argument("--layout", choices=KINDS, action="append")
    parser.add_argument("--measure", action="store_true", help="time the solves on this host anew")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(arguments)
    if options.measure:
        measure_solves()
    machine = Machine()
    print(tables(machine, options.model or list(MODELS), options.layout or list(KINDS)))
    print(solve_table(machine))
    print(processor_table())
    if options.json:
        measure.write_json(options.json, {"rows": as_records(machine)})


if __name__ == "__main__":
    main()
