"""What every router shares: how it is called, what it checks, and the gate from logits to weights."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from nashsolve.core.errors import InvalidProblem, InvalidType

from ..balance.capacity import DROP_ORDERS, expert_capacity, keep_within_capacity
from ..router_output import RouterOutput
from ..strict import nearest

CONTEXT = ("token_mask", "input_ids", "generator")
SoftmaxOrder = Literal["before", "after"]


@dataclass
class Rows:
    """What a router decides about: one row a token, a segment or a sequence.

    Attributes
    ----------
    hidden : (rows, d), at least float32
    mask : (rows,) bool, False for padding, or None
    ids : (rows, width) int64 token ids that a row stands for, or None
    ids_mask : (rows, width) bool, or None
    generator : of the noise, or None
    n_sequences : sequences that the rows belong to, or None
    """

    hidden: Tensor
    mask: Tensor | None = None
    ids: Tensor | None = None
    ids_mask: Tensor | None = None
    generator: torch.Generator | None = None
    n_sequences: int | None = None


class Router(nn.Module):
    """Chooses and weighs experts for every token; subclasses define `route`.

    Called as ``router(hidden, **context)``. Everything is computed in float32 or better, also under autocast.

    Parameters
    ----------
    d_model : width of the hidden states
    n_experts : N
    top_k : chosen experts per row, 1..N

    Attributes
    ----------
    level : "token"; `pooled` routers decide per "sequence" or "segment"
    segment_length : tokens in a segment, None for other levels
    """

    level: Literal["token", "sequence", "segment"] = "token"
    segment_length: int | None = None

    def __init__(self, d_model: int, n_experts: int, top_k: int | None = None) -> None:
        super().__init__()
        self.d_model = whole("d_model", d_model)
        self.n_experts = whole("n_experts", n_experts)
        self.top_k = self.n_experts if top_k is None else whole("top_k", top_k)
        if self.top_k > self.n_experts:
            raise InvalidProblem(f"top_k is {self.top_k}, but there are only {self.n_experts} experts")

    def forward(self, hidden: Tensor, **context: Any) -> RouterOutput:
        """Route hidden states.

        Parameters
        ----------
        hidden : (batch, length, d) or (tokens, d), floating
        token_mask : (batch, length) or (tokens,) bool, optional; True for real tokens
        input_ids : (batch, length) or (tokens,) int64, optional; for routers that distil from token ids
        generator : torch.Generator, optional; for routers with noise

        Returns
        -------
        RouterOutput, rows in the order of the tokens (or of segments, or sequences)

        Raises
        ------
        InvalidProblem, InvalidType
        """
        check_call(hidden, context, self.d_model)
        with torch.autocast(device_type=hidden.device.type, enabled=False):
            return self.route(self.rows(at_least_float32(hidden), context))

    def rows(self, hidden: Tensor, context: dict[str, Any]) -> Rows:
        """The rows of one call: here every token."""
        mask, ids = context.get("token_mask"), context.get("input_ids")
        return Rows(
            hidden.reshape(-1, self.d_model),
            mask=None if mask is None else mask.reshape(-1),
            ids=None if ids is None else ids.reshape(-1, 1),
            generator=context.get("generator"),
            n_sequences=hidden.shape[0] if hidden.ndim == 3 else None,
        )

    @abstractmethod
    def route(self, rows: Rows) -> RouterOutput:
        """Decide about rows."""

    def after_step(self) -> None:
        """What happens once after every optimizer step; nothing for most routers."""


class SoftmaxRouter(Router):
    r"""A router that turns logits into weights by a softmax; subclasses define `score`.

    Parameters
    ----------
    d_model, n_experts, top_k : as in Router
    softmax : "before" top-k, :math:`p = \mathrm{softmax}(z)`, weights p of the chosen; or "after",
        weights softmax(z of the chosen), which for top_k = 1 is one whatever z, without a gradient for the router
    normalize : divide the weights of the chosen by their sum where top_k > 1 (softmax "before" only)
    noise : nu >= 0; in training :math:`z + (\nu/N)\,n` with normal n chooses and weighs
    capacity_factor : drop choices beyond `expert_capacity`; None drops nothing
    drop_order : "arrival" or "score" (rows with a large top probability are served first)
    """

    def __init__(
        self,
        d_model: int,
        n_experts: int,
        top_k: int | None = None,
        *,
        softmax: SoftmaxOrder = "before",
        normalize: bool = False,
        noise: float = 0.0,
        capacity_factor: float | None = None,
        drop_order: str = "arrival",
    ) -> None:
        super().__init__(d_model, n_experts, top_k)
        self.softmax = choice("softmax", softmax, ("before", "after"))
        if normalize and softmax == "after":
            raise InvalidProblem("normalize changes nothing for softmax='after': its weights sum to one already")
        self.normalize = normalize
        self.noise = not_negative("noise", noise)
        self.capacity_factor = check_capacity(capacity_factor, drop_order)
        self.drop_order = drop_order

    @abstractmethod
    def score(self, hidden: Tensor) -> Tensor:
        """Logits (rows, N) of hidden states (rows, d)."""

    def noise_scale(self, hidden: Tensor) -> Tensor | None:
        """Standard deviation of the noise, (rows, N) or a scalar, None for a router without noise."""
        return hidden.new_tensor(self.noise / self.n_experts) if self.noise else None

    def route(self, rows: Rows) -> RouterOutput:
        """Score, add noise in training, choose, weigh, drop."""
        logits = self.score(rows.hidden)
        scale = self.noise_scale(rows.hidden)
        noisy = logits
        if scale is not None and self.training:
            draw = torch.empty_like(logits).normal_(generator=rows.generator)
            noisy = logits + draw * scale
        index, weight = choose(noisy, self.top_k, self.softmax, self.normalize)
        probs = noisy.softmax(dim=-1)
        output = RouterOutput(probs, index, weight, logits, row_mask=rows.mask, n_sequences=rows.n_sequences)
        if scale is not None:
            output = replace(output, noisy_logits=noisy, noise_std=scale)
        return drop(output, self.capacity_factor, self.drop_order)


def choose(logits: Tensor, k: int, softmax: str, normalize: bool = False) -> tuple[Tensor, Tensor]:
    """Indices of the k largest logits and their weights, (rows, k) each."""
    best, index = logits.topk(k, dim=-1)
    if softmax == "after":
        return index, best.softmax(dim=-1)
    weight = logits.softmax(dim=-1).gather(-1, index)
    if normalize and k > 1:
        weight = weight / weight.sum(-1, keepdim=True)
    return index, weight


def drop(output: RouterOutput, factor: float | None, order: str) -> RouterOutput:
    """Set the weights of choices beyond the capacity of their experts to zero; padding takes no place."""
    if factor is None:
        return output
    n = output.probs.shape[-1]
    rows, k = output.topk_index.shape
    index, priority = output.topk_index, None
    if output.row_mask is not None:
        index = torch.where(output.row_mask[:, None], index, n)  # a waiting line of its own
    if order == "score":
        priority = output.probs.detach().max(dim=-1).values
    kept = keep_within_capacity(index, n + 1, expert_capacity(rows, n, k, factor), priority)
    return replace(output, topk_weight=output.topk_weight * kept)


def at_least_float32(value: Tensor) -> Tensor:
    """float16 and bfloat16 as float32, others as they are."""
    return value if value.dtype in (torch.float32, torch.float64) else value.float()


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x W' + b in the dtype of x, whatever the parameters are stored in."""
    return nn.functional.linear(x, weight.to(x.dtype), None if bias is None else bias.to(x.dtype))


