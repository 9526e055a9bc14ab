r"""Hidden units of experts in a common order: the same functions, comparable parameters.

The hidden units of a feed-forward may be permuted without changing what it computes, but inner products of parameters,
and so domain vectors and bargains, depend on their order. Each expert is put into the order nearest to a reference,

.. math:: \max_P \; \langle W_{\mathrm{in}}^{\mathrm{ref}}, P W_{\mathrm{in}}\rangle +
   \langle W_{\mathrm{out}}^{\mathrm{ref}}, W_{\mathrm{out}} P^\top\rangle ,

a linear assignment problem (the weight matching of [ainsworth2023]_ for one hidden layer, whose optimum is exact).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from nashsolve.core.errors import InvalidProblem

from .feed_forward import FusedExperts


@torch.no_grad()
def align_experts(experts: FusedExperts, reference: Mapping[str, Tensor]) -> Tensor:
    """Permute the hidden units of every expert in place, as near to the reference as they come.

    Meant for once, before training or after upcycling from several models: optimizer states are not permuted.

    Parameters
    ----------
    experts : of a layer; what they compute does not change
    reference : name -> tensor, shaped like one expert: another expert, or a base expert

    Returns
    -------
    (N, d_hidden) int64: new unit j of expert i is its old unit ``[i, j]``

    Raises
    ------
    InvalidProblem
        For a reference with other names or shapes.
    """
    wanted = {name: tuple(p.shape[1:]) for name, p in experts.named_parameters()}
    given = {name: tuple(t.shape) for name, t in reference.items()}
    if given != wanted:
        raise InvalidProblem(f"the reference has the tensors {given}; one expert has {wanted}")
    gated = experts.activation == "swiglu"
    target = _units(reference, gated)
    orders = []
    for i in range(experts.n_experts):
        expert = experts.expert(i)
        _, order = linear_sum_assignment((target @ _units(expert, gated).T).cpu().numpy(), maximize=True)
        orders.append(torch.from_numpy(order).to(target.device))
        _permute(expert, orders[-1], gated)
    return torch.stack(orders)


def _units(expert: Mapping[str, Tensor], gated: bool) -> Tensor:
    """One row of everything that belongs to a hidden unit: incoming weights, bias, outgoing weights (float64)."""
    incoming = [expert["up_proj"]]
    if "up_proj_bias" in expert:
        incoming.append(expert["up_proj_bias"][:, None])
    rows = [half for part in incoming for half in (part.chunk(2) if gated else (part,))]
    return torch.cat([*rows, expert["down_proj"].T], dim=1).double()


def _permute(expert: Mapping[str, Tensor], order: Tensor, gated: bool) -> None:
    rows = torch.cat([order, order + len(order)]) if gated else order
    for name in ("up_proj", "up_proj_bias"):
        if name in expert:
            expert[name].copy_(expert[name][rows])
    expert["down_proj"].copy_(expert["down_proj"][:, order])
