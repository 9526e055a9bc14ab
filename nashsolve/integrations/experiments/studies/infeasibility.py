r"""Base experts over which nobody can agree: what the solver says, what each policy does, what a naive solver would do.

No step helps every expert if and only if the base expert lies in the convex hull of the experts (Gordan). The cases
below are ordinary choices in merging; the feasible ones beside them must not be refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, get_args

import numpy as np
from pydantic import Field

from ...torch_moe.bargain import bargain_over_base
from ...torch_moe.chain_config import BargainConfig, Policy
from ...torch_moe.domain import DomainGram
from ..book import Book
from ..panels import panels
from ..study import Claim, Records, Strict

FEASIBLE = {"separate base expert": True, "duplicates": True, "more experts than parameters, agreeing": True}
CASES = {
    "base is the mean": False,
    "base is one expert": False,
    "upcycled copies": False,
    "anti-parallel pair": False,
    "base inside the hull": False,
    "more experts than parameters, around the base": False,
} | FEASIBLE
"""Name -> whether an agreement exists."""
ROUND_OFF = 1e-15


class Settings(Strict):
    """experts : N; size : parameters of an expert; distances : of the base expert from the mean, relative to the
    experts' spread; budgets : iterations of the naive solver."""

    seed: int = 0
    experts: int = Field(default=8, ge=3)
    size: int = Field(default=64, ge=3)
    distances: list[float] = Field(default=[1.0, 0.1, 0.01, 0.001])
    budgets: list[int] = Field(default=[5, 10, 20, 40])


def vectors(case: str, settings: Settings) -> np.ndarray:
    """Domain vectors (N, size) of a case."""
    rng = np.random.default_rng(settings.seed)
    n = settings.experts
    experts = rng.standard_normal((n, settings.size))
    shares = rng.dirichlet(np.ones(n))
    circle = 2 * np.pi * np.arange(2 * n) / (2 * n)
    base = {
        "base is the mean": experts.mean(0),
        "base is one expert": experts[0],
        "base inside the hull": shares @ experts,
        "separate base expert": rng.standard_normal(settings.size),
    }
    if case in base:
        return np.asarray(experts - base[case])
    made = {
        "upcycled copies": np.zeros_like(experts),
        "anti-parallel pair": np.vstack([experts, -0.5 * experts[:1]]),
        "duplicates": np.vstack([experts, experts[:2]]),
        "more experts than parameters, agreeing": np.abs(rng.standard_normal((n, 2))) + 0.1,
        "more experts than parameters, around the base": np.stack([np.cos(circle), np.sin(circle)], axis=-1),
    }
    return np.asarray(made[case])


def answers(case: str, settings: Settings) -> dict[str, Any]:
    """What every policy makes of one case: status, margin, finite coefficients, worst gain."""
    rows = vectors(case, settings)
    gram = rows @ rows.T
    found: dict[str, Any] = {"agreement_exists": CASES[case], "policies": {}}
    for policy in get_args(Policy):
        agreed = bargain_over_base(DomainGram(gram, ROUND_OFF), BargainConfig(on_no_agreement=policy, scale="exact"))
        c = agreed.coefficients
        found["policies"][policy] = {
            "status": agreed.record["status"],
            "acted": agreed.policy,
            "finite": bool(np.isfinite(c).all()),
            "step": float(np.sqrt(max(c @ gram @ c, 0.0))),
            "worst_gain": float((gram @ c).min()),
        }
    found["status"] = found["policies"]["hold"]["status"]
    return found


def naive_newton(gram: np.ndarray, iterations: int) -> dict[str, float]:
    r"""Damped Newton on :math:`\tfrac12\alpha^\top K\alpha - \sum\log\alpha_i` without a certificate."""
    alpha = np.ones(len(gram))
    for _ in range(iterations):
        slope = gram @ alpha - 1 / alpha
        move = np.linalg.solve(gram + np.diag(1 / alpha**2), -slope)
        decrement = float(np.sqrt(-slope @ move))
        alpha = alpha + move / (1 + decrement)
    step = float(np.sqrt(max(alpha @ gram @ alpha, 0.0)))
    return {"sum": float(alpha.sum()), "residual": float(np.abs(gram @ alpha - 1 / alpha).max()), "step": step}


