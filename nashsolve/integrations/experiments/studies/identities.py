r"""Systems that must be the same: trained side by side, step for step, and compared.

- ``phase``: momentum :math:`|\beta|e^{i\varphi}` and its conjugate (table 5), to the last bit;
- ``quaternion``: a quaternion and its complex twin :math:`a + i\|(b,c,d)\|` (table 7), also against the chain with all
  four buffers written out;
- ``eta``: every system with :math:`\eta = 1` and identity curvature, which is SMEAR, because
  :math:`E_m + \sum_i s_i(E_i - E_m) = \sum_i s_iE_i`.
"""

from __future__ import annotations

import math
import warnings
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field

from ...torch_moe import BaseExpertChain, ChainConfig, MomentumConfig, PlainMember
from ...torch_moe.small_transformer import SmallTransformer
from ...torch_moe.stability import UnstableChain, quaternion_twin
from ..book import Book
from ..study import Claim, Records, Strict, Verdict
from ..systems import title
from ..training import chains_of
from ._small_model import REDUCED, Sizes, next_byte_loss, small_model

QUATERNION = (0.8, 0.3, 0.3, 0.3)
Kind = Literal["phase", "quaternion", "eta"]
TOLERANCE = {"phase": 0.0, "quaternion": 1e-6, "eta": 1e-6}
"""Largest difference of two losses that counts as the same."""
SMEAR = "smear"


class Settings(Strict):
    """kinds : of identities; systems : of each kind; degrees : phases; steps : of training at the rate lr; sizes : of
    the model."""

    seed: int = 0
    kinds: list[Kind] = Field(default=["phase", "quaternion", "eta"])
    phase_systems: list[str] = Field(default=["ep_camex_mom", "namex_mom", "namex_full_mom"])
    quaternion_systems: list[str] = Field(default=["ep_camex_q", "namex_q", "namex_full_q"])
    eta_systems: list[str] = Field(default=["ep_camex", "namex", "namex_full", "namex_full_mom", "namex_full_q"])
    degrees: list[float] = Field(default=[15.0, 30.0])
    steps: int = Field(default=40, ge=1)
    lr: float = Field(default=3e-3, gt=0)
    sizes: Sizes = Sizes()


def lockstep(one: SmallTransformer, other: SmallTransformer, settings: Settings) -> dict[str, float]:
    """Train both on the same batches: largest differences of losses and of shared parameters, and the losses' fall."""
    models = [one, other]
    for model in models:
        chains_of(model)
    optimizers = [torch.optim.AdamW(model.parameters(), lr=settings.lr) for model in models]
    generator = torch.Generator().manual_seed(settings.seed)
    losses: list[list[float]] = []
    for _ in range(settings.steps):
        state = generator.get_state()
        losses.append([])
        for model, optimizer in zip(models, optimizers, strict=True):
            loss = next_byte_loss(model, settings.sizes)(generator.set_state(state))
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            losses[-1].append(float(loss.detach()))
    table = np.asarray(losses)
    mine, theirs = (dict(model.named_parameters()) for model in models)
    shared = [name for name in mine if name in theirs and "base" not in name]
    with torch.no_grad():
        apart = max(float((mine[name] - theirs[name]).abs().max()) for name in shared)
    return {
        "loss_difference": float(np.abs(table[:, 0] - table[:, 1]).max()),
        "parameter_difference": apart,
        "first_loss": float(table[0, 0]),
        "last_loss": float(table[-1, 0]),
    }


def pair(kind: str, system: str, degrees: float, settings: Settings) -> tuple[SmallTransformer, SmallTransformer]:
    """Two models that should be the same; single precision for the phase, double precision for the others."""

    def model(name: str = system, **changes: Any) -> SmallTransformer:
        return small_model(name, settings.sizes, settings.seed, **changes)

    if kind == "phase":
        turn = math.radians(degrees)
        plus, minus = (model(chain={"momentum": {"phase": sign * turn}}) for sign in (1, -1))
        return plus, minus
    if kind == "quaternion":
        twin = quaternion_twin(QUATERNION)
        momentum = {"kind": "complex", "beta": abs(twin), "phase": float(np.angle(twin)), "quaternion": None}
        return model().double(), model(chain={"momentum": momentum}).double()
    return model(eta=1.0).double(), model(SMEAR).double()


