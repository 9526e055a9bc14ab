"""tools/sanitize.py notices what it is there for; the run itself is a step of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

TOOL = Path(__file__).resolve().parents[2] / "tools" / "sanitize.py"


@pytest.mark.skipif(not TOOL.exists(), reason="the tools are in the checkout only")
def test_faults_end_the_process() -> None:
    """An overrun and a shift too far, built with the flags of the tool and run in its environment."""
    done = subprocess.run([sys.executable, str(TOOL), "--self-test"], capture_output=True, text=True)
    if "no C++ compiler" in done.stderr or "has no libasan.so" in done.stderr:
        pytest.skip(done.stderr.strip().splitlines()[-1])
    assert done.returncode == 0, done.stderr
    assert "the sanitizers notice faults" in done.stdout
