"""Verdicts on the kinds of claims that the paper makes, always by an interval and never by a mean alone."""

from __future__ import annotations

from collections.abc import Mapping

from .statistics import compare
from .study import Claim
from .systems import title

Table = Mapping[str, Mapping[int, float]]


def better(
    table: Table, ours: str, theirs: str, unit: str, direction: str, paper: str, text: str | None = None
) -> Claim | None:
    """The claim that one system beats another, judged by the paired 95 % interval.

    Parameters
    ----------
    table : system -> seed -> number
    ours, theirs : systems; the claim is that ours is better
    unit : of the number
    direction : "lower" or "higher" is better
    paper : where the claim is made, with the numbers there
    text : of the claim; by default that ours is better than theirs

    Returns
    -------
    Claim, or None where one of the systems was not run with two seeds
    """
    found = compare(table, ours, theirs)
    if found is None:
        return None
    gain = -1.0 if direction == "lower" else 1.0
    if found.mean == 0.0 and found.sd == 0.0:
        verdict, reason = "not reproduced", f"no difference at all in {found.n} paired seeds"
    elif found.noise:
        verdict, reason = "not reproduced", f"the interval over {found.n} paired seeds holds zero: noise at this size"
    elif gain * found.mean > 0:
        verdict, reason = "reproduced", f"the interval over {found.n} paired seeds leaves zero out"
    else:
        verdict, reason = "not reproduced", f"the other way round over {found.n} paired seeds, beyond noise"
    text = text or f"{title(ours)} is better than {title(theirs)}"
    return Claim(text, paper, f"{unit}: {found}", verdict, reason)  # type: ignore[arg-type]


def flat(
    table: Table, systems: list[str], reference: str, unit: str, text: str, paper: str, claimed: bool = True
) -> Claim | None:
    """A claim about whether a choice matters, judged by paired t tests with Bonferroni's correction.

    Parameters
    ----------
    table : system -> seed -> number
    systems : each is compared with the reference
    reference : one of the systems
    unit : of the number
    text, paper : of the claim
    claimed : True where the claim is that nothing differs, False where it is that something does

    Returns
    -------
    Claim, or None where there is nothing to compare
    """
    found = {name: compare(table, name, reference) for name in systems if name != reference}
    pairs = {name: pair for name, pair in found.items() if pair is not None}
    if not pairs:
        return None
    limit = 0.05 / len(pairs)
    apart = [name for name, pair in pairs.items() if pair.p is not None and pair.p < limit]
    widest = max(pairs.values(), key=lambda pair: abs(pair.mean))
    corrected = f"over {widest.n} paired seeds, corrected for {len(pairs)} comparisons"
    reason = f"no difference is beyond noise {corrected}"
    if apart:
        reason = f"beyond noise {corrected}: {', '.join(map(title, apart))}"
    measured = f"{unit}, largest difference from {title(reference)}: {widest}"
    return Claim(text, paper, measured, "reproduced" if claimed != bool(apart) else "not reproduced", reason)


def unlike(text: str, paper: str, measured: str, same: bool, reason: str) -> Claim:
    """The claim that two things differ, which an identity refutes."""
    return Claim(text, paper, measured, "not reproduced" if same else "reproduced", reason)
