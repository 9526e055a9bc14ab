"""The compiled one-pass kernels under AddressSanitizer and UndefinedBehaviorSanitizer, for every instruction set."""

from __future__ import annotations

import platform
import shutil
import subprocess
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
SOURCE = HERE.parents[1] / "nashsolve" / "tall" / "native" / "columns.cpp"
LEVELS = {"x86_64": ["x86-64", "x86-64-v3", "x86-64-v4"]}.get(platform.machine(), ["native"])


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="no g++")
@pytest.mark.parametrize("level", LEVELS)
def test_random_shapes_are_clean(level, tmp_path):
    program = tmp_path / "fuzz"
    checks = ["-fsanitize=address,undefined", "-fno-sanitize-recover=undefined", "-fno-sanitize=float-cast-overflow"]
    options = ["-std=c++17", "-O1", "-g", *checks, "-Wno-psabi", f"-march={level}"]
    files = [str(SOURCE), str(HERE / "columns_fuzz.cpp"), "-o", str(program)]
    built = subprocess.run(["g++", *options, *files], capture_output=True, text=True)
    if built.returncode and "sanitiz" in built.stderr:
        pytest.skip(f"this g++ has no sanitizers: {built.stderr[:200]}")
    assert built.returncode == 0, built.stderr
    run = subprocess.run([str(program)], capture_output=True, text=True, timeout=120)
    if run.returncode == -4:
        pytest.skip(f"this processor does not run {level}")
    assert run.returncode == 0 and run.stdout == "clean\n", run.stderr[-2000:]
