"""Gradients of local shards, added to those of the parameters that the shards belong to."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from nashsolve.core.errors import InvalidProblem

from .parts import Part


def wants_gradient(owner: Any) -> bool:
    """Whether a parameter takes gradients."""
    tensor = owner.tensor if isinstance(owner, Part) else owner
    if tensor.requires_grad and not tensor.is_leaf:
        raise InvalidProblem("experts must be parameters (leaves of the graph), for the chain adds to their gradients")
    return bool(tensor.requires_grad)


@torch.no_grad()
def add_gradient(owner: Any, gradient: Tensor, factor: float = 1.0) -> None:
    """Add ``factor * gradient``, shaped as the local shard, to the owner's ``grad``."""
    if isinstance(owner, DTensor):
        _add_to_dtensor(owner, gradient, factor)
        return
    tensor = owner.tensor if isinstance(owner, Part) else owner
    if tensor.grad is None:
        tensor.grad = (gradient if factor == 1 else factor * gradient).to(tensor.dtype).reshape(tensor.shape)
    else:
        tensor.grad.add_(gradient.reshape(tensor.shape), alpha=factor)


def _add_to_dtensor(owner: DTensor, gradient: Tensor, factor: float) -> None:
    local = owner.to_local()
    gradient = gradient.reshape(local.shape)
    if owner.grad is None:
        own = (gradient if factor == 1 else factor * gradient).to(local.dtype)
        owner.grad = DTensor.from_local(
            own, owner.device_mesh, owner.placements, run_check=False, shape=owner.shape, stride=owner.stride()
        )
        return
    grad = owner.grad
    if not isinstance(grad, DTensor) or grad.placements != owner.placements:
        raise InvalidProblem(
            f"the gradient of a sharded parameter has the placements {getattr(grad, 'placements', 'of a plain tensor')}"
            f", the parameter {owner.placements}; call backward() of the chain after all of the loss's gradients are in"
        )
    grad.to_local().add_(gradient, alpha=factor)


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
