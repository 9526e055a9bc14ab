"""Small double-precision layers and chains, and the slow references that their results are held to."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from nashsolve.integrations.torch_moe import BaseExpertChain, ChainConfig, MoE, MoEConfig, PlainMember
from tests.tolerances import tolerance

TIGHT = tolerance("float64", "sum")
CERTIFIED = tolerance("float64", "rtol")
SINGLE = tolerance("float32", "rtol")
BLOCKING = tolerance("float64", "certificate")
ACTIVATIONS = {"relu": F.relu, "gelu": F.gelu, "silu": F.silu}
LEVELS = {
    "token": {"level": "token"},
    "sequence": {"level": "sequence"},
    "segment": {"level": "segment", "segment_length": 3},
}


def layer(system: str, level: str = "sequence", seed: int = 0, top_k: int | None = None, **settings: Any) -> MoE:
    """A double-precision layer of a preset: widths 5 and 6, four experts, biases that are not zero."""
    options = {**LEVELS[level], **({} if top_k is None else {"top_k": top_k})}
    router = settings.pop("router", {})
    router = {"name": router.get("name", "linear"), "options": {**options, **router.get("options", {})}}
    sizes = {"d_model": 5, "d_hidden": 6, "n_experts": 4, "bias": True}
    torch.manual_seed(seed)
    built = MoE(MoEConfig.preset(system, **(sizes | settings), router=router)).double()
    with torch.no_grad():
        for name, parameter in built.named_parameters():
            if name.endswith("_bias"):
                parameter.normal_(0, 0.3)
    return built


def hidden(seed: int = 1, batch: int = 2, length: int = 7, width: int = 5) -> Tensor:
    return torch.randn(batch, length, width, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def weights_per_token(moe: MoE, x: Tensor, rows: Tensor) -> Tensor:
    """Rows of the router as one row for each token (batch, length, N), written out."""
    batch, length, _ = x.shape
    level, size = moe.router.level, moe.router.segment_length
    if level == "token":
        return rows.reshape(batch, length, -1)
    if level == "sequence":
        return torch.stack([rows[b].expand(length, -1) for b in range(batch)])
    segments = -(-length // size)
    return torch.stack([torch.stack([rows[b * segments + t // size] for t in range(length)]) for b in range(batch)])


def one_expert(expert: dict[str, Tensor], token: Tensor, activation: str) -> Tensor:
    """One token through one expert's parameters, by matrix-vector products."""
    inner = expert["up_proj"] @ token + expert.get("up_proj_bias", 0.0)
    if activation == "swiglu":
        half = len(inner) // 2
        inner = F.silu(inner[:half]) * inner[half:]
    else:
        inner = ACTIVATIONS[activation](inner)
    return expert["down_proj"] @ inner + expert.get("down_proj_bias", 0.0)


def token_by_token(moe: MoE, x: Tensor, expert_of: Callable[[int, int], dict[str, Tensor]]) -> Tensor:
    """Every token through the merged expert that `expert_of(batch, position)` builds for it."""
    activation = moe.config.activation
    rows = [
        torch.stack([one_expert(expert_of(b, t), x[b, t], activation) for t in range(x.shape[1])])
        for b in range(x.shape[0])
    ]
    return torch.stack(rows)


def random_chain(
    config: ChainConfig, layers: int = 4, n: int = 3, seed: int = 0, shapes: Sequence[tuple[int, ...]] = ((4, 3), (4,))
) -> tuple[BaseExpertChain, list[dict[str, Tensor]], dict[str, Tensor]]:
    """A chain over random fused double tensors that ask for gradients: the chain, its experts and its base expert."""
    generator = torch.Generator().manual_seed(seed)
    names = ["weight", "bias", "other"][: len(shapes)]

    def draw(*lead: int) -> dict[str, Tensor]:
        tensors = [torch.randn(*lead, *s, dtype=torch.float64, generator=generator) for s in shapes]
        return {name: t.requires_grad_() for name, t in zip(names, tensors, strict=True)}

    experts, base = [draw(n) for _ in range(layers)], draw()
    members = [PlainMember(e) for e in experts]
    members[0].base = base
    return BaseExpertChain(members, config), experts, base


def flat(tensors: dict[str, Tensor]) -> np.ndarray:
    """One vector of a base expert's tensors."""
    return np.concatenate([t.detach().numpy().ravel() for t in tensors.values()])


def domain_vectors(experts: dict[str, Tensor], base: dict[str, Tensor]) -> np.ndarray:
    """Domain vectors as rows (N, d), stacked without mercy."""
    n = len(next(iter(experts.values())))
    return np.stack([flat({k: e[i] for k, e in experts.items()}) - flat(base) for i in range(n)])


def nash_alpha(gram: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """alpha with K alpha = w / alpha by damped Newton steps in log alpha: an oracle of a few lines."""
    w = np.ones(len(gram)) if weights is None else weights
    z = np.log(np.sqrt(w / np.diagonal(gram)))

    def value(z: np.ndarray) -> float:
        a = np.exp(z)
        return float(0.5 * a @ gram @ a - w @ z)

    for _ in range(200):
        a = np.exp(z)
        gradient = a * (gram @ a) - w
        if np.abs(gradient).max() < 1e-14:
            break
        step = -np.linalg.solve(a[:, None] * gram * a + np.diag(np.maximum(a * (gram @ a), 0) + 1e-14), gradient)
        t = 1.0 / max(1.0, np.abs(step).max())
        while value(z + t * step) > value(z) + 1e-15 and t > 1e-10:
            t /= 2
        z = z + t * step
    return np.exp(z)


def naive_chain(
    experts: Sequence[dict[str, Tensor]],
    base: dict[str, Tensor],
    coefficients: Sequence[Sequence[float]],
    gamma: float,
    beta: complex = 0.0,
) -> list[dict[str, Tensor]]:
    """Base experts of all layers by the formula, with complex buffers, for autograd to differentiate."""
    bases = [base]
    mu = {name: torch.zeros_like(t, dtype=torch.complex128) for name, t in base.items()}
    for layer_experts, c in zip(experts[:-1], coefficients, strict=True):
        now = bases[-1]
        moved = {}
        for name, tensor in now.items():
            step = sum(c[i] * (layer_experts[name][i] - tensor) for i in range(len(c)))
            mu[name] = beta * mu[name] + step
            moved[name] = tensor + gamma * mu[name].real
        bases.append(moved)
    return bases


def scalar_of(bases: Sequence[dict[str, Tensor]], seed: int = 5) -> Tensor:
    """A scalar that depends on every entry of every base expert."""
    generator = torch.Generator().manual_seed(seed)
    total = torch.zeros((), dtype=torch.float64)
    for base in bases:
        for tensor in base.values():
            total = total + (torch.randn(tensor.shape, dtype=torch.float64, generator=generator) * tensor.sin()).sum()
    return total
