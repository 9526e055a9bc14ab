"""The README: its code prints what it says, and its tables and links name what exists."""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path

import pytest

from nashsolve import kernels
from nashsolve.backends import catalog
from nashsolve.core.status import Status

FILE = Path(__file__).resolve().parent.parent / "README.md"
pytestmark = pytest.mark.skipif(not FILE.exists(), reason="the README is in the checkout only")

BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def python_and_output(text: str) -> list[tuple[str, str]]:
    """Every python block with the text block that follows it."""
    blocks = BLOCK.findall(text)
    pairs = []
    for (kind, code), (after, output) in zip(blocks, [*blocks[1:], ("", "")], strict=True):
        if kind == "python":
            pairs.append((code, output if after == "text" else ""))
    return pairs


def run_blocks(text: str) -> None:
    """Execute the blocks in one namespace and compare what they print."""
    names: dict[str, object] = {}
    for code, wanted in python_and_output(text):
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            exec(compile(code, str(FILE), "exec"), names)
        assert out.getvalue() == wanted


def test_python_blocks_print_what_the_readme_says():
    pytest.importorskip("cvxpy", reason="the crosscheck in the README counts the solvers of the extra 'cvxpy'")
    if kernels.load() is None:
        pytest.skip("the crosscheck in the README counts the compiled kernel, which is not built here")
    text = FILE.read_text(encoding="utf-8")
    assert len(python_and_output(text)) >= 2
    run_blocks(text)


def test_a_wrong_output_is_noticed():
    run_blocks("```python\nprint(1)\n```\n\n```text\n1\n```\n")
    with pytest.raises(AssertionError):
        run_blocks("```python\nprint(1)\n```\n\n```text\n2\n```\n")


def test_tables_name_every_solver_and_status():
    text = FILE.read_text(encoding="utf-8")
    first_cells = " ".join(re.findall(r"^\| (`[^|]*)\|", text, re.MULTILINE))
    named = set(re.findall(r"`(\w+)`", first_cells))
    assert {row.name for row in catalog.CATALOG} <= named
    assert {status.name for status in Status} <= named


def test_links_lead_somewhere():
    text = FILE.read_text(encoding="utf-8")
    links = [link for link in re.findall(r"\]\(([^)]+)\)", text) if "://" not in link]
    assert links
    assert [link for link in links if not (FILE.parent / link).exists()] == []
