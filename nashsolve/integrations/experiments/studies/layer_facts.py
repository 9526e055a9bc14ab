"""What the published choices do to a single layer or chain: gradients that are zero, leaks, scales, cancellations."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from ...torch_moe import BaseExpertChain, ChainConfig, MoE, MoEConfig, PlainMember
from ..book import Book
from ..study import Claim, Records, Strict

SIZES: dict[str, Any] = {"d_model": 12, "d_hidden": 16, "n_experts": 8}
LENGTH = 32


class Settings(Strict):
    """Nothing to choose but the draw."""

    seed: int = 0


def made(seed: int, system: str, **changes: Any) -> MoE:
    """One layer in double precision."""
    torch.manual_seed(seed)
    return MoE(MoEConfig.preset(system, **SIZES, **changes)).double()


def hidden(seed: int) -> Tensor:
    """Hidden states (2, 32, 12)."""
    return torch.randn(2, LENGTH, SIZES["d_model"], generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def gradient(layer: MoE, part: str, seed: int) -> float:
    """Length of the gradient that a part of a layer gets from its output."""
    layer.zero_grad(set_to_none=True)
    layer(hidden(seed)).square().sum().backward()
    found = [p.grad for name, p in layer.named_parameters() if name.startswith(part) and p.grad is not None]
    return float(torch.stack([g.norm() for g in found]).norm()) if found else 0.0


def top_one(seed: int) -> dict[str, float]:
    """Gradient of the router where softmax comes after the choice of one expert, and where before."""
    return {
        "after": gradient(made(seed, "smoe_top1_published"), "router", seed),
        "before": gradient(made(seed, "smoe_top1"), "router", seed),
    }


def copies(seed: int) -> dict[str, float]:
    """Gradients of router and curvature when every expert and the base expert are copies of one feed-forward."""
    layer = made(seed, "camex", merge={"eta": 0.5}, router={"options": {"level": "sequence"}})
    apart = {part: gradient(layer, part, seed) for part in ("router", "curvature")}
    with torch.no_grad():
        for parameter in layer.experts.parameters():
            parameter.copy_(parameter[:1].expand_as(parameter).clone())
    layer.set_base({name: tensor.clone() for name, tensor in layer.experts.expert(0).items()})
    return {f"{part}_copies": gradient(layer, part, seed) for part in apart} | apart


def start_of_curvature(seed: int, rank: int = 8) -> dict[str, float]:
    """Difference of CAMEx with the published sum of terms from CAMEx without curvature at eta = rank and eta = 1."""
    router = {"name": "linear", "options": {"level": "sequence"}}
    curvature = {"kind": "kronecker", "rank": rank, "normalise": False}
    published = made(seed, "camex", merge={"eta": 1.0, "mask": "none"}, router=router, curvature=curvature)
    found = {}
    for eta in (1.0, float(rank)):
        plain = made(
            seed, "camex", merge={"eta": eta, "mask": "none"}, router=router, curvature={"kind": "identity", "rank": 1}
        )
        plain.load_state_dict(published.state_dict(), strict=False)
        found[f"eta_{eta:g}"] = float((published(hidden(seed)) - plain(hidden(seed))).detach().abs().max())
    return found


def leak(seed: int) -> dict[str, float]:
    """How much the first output changes with a later token of its own segment, by how the first segment is routed."""
    x = hidden(seed)
    later = x.clone()
    later[:, 5] += 1.0
    found = {}
    for first in ("own", "learned"):
        options = {"level": "segment", "segment_length": 8, "first": first}
        layer = made(seed, "smear", router={"options": options})
        found[first] = float((layer(x)[:, 0] - layer(later)[:, 0]).detach().abs().max())
    one = {"level": "segment", "segment_length": LENGTH, "first": "own"}
    found["router_gradient_of_one_segment"] = gradient(made(seed, "smear", router={"options": one}), "router", seed)
    return found


def chain_gradients(seed: int, layers: int = 3) -> dict[str, Any]:
    """Gradient of every layer's experts through the base expert of the last layer."""
    generator = torch.Generator().manual_seed(seed)
    experts = [torch.randn(4, 20, generator=generator, dtype=torch.float64).requires_grad_() for _ in range(layers)]
    start = torch.randn(20, generator=generator, dtype=torch.float64)
    chain = BaseExpertChain([PlainMember({"w": e}, {"w": start}) for e in experts], ChainConfig(gamma=0.5))
    chain.bases()[-1]["w"].square().sum().backward()
    return {"norms": [None if e.grad is None else float(e.grad.norm()) for e in experts]}


