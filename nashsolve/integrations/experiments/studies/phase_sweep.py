"""The phase of the momentum: opposite signs agree to the last bit, other phases differ beyond noise or not."""

from __future__ import annotations

import math
from typing import Any

from pydantic import Field

from ..book import Book
from ..judging import flat
from ..statistics import by_system
from ..study import Claim, Records
from ..tables import Metric, Table, comparison
from ._arms import Arms, run_arms
from ._upcycled import Upcycling, small, wide

SYSTEMS = {"ep": "ep_camex_mom", "namex": "namex_mom"}


class Settings(Upcycling):
    """As Upcycling, with the momenta.

    Attributes
    ----------
    degrees : phases; include both signs of each
    beta : modulus, in (0, 1)
    gamma : step of the chain, > 0
    """

    degrees: list[int] = Field(default=[0, 15, -15, 30, -30], min_length=1)
    beta: float = Field(default=0.9, gt=0, lt=1)
    gamma: float = Field(default=1.0, gt=0)


def arms(settings: Settings) -> Arms:
    """EP-CAMEx and NAMEx at each phase."""
    found: dict[str, tuple[str, dict[str, Any]]] = {}
    for degrees in settings.degrees:
        phase = math.radians(degrees)
        momentum = {"kind": "complex", "beta": settings.beta, "phase": phase}
        for short, system in SYSTEMS.items():
            found[f"{short}{degrees:+d}"] = (system, {"gamma": settings.gamma, "momentum": momentum})
    return found


def run(settings: Settings, book: Book) -> None:
    """Fine-tune every arm."""
    run_arms(settings, book, arms(settings))


def reduced(settings: Settings) -> Settings:
    """Two steps of two seeds of one pair of phases."""
    return settings.changed(**small(settings), degrees=[30, -30])


def tables(records: Records) -> list[Table]:
    """Scores by phase."""
    rows = wide(records, "arm")
    metric = Metric("mean", "mean of the tasks, %", "higher", 3)
    kinds = [(short, [r for r in rows if r["arm"].startswith(short)]) for short in SYSTEMS]
    captions = {"ep": "EP-CAMEx with complex momentum.", "namex": "NAMEx with complex momentum."}
    return [comparison(part, [metric], f"{short}+0", captions[short], "arm") for short, part in kinds if part]


def claims(records: Records) -> list[Claim]:
    """Signs agree to the last bit; the phase does or does not matter."""
    found = [_signs(records)]
    table = by_system(wide(records, "arm"), "mean", "arm")
    for short, name in (("ep", "EP-CAMEx"), ("namex", "NAMEx")):
        arms = [arm for arm in table if arm.startswith(short) and "-" not in arm]
        judged = flat(
            table,
            arms,
            f"{short}+0",
            "mean score, %",
            f"The phase of {name}'s momentum matters",
            "table 5: RTE from 72.20 to 76.64 over the phases, worst at zero",
            claimed=False,
        )
        found += [judged] if judged else []
    return found


def _signs(records: Records) -> Claim:
    by_key = {record["key"]: record["losses"] for record in records if "losses" in record}
    pairs = [(key, key.replace("-", "+", 1)) for key in by_key if "-" in key]
    same = sum(by_key[one] == by_key[other] for one, other in pairs if other in by_key)
    return Claim(
        "Opposite phases behave differently",
        "table 5: EP-CAMEx on RTE 76.17 at 30 degrees, 72.56 at -30",
        f"{same} of {len(pairs)} pairs of loss curves are equal to the last bit",
        "not reproduced" if same == len(pairs) else "reproduced",
        "with real input and a real read-out a momentum and its conjugate give the same base experts",
    )
