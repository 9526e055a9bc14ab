"""How long the base-expert chains take within training steps."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from .chain import BaseExpertChain
from .chain_gather import gathered
from .experts import Expert


def _now() -> float:
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.synchronize()
    return time.perf_counter()


@dataclass
class ChainClock:
    """Seconds of chains, in the forward and in the backward pass, and of the solves in them.

    Call `compute` at the beginning of a training step: the chains are computed then, and the layers find them cached.
    Or put the forward and backward passes of a step under ``with clock.gathered(chains)``, which is `gathered` with
    both ends timed. On a GPU the clock waits for its work at the ends that it reads. Without `gathered`, adding the
    chain's gradients of the experts to those of the layers is the autograd engine's work and is not in the time.

    Attributes
    ----------
    forward, backward : seconds of Grams, solves and propagation, and of their adjoints
    solves : seconds of the bargaining problems alone, a part of `forward`
    now : the clock; `time.process_time` on a busy machine, where the solves still count by the wall
    """

    forward: float = 0.0
    backward: float = 0.0
    solves: float = 0.0
    now: Callable[[], float] = field(default=_now, repr=False)
    _mark: float = field(default=0.0, repr=False)

    @property
    def total(self) -> float:
        """Seconds of both passes."""
        return self.forward + self.backward

    def compute(self, chains: Sequence[BaseExpertChain]) -> list[list[Expert]]:
        """Base experts of every chain, timed; their backward pass is timed when it comes."""
        if not chains:
            return []
        earlier = _solves(chains)
        begin = self.now()
        bases = [chain.bases() for chain in chains]
        self.forward += self.now() - begin
        found = _solves(chains)
        if found != earlier:  # else nothing was solved: the chains were cached
            self.solves += sum(found)
        tensors = [tensor for layers in bases for base in layers[1:] for tensor in base.values()]
        for node in {tensor.grad_fn for tensor in tensors if tensor.grad_fn is not None}:
            node.register_prehook(self._start)
            node.register_hook(self._stop)
        return bases

    @contextmanager
    def gathered(self, chains: Sequence[BaseExpertChain]) -> Iterator[None]:
        """`chain_gather.gathered`, whose work at both ends is timed."""
        with gathered(chains) as gatherings:
            self.compute(chains)
            yield
            begin = self.now()
            for gathering in gatherings:
                gathering.backward()
            self.backward += self.now() - begin

    def _start(self, grad_outputs: tuple[Tensor, ...]) -> None:
        self._mark = self.now()

    def _stop(self, grad_inputs: Any, grad_outputs: Any) -> None:
        self.backward += self.now() - self._mark


def _solves(chains: Sequence[BaseExpertChain]) -> list[float]:
    """Seconds of every solve of the last computation."""
    return [record["seconds"] for chain in chains for record in chain.report() if record["resolved"]]
