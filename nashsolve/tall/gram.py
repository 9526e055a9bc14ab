"""Gram matrix of the differences of a few very long vectors, with a bound on its error."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch

from . import fused, native
from .blocked import gram_blocked
from .methods import METHODS, check_choice, choose
from .parts import Experts, read_experts

PRODUCTS = ("float32", "float64")


class DifferenceGram(NamedTuple):
    """Gram matrix (n, n) in float64 and a bound on ``|error_ij| / sqrt(G_ii G_jj)``."""

    gram: Any
    gram_error: float


def gram_of_differences(
    experts: Any, base: Any = None, *, products: str = "float32", method: str = "auto"
) -> DifferenceGram:
    r"""Gram matrix of experts minus a base expert, in one pass over their parameters.

    .. math:: G_{ij} = \sum_k (E_{ik} - b_k)(E_{jk} - b_k)

    The experts stay where they are: no copy of all of them and no difference vectors are made. Hand the result on as
    ``BargainingProblem(gram=g.gram, gram_error=g.gram_error)``.

    Parameters
    ----------
    experts : sequence of n tensors or NumPy arrays, or of n sequences of them (also one stacked tensor, by rows)
        bfloat16, float16, float32 or float64, on one device; every expert with the same shapes.
    base : a tensor, or a sequence of them, shaped like one expert, optional
        The base expert, of any of these dtypes; zero by default.
    products : "float32" or "float64"
        In which precision differences and products are formed before they are summed in float64; always float64 where
        an expert or the base is. With "float64" the error falls to about 1e-12 and the time grows, on a CPU about
        twofold.
    method : "auto", "torch", "compiled" or "triton"
        "auto" is a one-pass kernel where there is one for device and data (compiled for the CPU, Triton for a GPU),
        and blocked products of torch otherwise.

    Returns
    -------
    DifferenceGram
        `gram` (n, n) in float64, symmetric, a tensor on the experts' device (NumPy for NumPy); `gram_error`, a float.
        The bound is deterministic and holds for entries between about 1e-15 and 1e15 in size where products are
        float32; beyond that a CPU forms them in float64 by itself.

    Raises
    ------
    InvalidProblem
        For shapes, dtypes or devices that do not fit, with the place.

    Notes
    -----
    Sums of float32 products are cut into short runs, so that neither the rounding of a long sum nor the truncation of
    a tensor core can build up. NaN and infinite parameters end in a Gram of NaN, and the problem's
    status. Two calls with the same data give the same bits. Parameters are read, not differentiated.
    """
    check_choice("products", products, PRODUCTS)
    check_choice("method", method, METHODS)
    read = read_experts(experts, base)
    wide = products == "float64" or any(part.wide == torch.float64 for part in read.parts)
    gram, error = _compute(read, products, wide, method)
    if not wide and read.device.type == "cpu" and not _within_range(gram, read):
        gram, error = _compute(read, "float64", True, method)
    return DifferenceGram(gram.numpy() if read.numpy else gram, error)


def _compute(read: Experts, products: str, wide: bool, method: str) -> tuple[torch.Tensor, float]:
    return choose(
        method,
        read.device,
        lambda: gram_blocked(read, wide),
        compiled=(native.why_not(read), lambda: native.gram_compiled(read, wide)),
        triton=(fused.why_not(read, products), lambda: fused.gram_fused(read)),
    )


def _within_range(gram: torch.Tensor, read: Experts) -> bool:
    """Whether no float32 product can have overflowed, nor have lost digits to underflow, in a way that matters."""
    length = sum(part.length for part in read.parts)
    diagonal = gram.diagonal()
    return bool(((diagonal >= length * 2.0**-100) & torch.isfinite(diagonal)).all())
