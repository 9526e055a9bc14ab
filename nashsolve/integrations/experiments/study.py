"""What an experiment is: a module in ``studies/`` with settings, a run, and the claims that it judges.

A study ``studies/phase_sweep.py`` holds

- ``class Settings(Strict)``: every number of a recipe, validated;
- ``def run(settings, book) -> None``: does the units that are left (``for key in book.todo(keys)``) and records each
  with one ``book.record(key, **numbers)`` as its last act; several processes call it at once, and a killed run calls it
  again;
- ``def claims(records) -> list[Claim]``: sentences of the paper beside what was measured; `records` is what the book
  holds, a list of dicts that each have a ``key``;
- ``def reduced(settings) -> Settings``: the same study in a few steps at small width, for ``--dry-run`` and the tests;
- optionally ``def plan(settings) -> list[str]``: lines of the dry run's plan (parameters on the meta device, tokens);
- optionally ``DIVISIBLE = True``: its trainings take ``book.team.share`` of what they draw, so that ranks can train one
  unit together;
- optionally ``def pictures(records, curves) -> dict[str, Axes]``: drawn when all units are finished; `curves` is what
  `Book.curves` gives.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import import_module
from pkgutil import iter_modules
from typing import Any, Literal, Protocol, cast

from nashsolve.core.errors import InvalidProblem

from ..torch_moe.strict import Strict, nearest
from .book import Book

__all__ = ["Claim", "Records", "Strict", "Study", "Verdict", "load_study", "optional", "study_names"]

Verdict = Literal["reproduced", "not reproduced", "not testable here"]
Records = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Claim:
    """One sentence of the paper, judged.

    Attributes
    ----------
    text : the claim, one sentence
    paper : where it is made and the numbers reported there
    measured : the numbers of this run
    verdict : "reproduced", "not reproduced" or "not testable here"
    reason : why the verdict follows from the numbers (an interval, a proof, a missing scale)
    """

    text: str
    paper: str
    measured: str
    verdict: Verdict
    reason: str

    def to_dict(self) -> dict[str, str]:
        """Plain strings, for JSON."""
        return asdict(self)


class Study(Protocol):
    """A module in ``studies/`` as the runner sees it."""

    Settings: type[Strict]

    def run(self, settings: Any, book: Book) -> None:
        """Do the units that are left."""
        ...

    def claims(self, records: Records) -> list[Claim]:
        """Judge what was measured."""
        ...

    def reduced(self, settings: Any) -> Any:
        """A few steps at small width."""
        ...


def study_names() -> list[str]:
    """Every module in ``studies/``."""
    from . import studies

    return sorted(found.name for found in iter_modules(studies.__path__) if not found.name.startswith("_"))


def load_study(name: str) -> Study:
    """The study of a recipe by the name of its file.

    Raises
    ------
    InvalidProblem
        For an unknown name, with the nearest one.
    """
    if name not in study_names():
        raise InvalidProblem(f"study is {name!r}; {nearest(name, study_names())}")
    return cast(Study, import_module(f".studies.{name}", __package__))


def optional(study: Study, name: str) -> Any:
    """What a study may leave out: "plan", "tables", "pictures" or "DIVISIBLE"; None where it does."""
    return getattr(study, name, None)
