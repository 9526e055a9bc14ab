"""The documentation: every public name is in the reference, every block of code is run, every command is named."""

from __future__ import annotations

import doctest
import importlib
import importlib.util
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import nashsolve
from nashsolve import kernels
from nashsolve.backends import catalog

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
MADE = ("gallery", "_build", "generated")
pytestmark = pytest.mark.skipif(not DOCS.exists(), reason="the documentation is in the checkout only")

ROOMS = (
    "nashsolve.plotting",
    "nashsolve.integrations.checkpoints",
    "nashsolve.integrations.multitask",
    "nashsolve.integrations.torchjd",
    "nashsolve.integrations.torch_moe",
    "nashsolve.integrations.torch_moe.balance",
    "nashsolve.integrations.torch_moe.distributed",
    "nashsolve.integrations.torch_moe.pictures",
    "nashsolve.integrations.torch_moe.routers",
    "nashsolve.integrations.torch_moe.stability",
    "nashsolve.integrations.torch_moe.telemetry",
    "nashsolve.integrations.transformers",
)

ANSWERS = (
    "nashsolve.axioms.Finding",
    "nashsolve.axioms.Report",
    "nashsolve.axioms.check",
    "nashsolve.compare.Comparison",
    "nashsolve.core.errors.InvalidType",
    "nashsolve.crosscheck.CrossCheck",
    "nashsolve.oracles.implicit.Derivatives",
    "nashsolve.problems.domains.Domain",
    "nashsolve.problems.risk.Portfolio",
    "nashsolve.sensitivity.Sweep",
)
"""What public functions return or raise, from rooms that hold helpers as well."""

INTERNAL = {"nashsolve.integrations.multitask": {"check_options"}}  # read by the classes for TorchJD, too

_WRITES = "writes a file; the gallery draws the same picture"
SHOWN_ONLY = {
    (
        "tensors.md",
        "from nashsolve.integrations.torchjd import NashBargaining, NashMTL",
    ): "needs a TorchJD training loop",
    ("start/economist.md", "agreements = ns.compare(problem).solutions"): _WRITES,
    ("moe/stability.md", "import numpy as np"): _WRITES,
    (
        "moe/distributed.md",
        "from transformers.distributed import DistributedConfig as Plan",
    ): "needs several processes; tests/torch_moe/distributed/spread.py runs the same",
    ("gpu.md", "import torch, nashsolve as ns"): "needs a CUDA device",
    ("gpu.md", "from nashsolve.on_device import Prepared"): "needs a CUDA device",
}
"""(page, first line) -> why a block of Python is shown and not run."""

FENCE = re.compile(r"^( *)```(\S*)[^\n]*\n(.*?)^\1```", re.MULTILINE | re.DOTALL)


def pages() -> list[Path]:
    """Every page that somebody wrote."""
    return sorted(p for p in DOCS.rglob("*.md") if not set(p.relative_to(DOCS).parts) & set(MADE))


def python_blocks(text: str) -> Iterator[tuple[str, str]]:
    """Kind and body of every fenced block that holds Python."""
    for _, kind, body in FENCE.findall(text):
        if kind in ("python", "py", "pycon", "ipython", "console") or body.lstrip().startswith(">>>"):
            yield kind, body


def not_run(name: str, text: str) -> list[str]:
    """First lines of Python blocks that neither a doctest runs nor the list above excuses."""
    shown = [body.strip().splitlines()[0] for kind, body in python_blocks(text) if kind != "{doctest}"]
    return [line for line in shown if (name, line) not in SHOWN_ONLY]


def listed(text: str) -> Iterator[str]:
    """Full names in the autosummary tables of a page."""
    module, inside = "", False
    for line in text.splitlines():
        if found := re.match(r"\.\. currentmodule:: (\S+)", line):
            module, inside = found[1], False
        elif line.startswith(".. autosummary::"):
            inside = True
        elif line.strip() and not line.startswith("   "):
            inside = False
        elif inside and re.fullmatch(r"   [\w.]+", line):
            yield f"{module}.{line.strip()}"


def resolve(name: str) -> Any:
    """The object of a dotted name."""
    module, _, rest = name.rpartition(".")
    try:
        return getattr(importlib.import_module(module), rest)
    except ModuleNotFoundError:
        return getattr(resolve(module), rest)


def public(module: ModuleType) -> dict[str, Any]:
    """Functions and classes that a module offers: its `__all__`, or what it defines without an underscore."""
    names = getattr(module, "__all__", None)
    if names is None:
        names = [n for n, v in vars(module).items() if getattr(v, "__module__", "") == module.__name__ and n[0] != "_"]
    found = {name: getattr(module, name) for name in names}
    return {name: value for name, value in found.items() if inspect.isroutine(value) or inspect.isclass(value)}


def missing(offered: dict[str, Any], documented: list[Any]) -> list[str]:
    """Names of the offered objects that no reference page lists."""
    return sorted(name for name, value in offered.items() if not any(value is known for known in documented))


