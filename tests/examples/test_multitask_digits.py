"""The multi-task example runs, makes its picture, and reports every rule that is installed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

for _module in ("torch", "torchjd", "sklearn", "matplotlib"):
    pytest.importorskip(_module, reason=f"the example needs {_module}")
FILE = Path(__file__).resolve().parents[2] / "examples" / "multitask_digits.py"


@pytest.mark.slow
@pytest.mark.skipif(not FILE.exists(), reason="the examples are in the checkout only")
def test_a_short_run(tmp_path):
    picture, figures = tmp_path / "curves.png", tmp_path / "figures.json"
    options = ["--steps", "3", "--seeds", "1", "--out", str(picture), "--json", str(figures)]
    run = subprocess.run([sys.executable, str(FILE), *options], capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr
    assert picture.stat().st_size > 10_000
    found = {entry["rule"]: entry for entry in json.loads(figures.read_text())}
    assert found["nashsolve NashBargaining"]["hurt"] == 0
    assert {"TorchJD MGDA", "TorchJD Mean"} <= set(found)
    for entry in found.values():
        assert entry["at"] == [0, 1, 2, 3] and len(entry["figures"]) == 4 and entry["milliseconds"] > 0
