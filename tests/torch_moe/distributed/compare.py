"""Ranks against one process, entry by entry."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tests.tolerances import tolerance

CLOSE = tolerance("float64", "rtol")
"""Two solutions of one bargain from Grams that were summed in different orders."""


def assert_same_bits(found: Sequence[dict[str, Any]]) -> None:
    """Coefficients and everything after them on every rank."""
    first = found[0]
    for other in found[1:]:
        for mine, its in zip(first["report"], other["report"], strict=True):
            for name in ("alpha", "coefficients", "status", "policy"):
                assert mine[name] == its[name], f"layer {mine['layer']}: {name} differs between ranks"
        for kind in ("experts", "bases"):
            for a, b in zip(first[kind], other[kind], strict=True):
                assert all(torch.equal(a[k], b[k]) for k in a), kind
        assert all(torch.equal(first["base"][k], other["base"][k]) for k in first["base"])


def assert_as_one_process(found: Sequence[dict[str, Any]], wanted: dict[str, Any]) -> None:
    """Every rank has what one process has: report, base experts, gradients, and parameters after some steps."""
    for rank in found:
        for mine, its in zip(rank["report"], wanted["report"], strict=True):
            assert mine["status"] == its["status"]
            np.testing.assert_allclose(mine["coefficients"], its["coefficients"], rtol=CLOSE, atol=0)
            np.testing.assert_allclose(mine["base_move"], its["base_move"], rtol=CLOSE)
        for kind in ("bases", "gradients", "experts"):
            for layer, (a, b) in enumerate(zip(rank[kind], wanted[kind], strict=True)):
                _assert_close(a, b, f"{kind} of layer {layer}")
        for kind in ("base gradient", "base"):
            _assert_close(rank[kind], wanted[kind], kind)


def assert_close(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    """Named tensors."""
    assert set(found) == set(wanted)
    for name, value in wanted.items():
        torch.testing.assert_close(found[name], value, rtol=CLOSE, atol=CLOSE, msg=lambda m, n=name: f"{n}: {m}")


def _assert_close(found: dict[str, Any], wanted: dict[str, Any], what: str) -> None:
    assert set(found) == set(wanted), what
    for name, value in wanted.items():
        mine = found[name]
        if value is None:
            assert mine is None or not mine.any(), f"{what}: {name} has a gradient, and none in one process"
        else:
            torch.testing.assert_close(mine, value, rtol=CLOSE, atol=CLOSE, msg=lambda m, n=name: f"{what}: {n}: {m}")
