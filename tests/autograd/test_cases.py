"""Derivatives of the reference cases, whose values were computed with sixty digits."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="the extra 'torch' is not installed")

import nashsolve as ns  # noqa: E402

FILE = Path(__file__).resolve().parents[1] / "data" / "family_cases.json"
CASES = [case for case in json.loads(FILE.read_text())["cases"] if case["kind"] == "derivative"]


def numbers(nested):
    """Decimal strings, nested as they are, as a float64 tensor."""

    def read(x):
        return [read(v) for v in x] if isinstance(x, list) else float(x)

    return torch.tensor(read(nested), dtype=torch.float64)


def alpha_by_solve(gram, weights):
    return ns.solve(ns.BargainingProblem(gram=gram, weights=weights)).alpha


@pytest.mark.parametrize("call", [ns.nash_weights, alpha_by_solve], ids=["nash_weights", "solve"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_derivatives(case, call):
    gram, weights, cotangent = (numbers(case["inputs"][k]) for k in ("A", "w", "cotangent"))
    expected = {k: numbers(v) for k, v in case["expected"].items()}
    near = {"rtol": case["tolerance"]["rtol"], "atol": 1e-12}
    gram.requires_grad_(), weights.requires_grad_()
    alpha = call(gram, weights)
    assert torch.allclose(alpha, expected["alpha"], **near)
    bar_gram, bar_weights = torch.autograd.grad(alpha @ cotangent, (gram, weights), retain_graph=True)
    assert torch.allclose(bar_weights, expected["vjp_w"], **near)
    assert torch.allclose(bar_gram, expected["vjp_A_sym"], **near)
    rows = [torch.autograd.grad(a, weights, retain_graph=True)[0] for a in alpha]
    assert torch.allclose(torch.stack(rows), expected["dalpha_dw"], **near)


def test_there_are_cases():
    assert len(CASES) >= 2