def check_call(hidden: Any, context: dict[str, Any], d_model: int) -> None:
    """Raise for a call that no router can answer."""
    for key in context:
        if key not in CONTEXT:
            raise InvalidProblem(f"a router has no context {key!r}; {nearest(key, list(CONTEXT))}")
    if not isinstance(hidden, Tensor) or not hidden.is_floating_point():
        raise InvalidType(f"hidden is {type(hidden).__name__}; a floating tensor is needed")
    if hidden.ndim not in (2, 3) or hidden.shape[-1] != d_model:
        raise InvalidProblem(f"hidden has shape {tuple(hidden.shape)}; (batch, length, {d_model}) is needed")
    for name, dtypes in (("token_mask", (torch.bool,)), ("input_ids", (torch.int64, torch.int32))):
        value = context.get(name)
        if value is None:
            continue
        if not isinstance(value, Tensor) or value.dtype not in dtypes:
            raise InvalidType(f"{name} is {value!r}; a tensor of {dtypes[0]} is needed")
        if value.shape != hidden.shape[:-1]:
            raise InvalidProblem(f"{name} has shape {tuple(value.shape)}; {tuple(hidden.shape[:-1])} is needed")


def check_capacity(factor: float | None, order: str) -> float | None:
    """Raise for a capacity factor that is not positive, an unknown order, or an order without a factor."""
    choice("drop_order", order, DROP_ORDERS)
    if factor is None and order != "arrival":
        raise InvalidProblem("drop_order changes nothing without capacity_factor")
    if factor is not None and not factor > 0:
        raise InvalidProblem(f"capacity_factor is {factor}; it must be positive")
    return factor


def whole(name: str, value: Any) -> int:
    """A whole number >= 1."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise InvalidType(f"{name} is {value!r}; a whole number is needed")
    if value < 1:
        raise InvalidProblem(f"{name} is {value}; at least 1 is needed")
    return value


def not_negative(name: str, value: Any) -> float:
    """A finite number >= 0."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InvalidType(f"{name} is {value!r}; a number is needed")
    if not 0 <= value < float("inf"):
        raise InvalidProblem(f"{name} is {value}; it must be finite and not negative")
    return float(value)


def choice(name: str, value: Any, allowed: tuple[str, ...]) -> Any:
    """One of the allowed words."""
    if value not in allowed:
        raise InvalidProblem(f"{name} is {value!r}; {nearest(str(value), list(allowed))}")
    return value
