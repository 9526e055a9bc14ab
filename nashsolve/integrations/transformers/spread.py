"""Experts that transformers' expert parallelism has dealt out to ranks: each merges its own, one sum unites them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, Shard

from nashsolve.core.errors import InvalidProblem

from ..torch_moe.chain import BaseExpertChain
from ..torch_moe.experts import ExpertView, Slot
from .config import MergingConfig

HOW = (
    "load the model with DistributedConfig(tp_size=n, ep_size=n), or load it whole, convert it, and then call "
    "fully_shard and shard_chains"
)


@dataclass(frozen=True)
class SpreadSlot(Slot):
    """One tensor of every expert, of which this rank holds those from `first` on.

    count : N, number of all experts
    first : index of the first one here
    group : process group of the ranks that share them, and the batch
    """

    count: int = 0
    first: int = 0
    group: Any = None

    @property
    def n(self) -> int:
        return self.count

    def expert(self, i: int) -> Tensor:
        raise InvalidProblem(f"expert {i} of slot {self.name!r} may lie on another rank")

    def mix(self, coefficients: Tensor, a: Tensor | None = None, base: Tensor | None = None) -> Tensor:
        """As of a whole slot: the sum over this rank's experts, summed over the ranks, and the base expert once."""
        local = self.tensors[0]
        own = _Entering.apply(coefficients, self.group)[..., self.first : self.first + local.shape[0]]
        found: Tensor = _Leaving.apply(Slot(self.name, (local,), True).mix(own), self.group)
        if a is None or base is None:
            return found
        return found + a.reshape(*a.shape, *(1,) * base.ndim) * base.to(found.dtype)


class _Entering(torch.autograd.Function):
    """The same value on all ranks, whose gradient is the sum of what every rank finds by its own experts."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, group: Any) -> Tensor:
        ctx.group = group
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        total = gradient.contiguous().clone()
        dist.all_reduce(total, group=ctx.group)
        return total, None


class _Leaving(torch.autograd.Function):
    """The sum over the ranks, which all go on with: every rank's part has the gradient of the sum."""

    @staticmethod
    def forward(ctx: Any, part: Tensor, group: Any) -> Tensor:
        total = part.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total, group=group)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient, None


def is_spread(module: nn.Module) -> bool:
    """Whether a block's experts lie over ranks."""
    return any(isinstance(parameter, DTensor) for parameter in module.parameters())


def spread_view(view: ExpertView) -> ExpertView:
    """Experts as merging uses them, from a view of DTensors."""
    slots = []
    for slot in view.slots:
        tensor: Any = slot.tensors[0]
        if not isinstance(tensor, DTensor):  # FSDP has gathered it for this forward pass
            return view
        local, mesh = tensor.to_local(), tensor.device_mesh
        first = tensor.__create_chunk_list__()[0].offsets[0]
        slots.append(SpreadSlot(slot.name, (local,), True, tensor.shape[0], first, mesh.get_group()))
    return ExpertView(tuple(slots))


@torch.no_grad()
def gathered_view(view: ExpertView) -> ExpertView:
    """Whole copies of all experts, for starts that derive from them."""
    return ExpertView(
        tuple(Slot(s.name, tuple(t.full_tensor() for t in s.tensors), s.fused) for s in view.slots)  # type: ignore[attr-defined]
    )


def check_spread(model: Any, module: nn.Module, config: MergingConfig) -> None:
    """Raise InvalidProblem where merging cannot work with the way that a block's experts lie over ranks."""
    dealt_out = getattr(module, "_is_expert_parallel", False)
    if not is_spread(module):
        if dealt_out:
            raise InvalidProblem("the experts are split over ranks, but no DTensors that say how: " + HOW)
        return
    plan = getattr(model.config, "distributed_config", None)
    alike = plan is not None and plan.tp_size == plan.ep_size and plan.dp_size == plan.pp_size == 1
    whole = all(
        isinstance(p, DTensor) and p.placements == (Shard(0),) and p.device_mesh.ndim == 1 for p in module.parameters()
    )
    if not (dealt_out and alike and whole):
        raise InvalidProblem(
            "the experts are sharded already, and not as whole experts over ranks that share a batch: " + HOW
        )
    rule, curved = config.merge.rule, config.curvature.kind != "identity"
    if config.neutral:
        return
    tokens = "token" in (config.level, config.causal_level)
    if rule not in ("smear", "camex", "lory") or curved or tokens or config.merge.mask != "none":
        raise InvalidProblem(
            "experts that lie over ranks are merged by the rules smear, camex and lory, per sequence or segment, "
            "without curvature and masks, which read all experts on every rank; otherwise load the model whole, "
            "convert it, and then call fully_shard and shard_chains"
        )


def check_knows_of_ranks(chain: BaseExpertChain) -> None:
    """Raise InvalidProblem for a chain of one process over experts that lie over many."""
    first = chain._members[0].expert_view().tensors if type(chain) is BaseExpertChain else ()
    if any(isinstance(tensor, DTensor) for tensor in first):
        raise InvalidProblem(f"the experts of {chain.name} lie over ranks: call shard_chains(model) before the model")


@torch.no_grad()
def share_start(module: nn.Module, mesh: Any) -> None:
    """Give all ranks the first one's values of what merging has added, which may have been drawn."""
    for tensor in (*module.parameters(), *module.buffers()):
        dist.broadcast(tensor, group=mesh.get_group(), group_src=0)
