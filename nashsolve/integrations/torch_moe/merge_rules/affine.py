r"""Merged experts that are affine in the experts, :math:`\hat E_u = a_uE_m + \sum_i c_{ui}E_i`, evaluated.

For sequences and segments the merged parameters of every row are built and used. For tokens they are not: each linear
layer is evaluated as the same combination of the experts' linear layers, which is exact and costs all experts.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor
from torch.nn import functional as F

from ..experts import ExpertView, Slot
from ..feed_forward import Activation, activate, feed_forward, linear
from .call import MergeCall


def evaluate(call: MergeCall, activation: Activation, a: Tensor | None, c: Tensor) -> Tensor:
    """Output of the merged experts for coefficients a (rows,) of the base expert (None: zero) and c (rows, N)."""
    if call.level == "token":
        x = call.hidden.reshape(-1, call.hidden.shape[-1])
        return mixed_feed_forward(x, call.view, call.base, a, c, activation).reshape(call.hidden.shape)
    expert = call.view.merge(c, None if a is None else call.base, a)
    return call.ungrouped(feed_forward(call.grouped(), expert, activation))


def evaluate_linear(call: MergeCall, name: str, a: Tensor | None, c: Tensor) -> Tensor:
    """Output (batch, length, out) of one merged linear layer, with the coefficients of `evaluate`."""
    view = call.view.only((name, f"{name}_bias"))
    if call.level == "token":
        y = mixed_linear(call.hidden.reshape(-1, call.hidden.shape[-1]), view, call.base, name, a, c)
        return y.reshape(*call.hidden.shape[:-1], y.shape[-1])
    base = None if a is None else {slot.name: call.base[slot.name] for slot in view.slots}
    return apply_linear(call, view.merge(c, base, a), name)


def apply_linear(call: MergeCall, expert: Mapping[str, Tensor], name: str) -> Tensor:
    """Output (batch, length, out) of one linear layer with parameters for every row."""
    return call.ungrouped(linear(call.grouped(), expert[name], expert.get(f"{name}_bias")))


def mixed_feed_forward(
    x: Tensor, view: ExpertView, base: Mapping[str, Tensor], a: Tensor | None, c: Tensor, activation: Activation
) -> Tensor:
    """The feed-forward of token t's own merged expert, for tokens x (T, d) and coefficients c (T, N)."""
    hidden = activate(mixed_linear(x, view, base, "up_proj", a, c), activation)
    return mixed_linear(hidden, view, base, "down_proj", a, c)


def mixed_linear(
    x: Tensor, view: ExpertView, base: Mapping[str, Tensor], name: str, a: Tensor | None, c: Tensor
) -> Tensor:
    """One linear layer of it."""
    slots, bias = {slot.name: slot for slot in view.slots}, f"{name}_bias"
    y = _mixed_linear(x, slots[name], slots.get(bias), c)
    return y if a is None else y + a.to(y.dtype)[:, None] * _plain_linear(x, base[name], base.get(bias))


def _plain_linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return F.linear(x, weight.to(x.dtype), None if bias is None else bias.to(x.dtype))


def _mixed_linear(x: Tensor, weight: Slot, bias: Slot | None, c: Tensor) -> Tensor:
    """``sum_i c_ti (W_i x_t + b_i)``; the coefficients scale whichever side is narrower, since that side is saved."""
    out, inner = weight.shape
    c = c.to(x.dtype)
    total: Tensor | None = None
    for i in range(weight.n):
        share = c[:, i : i + 1]
        w = weight.expert(i).to(x.dtype)
        y = F.linear(x * share, w) if inner <= out else share * F.linear(x, w)
        total = y if total is None else total + y
    assert total is not None
    return total if bias is None else total + bias.mix(c).to(total.dtype)
