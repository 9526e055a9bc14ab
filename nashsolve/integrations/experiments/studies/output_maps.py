"""Expert-output maps under three balancing regimes, and whether balance helps merging (figures 1, 6, 8, 9).

A byte model with routed experts is trained without balancing, with an auxiliary loss, and with a loss-free bias; the
router is the same. Then all experts of a layer see the same held-out tokens, and the layers are merged without
training.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from pydantic import Field
from scipy.stats import spearmanr
from torch import Tensor

from nashsolve.plotting.figure import OKABE_ITO

from ...torch_moe import MoEConfig
from ...torch_moe.balance import expert_counts, max_vio
from ...torch_moe.merge_rules.dispatch import all_outputs
from ...torch_moe.pictures import output_cosines, plot_cosines
from ...torch_moe.small_transformer import SmallTransformer
from ..book import Book
from ..data.library_text import library_bytes, spread
from ..panels import panels
from ..statistics import mean_sd
from ..study import Claim, Records, Strict
from ..tables import Table
from ..training import Optimisation, train
from ._merging import into_one, over_base
from ._small_model import REDUCED, Sizes, held_out_bits, next_byte_loss, transformer

REGIMES = ("none", "auxiliary", "loss_free")
GAINS = {
    "Nash over mean, one expert": ("mean_bits", "nash_bits"),
    "Nash over uniform, over a base expert": ("ep_bits", "namex_bits"),
    "shares of use over mean, one expert": ("mean_bits", "usage_bits"),
    "merging at all, one expert": ("bits", "mean_bits"),
}
"""Name -> the two numbers whose difference (first minus second, bits per byte) is the gain."""


class Settings(Strict):
    """seeds : of each regime; auxiliary : coefficient of the balance loss; bias_rate : of the loss-free bias; eta : of
    merging over a base expert."""

    seeds: int = Field(default=6, ge=1)
    auxiliary: float = Field(default=0.02, gt=0)
    bias_rate: float = Field(default=5e-3, gt=0)
    eta: float = Field(default=0.5, gt=0)
    top_k: int = Field(default=2, ge=1)
    optimisation: Optimisation = Optimisation(steps=250, lr=3e-3, warmup=20, save_every=125)
    sizes: Sizes = Sizes(d_hidden=64, layers=3)


def layer_of(regime: str, settings: Settings) -> MoEConfig:
    """One layer; only the balancing differs between regimes."""
    options = {"top_k": settings.top_k, "bias_rate": settings.bias_rate if regime == "loss_free" else 0.0}
    balance = {"switch_every_choice": settings.auxiliary} if regime == "auxiliary" else {}
    router = {"name": "sigmoid", "options": options}
    return MoEConfig(**settings.sizes.widths, activation="relu", router=router, balance=balance)


@torch.no_grad()
def look(model: SmallTransformer, sizes: Sizes, device: str) -> tuple[list[Tensor], list[np.ndarray]]:
    """Choices of every layer's experts on held-out tokens, and mean cosines of all experts' outputs on them."""
    seen: dict[int, Tensor] = {}

    def keep(layer: int) -> Any:
        return lambda _, inputs: seen.__setitem__(layer, inputs[0].flatten(0, 1))

    hooks = [layer.register_forward_pre_hook(keep(k)) for k, layer in enumerate(model.layers())]
    model(spread(library_bytes("test"), sizes.windows, sizes.length)[:, :-1].to(device))
    for hook in hooks:
        hook.remove()
    counts, maps = [], []
    for k, layer in enumerate(model.layers()):
        assert layer.router_output is not None
        counts.append(expert_counts(layer.router_output.topk_index, sizes.experts).cpu())
        some = seen[k][:: max(1, len(seen[k]) // 2000)]
        maps.append(output_cosines(all_outputs(some, layer.experts).transpose(0, 1)))
    return counts, maps


def measure(model: SmallTransformer, settings: Settings, seed: int, device: str) -> dict[str, Any]:
    """Load, maps, and bits per byte of the model and of its merged versions."""
    sizes = settings.sizes
    counts, maps = look(model, sizes, device)
    model = model.to("cpu")

    def bits(other: SmallTransformer) -> float:
        return float(held_out_bits(other, sizes).mean())

    off = ~np.eye(sizes.experts, dtype=bool)
    merged = {f"{how}_bits": bits(into_one(model, how, counts)) for how in ("mean", "usage", "nash")}
    based = {"ep_bits": "uniform", "namex_bits": {"solver": "newton"}}
    surgery = {name: bits(over_base(model, bargain, settings.eta, seed)) for name, bargain in based.items()}
    return {
        "bits": bits(model),
        "max_vio": [float(max_vio(c)) for c in counts],
        "unused": [int((c == 0).sum()) for c in counts],
        "off_diagonal": [float(m[off].mean()) for m in maps],
        "spread": [float(m[off].std()) for m in maps],
        "maps": [m.round(4).tolist() for m in maps],
        **merged,
        **surgery,
    }


def run(settings: Settings, book: Book) -> None:
    """Train and measure every regime and seed."""
    for key in book.todo([f"{regime}/{seed}" for seed in range(settings.seeds) for regime in REGIMES]):
        regime, _, seed = key.partition("/")
        torch.manual_seed(int(seed))
        model = transformer(layer_of(regime, settings), settings.sizes).to(book.device)
        loss_of = next_byte_loss(model, settings.sizes, book.device)
        told = train(book, key, model, loss_of, settings.optimisation, int(seed))
        found = measure(model, settings, int(seed), book.device)
        book.record(key, regime=regime, seed=int(seed), final_loss=told["final_loss"], **found)


def reduced(settings: Settings) -> Settings:
    """Two steps of one seed."""
    how = settings.optimisation.changed(steps=2, log_every=1).model_dump()
    return settings.changed(seeds=1, sizes=REDUCED, optimisation=how)


def gain(record: Mapping[str, Any], name: str) -> float:
    """A merging gain of one model."""
    worse, better = GAINS[name]
    return float(record[worse] - record[better])


def correlation(records: Records, name: str) -> tuple[float, float]:
    """Spearman's correlation of the mean MaxVio and a merging gain over all models, and its p value."""
    load = [float(np.mean(r["max_vio"])) for r in records]
    found = spearmanr(load, [gain(r, name) for r in records])
    return float(found.statistic), float(found.pvalue)


