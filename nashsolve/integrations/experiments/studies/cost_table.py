"""What every system costs (table 13): operations by arithmetic, and tokens per second of training steps, in turns."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from pydantic import Field
from scipy.stats import binom

from nashsolve.plotting.figure import OKABE_ITO, new_axes

from ...torch_moe.small_transformer import SmallTransformer
from ..book import Book
from ..data.library_text import VOCAB
from ..flops import SHAPES, Shape, per_token
from ..study import Claim, Records, Strict, Verdict
from ..systems import check_systems, title
from ..training import chains_of
from ._small_model import REDUCED, Sizes, next_byte_loss, small_model, system_layer

PAPER = {
    "smoe_top1": (13.95, 4.65, 22236),
    "smoe_top2": (18.32, 7.44, 17898),
    "smear": (13.95, 4.65, 22236),
    "camex": (14.30, 4.65, 21982),
    "ep_camex": (14.25, 4.65, 21982),
    "namex": (14.25, 4.65, 21995),
    "namex_full": (14.25, 4.65, 21897),
    "ep_camex_mom": (14.25, 4.65, 21872),
    "namex_full_mom": (14.25, 4.65, 21783),
}
"""Table 13: TFLOPs of training and of inference, tokens per second of training."""
CCP = "NAMEx-Full with CCP"


class Settings(Strict):
    """systems : to time; rounds : turns; sizes : of the timed model; ccp : also time the published solver."""

    systems: list[str] = Field(default=list(PAPER))
    rounds: int = Field(default=15, ge=2)
    ccp: bool = True
    sizes: Sizes = Sizes(d_model=128, d_hidden=512, layers=6, batch=8, length=128, segment=32)


def timed_shape(sizes: Sizes) -> Shape:
    """The timed model as arithmetic sees it."""
    tokens = sizes.batch * sizes.length
    widths = sizes.d_model, sizes.d_hidden, sizes.layers, sizes.experts
    return Shape(*widths, VOCAB, sizes.length, sizes.segment, tokens)


def training_step(model: SmallTransformer, sizes: Sizes, device: str) -> Callable[[], None]:
    """One step with AdamW, the chain computed anew as in training."""
    chains_of(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    loss_of, generator = next_byte_loss(model, sizes, device), torch.Generator().manual_seed(0)

    def step() -> None:
        loss = loss_of(generator) + model.auxiliary_loss()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        if device.startswith("cuda"):
            torch.cuda.synchronize()

    return step


def timings(settings: Settings, device: str) -> dict[str, list[float]]:
    """Tokens per second of every system in every round; on a CPU per second of the process, which neighbours on the
    machine lengthen less than those of the clock."""
    clock = time.perf_counter if device.startswith("cuda") else time.process_time
    steps = {}
    for system in settings.systems:
        model = small_model(system, settings.sizes, 0).to(device)
        steps[system] = training_step(model, settings.sizes, device)
    if settings.ccp and "namex_full" in settings.systems:
        chain = {"bargain": {"solver": "ccp", "iterations": 20}}
        steps[CCP] = training_step(
            small_model("namex_full", settings.sizes, 0, chain=chain).to(device), settings.sizes, device
        )
    for step in steps.values():
        step()
    found: dict[str, list[float]] = {system: [] for system in steps}
    tokens = settings.sizes.batch * settings.sizes.length
    for turn in range(settings.rounds):
        shift = turn % len(steps)
        for system in [*steps][shift:] + [*steps][:shift]:
            begin = clock()
            steps[system]()
            found[system].append(tokens / (clock() - begin))
    return found


def operations(name: str, settings: Settings) -> dict[str, dict[str, float]]:
    """Operations per token of every system for one shape."""
    shape = timed_shape(settings.sizes) if name == "timed" else SHAPES[name]
    return {system: per_token(system, system_layer(system, settings.sizes), shape) for system in settings.systems}


def run(settings: Settings, book: Book) -> None:
    """Arithmetic for the paper's shapes and the timed one, then the clock."""
    check_systems(settings.systems)
    for key in book.todo([*(f"operations/{name}" for name in [*SHAPES, "timed"]), "timings"]):
        if key == "timings":
            book.record(key, kind="timings", device=book.device, tokens_per_second=timings(settings, book.device))
        else:
            name = key.partition("/")[2]
            book.record(key, kind="operations", shape=name, systems=operations(name, settings))


def reduced(settings: Settings) -> Settings:
    """Two narrow systems, two rounds."""
    return settings.changed(systems=["smear", "namex_full"], rounds=2, ccp=False, sizes=REDUCED)


def plan(settings: Settings) -> list[str]:
    """Operations of the timed shape."""
    found = operations("timed", settings)
    return [f"{title(s)}: {row['training'] / 1e6:.1f} million operations a token" for s, row in found.items()]


