"""The CUDA build without a GPU: it compiles, no kernel spills, and NVRTC gets the same text."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from nashsolve.kernels import SOURCES, cuda

NVCC = shutil.which("nvcc")
needs_nvcc = pytest.mark.skipif(NVCC is None, reason="nvcc is not on the path")


def spills(report: str) -> dict[str, tuple[int, ...]]:
    """Bytes of stack frame, spill stores and spill loads of every function in the words of ``ptxas -v``."""
    found = re.findall(
        r"Function properties for (\S+)\n\s*(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads",
        report,
    )
    return {name: tuple(map(int, numbers)) for name, *numbers in found}


def test_spills_are_read() -> None:
    report = "info : Function properties for f\n  8 bytes stack frame, 4 bytes spill stores, 2 bytes spill loads\n"
    assert spills(report) == {"f": (8, 4, 2)}


@needs_nvcc
@pytest.mark.parametrize("width", [8, 16, 32, 64])
def test_no_kernel_spills(width: int, tmp_path: Path) -> None:
    """The text that NVRTC gets, compiled for Hopper as a process compiles it that meets this width."""
    source = tmp_path / "nash.cu"
    source.write_text(cuda.source(), encoding="utf-8")
    command = [NVCC, *cuda.FLAGS, f"-DNASH_WIDTH={width}", "-arch=sm_90", "-Xptxas", "-v", "-cubin", str(source)]
    done = subprocess.run([*command, "-o", str(tmp_path / "nash.cubin")], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = spills(done.stderr)
    assert {"nash_read", f"nash_solve_{width}"} <= found.keys()
    assert set(found.values()) == {(0, 0, 0)}, found


@needs_nvcc
def test_the_inlined_text_is_what_the_files_say(tmp_path: Path) -> None:
    """Both preprocessed for the device; what differs is where the lines come from."""
    source = tmp_path / "nash.cu"
    source.write_text(cuda.source(), encoding="utf-8")

    def tokens(path: Path) -> list[str]:
        command = [NVCC, *cuda.FLAGS, "-arch=sm_90", "-E", str(path)]
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        text = text[text.index("namespace nash_cuda") :]
        return " ".join(line for line in text.splitlines() if not line.startswith("#")).split()

    assert tokens(source) == tokens(SOURCES / "nash.cu")
    assert len(tokens(source)) > 1000


def test_the_text_asks_for_no_file() -> None:
    text = cuda.source()
    assert "#include" not in text and "#pragma once" not in text
    assert text.count("struct Tile {") == 1 and "nash_solve_##W" in text


def test_shared_memory_is_what_the_source_carves() -> None:
    """`doubles_of` evaluated from the source itself."""
    text = cuda.source()
    formula = re.search(r"doubles_of\(int n, int width\) \{\s*return (.*?);", text, re.DOTALL)
    assert formula is not None
    lines = len(re.search(r"enum Line \{(.*?)\}", text, re.DOTALL)[1].split(",")) - 1
    numbers = len(re.search(r"enum Number \{(.*?)\}", text, re.DOTALL)[1].split(",")) - 1
    python = formula[1].replace("(width > 32 ? width : 0)", "(width if width > 32 else 0)")
    for n in range(1, 65):
        names = {"n": n, "width": cuda.width(n), "LINES": lines, "NUMBERS": numbers}
        assert cuda.bytes_of_tile(n) == 8 * eval(python, {}, names)
