r"""How the base expert moves from layer to layer (figure 5), for every scale of the coefficients and every momentum.

Experts are drawn: anew for every layer ("fresh"), or once for all layers ("same", where a fixed point could exist).
What is logged is :math:`\|E_m^{l+1} - E_m^l\|` and the distance of the base expert from the mean of the experts.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from pydantic import Field

from nashsolve.plotting.figure import OKABE_ITO

from ...torch_moe import BargainConfig, BaseExpertChain, ChainConfig, MomentumConfig, PlainMember
from ...torch_moe.stability import UnstableChain
from ..book import Book
from ..panels import panels
from ..study import Claim, Records, Strict

WORLDS = ("fresh", "same")
SCALES = ("uniform", "exact", "frobenius", "sum_to_one", "unit_norm", "match_mean")
MOMENTA: dict[str, dict[str, Any]] = {
    "none": {},
    "0.9": {"kind": "real", "beta": 0.9},
    "0.9 at 30 degrees": {"kind": "complex", "beta": 0.9, "phase": math.pi / 6},
    "quaternion": {"kind": "quaternion", "quaternion": (0.8, 0.3, 0.3, 0.3)},
}


_SHOWN = 3e-3, 1e3
"""Moves that grow without bound leave the picture."""


class Settings(Strict):
    """depths : numbers of layers; experts : N; size : parameters of an expert; gamma : step size."""

    seed: int = 0
    depths: list[int] = Field(default=[12, 24])
    experts: int = Field(default=8, ge=2)
    size: int = Field(default=512, ge=2)
    gamma: float = Field(default=1.0, gt=0)


def drawn_experts(world: str, depth: int, settings: Settings) -> list[torch.Tensor]:
    """Experts (N, size) of every layer, of length about one, and the base expert's start (size,) as the last entry."""
    generator = torch.Generator().manual_seed(settings.seed)
    shape = settings.experts, settings.size
    start = torch.randn(settings.size, generator=generator, dtype=torch.float64)
    layers = [torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(depth)]
    layers = layers if world == "fresh" else [layers[0]] * depth
    return [tensor / math.sqrt(settings.size) for tensor in [*layers, start]]


def walk(world: str, depth: int, scale: str, momentum: str, settings: Settings) -> dict[str, Any]:
    """One chain: lengths of its moves, distances from the experts' means, sums of coefficients, refusals."""
    *layers, start = drawn_experts(world, depth, settings)
    members = [PlainMember({"weight": experts}, {"weight": start}) for experts in layers]
    bargain: Any = "uniform" if scale == "uniform" else BargainConfig(scale=scale, products="float64")
    config = ChainConfig(bargain=bargain, gamma=settings.gamma, momentum=MomentumConfig(**MOMENTA[momentum]))
    chain = BaseExpertChain(members, config)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore", UnstableChain)
        bases = [base["weight"] for base in chain.bases()]
    report = chain.report()
    return {
        "moves": [record["base_move"] for record in report],
        "distances": [float((b - e.mean(0)).norm()) for b, e in zip(bases, layers, strict=True)],
        "h": [record["h"] for record in report],
        "step_norms": [record["step_norm"] for record in report],
        "refused": sum(record["policy"] != "" for record in report),
    }


def run(settings: Settings, book: Book) -> None:
    """Every world, depth and scale, with all momenta."""
    units = [f"{world}/{depth}/{scale}" for world in WORLDS for depth in settings.depths for scale in SCALES]
    for key in book.todo(units):
        world, depth, scale = key.split("/")
        walks = {name: walk(world, int(depth), scale, name, settings) for name in MOMENTA}
        book.record(key, world=world, depth=int(depth), scale=scale, experts=settings.experts, walks=walks)


def reduced(settings: Settings) -> Settings:
    """One short chain of small experts."""
    return settings.changed(depths=[6], size=32)


