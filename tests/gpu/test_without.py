"""What holds where no CUDA device is: imports work, and what needs one says so in one sentence (row G08)."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="the extra 'torch' is not installed")

ROOT = Path(__file__).resolve().parents[2]
HIDDEN = dict(os.environ) | {"CUDA_VISIBLE_DEVICES": ""}


def run(*arguments):
    command = [sys.executable, *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=HIDDEN, cwd=ROOT, timeout=120)


def test_import_and_solve():
    code = "import nashsolve as ns, torch; print(ns.combine, ns.nash_weights(torch.eye(2)).tolist())"
    found = run("-c", code)
    assert found.returncode == 0 and "[1.0, 1.0]" in found.stdout, found.stderr


def test_the_benchmark_says_what_it_needs():
    found = run("-m", "benchmarks.gpu")
    assert found.returncode == 1
    assert found.stderr.strip().endswith(
        "This benchmark needs a CUDA device, and torch sees none: nothing was measured."
    )
    assert "Traceback" not in found.stderr


def test_the_benchmark_refuses_unknown_parts():
    found = run("-m", "benchmarks.gpu", "--only", "gramm")
    assert found.returncode == 2 and "the parts are ceilings" in found.stderr


def test_a_failure_within_a_part_is_noticed():
    from benchmarks.gpu import incomplete

    assert not incomplete({"a": {"b": 1.0, "c": "good"}})
    assert incomplete({"a": {"b": {"c": "failed: no cupy"}}})


def test_triton_on_the_cpu_is_refused_with_the_reason(monkeypatch):
    import nashsolve as ns
    from nashsolve.core.errors import InvalidProblem

    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(InvalidProblem, match=r"triton is not installed|needs a CUDA device"):
        ns.gram_of_differences(torch.ones(2, 3), method="triton")
