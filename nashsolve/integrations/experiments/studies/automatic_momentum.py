r"""Momentum chosen by theory against momentum by hand: does the choice that contracts fastest train better models?

With coefficients that sum to one :math:`h = \gamma` is known, and `optimal_beta` gives the momentum with the smallest
spectral radius. Every variant trains the same models; the moves of the base expert are logged over training steps,
which is what figure 5 shows.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from pydantic import Field

from nashsolve.plotting.figure import OKABE_ITO

from ...torch_moe.stability import UnstableChain, optimal_beta, remaining_error, spectral_radius
from ..book import Book
from ..curves import mean_curves
from ..judging import flat
from ..panels import panels
from ..statistics import by_system, compare
from ..study import Claim, Records, Strict, Verdict
from ..tables import Metric, Table, comparison
from ..training import Optimisation, chains_of, train
from ._small_model import REDUCED, Sizes, held_out_bits, next_byte_loss, small_model
from .chain_dynamics import MOMENTA

AUTOMATIC = "automatic"
SYSTEM = "namex_full"


class Settings(Strict):
    """gammas : steps; seeds : of every variant."""

    gammas: list[float] = Field(default=[0.25, 1.0])
    seeds: int = Field(default=5, ge=1)
    optimisation: Optimisation = Optimisation(steps=120, lr=5e-3, warmup=10, log_every=10, save_every=60)
    sizes: Sizes = Sizes(d_model=48, d_hidden=64, layers=6, length=96, segment=24)


def momentum_of(name: str, gamma: float) -> dict[str, Any]:
    """Settings of a momentum."""
    return optimal_beta(gamma).settings() if name == AUTOMATIC else MOMENTA[name]


def beta_of(name: str, gamma: float) -> Any:
    """The same for the stability functions."""
    settings = momentum_of(name, gamma)
    if settings.get("kind") == "quaternion":
        return tuple(settings["quaternion"])
    return settings.get("beta", 0.0) * np.exp(1j * settings.get("phase", 0.0))


def variants(settings: Settings) -> dict[str, tuple[float, str]]:
    """Name -> gamma and momentum; at gamma = 1 the best momentum is none, so that it is not trained twice."""
    names = [(gamma, name) for gamma in settings.gammas for name in (*MOMENTA, AUTOMATIC)]
    return {
        f"{name}, gamma {gamma:g}": (gamma, name) for gamma, name in names if not (name == AUTOMATIC and gamma == 1)
    }


def mean_move(chains: list[Any]) -> float:
    """Mean length of the base expert's moves with the parameters as they are."""
    with torch.no_grad():
        for chain in chains:
            chain.bases()
    return float(np.mean([record["base_move"] for chain in chains for record in chain.report()]))


def run(settings: Settings, book: Book) -> None:
    """Train every variant with every seed."""
    known = variants(settings)
    for key in book.todo([f"{name}/{seed}" for seed in range(settings.seeds) for name in known]):
        name, _, seed = key.rpartition("/")
        gamma, momentum = known[name]
        chain = {"gamma": gamma, "momentum": momentum_of(momentum, gamma)}
        model = small_model(SYSTEM, settings.sizes, int(seed), chain=chain).to(book.device)
        loss_of = next_byte_loss(model, settings.sizes, book.device)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UnstableChain)
            chains = chains_of(model)
            first = mean_move(chains)
            told = train(book, key, model, loss_of, settings.optimisation, int(seed), chains)
            moves = {"first_move": first, "last_move": mean_move(chains)}
            bits = float(held_out_bits(model, settings.sizes, book.device).mean())
        beta = beta_of(momentum, gamma)
        theory = {
            "radius": float(spectral_radius(beta, gamma)),
            "left": float(abs(remaining_error(beta, gamma, settings.sizes.layers - 1)[-1])),
        }
        numbers = {"gamma": gamma, "momentum": momentum, "bits": bits, **moves, **theory}
        book.record(key, system=name, seed=int(seed), final_loss=told["final_loss"], **numbers)


def reduced(settings: Settings) -> Settings:
    """Two steps at one gamma; a momentum acts from the second move on, which takes three layers."""
    how = settings.optimisation.changed(steps=2, log_every=1).model_dump()
    return settings.changed(gammas=[0.25], seeds=2, sizes=REDUCED | {"layers": 4}, optimisation=how)


