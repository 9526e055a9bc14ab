"""Gradients of local shards, added to those of the parameters that the shards belong to."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from nashsolve.core.errors import InvalidProblem

from ..chain_adjoint import Adjoint
from ..experts import Slot
from .parts import Part


def wants_gradient(owner: Any) -> bool:
    """Whether a parameter takes gradients."""
    tensor = owner.tensor if isinstance(owner, Part) else owner
    if tensor.requires_grad and not tensor.is_leaf:
        raise InvalidProblem("experts must be parameters (leaves of the graph), for the chain adds to their gradients")
    return bool(tensor.requires_grad)


@torch.no_grad()
def gradient_of(owner: Any) -> Tensor:
    """The local shard of the owner's `grad`, to add to; zeros at first."""
    if isinstance(owner, DTensor):
        return _of_dtensor(owner)
    tensor = owner.tensor if isinstance(owner, Part) else owner
    if tensor.grad is None:
        tensor.grad = torch.zeros_like(tensor)
    found: Tensor = tensor.grad
    return found


def _of_dtensor(owner: DTensor) -> Tensor:
    if owner.grad is None:
        owner.grad = DTensor.from_local(
            torch.zeros_like(owner.to_local()),
            owner.device_mesh,
            owner.placements,
            run_check=False,
            shape=owner.shape,
            stride=owner.stride(),
        )
    grad = owner.grad
    if not isinstance(grad, DTensor) or grad.placements != owner.placements:
        raise InvalidProblem(
            f"the gradient of a sharded parameter has the placements {getattr(grad, 'placements', 'of a plain tensor')}"
            f", the parameter {owner.placements}; call backward() of the chain after all of the loss's gradients are in"
        )
    return grad.to_local()


@torch.no_grad()
def add_gradient(owner: Any, gradient: Tensor, factor: float = 1.0) -> None:
    """Add ``factor * gradient``, shaped as the local shard, to the owner's `grad`."""
    total = gradient_of(owner)
    total.add_(gradient.reshape(total.shape), alpha=factor)


class ShardAdjoint(Adjoint):
    """The adjoint whose gradients of experts go to their parameters at once, expert by expert.

    owners : for every layer, slot -> parameters
    factor : that the experts' gradients are multiplied by
    """

    owners: Sequence[Mapping[str, Sequence[Any]]]
    factor: float

    def spread(self, layer: int, slot: Slot, weights: Tensor, g: Tensor) -> None:
        owners = self.owners[layer][slot.name]
        rows = [row for owner in owners for row in (gradient_of(owner) if slot.fused else [gradient_of(owner)])]
        for row, weight in zip(rows, weights.tolist(), strict=True):
            row.add_(g, alpha=weight * self.factor)


class Later(Sequence[Tensor | None]):
    """Gradients of the later base experts, layer by layer and made when they are asked for.

    make : layer -> gradients in the order of the names
    """

    def __init__(self, layers: int, size: int, make: Any) -> None:
        self._layers, self._size, self._make = layers, size, make

    def __len__(self) -> int:
        return self._layers * self._size

    def __getitem__(self, index: Any) -> Any:
        assert isinstance(index, slice) and index.stop - index.start == self._size
        return self._make(index.start // self._size)

    def __iter__(self) -> Iterator[Tensor | None]:
        for layer in range(self._layers):
            yield from self._make(layer)
