r"""Three experts and one step on the unit sphere: who gains under Nash, the mean and the shortest point (figure 11).

Expert i gains :math:`u_i = \tau_i^\top x` from the step x, :math:`\|x\| \le 1`. A step :math:`x = Gc/\|Gc\|` with
:math:`c > 0` maximizes :math:`c^\top u` over the ball, so that nothing dominates it: every positive combination of the
domain vectors, the mean among them, is Pareto optimal. What a mean step can do is hurt somebody.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from pydantic import Field

import nashsolve
from nashsolve import BargainingProblem

from ...torch_moe.bargain import min_norm
from ..book import Book
from ..panels import panels
from ..study import Claim, Records, Strict

FAMILIES = ("random", "cooperative", "adversarial", "unbalanced")
RULES = ("nash", "mean", "min_norm")


class Settings(Strict):
    """dimensions : of the vectors; trials : draws of each family and dimension; sample : unit steps to compare with;
    opposition : share of their mean that adversarial vectors lose; spread : decades of the unbalanced lengths."""

    seed: int = 0
    dimensions: list[int] = Field(default=[3, 10, 50])
    trials: int = Field(default=2000, ge=1)
    sample: int = Field(default=2000, ge=1)
    opposition: float = Field(default=0.9, ge=0, lt=1)
    spread: float = Field(default=3.0, ge=0)


def draw(family: str, trials: int, dimension: int, settings: Settings) -> np.ndarray:
    """Domain vectors (trials, 3, dimension) of one family; the families share their random numbers."""
    rng = np.random.default_rng([settings.seed, dimension])
    vectors = rng.standard_normal((trials, 3, dimension))
    common = rng.standard_normal((trials, 1, dimension))
    length = 10 ** (settings.spread * (rng.random((trials, 3, 1)) - 0.5))
    if family == "cooperative":
        return vectors + 2 * common
    if family == "adversarial":
        return vectors - settings.opposition * vectors.mean(1, keepdims=True)
    return vectors * length if family == "unbalanced" else vectors


def steps(vectors: np.ndarray) -> dict[str, np.ndarray]:
    """Unit step (trials, dimension) of every rule."""
    solution = nashsolve.solve(BargainingProblem(vectors=vectors), on_failure="return")
    hull = np.stack([min_norm(rows @ rows.T) for rows in vectors])
    shares = {"nash": np.asarray(solution.coefficients), "mean": np.full(vectors.shape[:2], 1 / 3), "min_norm": hull}
    moved = {rule: np.einsum("ti,tij->tj", c, vectors) for rule, c in shares.items()}
    return {rule: x / np.linalg.norm(x, axis=-1, keepdims=True) for rule, x in moved.items()}


def gains(vectors: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Gains (trials, 3) of a step, in units of each expert's best unit step."""
    return np.einsum("tij,tj->ti", vectors, x) / np.linalg.norm(vectors, axis=-1)


def room_above_mean(vectors: np.ndarray, x: np.ndarray) -> np.ndarray:
    r"""Upper bound of what any step of the ball adds to *all* gains of the mean step x: (trials,).

    :math:`\max_y \min_i (u_i(y) - u_i(x)) \le \|G\lambda\| - \lambda^\top u(x)` for every lambda of the simplex; here
    its middle, for which both terms are the same number.
    """
    middle = vectors.mean(1)
    return np.asarray(np.linalg.norm(middle, axis=-1) - np.einsum("tj,tj->t", middle, x))


def unit_change(vectors: np.ndarray, x: np.ndarray, rng: np.random.Generator) -> float:
    """Largest move of the Nash step when every expert measures in units of its own."""
    scaled = vectors * 10 ** rng.uniform(-3, 3, (*vectors.shape[:2], 1))
    return float(np.abs(steps(scaled)["nash"] - x).max())


