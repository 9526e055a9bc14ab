"""The Triton kernels compile for Hopper on a machine without a GPU: no spills, 16-byte loads, no atomics."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="the extra 'torch' is not installed")
if find_spec("triton") is None:
    pytest.skip("triton is not installed", allow_module_level=True)

ROOT = Path(__file__).resolve().parents[2]


def test_kernels_compile_for_sm_90():
    """In a process of its own, since Triton's interpreter, once chosen, stays."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, "-W", "ignore", "-m", "tests.tall.compile_triton"]
    run = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr[-2000:]
    found = json.loads(run.stdout)
    assert len(found) == 5
    for name, figures in found.items():
        assert figures["spilled"] == 0, (name, figures)
        assert figures["atomics"] == 0, (name, figures)
        assert figures["shared"] <= 227 * 1024, (name, figures)
        assert figures["wide"] > 0 or name.startswith("reduction"), (name, figures)
