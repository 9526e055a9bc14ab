"""The example for torchrun: the losses of every layout, saved by two processes and continued by one."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.tolerances import tolerance

for _module in ("torch", "pydantic"):
    pytest.importorskip(_module, reason=f"the example needs {_module}")
FILE = Path(__file__).resolve().parents[2] / "examples" / "train_moe_on_ranks.py"
pytestmark = pytest.mark.skipif(not FILE.exists(), reason="the examples are in the checkout only")


def losses(ranks: int, *options: str) -> dict[str, float]:
    """What a run prints, by step."""
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
    env = {**os.environ, "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*launch, str(FILE), *options], capture_output=True, text=True, timeout=200, env=env)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "collectives of the chain in one step: " in done.stdout
    return {step: float(loss) for step, loss in re.findall(r"step (\d+): loss ([\d.]+)", done.stdout)}


def losses_alone(steps: int) -> dict[str, float]:
    """The same training without any process group."""
    import torch

    spec = importlib.util.spec_from_file_location("train_moe_on_ranks", FILE)
    assert spec is not None and spec.loader is not None
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    model = example.build(8)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    found = {}
    for step in range(steps):
        ids = example.batch_of(step, 0, 1)
        loss = torch.nn.functional.cross_entropy(model(ids[:, :-1]).flatten(0, 1), ids[:, 1:].flatten())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        found[str(step)] = loss.item()
    return found


@pytest.mark.slow
def test_torchrun(tmp_path: Path) -> None:
    folder = str(tmp_path / "state")
    begun = losses(2, "--wrap", "fsdp", "--experts", "columns", "--steps", "5", "--folder", folder)
    ended = losses(1, "--wrap", "fsdp", "--steps", "1", "--folder", folder)
    assert set(begun) == {"0", "4"} and set(ended) == {"5"}
    wanted = losses_alone(6)
    for step, loss in {**begun, **ended}.items():
        assert loss == pytest.approx(wanted[step], rel=tolerance("float32", "sum"))
