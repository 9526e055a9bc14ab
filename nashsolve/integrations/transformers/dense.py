"""The dense feed-forwards of a model, by the linear layers that they are made of."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from nashsolve.core.errors import InvalidProblem

from .finding import Place

# Names of the linear layers before (gate first) and after the non-linearity, of the non-linearity, and of dropout
# between them and behind them.
_FORMS: tuple[tuple[tuple[str, ...], str, str, str | None, str | None], ...] = (
    (("wi",), "wo", "act", "dropout", None),
    (("wi_0", "wi_1"), "wo", "act", "dropout", None),
    (("c_fc",), "c_proj", "act", None, "dropout"),
    (("fc1",), "fc2", "activation_fn", None, None),
    (("gate_proj", "up_proj"), "down_proj", "act_fn", None, None),
)


@dataclass(frozen=True)
class FeedForward:
    """A dense feed-forward.

    Attributes
    ----------
    place : where it is
    up, down : its linear layers; two before the non-linearity where it is gated
    act : the non-linearity
    inner, after : dropout between the linear layers, and behind them, or None
    emptied : name of the module behind it whose linear layer the feed-forward takes over (BERT), or None
    """

    place: Place
    up: tuple[nn.Module, ...]
    down: nn.Module
    act: Any
    inner: nn.Module | None = None
    after: nn.Module | None = None
    emptied: str | None = None

    def tensors(self) -> dict[str, Tensor]:
        """Its parameters under the names of an expert's."""
        held = {"up_proj": torch.cat([weight_of(part) for part in self.up]), "down_proj": weight_of(self.down)}
        parts = (*self.up, self.down)
        found = [getattr(part, "bias", None) for part in parts]
        biases = [bias.detach() for bias in found if isinstance(bias, Tensor)]
        if not biases:
            return held
        if len(biases) < len(parts):
            raise InvalidProblem(f"{self.place.name} has a bias in some of its linear layers only")
        return held | {"up_proj_bias": torch.cat(biases[:-1]), "down_proj_bias": biases[-1]}


def weight_of(linear: nn.Module) -> Tensor:
    """The weight (out, in), also of the Conv1D of GPT-2, which stores it the other way round."""
    weight: Tensor = linear.weight  # type: ignore[assignment]
    return weight.detach() if isinstance(linear, nn.Linear) else weight.detach().T


def find_dense(model: Any, every: int) -> list[FeedForward]:
    """Dense feed-forwards in the order of the model: the last of every `every` in each list of layers.

    Raises
    ------
    InvalidProblem
        Where none is found, or none is left.
    """
    found = list(_all(model))
    if not found:
        raise InvalidProblem(f"{type(model).__name__} has no feed-forward that upcycling knows")
    counts: dict[str, int] = {}
    kept = []
    for dense in found:
        counts[dense.place.layers] = counts.get(dense.place.layers, 0) + 1
        if counts[dense.place.layers] % every == 0:
            kept.append(dense)
    if not kept:
        raise InvalidProblem(f"every is {every}, but no list has as many of the {len(found)} feed-forwards")
    return kept


def _all(model: Any) -> Iterator[FeedForward]:
    for name, module in model.named_modules():
        children = dict(module.named_children())
        for up, down, act, inner, after in _FORMS:
            if {*up, down} <= children.keys() and hasattr(module, act):
                parts = tuple(children[key] for key in up)
                yield FeedForward(
                    Place.of(model, name), parts, children[down], getattr(module, act), _drop(module, inner),
                    _drop(module, after),
                )  # fmt: skip
        if _split(children):
            where = Place.of(model, f"{name}.intermediate")
            first: Any = children["intermediate"]
            last: Any = children["output"]
            yield FeedForward(where, (first.dense,), last.dense, first.intermediate_act_fn, emptied=f"{name}.output")


def _split(children: dict[str, Any]) -> Sequence[Any]:
    """BERT's form: one module up to the non-linearity, and another behind it."""
    parts = [children.get("intermediate"), children.get("output")]
    return parts if all(isinstance(getattr(part, "dense", None), nn.Linear) for part in parts) else ()


def _drop(module: nn.Module, name: str | None) -> nn.Module | None:
    return None if name is None else getattr(module, name)
