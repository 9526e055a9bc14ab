"""Ranks that train one unit together: each takes its share of every batch, and their gradients are averaged.

With losses that are means over equal shares, the mean of the ranks' gradients is the gradient of the whole batch, so
that a team trains as one process does, up to rounding. Balance losses are no means: `balanced` computes them on the
rows of all ranks.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist

from nashsolve.core.errors import InvalidProblem

from ..torch_moe.balance import balance_losses
from ..torch_moe.layer import MoE

PATIENCE = timedelta(hours=2)
"""How long a rank waits for the others: one of them makes pretrained models and counts words while they wait."""
BUCKET = 2**23
"""Entries of gradients that travel together."""


@dataclass(frozen=True)
class Team:
    """The ranks of one training; alone by default, where every method is the identity.

    Attributes
    ----------
    rank, size : of this process, and how many there are
    device : of tensors that travel: with NCCL they must be on the GPU
    """

    rank: int = 0
    size: int = 1
    device: str = "cpu"

    @property
    def leads(self) -> bool:
        """Whether this rank writes the results."""
        return self.rank == 0

    def share(self, batch: Tensor) -> Tensor:
        """This rank's rows of a batch that all ranks hold; raises InvalidProblem where it does not divide."""
        if self.size == 1:
            return batch
        if len(batch) % self.size:
            raise InvalidProblem(f"a batch of {len(batch)} does not divide among {self.size} ranks")
        return batch.tensor_split(self.size)[self.rank]

    def say(self, value: Any = None) -> Any:
        """The leader's value on every rank."""
        if self.size == 1:
            return value
        held = [value]
        dist.broadcast_object_list(held, src=0, device=torch.device(self.device))
        return held[0]

    def ask(self, value: Any) -> list[Any]:
        """Every rank's value, on every rank."""
        if self.size == 1:
            return [value]
        held: list[Any] = [None] * self.size
        dist.all_gather_object(held, value)
        return held

    def wait(self) -> None:
        """Go on when all ranks are here."""
        self.ask(None)

    def mean(self, number: float) -> float:
        """Mean over the ranks."""
        found = self.ask(number)
        return sum(found) / len(found)

    def weight(self, count: int) -> float:
        """What a mean over `count` terms must be multiplied by, so that the ranks' mean is the mean over all terms."""
        total = sum(self.ask(count))
        return count * self.size / total if total else 1.0

    def agree(self, parameters: Iterable[Tensor]) -> None:
        """The leader's values for all ranks."""
        if self.size > 1:
            for parameter in parameters:
                dist.broadcast(parameter.data, src=0)

    def average(self, parameters: Sequence[Tensor]) -> None:
        """Every gradient becomes the mean over the ranks; where a rank has none, it counts as zero."""
        if self.size == 1:
            return
        present = torch.tensor([p.grad is not None for p in parameters], dtype=torch.uint8, device=self.device)
        dist.all_reduce(present, op=dist.ReduceOp.MAX)
        found = [p for p, has in zip(parameters, present.tolist(), strict=True) if has]
        for parameter in found:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        for bucket in _buckets([p.grad for p in found if p.grad is not None]):
            flat = torch.cat([gradient.flatten() for gradient in bucket])
            dist.all_reduce(flat)
            flat /= self.size
            for gradient, part in zip(bucket, flat.split([g.numel() for g in bucket]), strict=True):
                gradient.copy_(part.view_as(gradient))

    def balanced(self, layer: MoE) -> Tensor:
        """Auxiliary loss of a layer's last call whose mean over the ranks has the whole batch's gradient.

        Other ranks' rows enter as constants; the sum over the ranks of what is left is the whole gradient, hence the
        factor. Losses of the router's own are means over rows and stay with their rank.
        """
        if self.size == 1 or not layer.config.balance or layer.router_output is None:
            return layer.auxiliary_loss()
        output = layer.router_output
        rows = len(output.probs)
        changes: dict[str, Any] = {"losses": {}}
        for field in fields(output):
            value = getattr(output, field.name)
            if isinstance(value, Tensor) and value.dim() and len(value) == rows:
                changes[field.name] = self._stacked(value)
        if output.n_sequences is not None:
            changes["n_sequences"] = self.size * output.n_sequences
        whole = balance_losses(replace(output, **changes), layer.config.balance)
        own = sum(output.losses.values(), output.probs.new_zeros(()))
        return self.size * sum(whole.values(), output.probs.new_zeros(())) + own

    def _stacked(self, value: Tensor) -> Tensor:
        """Rows of all ranks in their order, those of this rank with their graph."""
        sent = value.detach().contiguous()
        sent = sent.to(torch.uint8) if sent.dtype == torch.bool else sent
        parts = [torch.empty_like(sent) for _ in range(self.size)]
        dist.all_gather(parts, sent)
        parts = [part.to(value.dtype) for part in parts]
        parts[self.rank] = value
        return torch.cat(parts)


ALONE = Team()


def _buckets(gradients: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """Neighbours of one dtype, about `BUCKET` entries together."""
    bucket: list[Tensor] = []
    for gradient in gradients:
        full = sum(g.numel() for g in bucket) >= BUCKET
        if bucket and (full or gradient.dtype != bucket[0].dtype):
            yield bucket
            bucket = []
        bucket.append(gradient)
    if bucket:
        yield bucket


@contextmanager
def joined(device: str) -> Iterator[Team]:
    """The team of the ranks that torchrun started, or of a process group that exists.

    Parameters
    ----------
    device : of this rank: "cpu" meets over Gloo, "cuda:1" over NCCL

    Raises
    ------
    InvalidProblem
        In a process that torchrun did not start.
    """
    own = not dist.is_initialized()
    if own and "WORLD_SIZE" not in os.environ:
        raise InvalidProblem(
            "--data-parallel needs ranks: start it with  torchrun --nproc-per-node K -m nashsolve.cli ..."
        )
    if own:
        if device.startswith("cuda"):
            torch.cuda.set_device(device)
        dist.init_process_group("nccl" if device.startswith("cuda") else "gloo", timeout=PATIENCE)
    try:
        yield Team(dist.get_rank(), dist.get_world_size(), device)
    finally:
        if own:
            dist.destroy_process_group()
