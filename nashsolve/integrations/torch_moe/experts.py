"""The experts of one layer as N parameter vectors over lists of tensors, wherever the parameters are stored."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from nashsolve.core.errors import InvalidProblem, InvalidType

from .combination import combination

Expert = dict[str, Tensor]
"""One expert (or base expert): name of the slot -> tensor."""


@dataclass(frozen=True)
class Slot:
    """One tensor of every expert.

    tensors : a single fused tensor (N, ...), or N tensors of one shape
    """

    name: str
    tensors: tuple[Tensor, ...]
    fused: bool

    @property
    def n(self) -> int:
        return self.tensors[0].shape[0] if self.fused else len(self.tensors)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one expert's tensor."""
        return tuple(self.tensors[0].shape[1:] if self.fused else self.tensors[0].shape)

    def expert(self, i: int) -> Tensor:
        """Expert i's tensor, a view."""
        return self.tensors[0][i] if self.fused else self.tensors[i]

    def mix(self, coefficients: Tensor, a: Tensor | None = None, base: Tensor | None = None) -> Tensor:
        """``a E_m + sum_i c_i E_i`` for coefficients (..., N), as (..., *shape); differentiable, no stacked copy."""
        lead = coefficients.shape[:-1]
        rows = coefficients.reshape(-1, coefficients.shape[-1])
        found = combination(rows, self.tensors, self.fused, None if a is None else a.reshape(-1), base)
        return found.reshape(*lead, *self.shape)


