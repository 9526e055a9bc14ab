r"""Merged experts that are affine in the experts, :math:`\hat E_u = a_uE_m + \sum_i c_{ui}E_i`, evaluated.

For sequences and segments the merged parameters of every row are built and used. For tokens they are not: each linear
layer is evaluated as the same combination of the experts' linear layers, which is exact and costs all experts.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor
from torch.nn import functional as F

from ..experts import ExpertView, Slot
from ..feed_forward import Activation, activate, feed_forward
from .call import MergeCall


def evaluate(call: MergeCall, activation: Activation, a: Tensor | None, c: Tensor) -> Tensor:
    """Output of the merged experts for coefficients a (rows,) of the base expert (None: zero) and c (rows, N)."""
    if call.level == "token":
        x = call.hidden.reshape(-1, call.hidden.shape[-1])
        return mixed_feed_forward(x, call.view, call.base, a, c, activation).reshape(call.hidden.shape)
    expert = call.view.merge(c, None if a is None else call.base, a)
    return call.ungrouped(feed_forward(call.grouped(), expert, activation))


def mixed_feed_forward(
    x: Tensor, view: ExpertView, base: Mapping[str, Tensor], a: Tensor | None, c: Tensor, activation: Activation
) -> Tensor:
    """The feed-forward of token t's own merged expert, for tokens x (T, d) and coefficients c (T, N)."""
    slots = {slot.name: slot for slot in view.slots}
    for name in ("up_proj", "down_proj"):
        bias = f"{name}_bias"
        y = _mixed_linear(x, slots[name], slots.get(bias), c)
        if a is not None:
            y = y + a.to(y.dtype)[:, None] * _plain_linear(x, base[name], base.get(bias))
        x = activate(y, activation) if name == "up_proj" else y
    return x


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