def pictures(records: Records, curves: Mapping[str, Any]) -> dict[str, Any]:
    """Throughput relative to SMEAR, ours beside the paper's."""
    [rates] = [r["tokens_per_second"] for r in records if r["kind"] == "timings"]
    base = float(np.median(rates["smear"]))
    ax = new_axes(None, (7.5, 4.2))
    for k, system in enumerate(rates):
        ax.plot(np.asarray(rates[system]) / base, [k] * len(rates[system]), ".", color=OKABE_ITO[0], alpha=0.4)
        ax.plot(np.median(rates[system]) / base, k, "o", color=OKABE_ITO[0], label="here" if k == 0 else None)
        if system in PAPER:
            ax.plot(
                PAPER[system][2] / PAPER["smear"][2], k, "s", color=OKABE_ITO[3], label="table 13" if k == 0 else None
            )
    ax.set_yticks(range(len(rates)), [title(system) for system in rates])
    ax.set_xlabel("tokens per second of a training step, of SMEAR's")
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(frameon=False)
    return {"throughput": ax}


def claims(records: Records) -> list[Claim]:
    """Table 13 against the records."""
    [rates] = [r["tokens_per_second"] for r in records if r["kind"] == "timings"]
    shapes = {r["shape"]: r["systems"] for r in records if r["kind"] == "operations"}
    pairs = (("ep_camex", "smear"), ("namex_full", "ep_camex"), ("namex_full_mom", "namex_full"))
    found = [_slower(rates, ours, theirs) for ours, theirs in pairs if ours in rates and theirs in rates]
    if CCP in rates:
        share = -median_interval(np.asarray(rates[CCP]) / np.asarray(rates["namex_full"]) - 1)[0]
        found.append(
            Claim(
                text="Bargaining in every layer takes most of a step.",
                paper="table 12: 86 % of the time",
                measured=f"with the published solver {share:.0%} of the step goes to solving beyond Newton's method",
                verdict="reproduced" if share > 0.5 else "not reproduced",
                reason="it is the solver's time, and its share falls as models grow: bargains do not grow with them",
            )
        )
    return found + _arithmetic_claims(shapes["T5-base"])


def median_interval(values: Sequence[float], confidence: float = 0.95) -> tuple[float, float, float]:
    """Median and the ends of its interval by order statistics, which no outlier moves; the extremes of few values."""
    ordered = np.sort(np.asarray(values))
    cut = max(int(binom.ppf((1 - confidence) / 2, len(ordered), 0.5)) - 1, 0)
    return float(np.median(ordered)), float(ordered[cut]), float(ordered[-1 - cut])


def _slower(rates: Mapping[str, list[float]], ours: str, theirs: str) -> Claim:
    """The claim that one system is as fast as another within one per cent."""
    middle, low, high = median_interval(np.asarray(rates[ours]) / np.asarray(rates[theirs]) - 1)
    printed = PAPER[ours][2] / PAPER[theirs][2] - 1
    near, far = max(abs(low), abs(high)) < 0.01, high < -0.01 or low > 0.01
    verdict: Verdict = "reproduced" if near else "not reproduced" if far else "not testable here"
    return Claim(
        text=f"{title(ours)} trains as fast as {title(theirs)}, within one per cent.",
        paper=f"table 13: {PAPER[ours][2]:,} against {PAPER[theirs][2]:,} tokens per second ({printed:+.1%})",
        measured=f"median {middle:+.1%}, 95 % interval [{low:+.1%}, {high:+.1%}]",
        verdict=verdict,
        reason=f"{len(rates[ours])} rounds in turns, small model; the chain's share falls with the tokens of a step",
    )


def _arithmetic_claims(t5: Mapping[str, Mapping[str, float]]) -> list[Claim]:
    """Operations of T5-base."""
    found = []
    if "smoe_top2" in t5:
        ratio = t5["smoe_top2"]["inference"] / t5["smoe_top1"]["inference"]
        found.append(
            Claim(
                text="Top-2 routing takes 7.44 TFLOPs of inference and 18.32 of training, top-1 4.65 and 13.95.",
                paper="table 13",
                measured=f"arithmetic: top-2 is {ratio:.2f} times top-1 for T5-base (table: {7.44 / 4.65:.2f})",
                verdict="not reproduced",
                reason=f"13.95 is three times 4.65, but three times 7.44 is {3 * 7.44:.2f}, not 18.32",
            )
        )
    merged = t5["namex_full"]
    found.append(
        Claim(
            text="Merging leaves the operations of inference unchanged and adds 2 % to training.",
            paper="table 13: 4.65 and 4.65; 14.25 and 13.95",
            measured=f"T5-base, one merged expert for {SHAPES['T5-base'].segment} tokens: merging is "
            f"{merged['merging']:.1%} of inference, the chain {merged['chain']:.1%} of training",
            verdict="reproduced" if merged["merging"] + merged["chain"] < 0.05 else "not reproduced",
            reason="merging costs 2N operations a parameter and segment: little for long segments only",
        )
    )
    return found
