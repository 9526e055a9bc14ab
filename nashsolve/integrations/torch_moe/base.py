"""Base experts: where they start, and how a wide shared expert is cut into slices of an expert's shape."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from nashsolve.core.errors import InvalidProblem

from .config import BaseConfig
from .experts import ExpertView
from .feed_forward import draw


class BaseExpert(nn.Module):
    """A base expert's own tensors, as parameters (or buffers where not trainable).

    Parameters
    ----------
    view : the experts, for shapes and for the starts that derive from them
    config : where it starts; "shared_expert" has no tensors of its own and is not for this class
    """

    def __init__(self, view: ExpertView, config: BaseConfig) -> None:
        super().__init__()
        for slot in view.slots:
            start = torch.empty(slot.shape, dtype=slot.tensors[0].dtype, device=slot.tensors[0].device)
            if config.trainable:
                self.register_parameter(slot.name, nn.Parameter(start))
            else:
                self.register_buffer(slot.name, start)
        self.ready = config.init != "given"
        with torch.no_grad():
            for slot in view.slots:
                target = getattr(self, slot.name)
                if config.init == "copy":
                    target.copy_(slot.expert(config.index))
                elif config.init == "mean_plus_noise":
                    rows = torch.stack([slot.expert(i) for i in range(slot.n)])
                    size = rows.square().mean().sqrt()
                    target.copy_(rows.mean(0) + config.noise * size * torch.randn_like(target))
                else:
                    draw(target, slot.shape)

    def tensors(self) -> dict[str, Tensor]:
        """Name -> tensor."""
        return {**dict(self.named_parameters()), **dict(self.named_buffers())}

    @torch.no_grad()
    def set(self, given: Mapping[str, Tensor]) -> None:
        """Copy values in; raises InvalidProblem for other names or shapes."""
        own = self.tensors()
        wanted, shapes = ({k: tuple(t.shape) for k, t in d.items()} for d in (own, given))
        if shapes != wanted:
            raise InvalidProblem(f"the base expert given has the tensors {shapes}; {wanted} are needed")
        for name, tensor in own.items():
            tensor.copy_(given[name])
        self.ready = True


def shared_slices(
    shared: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, ...]], gated: Sequence[str] = ()
) -> list[dict[str, Tensor]]:
    """Cut a shared expert that is several times as wide as a routed one into base experts of the routed shape.

    The hidden units 0 .. h-1 are the first slice, and so on; the sum of the slices' outputs is the shared expert's
    output (up to a bias of the output, which every slice holds).

    Parameters
    ----------
    shared : name -> tensor of the shared expert
    shapes : name -> shape of one routed expert
    gated : names whose hidden axis holds gate and up part one after the other

    Returns
    -------
    list of dicts name -> tensor: views, or for gated tensors copies that gradients pass through

    Raises
    ------
    InvalidProblem
        Where a width is not a whole multiple, or the multiples differ.
    """
    counts: dict[str, int] = {}
    axes: dict[str, int | None] = {}
    for name, shape in shapes.items():
        if name not in shared:
            raise InvalidProblem(f"the shared expert has no tensor {name!r}; it has {', '.join(shared)}")
        found = tuple(shared[name].shape)
        differing = [axis for axis, (a, b) in enumerate(zip(found, shape, strict=False)) if a != b]
        if len(found) != len(shape) or len(differing) > 1 or any(found[a] % shape[a] for a in differing):
            raise InvalidProblem(
                f"shared tensor {name!r} has shape {found}; {shape} with one axis several times as long is needed"
            )
        axes[name] = differing[0] if differing else None
        if differing:
            counts[name] = found[differing[0]] // shape[differing[0]]
    if len(set(counts.values())) > 1:
        raise InvalidProblem(f"the shared expert is not equally many times as wide everywhere: {counts}")
    count = next(iter(counts.values()), 1)
    return [{name: _cut(shared[name], axes[name], k, count, name in gated) for name in shapes} for k in range(count)]


def _cut(tensor: Tensor, axis: int | None, k: int, count: int, gated: bool) -> Tensor:
    if axis is None:
        return tensor
    if gated:
        return torch.cat([half.chunk(count, dim=axis)[k] for half in tensor.chunk(2, dim=axis)], dim=axis)
    return tensor.chunk(count, dim=axis)[k]