def growth(moves: list[float]) -> float:
    """Factor from one move to the next, over the second half of the chain (geometric mean)."""
    half = np.maximum(np.asarray(moves[len(moves) // 2 - 1 :]), 1e-300)
    return float((half[-1] / half[0]) ** (1 / (len(half) - 1)))


def pictures(records: Records, curves: Mapping[str, Any]) -> dict[str, Any]:
    """Lengths of the moves: scales without momentum in both worlds, momenta with coefficients that sum to one."""
    depth = max(r["depth"] for r in records)
    found = {(r["world"], r["scale"]): r["walks"] for r in records if r["depth"] == depth}
    axes = panels(1, 3, (15, 4.4))
    for ax, world in zip(axes, WORLDS, strict=False):
        for color, scale in zip(OKABE_ITO, SCALES, strict=False):
            _line(ax, found[world, scale]["none"]["moves"], color, scale.replace("_", " "))
        ax.set_title(f"{world} experts in every layer, no momentum")
    for color, momentum in zip(OKABE_ITO, MOMENTA, strict=False):
        _line(axes[2], found["same", "uniform"][momentum]["moves"], color, momentum)
    axes[2].set_title("same experts, uniform coefficients")
    for ax in axes:
        ax.set(yscale="log", ylim=_SHOWN, xlabel="layer", ylabel="length of the base expert's move")
        ax.spines[["top", "right"]].set_visible(False)
        ax.legend(frameon=False)
    return {"moves": axes[0]}


def _line(ax: Any, moves: list[float], color: str, label: str) -> None:
    shown = np.where(np.asarray(moves) > 1e-12, moves, np.nan)
    ax.plot(np.arange(1, len(moves) + 1), shown, color=color, linewidth=1.8, marker=".", label=label)


def claims(records: Records) -> list[Claim]:
    """Figure 5 and theorem C.3 against the records."""
    depth = max(r["depth"] for r in records)
    found = {(r["world"], r["scale"]): r["walks"] for r in records if r["depth"] == depth}
    players = records[0]["experts"]
    root = math.sqrt(players)
    exact = [n for world in WORLDS for n in found[world, "exact"]["none"]["step_norms"]]
    off = max(abs(n - root) for n in exact)
    fresh = {scale: growth(found["fresh", scale]["none"]["moves"]) for scale in SCALES}
    ahead = found["same", "uniform"]["none"]["moves"]
    same = found["same", "exact"]["none"]
    return [
        Claim(
            text="The moves of the base expert shrink as the chain goes on.",
            paper="figure 5, appendix C.3",
            measured=f"from layer to layer, fresh experts: EP-CAMEx x{fresh['uniform']:.2f}, Nash summing to one "
            f"x{fresh['sum_to_one']:.2f}, exact Nash x{fresh['exact']:.2f}, Frobenius x{fresh['frobenius']:.3g}",
            verdict="not reproduced" if min(fresh["uniform"], fresh["exact"]) > 0.9 else "reproduced",
            reason="over layers nothing shrinks while the experts differ between layers; with the same experts "
            f"everywhere EP-CAMEx arrives after one move (second move {ahead[1]:.0e}). Over training steps, which "
            "figure 5 shows, see the study of automatic momentum",
        ),
        Claim(
            text="The chain converges to a stationary point.",
            paper="theorem C.3",
            measured=f"exact Nash steps have length sqrt({players}) = {root:.4f} within {off:.0e} in every layer; "
            f"over the same experts it ends {same['distances'][-1]:.2f} from their mean after {depth - 1} moves",
            verdict="not reproduced" if off < 1e-9 else "reproduced",
            reason="alpha' K alpha = N for every Gram, so that an exact step is never zero; a fixed point needs "
            "another scale of alpha, which the paper does not give",
        ),
        Claim(
            text="The coefficients of the published solver can be used as they are.",
            paper="section 4, solver of Nash-MTL",
            measured=f"alpha times sqrt(|K|_F): moves grow by {fresh['frobenius']:.3g} a layer at gamma = 1, "
            f"sum(alpha) from {min(found['fresh', 'frobenius']['none']['h']):.1f} on",
            verdict="not reproduced" if fresh["frobenius"] > 1 else "reproduced",
            reason="stable steps need h = gamma * sum(alpha) < 2 without momentum",
        ),
    ]
