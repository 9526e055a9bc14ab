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
@pytest.mark.parametrize(
    "kind",
    [
        *(cuda.Variant(width) for width in (8, 16, 32, 64, 256)),
        *(cuda.Variant(width, placed=True) for width in (8, 64, 256)),
        *(cuda.Variant(width, rough=True) for width in (8, 64, 256)),
        cuda.Variant(32, placed=True, rough=True),
    ],
    ids=str,
)
def test_no_kernel_spills(kind: cuda.Variant, tmp_path: Path) -> None:
    """The text that NVRTC gets, compiled for Hopper as a process compiles it that meets this variant.

    The path to a disagreement point keeps its pointers in a frame of the thread, which no register was spilled to.
    """
    source = tmp_path / "nash.cu"
    source.write_text(cuda.source(), encoding="utf-8")
    command = [NVCC, *cuda.FLAGS, *kind.flags, "-arch=sm_90", "-Xptxas", "-v", "-cubin", str(source)]
    done = subprocess.run([*command, "-o", str(tmp_path / "nash.cubin")], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = spills(done.stderr)
    assert {"nash_read", kind.kernel} <= found.keys()
    assert {(stores, loads) for _, stores, loads in found.values()} == {(0, 0)}, found
    assert kind.placed or {frame for frame, *_ in found.values()} == {0}, found
    assert max(frame for frame, *_ in found.values()) <= 512, found


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
    assert text.count("struct Tile {") == 1 and text.count("struct Blockwide :") == 1 and "nash_solve_##W" in text


def test_memory_is_what_the_source_carves() -> None:
    """`doubles_of` evaluated from the source itself."""
    text = cuda.source()
    formula = re.search(r"doubles_of\(int n, bool placed\) \{\s*return (.*?);", text, re.DOTALL)
    path_lines = re.search(r"PATH_LINES = (\d+);", text)
    assert formula is not None and path_lines is not None
    names = {"PATH_LINES": int(path_lines[1])}
    for name, kind in (("LINES", "Line"), ("NUMBERS", "Number")):
        names[name] = len(re.search(rf"enum {kind} \{{(.*?)\}}", text, re.DOTALL)[1].split(",")) - 1
    python = re.sub(r"placed \? (.*?) : (\d+)", r"\1 if placed else \2", formula[1].replace("LL", ""))
    for n in range(1, 130):
        for placed in (False, True):
            assert cuda.doubles_of(n, placed) == eval(python, {}, names | {"n": n, "placed": placed})
    assert cuda.bytes_of_tile(40, 64) == 8 * (cuda.doubles_of(40, False) + 64)
