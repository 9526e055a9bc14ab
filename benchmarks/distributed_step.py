"""What the base-expert chain sends in one training step, and how long it takes, on real processes over gloo.

    torchrun --standalone --nproc-per-node 2 -m benchmarks.distributed_step [--model t5-base] [--json FILE]

For every way to lay the experts over the ranks: collectives of one step by kind, megabytes of this rank's buffers,
milliseconds in them, and of the whole chain, forward and backward. The processes share one machine here, so that times
over gloo say what the code does, not what a network would.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Replicate, Shard, distribute_tensor

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # run as a file, too

from benchmarks import measure
from benchmarks.moe_shapes import SHAPES, Shape
from nashsolve.integrations.torch_moe import BargainConfig, ChainConfig, PlainMember
from nashsolve.integrations.torch_moe.distributed import DistributedConfig, ShardedChain

LAYOUTS: dict[str, tuple[Any, dict[str, Any]]] = {
    "columns, Shard(1)": (Shard(1), {}),
    "columns, bases stay cut": (Shard(1), {"bases": "local"}),
    "columns, one Gram": (Shard(1), {"grams": "joint"}),
    "experts, Shard(0)": (Shard(0), {}),
    "replicas": (Replicate(), {}),
}
HEADER = ["layout", "collective", "a step", "MB", "ms", "chain ms", "of it solves"]


def build(shape: Shape, layers: int, placement: Any, settings: dict[str, Any]) -> ShardedChain:
    """A chain over random experts of that shape."""
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    generator = torch.Generator().manual_seed(0)
    wide = 2 if shape.activation == "swiglu" else 1
    sizes = {"up_proj": (wide * shape.d_hidden, shape.d_model), "down_proj": (shape.d_model, shape.d_hidden)}

    def draw(*lead: int) -> dict[str, torch.Tensor]:
        return {k: torch.randn(*lead, *size, generator=generator) * 0.02 for k, size in sizes.items()}

    members = []
    for _ in range(layers):
        given = {k: distribute_tensor(t, mesh, [placement]) for k, t in draw(shape.experts).items()}
        members.append(PlainMember({k: nn.Parameter(t) for k, t in given.items()}))
    members[0].base = {k: nn.Parameter(t) for k, t in draw().items()}
    config = ChainConfig(bargain=BargainConfig(solver="compiled"))
    return ShardedChain(members, config, DistributedConfig(**settings))


def one_step(chain: ShardedChain) -> float:
    """Seconds of computing the chain, of taking every base expert, and of its backward pass."""
    chain.invalidate()
    dist.barrier()
    begin = time.perf_counter()
    total = sum(t.sum() for base in list(chain.bases())[1:] for t in base.values())
    assert isinstance(total, torch.Tensor)
    total.backward()
    return time.perf_counter() - begin


def measured(shape: Shape, layers: int, name: str, steps: int) -> list[dict[str, Any]]:
    """One record for every kind of collective."""
    placement, settings = LAYOUTS[name]
    chain = build(shape, layers, placement, settings)
    one_step(chain)
    chain.team.traffic.clear()
    times, solves = [], []
    for _ in range(steps):
        times.append(one_step(chain))
        solves.append(sum(record["seconds"] for record in chain.report()))
    traffic = chain.team.traffic
    common = {"layout": name, "chain_ms": 1e3 * statistics.median(times), "solve_ms": 1e3 * statistics.median(solves)}
    found = [
        common
        | {
            "collective": kind,
            "calls": traffic.calls[kind] / steps,
            "mb": traffic.bytes[kind] / steps / 1e6,
            "ms": 1e3 * traffic.seconds[kind] / steps,
        }
        for kind in sorted(traffic.calls)
    ]
    chain.close()
    return found


def rows_of(records: list[dict[str, Any]]) -> list[list[str]]:
    rows, last = [], ""
    for r in records:
        new = r["layout"] != last
        last = r["layout"]
        chain = [measure.figure(r["chain_ms"]), measure.figure(r["solve_ms"])] if new else ["", ""]
        cells = [measure.figure(r["calls"]), measure.figure(r["mb"]), measure.figure(r["ms"])]
        rows.append([last if new else "", r["collective"], *cells, *chain])
    return rows


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--model", choices=sorted(SHAPES), default="t5-base")
    parser.add_argument("--width", type=float, default=0.25, help="factor of all widths")
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    shape = SHAPES[options.model].scaled(options.width, None)
    records = [r for name in LAYOUTS for r in measured(shape, options.layers, name, options.steps)]
    if dist.get_rank() == 0:
        title = (
            f"{options.model} at width {options.width}: {options.layers} layers of {shape.experts} experts with "
            f"{shape.per_expert:,} parameters on {dist.get_world_size()} ranks (this rank's figures)"
        )
        print(measure.banner())
        print(measure.table(title, HEADER, rows_of(records)))
        if options.json:
            measure.write_json(options.json, {"title": title, "ranks": dist.get_world_size(), "rows": records})
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