def measure(family: str, dimension: int, settings: Settings) -> dict[str, float]:
    """All numbers of one family in one dimension."""
    vectors = draw(family, settings.trials, dimension, settings)
    chosen = steps(vectors)
    found = {rule: gains(vectors, x) for rule, x in chosen.items()}
    rng = np.random.default_rng([settings.seed, 7, dimension])
    others = rng.standard_normal((settings.sample, dimension))
    others /= np.linalg.norm(others, axis=-1, keepdims=True)
    unit = vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)
    sampled = np.clip(unit @ others.T, 0, None).prod(1).max(-1)
    numbers: dict[str, float] = {"trials": settings.trials}
    for rule in RULES:
        numbers[f"{rule}_hurts"] = float((found[rule] < 0).any(-1).mean())
        numbers[f"{rule}_least_gain"] = float(found[rule].min(-1).mean())
    product = {rule: np.clip(u, 0, None).prod(-1) for rule, u in found.items()}
    best = np.maximum.reduce([product["mean"], product["min_norm"], sampled])
    numbers["nash_product_beaten"] = float((best > product["nash"] * (1 + 1e-9)).mean())
    numbers["mean_dominated_by"] = float(room_above_mean(vectors, chosen["mean"]).max())
    numbers["nash_unit_change"] = unit_change(vectors[:200], chosen["nash"][:200], rng)
    return numbers


def run(settings: Settings, book: Book) -> None:
    """Every family in every dimension, and one draw of each family to look at."""
    units = {f"{family}-{dimension}": (family, dimension) for family in FAMILIES for dimension in settings.dimensions}
    for key in book.todo([*units, "drawn"]):
        if key == "drawn":
            book.record(key, kind="drawn", vectors={family: draw(family, 1, 3, settings)[0] for family in FAMILIES})
            continue
        family, dimension = units[key]
        numbers = measure(family, dimension, settings)
        book.record(key, kind="family", family=family, dimension=dimension, **numbers)


def reduced(settings: Settings) -> Settings:
    """Few draws."""
    return settings.changed(trials=20, sample=50, dimensions=[3])


def pictures(records: Records, curves: Mapping[str, Any]) -> dict[str, Any]:
    """Figure 11: one draw of each family in three dimensions."""
    from ...torch_moe.pictures import plot_hemisphere

    [drawn] = [r["vectors"] for r in records if r["kind"] == "drawn"]
    axes = panels(2, 2, (11, 9), projection="3d")
    for ax, (family, vectors) in zip(axes, drawn.items(), strict=True):
        rows = np.asarray(vectors)
        plot_hemisphere(rows, {rule.replace("_", " "): x[0] for rule, x in steps(rows[None]).items()}, ax=ax)
        ax.set_title(family)
    return {"half_sphere": axes[0]}


def claims(records: Records) -> list[Claim]:
    """What the paper says about this picture, against the records."""
    records = [r for r in records if r["kind"] == "family"]
    hurts = {(r["family"], r["dimension"]): r["mean_hurts"] for r in records}
    random3 = hurts.get(("random", 3), float("nan"))
    nash_hurts = max(r["nash_hurts"] for r in records)
    beaten = max(r["nash_product_beaten"] for r in records)
    above = max(r["mean_dominated_by"] for r in records)
    change = max(r["nash_unit_change"] for r in records)
    return [
        Claim(
            text="Under Nash bargaining every expert gains, and the product of gains is the largest in the ball.",
            paper="section 5, figure 11",
            measured=f"{nash_hurts:.0%} of draws with a loser; product beaten in {beaten:.0%} of draws",
            verdict="reproduced" if nash_hurts == beaten == 0 else "not reproduced",
            reason="by the mean, the shortest point and random unit steps, in every family and dimension",
        ),
        Claim(
            text="A simple average of domain vectors may miss the Pareto set.",
            paper="section 5, figure 11",
            measured=f"no step adds more than {above:.0e} to all gains of the mean step",
            verdict="reproduced" if above > 1e-9 else "not reproduced",
            reason="false for linear utilities on a ball: a positive combination of the vectors, drawn out to the "
            f"sphere, is Pareto optimal; what the mean does is hurt an expert, in {random3:.0%} of random draws in 3-d",
        ),
        Claim(
            text="The Nash step does not depend on the units of the experts.",
            paper="scale invariance of the Nash bargaining solution",
            measured=f"largest change of the unit step {change:.0e} when lengths change by up to 10^6",
            verdict="reproduced" if change < 1e-8 else "not reproduced",
            reason="measured for 200 draws of every family and dimension",
        ),
    ]