def tables(records: Records) -> list[Table]:
    """MaxVio, unused experts, cosines and merging by regime."""
    rows = []
    for regime in REGIMES:
        own = [r for r in records if r["regime"] == regime]
        row = [regime.replace("_", "-")]
        for key, digits in (("max_vio", 2), ("unused", 1), ("off_diagonal", 3), ("spread", 3)):
            row.append("{:.{d}f} ± {:.{d}f}".format(*mean_sd([float(np.mean(r[key])) for r in own]), d=digits))
        for key in ("bits", "mean_bits", "usage_bits", "nash_bits", "ep_bits", "namex_bits"):
            row.append("{:.3f} ± {:.3f}".format(*mean_sd([r[key] for r in own])))
        rows.append(row)
    header = ["balancing", "MaxVio", "unused experts", "mean cosine", "its spread", "bits per byte"]
    header += ["one expert: mean", "usage", "Nash", "over a base expert: uniform", "Nash"]
    note = "Means over layers, mean ± standard deviation over seeds; merging is without further training."
    return [Table("Load, expert-output cosines and zero-shot merging by balancing regime.", header, rows, note)]


def pictures(records: Records, curves: Mapping[str, Any]) -> dict[str, Any]:
    """Figure 9: maps of the first seed, regimes by layers; and gains over load."""
    first = {r["regime"]: r for r in records if r["seed"] == 0}
    depth = len(first["none"]["maps"])
    axes = panels(len(REGIMES), depth, (4.2 * depth, 3.6 * len(REGIMES)))
    for k, ax in enumerate(axes):
        regime, layer = REGIMES[k // depth], k % depth
        vio = first[regime]["max_vio"][layer]
        plot_cosines(first[regime]["maps"][layer], title=f"{regime}, layer {layer}, MaxVio {vio:.2f}", ax=ax)
    scatter = panels(2, 2, (9.6, 7.4))
    for ax, name in zip(scatter, GAINS, strict=True):
        for color, marker, regime in zip(OKABE_ITO, "osD", REGIMES, strict=False):
            own = [r for r in records if r["regime"] == regime]
            ax.plot(
                [np.mean(r["max_vio"]) for r in own], [gain(r, name) for r in own], marker, color=color, label=regime
            )
        ax.axhline(0, color="0.7", linewidth=0.8)
        ax.set(xlabel="MaxVio, mean over layers", ylabel="gain, bits per byte", title=name)
        ax.spines[["top", "right"]].set_visible(False)
    scatter[0].legend(frameon=False)
    return {"maps": axes[0], "load_and_merging": scatter[0]}


def of_regime(records: Records, regime: str, key: str) -> tuple[float, float]:
    """Mean and standard deviation over seeds of a number of every model, averaged over its layers."""
    return mean_sd([float(np.mean(r[key])) for r in records if r["regime"] == regime])


def claims(records: Records) -> list[Claim]:
    """Figures 1 and 9 and the open question about load balance."""
    spreads = {g: of_regime(records, g, "spread") for g in REGIMES}
    shown = ", ".join(f"{g} {m:.3f} ± {s:.3f}" for g, (m, s) in spreads.items())
    vio = ", ".join(f"{g} {of_regime(records, g, 'max_vio')[0]:.2f}" for g in REGIMES)
    cosine = ", ".join(f"{g} {of_regime(records, g, 'off_diagonal')[0]:.2f}" for g in REGIMES)
    gains = {name: mean_sd([gain(r, name) for r in records]) for name in GAINS}
    nash = gains["Nash over mean, one expert"]
    found = {name: correlation(records, name) for name in GAINS}
    balanced = min(spreads["auxiliary"][0], spreads["loss_free"][0])
    beyond = [name for name, (_, p) in found.items() if p < 0.05 / len(GAINS)]
    return [
        Claim(
            text="With balancing, maps of expert outputs show more structure than without.",
            paper="figure 9",
            measured=f"spread of off-diagonal cosines: {shown}; MaxVio {vio}",
            verdict="reproduced" if balanced > spreads["none"][0] + spreads["none"][1] else "not reproduced",
            reason=f"{len(records) // len(REGIMES)} small models of each; more means by over a standard deviation",
        ),
        Claim(
            text="Experts of trained models both agree and conflict, so that merging is a bargain.",
            paper="figures 1, 6 and 8",
            measured=f"mean off-diagonal cosine of outputs: {cosine}; Nash instead of the mean in one expert changes "
            f"bits per byte by {-nash[0]:+.4f} ± {nash[1]:.4f}",
            verdict="not testable here",
            reason="a map describes outputs, the bargain is over parameters, and no number separates agreement from "
            "conflict; the models of the figures have to be loaded for their own maps",
        ),
        Claim(
            text="Load balance and the gain of merging are related (open question 3).",
            paper="section 6, open question",
            measured="gain in bits per byte, and Spearman's correlation with MaxVio: "
            + "; ".join(f"{n} {gains[n][0]:+.4f}, {rho:+.2f} (p = {p:.2g})" for n, (rho, p) in found.items()),
            verdict="reproduced" if beyond else "not reproduced",
            reason=f"beyond noise after Bonferroni: {', '.join(beyond) or 'none'}; {len(records)} models",
        ),
    ]
