"""Where torch is missing, everything else imports and these names say what to install."""

from __future__ import annotations

import subprocess
import sys

import pytest

CODE = """
import sys
sys.modules["torch"] = None
import nashsolve as ns
try:
    {use}
except ns.MissingExtra as error:
    print(error)
"""


@pytest.mark.parametrize(
    ("use", "extra"),
    [
        ("ns.combine", "torch"),
        ("ns.gram_of_differences", "torch"),
        ("import nashsolve.integrations.multitask", "torch"),
        ("import nashsolve.integrations.torchjd", "torchjd"),
    ],
)
def test_the_extra_is_named(use, extra):
    run = subprocess.run([sys.executable, "-c", CODE.format(use=use)], capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr
    assert f"pip install 'nashsolve[{extra}]'" in run.stdout
