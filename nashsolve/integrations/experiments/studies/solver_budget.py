"""What the budget of the published solver does to fine-tuning, beside a solver that converges."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from ..book import Book
from ..judging import flat
from ..statistics import by_system
from ..study import Claim, Records
from ..tables import Metric, Table, comparison
from ._arms import Arms, run_arms
from ._upcycled import Upcycling, small, wide


class Settings(Upcycling):
    """As Upcycling, with the budgets.

    Attributes
    ----------
    iterations : of CCP, each 1 to 60
    """

    iterations: list[int] = Field(default=[2, 5, 20, 40, 60], min_length=1)


def arms(settings: Settings) -> Arms:
    """NAMEx-Full with Newton, and with CCP at each budget."""
    found: dict[str, tuple[str, dict[str, Any]]] = {"newton": ("namex_full", {"bargain": {"solver": "newton"}})}
    for budget in settings.iterations:
        found[f"ccp-{budget}"] = ("namex_full", {"bargain": {"solver": "ccp", "iterations": budget}})
    return found


def run(settings: Settings, book: Book) -> None:
    """Fine-tune every arm."""
    run_arms(settings, book, arms(settings))


def reduced(settings: Settings) -> Settings:
    """Two steps of two seeds at two budgets."""
    return settings.changed(**small(settings), iterations=settings.iterations[:2])


def tables(records: Records) -> list[Table]:
    """Scores by budget, and how often a budget ended without an agreement."""
    rows = wide(records, "arm")
    without: dict[tuple[str, int], list[float]] = {}
    for record in records:
        if "arm" in record:
            without.setdefault((record["arm"], record["seed"]), []).append(100 * record["no_agreement"])
    for row in rows:
        shares = without[row["arm"], row["seed"]]
        row["without"] = sum(shares) / len(shares)
    metrics = [
        Metric("mean", "mean of the tasks, %", "higher", 3),
        Metric("without", "solves that did not converge, %", "lower", 1),
    ]
    return [comparison(rows, metrics, "newton", "NAMEx-Full by solver and budget of iterations.", "arm")]


def claims(records: Records) -> list[Claim]:
    """Table 8: the budget does not matter downstream."""
    table = by_system(wide(records, "arm"), "mean", "arm")
    judged = flat(
        table,
        list(table),
        "newton",
        "mean score, %",
        "The number of the solver's iterations does not matter downstream",
        "table 8: fine-tuned MMLU 62.10 to 62.22 from 2 to 60 iterations",
    )
    return [judged] if judged else []
