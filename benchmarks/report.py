"""The tables of ``benchmarks/solve_speed.py``, from its records."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from benchmarks import measure
from benchmarks.families import GROUPS, INFEASIBLE
from benchmarks.peers import OURS_GRAM, OURS_VECTORS, PEERS, TORCHJD
from benchmarks.truth import MAX_PLAYERS

WRONG = 1e-3
"""A true error (or, where the truth is unknown, a residual) above this is a wrong answer."""
NAN = float("nan")
TAKES = {peer.name: peer.takes for peer in PEERS}
GROUP_OF = {family: group for group, families in GROUPS.items() for family in families}


@dataclass(frozen=True)
class Record:
    """One solver on one instance."""

    peer: str
    n: int
    family: str
    seed: int
    feasible: bool
    seconds: float
    error: float
    residual: float
    outcome: str
    detail: str


class Report:
    """The tables of one run."""

    def __init__(self, records: list[Record], absent: dict[str, str], ns: Sequence[int]) -> None:
        self.records = records
        self.absent = absent
        self.ns = list(ns)
        self.by_instance = {(r.peer, r.n, r.family, r.seed): r for r in records}

    def rows(self, cells: Callable[[str], list[str]], width: int) -> list[list[str]]:
        """A row for every peer, the absent ones too."""
        lines = []
        for peer in PEERS:
            if peer.name in self.absent:
                lines.append([peer.name, "not installed", *[""] * (width - 1)])
            else:
                lines.append([peer.name, *cells(peer.name)])
        return lines

    def select(self, peer: str, **wanted: object) -> list[Record]:
        """The records of a peer with the given fields."""
        return [r for r in self.records if r.peer == peer and all(getattr(r, k) == v for k, v in wanted.items())]

    def times(self) -> str:
        """Median milliseconds."""

        def cells(peer: str) -> list[str]:
            out = []
            for n in self.ns:
                known = [r.seconds for r in self.select(peer, n=n, feasible=True) if r.seconds == r.seconds]
                out.append(f"{measure.figure(1e3 * statistics.median(known))} ({len(known)})" if known else "-")
            return out

        title = "Median time of a call, ms, instances with an agreement (in brackets: how many)"
        return measure.table(title, ["", *(f"n={n}" for n in self.ns)], self.rows(cells, len(self.ns)))

    def ratio(self, peer: str, ours: str, n: int, family: str | None = None) -> float:
        """Median over common instances of the time of ``peer`` over that of ``ours``."""
        ratios = []
        for r in self.select(peer, n=n, feasible=True):
            base = self.by_instance.get((ours, n, r.family, r.seed))
            if base is not None and r.seconds == r.seconds and family in (None, r.family):
                ratios.append(r.seconds / base.seconds)
        return statistics.median(ratios) if ratios else NAN

    def ratios(self) -> str:
        """Times over those of newton given the same input."""

        def cells(peer: str) -> list[str]:
            ours = OURS_VECTORS if TAKES[peer] == "vectors" else OURS_GRAM
            return [f"{r:.3g}x" if (r := self.ratio(peer, ours, n)) == r else "-" for n in self.ns]

        title = "Time over newton's, same input, median over the instances both ran"
        return measure.table(title, ["", *(f"n={n}" for n in self.ns)], self.rows(cells, len(self.ns)))

    def accuracy(self) -> str:
        """Median and worst figures by how hard the family is, over everything returned without complaint."""
        small = [n for n in self.ns if n <= MAX_PLAYERS]
        large = [n for n in self.ns if n > MAX_PLAYERS]
        kinds = [("error", small), ("residual", large)]
        columns = [(field, ns, group) for field, ns in kinds if ns for group in GROUPS]

        def cells(peer: str) -> list[str]:
            out = []
            for field, ns, group in columns:
                chosen = [r for r in self.select(peer, feasible=True) if r.n in ns and GROUP_OF[r.family] == group]
                known = [getattr(r, field) for r in chosen if getattr(r, field) == getattr(r, field)]
                out.append(f"{statistics.median(known):.0e} / {max(known):.0e}" if known else "-")
            return out

        header = ["", *(f"{field} {group}" for field, _, group in columns)]
        title = f"Median / worst of every vector returned: true error for n <= {MAX_PLAYERS}, residual beyond"
        return measure.table(title, header, self.rows(cells, len(columns)))

    def failures(self) -> str:
        """Outcomes where an agreement exists."""
        outcomes = ("right", "reported", "raised", "nan", "non-positive", "wrong", "out of time")

        def cells(peer: str) -> list[str]:
            chosen = self.select(peer, feasible=True)
            counts = [sum(r.outcome == outcome for r in chosen) for outcome in outcomes]
            silent = counts[3] + counts[4] + counts[5]
            return [
                str(len(chosen)),
                *map(str, counts),
                f"{100 * silent / len(chosen):.0f}%" if chosen else "-",
            ]

        title = "Instances with an agreement (silent = NaN, non-positive or wrong without a word)"
        return measure.table(title, ["", "run", *outcomes, "silent"], self.rows(cells, len(outcomes) + 2))

    def refusals(self) -> str:
        """Outcomes where no agreement exists."""
        columns = [(family, outcome) for family in INFEASIBLE for outcome in ("run", "refused", "nan", "silent")]

        def cells(peer: str) -> list[str]:
            out = []
            for family, outcome in columns:
                got = [r.outcome for r in self.select(peer, family=family)]
                refused = sum(o in ("reported", "raised") for o in got)
                out.append(str({"run": len(got), "refused": refused}.get(outcome, got.count(outcome))))
            return out

        header = ["", *(f"{family} {outcome}" for family, outcome in columns)]
        title = "Instances without an agreement: refused (exception or bad status), NaN, or silently finite"
        return measure.table(title, header, self.rows(cells, len(columns)))

    def by_family(self, n: int) -> str:
        """True errors of newton and of the published algorithm, family by family."""
        names = (OURS_VECTORS, OURS_GRAM, TORCHJD)

        def cell(family: str, name: str) -> str:
            known = [r.error for r in self.select(name, n=n, family=family)]
            return "nothing" if any(e != e for e in known) else f"{max(known):.0e}" if known else "-"

        lines = [[family, *(cell(family, name) for name in names)] for family in GROUP_OF]
        return measure.table(f"n = {n}: worst true error by family", ["", *names], lines)

    def target(self, n: int = 8) -> str:
        """What the project promises against the published algorithm at n = 8, as measured in this run."""
        if TORCHJD in self.absent or n not in self.ns:
            return ""
        lines = [self.by_family(n)]
        for ours in (OURS_VECTORS, OURS_GRAM):
            if ours in self.absent:
                continue
            whole, ordinary = self.ratio(TORCHJD, ours, n), self.ratio(TORCHJD, ours, n, "a")
            lines.append(f"n = {n}: {TORCHJD} takes {whole:.0f} times as long as {ours} (family a: {ordinary:.0f})")
            both = [
                (r.error, t.error)
                for r in self.select(ours, n=n, feasible=True)
                if (t := self.by_instance.get((TORCHJD, n, r.family, r.seed))) is not None
            ]
            mine = [error for error, theirs in both if not theirs <= WRONG]
            if mine:
                lines.append(
                    f"n = {n}: where its error is above {WRONG:g} or it gave nothing ({len(mine)} of "
                    f"{len(both)} instances), {ours} has {statistics.median(mine):.1e} (median) and "
                    f"{max(mine):.1e} (worst), {sum(error <= 1e-12 for error in mine)} times at most 1e-12"
                )
        return "\n".join([*lines, ""])

    def text(self) -> str:
        """Everything."""
        parts = [
            self.times(),
            self.ratios(),
            self.accuracy(),
            self.failures(),
            self.refusals(),
            self.target(),
        ]
        return "\n".join(part for part in parts if part)
