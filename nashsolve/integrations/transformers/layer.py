"""One block of experts in a model, merged."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from nashsolve.core.errors import InvalidProblem

from ..torch_moe.base import BaseExpert
from ..torch_moe.chain_member import ChainMember
from ..torch_moe.config import MoEConfig
from ..torch_moe.curvature import KroneckerCurvature
from ..torch_moe.experts import ExpertView
from ..torch_moe.merge_rules import RULES, MergeCall
from ..torch_moe.router_output import RouterOutput
from .config import MergingConfig
from .experts import SharedSlices
from .routing import at_least_float32
from .segments import Segments
from .spread import gathered_view
from .stack import Call, Stack


@dataclass(frozen=True)
class ModelCall(MergeCall):
    """A merge call whose segments are those of real tokens."""

    segments: Segments | None = None

    @property
    def view(self) -> ExpertView:
        merging = getattr(self.experts, "merging_view", None)
        return ExpertView.of(self.experts) if merging is None else merging()

    def grouped(self) -> Tensor:
        return super().grouped() if self.segments is None else self.segments.grouped(self.hidden)

    def ungrouped(self, y: Tensor) -> Tensor:
        return super().ungrouped(y) if self.segments is None else self.segments.ungrouped(y)

    def per_token(self, rows: Tensor) -> Tensor:
        return super().per_token(rows) if self.segments is None else self.segments.per_token(rows)


class MergingLayer(ChainMember, nn.Module):
    """What merging adds to one block; the block's own experts and router stay where they are.

    Parameters
    ----------
    number : of the layer in its model
    name : of the block in its model
    experts : of the block, as `ModelExperts` or `FusedExperts`
    router : answers for rows
    config : of the model's merging
    settings : of this layer
    stack : that the block belongs to
    shared : base experts that are slices of the block's shared expert, or None

    Attributes
    ----------
    base, curvature, start : parameters that merging adds; None where there are none
    router_output : the router's last answer
    """

    def __init__(
        self,
        number: int,
        name: str,
        experts: Any,
        router: Any,
        config: MergingConfig,
        settings: MoEConfig,
        stack: Stack,
        shared: SharedSlices | None = None,
    ) -> None:
        super().__init__()
        self.number, self.name, self.config, self.stack, self.shared = number, name, settings, stack, shared
        # In a tuple, which nn.Module does not look into: experts belong to their block.
        self._experts = (experts,)
        self.router = router
        self.enabled, self.neutral = True, config.neutral
        view = self.expert_view()
        self.rule = RULES[settings.merge.rule](settings)
        self.rule.activation = experts.activation
        if config.learn_eta:
            self.rule.eta = nn.Parameter(torch.tensor(settings.merge.eta))
        own = settings.needs_base and settings.base.init != "shared_expert"
        spread = getattr(experts, "spread", False)
        self.base = BaseExpert(gathered_view(view) if spread else view, settings.base) if own else None
        rank, normalise = settings.curvature.rank, settings.curvature.normalise
        curved = settings.curvature.kind == "kronecker"
        self.curvature = KroneckerCurvature(view.n, view.shapes, rank, normalise) if curved else None
        learned = stack.level == "segment" and stack.causal and config.first == "learned"
        self.start = nn.Parameter(torch.empty(settings.d_model).normal_(0, 0.02)) if learned else None
        self.router_output: RouterOutput | None = None
        like = view.slots[0].tensors[0]
        self.to(device=like.device)

    @property
    def experts(self) -> Any:
        """The experts of the block."""
        return self._experts[0]

    @property
    def active(self) -> bool:
        """Whether the block merges; otherwise it does what it did before."""
        return self.enabled and not self.neutral

    def forward(self, hidden: Tensor) -> Tensor:
        """Output of the routed experts, merged, in the shape of the hidden states (..., d)."""
        call = self.stack.current()
        x = call.tokens(hidden)
        segments = self._segments(x, call)
        output = self.router.route(self._rows(x, call, segments))
        self.router_output = output
        base = call.bases.get(self.number) if self.config.needs_base else {}
        if base is None:
            base = dict(self.own_base())
        level = self.stack.level
        merge = ModelCall(x, output, level, self.stack.size, self.experts, base, self.curvature, segments=segments)
        return self.rule(merge).reshape(hidden.shape).to(hidden.dtype)

    def _segments(self, x: Tensor, call: Call) -> Segments | None:
        if self.stack.level == "segment" and self.stack.size is not None:
            return call.segments(x.shape[0], x.shape[1], self.stack.size)
        if self.stack.level == "sequence" and call.documents is not None:
            return call.segments(x.shape[0], x.shape[1], call.longest)
        return None

    def _rows(self, x: Tensor, call: Call, segments: Segments | None) -> Tensor:
        """What the router is asked about: tokens, or means of real tokens in at least float32."""
        if self.stack.level == "token":
            return x.reshape(-1, x.shape[-1])
        x = at_least_float32(x)
        if segments is not None:
            return self._segment_rows(x, call, segments)
        held = None if call.memory is None else call.memory.looks.get(self.number)
        if held is not None:
            return held
        total, count = Segments(x.shape[0], x.shape[1], x.shape[1], call.mask, None).totals(x)
        mean = total[:, 0] / count.clamp(min=1)
        if call.memory is not None:
            call.memory.looks[self.number] = mean.detach()
        return mean

    def _segment_rows(self, x: Tensor, call: Call, segments: Segments) -> Tensor:
        """Means of segments; in causal stacks that of the segment before, also across calls of generation."""
        total, count = segments.totals(x)
        if not self.stack.causal or self.stack.level == "sequence":
            return (total / count.clamp(min=1)[..., None]).flatten(0, 1)
        memory, batch, width = call.memory, x.shape[0], x.shape[-1]
        look = x.new_zeros(batch, width) if self.start is None else self.start.to(x.dtype).expand(batch, -1)
        if memory is not None and self.number in memory.looks and segments.begun is not None:
            look = memory.looks[self.number]
            total = torch.cat([total[:, :1] + memory.sums[self.number][:, None], total[:, 1:]], dim=1)
            count = torch.cat([count[:, :1] + segments.begun[:, None], count[:, 1:]], dim=1)
        looks = torch.cat([look[:, None], total / count.clamp(min=1)[..., None]], dim=1)
        if segments.first is not None:
            return torch.where(segments.first[..., None], look[:, None], looks[:, :-1]).flatten(0, 1)
        if memory is not None:
            self._store(call, segments, looks.detach(), total.detach())
        return looks[:, :-1].flatten(0, 1)

    def _store(self, call: Call, segments: Segments, looks: Tensor, total: Tensor) -> None:
        """Keep where the last segment stands."""
        assert call.memory is not None
        batch, width = total.shape[0], total.shape[-1]
        begun = torch.zeros(batch, dtype=torch.int64, device=total.device) if segments.begun is None else segments.begun
        at = ((begun + segments.real) // segments.size)[:, None, None].expand(-1, 1, width)
        ended = torch.cat([total, total.new_zeros(batch, 1, width)], dim=1)
        call.memory.looks[self.number] = looks.gather(1, at)[:, 0]
        call.memory.sums[self.number] = ended.gather(1, at)[:, 0]

    def expert_view(self) -> ExpertView:
        """The experts as vectors."""
        return ExpertView.of(self.experts)

    def own_base(self) -> Mapping[str, Tensor]:
        """The base expert of a layer that does not take it from a chain."""
        if self.shared is not None:
            return self.shared.cut(self.config.base.index)
        if self.base is None:
            raise InvalidProblem(f"{self.name} has no base expert of its own")
        if not self.base.ready:
            raise InvalidProblem(f"base.init is 'given', but {self.name} was given none; call set_base first")
        return self.base.tensors()

    def set_base(self, given: Mapping[str, Tensor]) -> None:
        """Copy the values of a base expert in, name -> tensor."""
        if self.base is None:
            raise InvalidProblem(f"{self.name} has no base expert of its own to set")
        self.base.set(given)

    def after_step(self) -> None:
        """What happens once after every optimizer step."""
        self.rule.after_step()

    def __getstate__(self) -> dict[str, Any]:
        """Without what belongs to the last call's graph."""
        return self.__dict__ | {"router_output": None}

    def extra_repr(self) -> str:
        return f"{self.name!r}, rule={self.config.merge.rule!r}, level={self.stack.level!r}"
