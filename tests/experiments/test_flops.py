"""Arithmetic of operations against PyTorch's own count, and against table 13."""

from __future__ import annotations

import pytest

pytest.importorskip("torch")
pytest.importorskip("pydantic")
pytest.importorskip("safetensors")

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from nashsolve.integrations.experiments.flops import SHAPES, per_token
from nashsolve.integrations.experiments.studies._small_model import Sizes, small_model, system_layer
from nashsolve.integrations.experiments.studies.cost_table import timed_shape

SIZES = Sizes(d_model=64, d_hidden=128, layers=2, heads=2, experts=4, batch=2, length=64, segment=16)


@pytest.mark.parametrize("system", ["smoe_top1", "smoe_top2", "smear"])
def test_inference_is_what_pytorch_counts(system: str) -> None:
    model = small_model(system, SIZES, 0).eval()
    # The fused kernel of attention is not counted; the written-out one is.
    with FlopCounterMode(display=False) as counter, torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        model(torch.zeros(2, 64, dtype=torch.long))
    ours = 2 * 64 * per_token(system, system_layer(system, SIZES), timed_shape(SIZES))["inference"]
    assert counter.get_total_flops() == pytest.approx(ours, rel=0.02)


def test_the_chain_costs_grams_and_steps() -> None:
    shape = SHAPES["T5-base"]
    layers = {s: system_layer(s, SIZES) for s in ("ep_camex", "namex", "namex_full")}
    cost = {s: per_token(s, layer, shape) for s, layer in layers.items()}
    gram = 2 * shape.expert * shape.experts**2 / shape.tokens
    assert cost["namex"]["training"] - cost["ep_camex"]["training"] == pytest.approx(gram)
    assert cost["namex_full"]["training"] - cost["ep_camex"]["training"] == pytest.approx(23 * gram)
    assert cost["namex_full"]["chain"] < 0.01


def test_curvature_and_top_two_cost_more() -> None:
    shape = SHAPES["T5-base"]
    one, two, camex, smear = (
        per_token(s, system_layer(s, SIZES), shape) for s in ("smoe_top1", "smoe_top2", "camex", "smear")
    )
    assert 1.3 < two["inference"] / one["inference"] < 1.6
    assert camex["inference"] == smear["inference"] and camex["training"] > smear["training"]


def test_dense_has_neither_router_nor_merging() -> None:
    shape = SHAPES["T5-base"]
    dense = per_token("dense", None, shape)
    assert dense["merging"] == dense["chain"] == 0.0
    assert dense["inference"] < per_token("smoe_top1", system_layer("smoe_top1", SIZES), shape)["inference"]
