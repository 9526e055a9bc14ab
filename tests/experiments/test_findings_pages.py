"""The pages about findings: every command names a recipe, exact miniatures are judged, blocks come from claims."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

pytest.importorskip("pydantic")
pytest.importorskip("torch")

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.skipif(
    not (ROOT / "experiments").exists() or not (ROOT / "docs").exists(), reason="they are in the checkout only"
)

findings = pytest.importorskip("experiments.write_findings")
CLAIM = {"text": "|x| is small", "paper": "table 1", "measured": "1 | 2", "verdict": "reproduced", "reason": "why"}


def texts() -> str:
    return "\n".join(page.read_text(encoding="utf-8") for page in findings.PAGES)


def test_every_command_names_a_recipe() -> None:
    from nashsolve.integrations.experiments.recipe import recipe_files

    named = set(re.findall(r"nashsolve experiment run ([a-z][\w-]+)", texts()))
    assert named and named <= set(recipe_files())
    assert {found[1] for found in findings.BLOCK.findall(texts())} <= named


def test_every_exact_miniature_has_a_block() -> None:
    shown = {found[1] for found in findings.BLOCK.findall(texts())}
    for name in ("x1-pareto-toy", "x2-stability", "x3-chain-dynamics", "x9-quaternion-twin", "x16-infeasibility"):
        assert f"mini-{name}" in shown


def test_a_block_is_written_from_the_claims(tmp_path: Path) -> None:
    page = "before\n<!-- claims: mini-a -->\nold\n<!-- end -->\nafter\n"
    empty = findings.filled(page, tmp_path)
    assert "No result of this recipe is committed" in empty and "old" not in empty
    (tmp_path / "mini-a").mkdir()
    (tmp_path / "mini-a" / "claims.json").write_text(json.dumps([CLAIM]))
    text = findings.filled(page, tmp_path)
    assert "| \\|x\\| is small *(table 1)* | 1 \\| 2 | **reproduced**: why |" in text
    assert text.startswith("before\n") and text.endswith("after\n")
    assert findings.filled(text, tmp_path) == text
