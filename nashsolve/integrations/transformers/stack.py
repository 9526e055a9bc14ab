"""What one call of a stack of layers tells its layers: sequences, padding, base experts, memory of generation."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from nashsolve.core.errors import InvalidProblem, NashSolveError

from ..torch_moe.experts import Expert
from .config import Level
from .memory import CACHES, Memory, keep, recall
from .packing import documents
from .segments import Segments

INPUTS = ("input_ids", "inputs_embeds")


@dataclass
class Call:
    """One call of a stack.

    Attributes
    ----------
    batch, length : of the tokens; None where the layers' hidden states alone say so (images)
    mask : (batch, length) bool, False for padding, or None
    bases : layer -> base expert
    memory : of generation, or None
    documents : (batch, length) int64, number of every token's sequence in rows that are packed, or None
    """

    batch: int | None = None
    length: int | None = None
    mask: Tensor | None = None
    bases: Mapping[int, Expert] = field(default_factory=dict)
    memory: Memory | None = None
    documents: Tensor | None = None
    _segments: Segments | None = None

    def tokens(self, hidden: Tensor) -> Tensor:
        """Hidden states as (batch, length, d)."""
        if self.batch is None or self.length is None:
            if hidden.ndim == 3:
                return hidden
        elif hidden.numel() == self.batch * self.length * hidden.shape[-1]:
            return hidden.reshape(self.batch, self.length, hidden.shape[-1])
        raise NashSolveError(
            f"a merging layer got hidden states {tuple(hidden.shape)}, but the last call of its stack was for "
            f"({self.batch}, {self.length}) tokens: call the model, not the layer"
        )

    def segments(self, batch: int, length: int, size: int) -> Segments:
        """The segments of this call, found once for all layers."""
        if self._segments is None:
            begun = None if self.memory is None else self.memory.begun
            self._segments = Segments(batch, length, size, self.mask, begun, self.documents)
        return self._segments

    @property
    def longest(self) -> int:
        """Real tokens of the longest packed sequence."""
        assert self.documents is not None
        real = torch.ones_like(self.documents) if self.mask is None else self.mask.to(self.documents.dtype)
        return int(torch.zeros_like(real).scatter_add(1, self.documents, real).max())


class Stack:
    """Watches the calls of one stack, an encoder or a decoder.

    Parameters
    ----------
    name : of the module within the model
    module : whose layers merge
    causal : whether later tokens are hidden from earlier ones
    level : of its layers
    size : real tokens in a segment
    bases : asked for the base experts before every call
    """

    def __init__(
        self,
        name: str,
        module: nn.Module,
        causal: bool,
        level: Level,
        size: int | None,
        bases: Callable[[], Mapping[int, Expert]],
    ) -> None:
        self.name, self.causal, self.level, self.size, self.bases = name, causal, level, size, bases
        self.call: Call | None = None
        self._earlier: Call | None = None
        self._unclaimed: list[Tensor | None] = []
        self._recomputed = False
        self._checkpointed = [m for m in module.modules() if hasattr(m, "gradient_checkpointing")]
        self._names = tuple(inspect.signature(module.forward).parameters)
        self.handles = [
            module.register_forward_pre_hook(self.begin, with_kwargs=True),
            module.register_forward_hook(self.end, with_kwargs=True, always_call=True),
        ]

    def begin(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Before a call: read its batch, mask and cache."""
        given = dict(zip(self._names, args, strict=False)) | kwargs
        x = next((given[name] for name in INPUTS if given.get(name) is not None), None)
        batch, length = (None, None) if x is None else (x.shape[0], x.shape[1])
        call = Call(batch, length, bases=self.bases())
        if self.level != "token" and x is not None and length is not None:
            call.mask = _padding(given.get("attention_mask"), length)
            call.documents = documents(given, x.shape[0], length, call.mask)
            cache = self._given_cache(given)
            if self.causal and (cache is not None or not module.training):
                call.memory = recall(cache, self.name)
            if call.documents is not None:
                if call.memory is not None and call.memory.tokens:
                    raise InvalidProblem("packed sequences do not continue from a cache: give every sequence a row")
                call.memory = None
        self._remember(call, module.training)
        self._earlier, self.call = self.call, call

    def end(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        """After a call: let the memory go with the cache."""
        call = self.call
        cache = None if call is None or call.memory is None else self._returned_cache(output)
        if call is not None and call.memory is not None and cache is not None and call.length is not None:
            call.memory.tokens += call.length
            if call._segments is not None:
                real, begun = call._segments.real, call.memory.begun
                start = torch.zeros(call.batch or 0, dtype=torch.int64) if begun is None else begun
                device = next(iter(call.memory.sums.values())).device
                call.memory.begun = (start.to(device) + real) % call._segments.size
            keep(cache, self.name, call.memory)
        if not torch.is_grad_enabled():
            # An evaluation between a forward pass and its backward pass must not answer for what is recomputed there.
            self.call = self._earlier
        self._earlier = None

    def _given_cache(self, given: Mapping[str, Any]) -> Any:
        """The cache that a call was given; transformers goes on taking its old name for some releases."""
        return next((given[name] for name in CACHES if given.get(name) is not None), None)

    def _returned_cache(self, output: Any) -> Any:
        """The cache of an output, asked for by the name of this release only: the old one would print a warning."""
        return next((getattr(output, name, None) for name in CACHES if name in self._names), None)

    def current(self) -> Call:
        """The call that a layer belongs to.

        Raises
        ------
        NashSolveError
        """
        call = self.call
        if call is None:
            raise NashSolveError(f"a merging layer of {self.name or 'the model'} was called without its model")
        if not torch.compiler.is_compiling() and torch._C._current_graph_task_id() != -1:
            self._recomputed = True
            if len(self._unclaimed) > 1 and any(mask is not None for mask in self._unclaimed):
                raise NashSolveError(
                    "activation checkpointing recomputes a layer after two forward passes with padding or packing, and "
                    "cannot tell them apart: call backward() after each forward pass, or merge per token"
                )
        return call

    def _remember(self, call: Call, training: bool) -> None:
        """Count forward passes that activation checkpointing may still have to recompute."""
        if not (training and torch.is_grad_enabled()) or self.level == "token":
            return
        if any(module.gradient_checkpointing for module in self._checkpointed):
            if self._recomputed:
                self._unclaimed, self._recomputed = [], False
            self._unclaimed = [*self._unclaimed[-1:], call.mask if call.documents is None else call.documents]

    def __getstate__(self) -> dict[str, Any]:
        """Without what belongs to the last call's graph."""
        return self.__dict__ | {"call": None, "_earlier": None, "_unclaimed": []}


def _padding(mask: Any, length: int) -> Tensor | None:
    """The tokens' own part of a 2-D mask."""
    if mask is None:
        return None
    if not isinstance(mask, Tensor) or mask.ndim != 2:
        kind = f"of shape {tuple(mask.shape)}" if isinstance(mask, Tensor) else type(mask).__name__
        raise InvalidProblem(
            f"attention_mask is {kind}; merging per sequence or segment reads padding from a mask (batch, tokens): "
            "give that, or merge per token"
        )
    return mask[:, -length:].bool()
