"""The goal table of faults as data: its count, and that every row claimed so far has a test with its id."""

from __future__ import annotations

import ast
import json
import re
from collections import Counter
from pathlib import Path

HERE = Path(__file__).parent
TABLE = json.loads((HERE / "table.json").read_text(encoding="utf-8"))
CLAIMED = {f"S{i:02}" for i in range(1, 35)}
CLAIMED |= {f"N{i:02}" for i in (*range(1, 8), 11, 12, 13)}
CLAIMED |= {f"B{i:02}" for i in (1, 2, 3, 4, 7, 8, 9)}
CLAIMED |= {f"P{i:02}" for i in (1, 3, *range(4, 14))}
CLAIMED |= {f"F{i:02}" for i in range(1, 23)} | {f"W{i:02}" for i in range(1, 17)}
CLAIMED |= {f"D{i:02}" for i in range(1, 16)}


def test_the_table_counts_137() -> None:
    assert len(TABLE) == len({row["id"] for row in TABLE}) == 137
    letters = Counter(row["id"][0] for row in TABLE)
    assert letters == {"S": 34, "N": 15, "B": 9, "P": 14, "F": 22, "W": 16, "D": 15, "G": 12}
    assert Counter(row["tier"] for row in TABLE) == {"P0": 75, "P1": 31, "P2": 28, "P3": 3}
    assert all(row["fault"] and row["required"] for row in TABLE)


def ids_in(source: str) -> set[str]:
    """Rows named by `pytest.param(..., id=...)` in a test file, as they show in the collected test ids."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.keyword) and node.arg == "id":
            text = ast.unparse(node.value)
            found |= set(re.findall(r"\b([SNBPFWDG]\d\d)-", text))
    return found


def test_every_claimed_row_has_a_test() -> None:
    found = set()
    for path in sorted(HERE.glob("test_*.py")):
        if path.name != Path(__file__).name:
            found |= ids_in(path.read_text(encoding="utf-8"))
    assert CLAIMED - found == set(), "claimed without a test"
    assert found - {row["id"] for row in TABLE} == set(), "not in the table"


def test_a_missing_id_would_be_seen() -> None:
    assert ids_in("import pytest\npytest.param(1, id='S01-upper')\npytest.param(2, id=f'P04-{x}')") == {"S01", "P04"}
    assert ids_in("x = 'S01-upper'  # S02-lower") == set()