def hamilton(settings: Settings, depth: int = 24) -> float:
    """Largest difference between a chain with the quaternion's four buffers and the chain of the package."""
    rng = np.random.default_rng(settings.seed)
    layers = rng.standard_normal((depth, settings.sizes.experts, 32))
    a, b, c, d = QUATERNION
    product = np.array([[a, -b, -c, -d], [b, a, -d, c], [c, d, a, -b], [d, -c, b, a]])
    base, buffers = np.zeros(32), np.zeros((4, 32))
    bases = [base]
    for experts in layers[:-1]:
        buffers = product @ buffers
        buffers[0] += experts.mean(0) - base
        base = base + buffers[0]
        bases.append(base)
    members = [PlainMember({"w": torch.from_numpy(e)}, {"w": torch.zeros(32, dtype=torch.float64)}) for e in layers]
    config = ChainConfig(bargain="uniform", momentum=MomentumConfig(kind="quaternion", quaternion=QUATERNION))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UnstableChain)
        found = BaseExpertChain(members, config).bases()
    return float(max(np.abs(f["w"].numpy() - b).max() for f, b in zip(found, bases, strict=True)))


def run(settings: Settings, book: Book) -> None:
    """Every pair of the chosen kinds."""
    units = []
    if "phase" in settings.kinds:
        units += [f"phase/{system}/{degrees}" for system in settings.phase_systems for degrees in settings.degrees]
    if "quaternion" in settings.kinds:
        units += ["hamilton/chain/0", *(f"quaternion/{system}/0" for system in settings.quaternion_systems)]
    if "eta" in settings.kinds:
        units += [f"eta/{system}/0" for system in settings.eta_systems]
    for key in book.todo(units):
        kind, system, degrees = key.split("/")
        if kind == "hamilton":
            book.record(key, kind=kind, largest_difference=hamilton(settings))
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UnstableChain)
            numbers = lockstep(*pair(kind, system, float(degrees), settings), settings)
        book.record(key, kind=kind, pair=system, degrees=float(degrees), **numbers)


def reduced(settings: Settings) -> Settings:
    """Two steps of one narrow pair of each kind."""
    one = {name: getattr(settings, name)[:1] for name in ("phase_systems", "quaternion_systems", "eta_systems")}
    return settings.changed(steps=2, degrees=settings.degrees[:1], sizes=REDUCED, **one)


_SAYS: dict[str, tuple[str, str, str]] = {
    "phase": (
        "The sign of the phase changes results.",
        "table 5: up to 3.6 points between +pi/6 and -pi/6 (EP-CAMEx, RTE)",
        "real input and a real read-out: a momentum and its conjugate give the same chain bit for bit, so that "
        "differences between those rows measure noise",
    ),
    "quaternion": (
        "Quaternion momentum is a dynamic beyond complex momentum.",
        "table 7: EP-CAMEx-Q and NAMEx-Q above their complex versions",
        "a constant quaternion acts as the complex number a + i |(b, c, d)|, here of modulus 0.954 and phase 33 "
        "degrees; table 7 compares two moduli and phases",
    ),
    "eta": (
        "The systems differ from SMEAR and from each other, whatever eta is.",
        "sections 3 and 4; eta is not given",
        "with eta = 1, identity curvature and router weights that sum to one the base expert cancels: every system is "
        "SMEAR, whatever alpha, gamma and momentum are; what a comparison shows depends on eta, which must be stated",
    ),
}


def claims(records: Records) -> list[Claim]:
    """Tables 5 and 7, and what no table says, against the records."""
    found = []
    for kind, (text, paper, reason) in _SAYS.items():
        rows = [r for r in records if r["kind"] == kind]
        if not rows:
            continue
        worst = max(r["loss_difference"] for r in rows)
        names = ", ".join(dict.fromkeys(title(r["pair"]) for r in rows))
        apart = "bit for bit the same" if worst == 0 else f"apart by {worst:.0e} at most"
        measured = f"losses of {len(rows)} pairs ({names}) {apart} while they fall from "
        measured += f"{rows[0]['first_loss']:.2f} to {rows[0]['last_loss']:.2f}"
        extra = [r["largest_difference"] for r in records if r["kind"] == "hamilton"] if kind == "quaternion" else []
        measured += "".join(f"; {e:.0e} from the chain with four buffers" for e in extra)
        same = worst <= TOLERANCE[kind]
        verdict: Verdict = "not reproduced" if same else "reproduced"
        found.append(Claim(text, paper, measured, verdict, reason))
    return found
