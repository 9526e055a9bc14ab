r"""Combinations of the experts' tensors as one node of the graph, :math:`\hat W_u = a_uW_m + \sum_i c_{ui}W_i`.

Written with torch's own operators it would leave a tensor of the result's size behind for the base expert's part,
another for the sum, and two more in the backward pass. Memory is what a merge costs: here is the result alone.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def combination(c: Tensor, tensors: tuple[Tensor, ...], fused: bool, a: Tensor | None, base: Tensor | None) -> Tensor:
    """Rows of combined tensors, differentiable in everything, any number of times.

    Parameters
    ----------
    c : (rows, N)
    tensors : one tensor (N, ...), or N of one shape
    fused : which of both
    a, base : (rows,) and the base expert's tensor, or None

    Returns
    -------
    (rows, *shape) in the dtype of c
    """
    if torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active():
        return _plain(c, tensors, fused, a, base)  # compilers fuse it themselves, and transforms need plain operators
    result: Tensor = _Combination.apply(fused, c, a, base, *tensors)
    return result


def _plain(c: Tensor, tensors: tuple[Tensor, ...], fused: bool, a: Tensor | None, base: Tensor | None) -> Tensor:
    """The same bits by operators that a compiler and a transform know."""
    if fused:
        total = c @ _flat(tensors[0], c, 1)
    else:
        total = torch.outer(c[:, 0], _flat(tensors[0], c))
        for i in range(1, len(tensors)):
            total = torch.addr(total, c[:, i], _flat(tensors[i], c))
    if a is not None and base is not None:
        total = torch.addr(total, a, _flat(base, c))
    return total.reshape(len(c), *(tensors[0].shape[1:] if fused else tensors[0].shape))


class _Combination(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, fused: bool, c: Tensor, a: Tensor | None, base: Tensor | None, *tensors: Tensor) -> Tensor:
        ctx.fused = fused
        ctx.save_for_backward(c, a, base, *tensors)
        shape = tensors[0].shape[1:] if fused else tensors[0].shape
        if fused:
            total = c @ _flat(tensors[0], c, 1)
        else:
            total = torch.outer(c[:, 0], _flat(tensors[0], c))
            for i in range(1, len(tensors)):
                total.addr_(c[:, i], _flat(tensors[i], c))
        if a is not None and base is not None:
            total.addr_(a, _flat(base, c))
        return total.reshape(len(c), *shape)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Any, ...]:
        c, a, base, *tensors = ctx.saved_tensors
        of_c, of_a, of_base, *of_tensors = ctx.needs_input_grad[1:]
        g = upstream[0].reshape(len(c), -1)
        grads: list[Tensor | None] = [None] * (3 + len(tensors))
        if of_c and ctx.fused:
            grads[0] = g @ _flat(tensors[0], c, 1).mT
        elif of_c:
            grads[0] = torch.stack([g @ _flat(tensor, c) for tensor in tensors], dim=1)
        if of_a:
            grads[1] = g @ _flat(base, c)
        if of_base:
            grads[2] = (a @ g).reshape(base.shape).to(base.dtype)
        for i, (tensor, wanted) in enumerate(zip(tensors, of_tensors, strict=True)):
            if wanted:
                rows = c.mT @ g if ctx.fused else c[:, i] @ g
                grads[3 + i] = rows.reshape(tensor.shape).to(tensor.dtype)
        return None, *grads


def _flat(tensor: Tensor, like: Tensor, start: int = 0) -> Tensor:
    return tensor.flatten(start).to(like.dtype)
