"""Train a small transformer whose experts bargain, on several processes: DDP, FSDP2 or hybrid sharding.

    torchrun --standalone --nproc-per-node 2 examples/train_moe_on_ranks.py --wrap fsdp
    torchrun --standalone --nproc-per-node 4 examples/train_moe_on_ranks.py --wrap hsdp --experts columns
    torchrun --standalone --nproc-per-node 2 examples/train_moe_on_ranks.py --folder state --steps 10

The loss does not depend on the number of processes, up to rounding, nor on how the experts are sharded. With --folder
the state is saved at the end, and loaded at the beginning where there is one, by any number of processes.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import Shard
from torch.nn.parallel import DistributedDataParallel

from nashsolve.integrations.torch_moe import MoE, MoEConfig, link
from nashsolve.integrations.torch_moe.distributed import DistributedConfig, shard_chains
from nashsolve.integrations.torch_moe.small_transformer import SmallTransformer

VOCAB, LENGTH, BATCH = 64, 32, 8


def build(experts: int) -> SmallTransformer:
    """The same on every process; its layers are linked before they are sharded."""
    torch.manual_seed(0)
    config = MoEConfig.preset(
        "namex_full_mom",
        d_model=32,
        d_hidden=64,
        n_experts=experts,
        merge={"eta": 0.5},
        router={"name": "linear", "options": {"level": "sequence"}},
    )
    model = SmallTransformer(VOCAB, 32, 4, 4, lambda: MoE(config))
    link(model)
    return model


def wrap(model: SmallTransformer, how: str, experts: str) -> nn.Module:
    """Under DDP, or sharded by FSDP2 over all processes or over halves of them."""
    if how == "ddp":
        return DistributedDataParallel(model)
    size = dist.get_world_size()
    if how == "hsdp":
        mesh = init_device_mesh("cpu", (2, size // 2), mesh_dim_names=("replicas", "shards"))
    else:
        mesh = init_device_mesh("cpu", (size,))
    # FSDP2 cuts the first axis, that is, whole experts, unless it is told to cut every expert.
    placing = (lambda p: Shard(1) if p.ndim == 3 else None) if experts == "columns" else None
    for block in model.blocks:
        fully_shard(block, mesh=mesh, shard_placement_fn=placing)
    fully_shard(model, mesh=mesh)
    return model


def batch_of(step: int, rank: int, size: int) -> Tensor:
    """This process' share of a batch of noisy arithmetic sequences, the same batch for any number of processes."""
    generator = torch.Generator().manual_seed(step)
    start, stride = torch.randint(VOCAB, (2, BATCH, 1), generator=generator)
    ids = (start + (1 + stride % 5) * torch.arange(LENGTH + 1)) % VOCAB
    return ids.tensor_split(size)[rank]


def state_of(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    of_model, of_optimizer = get_state_dict(model, optimizer)
    return {"model": of_model, "optimizer": of_optimizer, "steps": torch.zeros(())}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--wrap", choices=("ddp", "fsdp", "hsdp"), default="fsdp")
    parser.add_argument("--experts", choices=("columns", "whole"), default="whole", help="what FSDP2 cuts")
    parser.add_argument("--number", type=int, default=8, help="of experts")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--folder", type=Path, help="where the state is kept")
    options = parser.parse_args()
    dist.init_process_group("gloo")
    rank, size = dist.get_rank(), dist.get_world_size()
    model = build(options.number)
    wrapped = wrap(model, options.wrap, options.experts)
    (chain,) = shard_chains(model, DistributedConfig(timeout=60.0))
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    begin = 0
    if options.folder and options.folder.exists():
        state = state_of(model, optimizer)
        dcp.load(state, checkpoint_id=options.folder)
        set_state_dict(model, optimizer, model_state_dict=state["model"], optim_state_dict=state["optimizer"])
        begin = int(state["steps"])
    with chain.team.guard():  # a process that fails tells the others
        for step in range(begin, begin + options.steps):
            ids = batch_of(step, rank, size)
            logits = wrapped(ids[:, :-1])
            loss = nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())
            loss.backward()  # the chain adds its gradients at the end of the pass
            optimizer.step()
            optimizer.zero_grad()
            dist.all_reduce(loss.data)
            if rank == 0 and (step - begin) % 5 in (0, 4):
                print(f"step {step}: loss {loss.item() / size:.6f}", flush=True)
    if rank == 0:
        calls = {kind: n / chain.solved for kind, n in chain.team.traffic.calls.items() if "object" not in kind}
        print("collectives of the chain in one step:", ", ".join(f"{kind} {n:.4g}" for kind, n in calls.items()))
    if options.folder:
        state = {**state_of(model, optimizer), "steps": torch.tensor(float(begin + options.steps))}
        dcp.save(state, checkpoint_id=options.folder)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