@pytest.fixture(scope="module")
def documented() -> list[Any]:
    for package in ("torch", "pydantic", "safetensors", "transformers"):
        pytest.importorskip(package)
    names = [name for page in sorted((DOCS / "reference").glob("*.md")) for name in listed(page.read_text("utf-8"))]
    assert len(names) == len(set(names)), "a name is listed twice"
    found = names if importlib.util.find_spec("torchjd") else [name for name in names if ".torchjd." not in name]
    return [resolve(name) for name in found]


def test_every_public_name_is_in_the_reference(documented: list[Any]) -> None:
    names = [*nashsolve.__all__, *nashsolve._LAZY]
    offered = {name: getattr(nashsolve, name) for name in names}
    offered = {name: value for name, value in offered.items() if not isinstance(value, ModuleType)}
    assert missing(offered, documented) == []


@pytest.mark.parametrize("room", ROOMS)
def test_every_public_name_of_a_room_is_in_the_reference(room: str, documented: list[Any]) -> None:
    if room.endswith(".torchjd"):
        pytest.importorskip("torchjd")
    offered = public(importlib.import_module(room))
    offered = {name: value for name, value in offered.items() if name not in INTERNAL.get(room, ())}
    assert offered and missing(offered, documented) == []


def test_every_answer_is_in_the_reference(documented: list[Any]) -> None:
    assert missing({name: resolve(name) for name in ANSWERS}, documented) == []


def test_every_solver_is_in_the_reference(documented: list[Any]) -> None:
    engines = {row.name: resolve(row.target.replace(":", ".")) for row in catalog.CATALOG}
    assert missing(engines, documented) == []


def test_a_missing_name_is_noticed() -> None:
    head = ".. currentmodule:: nashsolve\n\n.. autosummary::\n   :toctree: generated\n\n"
    page = head + "   solve\n   axioms.check\n\nText\n   gram\n"
    assert list(listed(page)) == ["nashsolve.solve", "nashsolve.axioms.check"]
    known = [resolve(name) for name in listed(page)]
    assert missing({"solve": nashsolve.solve, "gram": nashsolve.gram}, known) == ["gram"]


@pytest.mark.parametrize("page", pages(), ids=lambda p: p.relative_to(DOCS).as_posix())
def test_python_on_a_page_is_run(page: Path) -> None:
    assert not_run(page.relative_to(DOCS).as_posix(), page.read_text("utf-8")) == []


def test_a_block_that_is_not_run_is_noticed() -> None:
    text = "```{doctest}\n>>> 1\n1\n```\n\n  ```python\n  x = 1\n  ```\n\n```\n>>> 2\n```\n\n```sh\nls\n```\n"
    assert not_run("page.md", text) == ["x = 1", ">>> 2"]


def test_every_excuse_is_needed() -> None:
    shown = {
        (page.relative_to(DOCS).as_posix(), body.strip().splitlines()[0])
        for page in pages()
        for kind, body in python_blocks(page.read_text("utf-8"))
        if kind != "{doctest}"
    }
    assert set(SHOWN_ONLY) <= shown


def failures(name: str, text: str) -> tuple[int, int]:
    """How many examples a page has, and how many print something else than it says; the flags are Sphinx's own."""
    lines = "\n".join(inspect.cleandoc(body) for kind, body in python_blocks(text) if kind == "{doctest}")
    flags = doctest.ELLIPSIS | doctest.IGNORE_EXCEPTION_DETAIL | doctest.DONT_ACCEPT_TRUE_FOR_1
    found = doctest.DocTestRunner(optionflags=flags).run(doctest.DocTestParser().get_doctest(lines, {}, name, name, 0))
    return found.attempted, found.failed


@pytest.fixture
def restored_catalog() -> Iterator[None]:
    """Pages show how to register a router; the tests after them shall not find it."""
    for package in ("torch", "cvxpy", "safetensors", "pydantic", "pandas", "transformers"):
        pytest.importorskip(package)
    from nashsolve.integrations.torch_moe.routers import ROUTERS

    before = dict(ROUTERS)
    yield
    ROUTERS.clear()
    ROUTERS.update(before)


@pytest.mark.usefixtures("restored_catalog")
@pytest.mark.parametrize(
    "page",
    [p for p in pages() if "{doctest}" in p.read_text("utf-8")],
    ids=lambda p: p.relative_to(DOCS).as_posix(),
)
def test_examples_print_what_the_page_says(page: Path) -> None:
    if kernels.load() is None:
        pytest.skip("the pages print what the compiled kernel does, which is not built here")
    attempted, failed = failures(page.name, page.read_text("utf-8"))
    assert attempted > 0 and failed == 0


def test_an_example_that_prints_something_else_is_noticed() -> None:
    assert failures("page", "```{doctest}\n>>> 1 + 1\n3\n>>> 2\n2\n```\n") == (2, 1)


def test_every_command_is_in_the_reference() -> None:
    typer = pytest.importorskip("typer")
    from nashsolve.cli.app import app

    text = (DOCS / "reference" / "command_line.md").read_text("utf-8")
    commands = set(typer.main.get_command(app).commands)
    assert "solve" in commands
    assert commands == set(re.findall(r"^\| `nashsolve (\w+)", text, re.MULTILINE))
