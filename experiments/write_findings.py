"""Put the claims of committed results into the pages of the documentation. ``python -m experiments.write_findings``

A page holds blocks between ``<!-- claims: RECIPE -->`` and ``<!-- end -->``; what is between them is written here.
"""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path

from nashsolve.integrations.experiments.header import differences, read_header
from nashsolve.integrations.experiments.recipe import find_recipe

ROOT = Path(__file__).resolve().parent.parent
PAGES = tuple(ROOT / "docs" / "experiments" / f"{name}.md" for name in ("paper_and_findings", "open_questions"))
RESULTS = ROOT / "experiments" / "results"
BLOCK = re.compile(r"(<!-- claims: ([\w-]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def cell(text: str) -> str:
    """Text that a table of Markdown takes."""
    return text.replace("|", "\\|").replace("\n", " ")


def block(recipe: str, results: Path) -> str:
    """The command, and a table of what it found."""
    head = f"`nashsolve experiment run {recipe}`\n"
    file = results / recipe / "claims.json"
    if not file.exists():
        return f"{head}\nNo result of this recipe is committed; the command prints its claims.\n\n"
    rows = ["| the paper says | we measured | verdict |", "|---|---|---|"]
    for claim in json.loads(file.read_text(encoding="utf-8")):
        said = f"{cell(claim['text'])} *({cell(claim['paper'])})*"
        verdict = f"**{claim['verdict']}**: {cell(claim['reason'])}"
        rows.append(f"| {said} | {cell(claim['measured'])} | {verdict} |")
    return head + "\n" + _other_settings(recipe, results) + "\n".join(rows) + "\n\n"


def _other_settings(recipe: str, results: Path) -> str:
    """A warning where the committed run is not the recipe's any more."""
    if not (results / recipe / "run.json").exists():
        return ""
    other = differences(read_header(results / recipe), find_recipe(recipe))
    return f"**These numbers are from other settings than the recipe has now: {other}.**\n\n" if other else ""


def filled(text: str, results: Path) -> str:
    """A page with every block written anew."""
    return BLOCK.sub(lambda found: found[1] + block(found[2], results) + found[3], text)


def main() -> None:
    """Write both pages."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder with one folder a recipe")
    given = parser.parse_args()
    for page in PAGES:
        page.write_text(filled(page.read_text(encoding="utf-8"), given.results), encoding="utf-8")
        print(f"wrote {page.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
