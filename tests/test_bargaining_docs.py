"""The examples in docstrings of families and in the bargaining pages print what they say."""

from __future__ import annotations

import doctest
import importlib
import re
from pathlib import Path

import pytest

DOCS = Path(__file__).parent.parent / "docs"
FLAGS = doctest.ELLIPSIS | doctest.IGNORE_EXCEPTION_DETAIL


@pytest.mark.parametrize("name", ["splits", "markets", "networks", "risk", "frontier", "outcomes", "convex"])
def test_docstrings(name: str) -> None:
    found = doctest.testmod(importlib.import_module(f"nashsolve.problems.{name}"), optionflags=FLAGS)
    assert found.attempted > 0 and found.failed == 0


@pytest.mark.parametrize("page", ["start/economist.md", "families.md"])
def test_pages(page: str) -> None:
    pytest.importorskip("pandas")
    blocks = re.findall(r"```\{doctest\}\n(.*?)```", (DOCS / page).read_text(encoding="utf-8"), re.S)
    example = doctest.DocTestParser().get_doctest("\n".join(blocks), {}, page, page, 0)
    found = doctest.DocTestRunner(optionflags=FLAGS).run(example)
    assert found.attempted > 10 and found.failed == 0


def test_the_yaml_file_of_the_page_is_solved(tmp_path: Path) -> None:
    pytest.importorskip("typer")
    import nashsolve as ns
    from nashsolve.cli.families import read_family

    text = re.search(r"```yaml\n(.*?)```", (DOCS / "families.md").read_text(encoding="utf-8"), re.S)
    assert text is not None
    file = tmp_path / "pie.yaml"
    file.write_text(text[1])
    problem, concept, options = read_family(file)
    assert ns.solve(problem, concept=concept, **options).success