def reference(gamma: float) -> str:
    """The variant without momentum."""
    return f"none, gamma {gamma:g}"


def tables(records: Records) -> list[Table]:
    """Bits per byte of every gamma, relative to no momentum."""
    found = []
    for gamma in sorted({r["gamma"] for r in records}):
        own = [r for r in records if r["gamma"] == gamma]
        radii = {r["momentum"]: f"{r['momentum']} {r['radius']:.3f}" for r in own}
        caption = f"NAMEx-Full with gamma = {gamma:g}; spectral radii: {', '.join(radii.values())}."
        found.append(comparison(own, [Metric("bits", "held-out bits per byte", "lower", 4)], reference(gamma), caption))
    return found


def pictures(records: Records, curves: Mapping[str, Any]) -> dict[str, Any]:
    """Figure 5: the mean move of the base expert over training steps."""
    gammas = sorted({r["gamma"] for r in records})
    axes = panels(1, len(gammas), (5.6 * len(gammas), 4.2))
    moves = {
        key: [{**p, "mean_move": float(np.mean(p["base_move"]))} for p in points] for key, points in curves.items()
    }
    lines = mean_curves(moves, "mean_move")
    for ax, gamma in zip(axes, gammas, strict=True):
        shown = {name: line for name, line in lines.items() if name.endswith(f", gamma {gamma:g}")}
        for color, (name, (steps, values)) in zip(OKABE_ITO, shown.items(), strict=False):
            ax.plot(steps, values, color=color, linewidth=1.8, label=name.partition(",")[0])
        ax.set(
            xlabel="training step", ylabel="mean move of the base expert", ylim=(0, None), title=f"gamma = {gamma:g}"
        )
        ax.spines[["top", "right"]].set_visible(False)
    axes[0].legend(frameon=False, title="momentum", loc="lower right", ncols=2)
    return {"moves": axes[0]}


def claims(records: Records) -> list[Claim]:
    """Tables 1 and 2 about momentum, and the question of choosing it."""
    table = by_system(records, "bits")
    found = [_moves_claim(records)]
    for gamma in sorted({r["gamma"] for r in records}):
        names = [name for name in table if name.endswith(f", gamma {gamma:g}")]
        text = f"Momentum over layers changes the model (NAMEx-Full, gamma = {gamma:g})"
        claim = flat(
            table, names, reference(gamma), "bits per byte", text, "table 1: 83.16 without, 82.94 with momentum"
        )
        if claim is not None:
            verdict: Verdict = "reproduced" if claim.verdict == "not reproduced" else "not reproduced"
            found.append(Claim(claim.text, claim.paper, claim.measured, verdict, claim.reason))
        automatic = f"{AUTOMATIC}, gamma {gamma:g}"
        if automatic in table:
            others = {name: compare(table, automatic, name) for name in names if name != automatic}
            told = "; ".join(f"minus {name.partition(',')[0]}: {pair}" for name, pair in others.items() if pair)
            beats = all(pair is not None and pair.high < 0 for pair in others.values())
            found.append(
                Claim(
                    text=f"Automatic momentum trains better models than momentum by hand (gamma = {gamma:g}).",
                    paper="open question: adaptive momentum",
                    measured=f"bits per byte, automatic {told}",
                    verdict="reproduced" if beats else "not reproduced",
                    reason=f"beta = {optimal_beta(gamma).beta:.3f}, spectral radius {optimal_beta(gamma).radius:.2f}; "
                    "paired 95 % intervals over seeds",
                )
            )
    return found


def _moves_claim(records: Records) -> Claim:
    """Figure 5 over training steps."""
    factors: dict[str, list[float]] = {r["system"]: [] for r in records}
    for r in records:
        factors[r["system"]].append(r["last_move"] / r["first_move"])
    told = "; ".join(f"{name}: x{np.mean(values):.2f}" for name, values in factors.items())
    shrinking = sum(value < 1 for values in factors.values() for value in values)
    return Claim(
        text="The moves of the base expert shrink over training.",
        paper="figure 5",
        measured=f"mean move at the end over the one at the start: {told}",
        verdict="reproduced" if shrinking == len(records) else "not reproduced",
        reason=f"they shrink in {shrinking} of {len(records)} trainings from scratch; figure 5 fine-tunes an upcycled "
        "model, and gives neither scale nor gamma",
    )
