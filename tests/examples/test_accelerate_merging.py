"""The accelerate example trains, saves, and goes on from what it saved."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

for _module in ("torch", "transformers", "accelerate"):
    pytest.importorskip(_module, reason=f"the example needs {_module}")
FILE = Path(__file__).resolve().parents[2] / "examples" / "accelerate_merging.py"


@pytest.mark.slow
@pytest.mark.skipif(not FILE.exists(), reason="the examples are in the checkout only")
def test_it_trains_saves_and_resumes(tmp_path: Path) -> None:
    from nashsolve.integrations.torch_moe.telemetry import Telemetry
    from nashsolve.integrations.transformers import from_pretrained

    out = tmp_path / "out"
    for options in (["--steps", "10", "--out", str(out)], ["--steps", "10", "--resume", str(out)]):
        run = subprocess.run(
            [sys.executable, str(FILE), "--cpu", *options], capture_output=True, text=True, timeout=240, check=False
        )
        assert run.returncode == 0, run.stderr
        assert "3 of 3 layers agreed" in run.stdout
    losses = Telemetry.load(out / "telemetry.jsonl").numbers("loss")
    assert len(losses) == 10 and losses[-1] < losses[0]
    resumed = float(run.stdout.split("step 10: loss ")[1].split(",")[0])
    assert resumed < losses[0]
    assert len(from_pretrained(out / "model").nashsolve.members) == 4
