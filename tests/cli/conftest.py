"""Running the command line inside the process, and files to run it on."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("typer", reason="the extra 'cli' is not installed")
pytest.importorskip("pydantic", reason="the extra 'cli' is not installed")

from typer.testing import CliRunner

GRAM = [[2.0, 0.5], [0.5, 1.0]]
VECTORS = [[1.0, 0.0, 0.5], [0.2, 2.0, 0.0]]


@dataclass(frozen=True)
class Ended:
    """What a command left behind."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """stdout as one strictly valid JSON object."""

        def refuse(token: str) -> None:
            raise AssertionError(f"{token} is not JSON")

        return json.loads(self.out, parse_constant=refuse)


@pytest.fixture
def run() -> Callable[..., Ended]:
    """`run("solve", path, "--json")`; an exception that is not an exit fails the test."""
    from nashsolve.cli.app import app

    def call(*words: Any) -> Ended:
        found = CliRunner().invoke(app, [str(w) for w in words], catch_exceptions=False)
        return Ended(found.exit_code, found.stdout, found.stderr)

    return call


@pytest.fixture
def gram_file(tmp_path: Path) -> Path:
    """A pair with an agreement."""
    return write_json(tmp_path / "pair.json", {"gram": GRAM, "names": ["ann", "bob"]})


@pytest.fixture
def opposed_file(tmp_path: Path) -> Path:
    """A pair that cannot agree."""
    return write_json(tmp_path / "opposed.json", {"vectors": [[1, 0], [-1, 0]], "names": ["ann", "bob"]})


def write_json(file: Path, value: Any) -> Path:
    """Python's JSON, which may hold NaN."""
    file.write_text(json.dumps(value))
    return file


def write(folder: Path, suffix: str, vectors: bool) -> Path:
    """The same pair in every format."""
    data = np.array(VECTORS if vectors else GRAM)
    file = folder / f"pair{suffix}"
    if suffix == ".json":
        write_json(file, {"vectors" if vectors else "gram": data.tolist()})
    elif suffix == ".npz":
        np.savez(file, **{"vectors" if vectors else "gram": data})
    elif suffix == ".npy":
        np.save(file, data)
    else:
        np.savetxt(file, data, delimiter=",")
    return file