FACTS: dict[str, Callable[[int], dict[str, Any]]] = {
    "top one": top_one,
    "copies": copies,
    "curvature": start_of_curvature,
    "leak": leak,
    "chain": chain_gradients,
}


def run(settings: Settings, book: Book) -> None:
    """Every fact."""
    for key in book.todo(FACTS):
        book.record(key, **FACTS[key](settings.seed))


def reduced(settings: Settings) -> Settings:
    """It takes no time."""
    return settings


def claims(records: Records) -> list[Claim]:
    """What the texts say about these choices, against the records."""
    r = {record["key"]: record for record in records}
    top, same, scale = r["top one"], r["copies"], r["curvature"]
    return [
        Claim(
            text="The top-1 baseline routes by a trained router.",
            paper="table 1, SMoE (Top-1); equation (1)",
            measured=f"router gradient {top['after']:.1g} with softmax after the choice, {top['before']:.2g} before it",
            verdict="reproduced" if top["after"] > 1e-12 else "not reproduced",
            reason="the softmax of one number is one: the baseline of the WikiText code is a random router",
        ),
        Claim(
            text="Upcycling a dense model gives experts that merge from the first step on.",
            paper="section 4, T5-base upcycled",
            measured=f"with copies: gradient of the router {same['router_copies']:.1g}, of the curvature "
            f"{same['curvature_copies']:.1g}; with other experts {same['router']:.2g} and {same['curvature']:.2g}",
            verdict="reproduced" if max(same["router_copies"], same["curvature_copies"]) > 1e-12 else "not reproduced",
            reason="all domain vectors are zero, so that router and curvature act on nothing, and no agreement exists",
        ),
        Claim(
            text="CAMEx starts as merging with identity curvature.",
            paper="equation (2), released code with eight terms",
            measured=f"distance from CAMEx without curvature: {scale['eta_1']:.2g} at eta 1, {scale['eta_8']:.0e} at 8",
            verdict="reproduced" if scale["eta_1"] < 1e-9 else "not reproduced",
            reason="eight identities are summed: the start is eight times the step that the equation has",
        ),
        *_more_claims(r["leak"], r["chain"]["norms"]),
    ]


def _more_claims(leaks: Mapping[str, Any], norms: list[float | None]) -> list[Claim]:
    """Causality, and who is trained through the chain."""
    return [
        Claim(
            text="Segment routing is causal.",
            paper="appendix on language models, released code",
            measured=f"a later token of the first segment changes its first output by {leaks['own']:.2g} as published, "
            f"by {leaks['learned']:.1g} with a learned start; router gradient with one segment "
            f"{leaks['router_gradient_of_one_segment']:.1g}",
            verdict="reproduced" if leaks["own"] == 0 else "not reproduced",
            reason="the first segment is routed by its own mean; with blocks of one segment, as in the small WikiText "
            "setting, all routing is of that kind and the router gets no gradient",
        ),
        Claim(
            text="Experts of every layer are trained through the chain.",
            paper="equations (7) to (9)",
            measured="gradient through the last base expert, layer by layer: "
            + ", ".join("none" if n is None else f"{n:.3g}" for n in norms),
            verdict="not reproduced" if norms[-1] is None else "reproduced",
            reason="all layers but the last get dense gradients from later layers, also experts that no token chose",
        ),
    ]