def near_mean(distance: float, settings: Settings) -> dict[str, float]:
    """The exact coefficients over a base expert that is almost the mean."""
    rng = np.random.default_rng(settings.seed)
    experts = rng.standard_normal((settings.experts, settings.size))
    rows = experts - experts.mean(0) - distance * rng.standard_normal(settings.size)
    gram = rows @ rows.T
    agreed = bargain_over_base(DomainGram(gram, ROUND_OFF), BargainConfig(scale="exact"))
    c = agreed.coefficients
    return {"status": agreed.record["status"], "sum": float(c.sum()), "step": float(np.sqrt(c @ gram @ c))}


def run(settings: Settings, book: Book) -> None:
    """All cases, the approach to the mean, and the naive solver on the mean."""
    units = [f"case/{case}" for case in CASES] + [f"near/{distance}" for distance in settings.distances]
    for key in book.todo([*units, *(f"naive/{budget}" for budget in settings.budgets)]):
        kind, _, which = key.partition("/")
        if kind == "case":
            book.record(key, kind=kind, case=which, **answers(which, settings))
        elif kind == "near":
            book.record(key, kind=kind, distance=float(which), **near_mean(float(which), settings))
        else:
            rows = vectors("base is the mean", settings)
            book.record(key, kind=kind, iterations=int(which), **naive_newton(rows @ rows.T, int(which)))


def reduced(settings: Settings) -> Settings:
    """Fewer parameters."""
    return settings.changed(size=16)


def pictures(records: Records, curves: Mapping[str, Any]) -> dict[str, Any]:
    """Left: coefficients explode near the mean, the step does not. Right: a naive solver seems to converge at it."""
    near = [r for r in records if r["kind"] == "near"]
    naive = [r for r in records if r["kind"] == "naive"]
    left, right = panels(1, 2, (10, 4))
    for ax, rows, x, label in (
        (left, near, "distance", "distance of the base expert from the mean"),
        (right, naive, "iterations", "iterations of a solver without a certificate"),
    ):
        ax.plot([r[x] for r in rows], [r["sum"] for r in rows], "o-", label="sum of the coefficients")
        ax.plot([r[x] for r in rows], [max(r["step"], 1e-16) for r in rows], "s-", label="length of the step")
        ax.set(yscale="log", xlabel=label)
        ax.spines[["top", "right"]].set_visible(False)
    right.plot([r["iterations"] for r in naive], [r["residual"] for r in naive], "^-", label="residual")
    left.set(xscale="log", title="close to the mean")
    right.set_title("at the mean, where no agreement exists")
    for ax in (left, right):
        ax.legend(frameon=False)
    return {"near_the_mean": left}


def claims(records: Records) -> list[Claim]:
    """What the paper leaves out about base experts, against the records."""
    cases = {r["case"]: r for r in records if r["kind"] == "case"}
    right = sum((r["status"].startswith("SOLVED")) == r["agreement_exists"] for r in cases.values())
    finite = all(p["finite"] for r in cases.values() for p in r["policies"].values())
    naive = [r for r in records if r["kind"] == "naive"]
    near = {r["distance"]: r for r in records if r["kind"] == "near"}
    close, far = near[min(near)], near[max(near)]
    return [
        Claim(
            text="The bargaining problem has a solution for the base expert of the method.",
            paper="section 3, equations (7)-(9): no condition is stated",
            measured=f"no agreement for {', '.join(case for case, exists in CASES.items() if not exists)}; "
            f"{right} of {len(cases)} cases told apart, all coefficients finite: {finite}",
            verdict="not reproduced",
            reason="a solution exists if and only if the base expert lies outside the convex hull of the experts; "
            "upcycled copies, the mean and a copied expert lie in it",
        ),
        Claim(
            text="A small residual means that the solver has converged.",
            paper="stopping test of the published solver",
            measured=f"with the mean as base expert, after {naive[-1]['iterations']} iterations the residual is "
            f"{naive[-1]['residual']:.0e}, the sum of alpha {naive[-1]['sum']:.1e}, the step {naive[-1]['step']:.0e}",
            verdict="not reproduced" if naive[-1]["sum"] > 10 * naive[0]["sum"] else "reproduced",
            reason="alpha runs away where no solution exists, and the residual shrinks with it",
        ),
        Claim(
            text="The scale of alpha is harmless.",
            paper="equation (8), 'up to scaling'",
            measured=f"sum(alpha) {far['sum']:.2g} at distance {max(near):g} of the mean, {close['sum']:.2g} at "
            f"{min(near):g}; the step keeps its length, {close['step']:.4f} and {far['step']:.4f}",
            verdict="not reproduced" if close["sum"] > 10 * far["sum"] else "reproduced",
            reason="h = gamma * sum(alpha) decides about stability, so that alpha needs a stated scale",
        ),
    ]