@dataclass(frozen=True)
class ExpertView:
    """N experts as N vectors: nothing is copied or stacked, biases are part of the vectors.

    Attributes
    ----------
    slots : in a fixed order
    """

    slots: tuple[Slot, ...]

    def __post_init__(self) -> None:
        if not self.slots:
            raise InvalidProblem("the experts have no parameters")
        counts = {slot.name: slot.n for slot in self.slots}
        if len(set(counts.values())) > 1:
            raise InvalidProblem(f"the slots hold different numbers of experts: {counts}")

    @property
    def n(self) -> int:
        """Number of experts."""
        return self.slots[0].n

    @property
    def size(self) -> int:
        """Parameters of one expert."""
        return sum(torch.Size(slot.shape).numel() for slot in self.slots)

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {slot.name: slot.shape for slot in self.slots}

    @property
    def tensors(self) -> list[Tensor]:
        """All parameters, in a fixed order."""
        return [tensor for slot in self.slots for tensor in slot.tensors]

    @property
    def dtype(self) -> torch.dtype:
        """In which the chain computes: float64 for float64 parameters, float32 for all others."""
        return torch.float64 if self.slots[0].tensors[0].dtype == torch.float64 else torch.float32

    def expert(self, i: int) -> Expert:
        """Expert i as views by slot."""
        return {slot.name: slot.expert(i) for slot in self.slots}

    def vectors(self) -> list[list[Tensor]]:
        """Every expert as a list of views, as `gram_of_differences` takes them."""
        return [[slot.expert(i) for slot in self.slots] for i in range(self.n)]

    def merge(
        self, coefficients: Tensor, base: Mapping[str, Tensor] | None = None, base_coefficient: Tensor | None = None
    ) -> Expert:
        r"""Parameters of merged experts, :math:`a_uE_m + \sum_i c_{ui}E_i`, differentiable, without a stacked copy.

        SMEAR is c = s without a base expert; CAMEx with identity curvature is :math:`c = \eta s` and
        :math:`a = 1 - \eta\sum_i s_i`. Use the result with `torch.func.functional_call`.

        Parameters
        ----------
        coefficients : c, (N,) or (rows, N), floating
        base : base expert, name -> tensor
        base_coefficient : a, shaped as c without its last axis; needed with `base`

        Returns
        -------
        name -> tensor, with a leading axis of rows where c has one, in the dtype of c (also under autocast)

        Raises
        ------
        InvalidProblem
        """
        if coefficients.shape[-1] != self.n:
            raise InvalidProblem(f"coefficients have shape {tuple(coefficients.shape)}; the last axis must be {self.n}")
        if (base is None) != (base_coefficient is None):
            raise InvalidProblem("base and base_coefficient belong together: give both or none")
        if base is not None:
            self.check_base(base)
        found = {}
        with torch.autocast(coefficients.device.type, enabled=False):
            for slot in self.slots:
                found[slot.name] = slot.mix(coefficients, base_coefficient, None if base is None else base[slot.name])
        return found

    def only(self, names: Iterable[str]) -> ExpertView:
        """The same experts restricted to some slots."""
        wanted = set(names)
        return ExpertView(tuple(slot for slot in self.slots if slot.name in wanted))

    def groups(self, granularity: str) -> dict[str, list[str]]:
        """Slots that bargain together: all ("expert"), or weight and bias of each linear layer ("linear")."""
        if granularity == "expert":
            return {"all": [slot.name for slot in self.slots]}
        found: dict[str, list[str]] = {}
        for slot in self.slots:
            found.setdefault(_linear(slot.name), []).append(slot.name)
        return found

    def check_base(self, base: Mapping[str, Tensor]) -> None:
        """Raise InvalidProblem unless the base expert has the experts' slots and shapes."""
        shapes = {name: tuple(tensor.shape) for name, tensor in base.items()}
        if shapes != self.shapes:
            raise InvalidProblem(f"the base expert has the tensors {shapes}; the experts have {self.shapes}")

    @classmethod
    def of(cls, source: Any, n: int | None = None) -> ExpertView:
        """Read the experts of a layer.

        Parameters
        ----------
        source : a ModuleList, ModuleDict or sequence of equal modules; or a module with fused parameters (N, ...), such
            as `FusedExperts` and the experts of transformers models; or a mapping name -> (N, ...) tensor
        n : number of experts of fused parameters; by default ``source.num_experts`` or ``source.n_experts``, else the
            first axis

        Raises
        ------
        InvalidProblem, InvalidType
        """
        if hasattr(source, "expert_view"):
            view: ExpertView = source.expert_view()
            return view
        if isinstance(source, nn.ModuleDict):
            source = list(source.values())
        if isinstance(source, Mapping):
            return _fused(dict(source), n)
        if isinstance(source, nn.ModuleList | list | tuple):
            return _separate(list(source))
        if isinstance(source, nn.Module):
            count = n or getattr(source, "num_experts", None) or getattr(source, "n_experts", None)
            return _fused(dict(source.named_parameters()), count)
        raise InvalidType(f"experts are {type(source).__name__}; modules or a mapping of tensors are needed")


def _linear(name: str) -> str:
    """The linear layer that a parameter belongs to."""
    for ending in (".weight", ".bias", "_bias"):
        name = name.removesuffix(ending)
    return name


def _fused(tensors: dict[str, Tensor], n: int | None) -> ExpertView:
    if not tensors:
        raise InvalidProblem("the experts have no parameters")
    count = n or next(iter(tensors.values())).shape[0]
    for name, tensor in tensors.items():
        if tensor.ndim < 2 or tensor.shape[0] != count:
            raise InvalidProblem(
                f"parameter {name!r} has shape {tuple(tensor.shape)}; fused experts need ({count}, ...) first"
            )
    return ExpertView(tuple(Slot(name, (tensor,), True) for name, tensor in tensors.items()))


def _separate(modules: list[Any]) -> ExpertView:
    if not modules or not all(isinstance(module, nn.Module) for module in modules):
        raise InvalidType("a sequence of experts must hold at least one module, and modules only")
    named = [dict(module.named_parameters()) for module in modules]
    for i, parameters in enumerate(named):
        shapes = {name: tuple(p.shape) for name, p in parameters.items()}
        wanted = {name: tuple(p.shape) for name, p in named[0].items()}
        if shapes != wanted:
            raise InvalidProblem(f"expert {i} has the parameters {shapes}, expert 0 has {wanted}")
    return ExpertView(tuple(Slot(name, tuple(p[name] for p in named), False) for name in named[0]))
