r"""Which momenta are stable (figure 4, the betas of tables 5 and 7): exact region, published conditions, identities.

With frozen coefficients one layer of the chain is the matrix of `transition_matrix`; the published appendix loses a
factor gamma in it. Everything here is arithmetic: no training, no data.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from pydantic import Field

from ...torch_moe import stability
from ..book import Book
from ..study import Claim, Records, Strict
from ._appendix import counter_example, identities, random_systems

BETAS: dict[str, Any] = {
    "none": 0.0,
    "0.9": 0.9,
    "0.9 at 15 degrees": 0.9 * np.exp(1j * np.pi / 12),
    "0.9 at 30 degrees": 0.9 * np.exp(1j * np.pi / 6),
    "quaternion": (0.8, 0.3, 0.3, 0.3),
}
"""The momenta of tables 5 and 7 and of figure 4."""
ROUNDING = 1e-12
"""To which the identities hold."""


class Settings(Strict):
    """steps : h of the areas; alpha, gamma : of the published figure; grid : points of an axis of the unit square;
    scan : random systems; depths : layers after which the remaining error is read."""

    seed: int = 0
    steps: list[float] = Field(default=[0.1, 0.25, 0.5, 1.0, 2.0])
    alpha: float = Field(default=0.5, gt=0)
    gamma: float = Field(default=2.0, gt=0)
    grid: int = Field(default=1601, ge=11)
    scan: int = Field(default=400_000, ge=100)
    depths: list[int] = Field(default=[12, 24])


def plane(points: int) -> tuple[np.ndarray, float]:
    """Momenta on a grid over [-1, 1]^2, and the area of a cell."""
    axis = np.linspace(-1, 1, points)
    r, u = np.meshgrid(axis, axis)
    return r + 1j * u, float((axis[1] - axis[0]) ** 2)


def areas(step: float, alpha: float, points: int) -> dict[str, float]:
    """Areas of the exact region and of the published conditions, and what the printed solution does wrong."""
    beta, cell = plane(points)
    gamma = step / alpha
    true = stability.is_stable(beta, step)
    condition = stability.fujiwara_published(beta, alpha, gamma)
    solution = stability.region_published(beta, alpha, gamma)
    found = {
        "exact": true,
        "fujiwara_corrected": stability.fujiwara_corrected(beta, step),
        "condition_published": condition,
        "region_published": solution,
        "condition_differs_from_region": condition ^ solution,
        "region_published_unstable": solution & ~true,
    }
    return {name: float(inside.sum() * cell) for name, inside in found.items()}


def row_of_beta(name: str, depths: Sequence[int]) -> dict[str, float]:
    """Largest stable step, spectral radii, and what is left of the error after some layers at h = 1."""
    beta = BETAS[name]
    left = np.abs(stability.remaining_error(beta, 1.0, max(depths)))
    return {
        "largest_stable_step": float(stability.largest_stable_step(beta)),
        **{f"radius_at_{h}": float(stability.spectral_radius(beta, h)) for h in (0.05, 0.1, 0.25, 0.5, 1.0, 2.0)},
        **{f"left_after_{n}": float(left[n]) for n in depths},
    }


def certified_unstable(count: int, seed: int) -> dict[str, float]:
    """How many random systems the published condition certifies, and how many of those amplify errors."""
    beta, step = random_systems(count, seed)
    alpha = 10 ** np.random.default_rng([seed, 1]).uniform(-2, 1, count)
    certified = stability.fujiwara_published(beta, alpha, step / alpha)
    radius = stability.spectral_radius(beta[certified], step[certified])
    bound = stability.fujiwara_corrected(beta, step)
    return {
        "systems": count,
        "certified": int(certified.sum()),
        "certified_unstable": int((radius > 1).sum()),
        "certified_by_correct_bound": int(bound.sum()),
        "largest_modulus_by_correct_bound": float(np.abs(beta[bound]).max(initial=0.0)),
    }


def region_mismatches(count: int, seed: int) -> int:
    """Random systems for which the closed form and the eigenvalues disagree; ties within rounding do not count."""
    beta, step = random_systems(count, seed + 1)
    radius = stability.spectral_radius(beta, step)
    clear = np.abs(radius - 1) > 1e-9
    return int(((radius < 1) != stability.is_stable(beta, step))[clear].sum())


def run(settings: Settings, book: Book) -> None:
    """Areas, momenta of the tables, scans, identities, counter-example."""
    units = [*(f"area/{h}" for h in settings.steps), *(f"beta/{name}" for name in BETAS)]
    for key in book.todo([*units, "scan", "identities", "counter-example"]):
        kind, _, which = key.partition("/")
        if kind == "area":
            step = float(which)
            book.record(key, kind=kind, step=step, **areas(step, settings.alpha, settings.grid))
        elif kind == "beta":
            book.record(key, kind=kind, beta=which, **row_of_beta(which, settings.depths))
        elif kind == "scan":
            wrong = region_mismatches(settings.scan, settings.seed)
            book.record(key, kind=kind, mismatches=wrong, **certified_unstable(settings.scan, settings.seed))
        elif kind == "identities":
            book.record(key, kind=kind, **identities(settings.seed))
        else:
            book.record(key, kind=kind, **counter_example())


def reduced(settings: Settings) -> Settings:
    """A coarse grid and a short scan."""
    return settings.changed(grid=101, scan=2000)


def pictures(records: Records, curves: Mapping[str, Any]) -> dict[str, Any]:
    """Figure 4 with the exact region."""
    from ...torch_moe.pictures import plot_stability_map

    return {"region": plot_stability_map(alpha=0.5, gamma=2.0, momenta=BETAS)}


def claims(records: Records) -> list[Claim]:
    """What the appendix and figure 4 say, against the records."""
    one = {r["kind"]: r for r in records if r["kind"] not in ("area", "beta")}
    scan, counter, same = one["scan"], one["counter-example"], one["identities"]
    wrong = counter["certified"] and counter["radius"] > 1
    area = next((r for r in records if r["kind"] == "area" and r["step"] == 1.0), None)
    found = [] if area is None else [_solution_claim(area)]
    return [
        *found,
        Claim(
            text="Condition (37) is sufficient for stability.",
            paper="appendix C, (32)-(37), figure 4",
            measured=f"beta = 0.9 exp(i pi/6), alpha = 0.1, gamma = 29.5 passes with spectral radius "
            f"{counter['radius']:.4f}; of {scan['certified']:,} random systems that pass, "
            f"{scan['certified_unstable']:,} are unstable",
            verdict="not reproduced" if wrong or scan["certified_unstable"] else "reproduced",
            reason="(32) loses a factor gamma; the polynomial (34) is off by alpha u^2 (1 - gamma), to rounding",
        ),
        Claim(
            text="Fujiwara's bound certifies useful momenta.",
            paper="appendix C, (36); all experiments use modulus 0.9",
            measured=f"with the correct polynomial it passes {scan['certified_by_correct_bound']:,} of "
            f"{scan['systems']:,} systems, of modulus {scan['largest_modulus_by_correct_bound']:.3f} at most",
            verdict="not reproduced" if scan["largest_modulus_by_correct_bound"] < 0.5 else "reproduced",
            reason="its constant term is |beta|^2, which must stay below 1/4",
        ),
        Claim(
            text="Momentum as a heavy ball (14) is the momentum of (11).",
            paper="appendix C, (14)",
            measured=f"errors over 24 layers apart by {same['heavy_ball_real']:.0e} for real momenta, by "
            f"{same['heavy_ball_complex']:.2f} for 0.9 at 30 degrees and h = 1",
            verdict="not reproduced" if same["heavy_ball_complex"] > ROUNDING else "reproduced",
            reason="true for real momenta only",
        ),
        *_momentum_claims(records),
    ]


def _solution_claim(area: Mapping[str, Any]) -> Claim:
    """Whether the printed solution (38) describes the printed condition (37)."""
    apart, unstable = area["condition_differs_from_region"], area["region_published_unstable"]
    return Claim(
        text="(38) solves (37) for r and u.",
        paper="appendix C, (38), figure 4 at alpha = 0.5, gamma = 2",
        measured=f"areas: exact {area['exact']:.3f}, (37) {area['condition_published']:.3f}, (38) "
        f"{area['region_published']:.3f}; (37) and (38) differ on {apart:.3f}; {unstable:.3f} of (38) is unstable",
        verdict="not reproduced" if apart > 0.01 else "reproduced",
        reason="the second line of (38) has a wrong sign of gamma r, the third misses a factor four",
    )


def _momentum_claims(records: Records) -> list[Claim]:
    """What the tables about momentum compare."""
    beta = {r["beta"]: r for r in records if r["kind"] == "beta"}
    quaternion = beta["quaternion"]
    [same] = [r for r in records if r["kind"] == "identities"]
    exact = max(same[name] for name in ("polynomial", "published_shift", "quaternion_factors", "phase_sign"))
    return [
        Claim(
            text="The chain is stable for the momenta of the experiments.",
            paper="proposition 3.5, tables 5 and 7",
            measured=f"largest stable h: 0.9 real {beta['0.9']['largest_stable_step']:.3f}, at 30 degrees "
            f"{beta['0.9 at 30 degrees']['largest_stable_step']:.3f}, quaternion "
            f"{quaternion['largest_stable_step']:.4f}; its radius is {quaternion['radius_at_1.0']:.4f} at 1",
            verdict="not reproduced" if quaternion["radius_at_1.0"] > 1 else "reproduced",
            reason="true for complex momentum at h = 1; the quaternion 0.8 + 0.3 (i + j + k) amplifies errors there, "
            f"slowly: after 12 layers {quaternion['left_after_12']:.2f} of the error is left",
        ),
        Claim(
            text="Quaternion momentum is a dynamic of its own; the sign of the phase matters.",
            paper="tables 5 and 7, appendix E",
            measured=f"identities of phase sign and complex twin hold to {exact:.0e}",
            verdict="not reproduced" if exact < ROUNDING else "reproduced",
            reason="real input and a real read-out: a quaternion gives the chain of a + i|(b, c, d)|",
        ),
    ]
