"""One backward pass of the chain for many of the loss, in place: for gradient accumulation, and where memory counts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from nashsolve.core.errors import InvalidProblem, InvalidType, NashSolveError

from .chain_adjoint import Adjoint
from .chain_plan import Plan
from .experts import Expert, Slot
from .fingerprint import Fingerprint

if TYPE_CHECKING:
    from .chain import BaseExpertChain


@contextmanager
def gathered(chains: BaseExpertChain | Sequence[BaseExpertChain]) -> Iterator[list[Gathering]]:
    """Gather the gradients of base experts, and take the chains' backward pass once, at the end of the context.

    Within it the later base experts are leaves of the graph. At its end, before ``optimizer.step()``, one adjoint
    recurrence adds what flows through each chain to the ``grad`` of experts, curvature and first base expert, in place:
    no second set of the experts' gradients is made, however many backward passes there were::

        with gathered(chains):
            for part in batch:
                loss(model(part)).backward()
        optimizer.step()

    The gradients are those of plain backward passes up to rounding. Where the body raises, nothing is added.

    Parameters
    ----------
    chains : as `link` returns them, or one

    Yields
    ------
    list of Gathering, one for each chain; its `backward` takes the pass earlier

    Raises
    ------
    InvalidProblem
        For chains within another `gathered`; on several processes, where every replica has its own part of the
        gradients (`integrations.torch_moe.distributed` is for those); for experts that are no leaves of the graph.
    NashSolveError
        Where a parameter changes while gradients wait.
    """
    found = list(chains) if isinstance(chains, Sequence) else [chains]
    with ExitStack() as stack:
        gatherings = [stack.enter_context(_one(chain)) for chain in found]
        yield gatherings
        for gathering in gatherings:
            gathering.backward()


@contextmanager
def _one(chain: BaseExpertChain) -> Iterator[Gathering]:
    gathering = Gathering(chain)
    if chain.gathering is not None:
        raise InvalidProblem(f"the gradients of {chain.name} are being gathered already")
    chain.gathering = gathering
    try:
        yield chain.gathering
    finally:
        chain.gathering = None


class Gathering:
    """Leaves in place of one chain's later base experts, and what happens with their gradients."""

    def __init__(self, chain: BaseExpertChain) -> None:
        from .chain import BaseExpertChain

        if not isinstance(chain, BaseExpertChain):
            raise InvalidType(f"chains holds a {type(chain).__name__}; chains as link() returns them are needed")
        if not chain.gathers:
            raise InvalidProblem(f"{chain.name} gathers gradients by itself, over its ranks: use its no_sync()")
        if _processes() > 1:
            raise InvalidProblem(
                "gathered() knows one process, and replicas would take different steps: leave it out, or "
                "shard_chains(...), whose no_sync() does the same"
            )
        self._chain = chain
        self._state: Fingerprint | None = None
        self._leaves: list[Expert] = []

    @property
    def waiting(self) -> bool:
        """Whether gradients wait for `backward`."""
        return any(leaf.grad is not None for base in self._leaves for leaf in base.values())

    def leaves(self, state: Fingerprint, compute: Callable[[], list[Expert]]) -> list[Expert]:
        """Base experts of this state of the parameters as leaves; `compute` is asked for them once."""
        if self._state is not state:
            if self.waiting:
                raise NashSolveError(self._changed())
            self._leaves = [{k: t.detach().requires_grad_() for k, t in base.items()} for base in compute()]
            self._state = state
        return self._leaves

    @torch.no_grad()
    def backward(self) -> None:
        """Add what waits to the gradients of the chain's parameters; nothing where nothing waits."""
        if not self.waiting:
            return
        with torch.enable_grad():  # the base expert may be a view of a parameter, to be differentiated below
            links, base, tensors = self._chain.read()
        if not self._chain.knows(self._state, tensors):
            raise NashSolveError(self._changed())
        for tensor in tensors[len(base) :]:
            if tensor.requires_grad and not tensor.is_leaf:
                raise InvalidProblem("gathered() adds to the grad of experts, which must be leaves of the graph")
        of_base: Expert = {}
        with torch.autocast(tensors[0].device.type, enabled=False):
            for names, plan in self._chain.plans(links):
                of_base.update(self._group(names, plan, base))
        self._leaves, self._state = [], None
        ends = [tensor for tensor in base.values() if tensor.requires_grad]
        if ends:
            parts = [of_base[name].to(t.dtype) for name, t in base.items() if t.requires_grad]
            torch.autograd.backward(ends, parts)

    def _changed(self) -> str:
        return (
            f"a parameter of {self._chain.name} changed while gradients of base experts wait: leave gathered() before "
            "optimizer.step()"
        )

    def _group(self, names: list[str], plan: Plan, base: Expert) -> Expert:
        """Gradients of one group of slots; returns that of the first base expert."""
        tensors = [*(base[name] for name in names), *(t for link in plan.links for t in link.tensors)]
        adjoint = InPlaceAdjoint(plan, names, tensors, [t.requires_grad for t in tensors])
        gradients = [leaves[name].grad for leaves in self._leaves for name in names]
        for link, found in zip(reversed(plan.links), adjoint.layers(gradients), strict=True):
            for tensor, gradient in zip(link.tensors, found, strict=True):
                if gradient is not None and tensor.requires_grad:
                    _add(tensor, gradient)
        return adjoint.lam


def _processes() -> int:
    group = torch.distributed
    return group.get_world_size() if group.is_available() and group.is_initialized() else 1


class InPlaceAdjoint(Adjoint):
    """The adjoint whose gradients of experts are added to those that are there."""

    def own(self, gradient: Tensor) -> Tensor:
        return gradient if gradient.dtype == self.dtype else gradient.to(self.dtype)

    def spread(self, layer: int, slot: Slot, weights: Tensor, g: Tensor) -> None:
        numbers = weights.tolist()
        if slot.fused:
            _add_multiples(slot.tensors[0], numbers, g)
            return
        for tensor, weight in zip(slot.tensors, numbers, strict=True):
            if tensor.requires_grad:
                _add_multiples(tensor, [weight], g)


def _add_multiples(tensor: Tensor, weights: list[float], g: Tensor) -> None:
    """Add ``w_i g`` to the gradient's rows, or to the whole gradient where it is shaped like g."""
    fused = tensor.ndim > g.ndim
    if tensor.grad is None:
        tensor.grad = torch.zeros_like(tensor)
    for row, weight in zip(tensor.grad if fused else [tensor.grad], weights, strict=True):
        row.add_(g, alpha=weight)


def _add(tensor: Tensor, gradient: Tensor) -> None:
    if tensor.grad is None:
        tensor.grad = gradient
    else:
        tensor.grad.add_(gradient)
