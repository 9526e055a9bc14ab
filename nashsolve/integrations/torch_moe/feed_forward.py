"""The experts that a layer owns, stored fused, and the feed-forward that they compute."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nashsolve.core.errors import InvalidProblem

from .experts import Expert

Activation = str | Callable[[Tensor], Tensor]
"""A name that configurations know, or what another model's experts do between their two linear layers."""
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"relu": F.relu, "gelu": F.gelu, "silu": F.silu}


def activate(hidden: Tensor, activation: Activation) -> Tensor:
    """The non-linearity; "swiglu" takes (gate, up) in one tensor and halves the width."""
    if not isinstance(activation, str):
        return activation(hidden)
    if activation == "swiglu":
        gate, up = hidden.chunk(2, dim=-1)
        return F.silu(gate) * up
    return ACTIVATIONS[activation](hidden)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """``x W' + b`` with one weight (out, in), or one for each of the units: x (U, T, in), weight (U, out, in)."""
    if weight.ndim == 2:
        return F.linear(x, weight.to(x.dtype), None if bias is None else bias.to(x.dtype))
    # In this order the weights' gradient comes out contiguous; x W' would have it transposed, and copied.
    y = torch.matmul(weight.to(x.dtype), x.mT).mT
    return y if bias is None else y + bias.to(y.dtype).unsqueeze(-2)


def feed_forward(x: Tensor, expert: Mapping[str, Tensor], activation: Activation) -> Tensor:
    """The feed-forward with the given parameters (of one expert, or of one for each unit)."""
    hidden = activate(linear(x, expert["up_proj"], expert.get("up_proj_bias")), activation)
    return linear(hidden, expert["down_proj"], expert.get("down_proj_bias"))


def shapes(d_model: int, d_hidden: int, activation: str, bias: bool) -> dict[str, tuple[int, ...]]:
    """Tensors of one expert: name -> shape. The gated activation keeps gate and up in one tensor, gate first."""
    inner = d_hidden * (2 if activation == "swiglu" else 1)
    found: dict[str, tuple[int, ...]] = {"up_proj": (inner, d_model), "down_proj": (d_model, d_hidden)}
    if bias:
        found |= {"up_proj_bias": (inner,), "down_proj_bias": (d_model,)}
    return found


def draw(parameter: Tensor, shape: tuple[int, ...]) -> None:
    """Fill one or N stacked tensors of `shape`: weights as `nn.Linear` draws them, biases zero."""
    if len(shape) == 1:
        nn.init.zeros_(parameter)
    else:
        nn.init.uniform_(parameter, -1 / math.sqrt(shape[-1]), 1 / math.sqrt(shape[-1]))


class FusedExperts(nn.Module):
    """N feed-forward experts in fused parameters: up_proj (N, h, d), down_proj (N, d, h) and their biases.

    Parameters
    ----------
    n_experts, d_model, d_hidden : int
    activation : "relu", "gelu", "silu" or "swiglu" (up_proj is then (N, 2h, d), gate first)
    bias : bool
    """

    def __init__(self, n_experts: int, d_model: int, d_hidden: int, activation: str, bias: bool) -> None:
        super().__init__()
        self.n_experts, self.activation = n_experts, activation
        for name, shape in shapes(d_model, d_hidden, activation, bias).items():
            parameter = nn.Parameter(torch.empty(n_experts, *shape))
            draw(parameter, shape)
            self.register_parameter(name, parameter)

    def expert(self, i: int) -> Expert:
        """Expert i as views by name."""
        return {name: parameter[i] for name, parameter in self.named_parameters()}

    @torch.no_grad()
    def upcycle(self, dense: Mapping[str, Tensor], jitter: float, generator: torch.Generator | None = None) -> None:
        """Copy one trained feed-forward into every expert, with independent noise.

        Without noise all domain vectors relative to a copied base expert are zero: no agreement exists, and curvature
        and router get no gradient in the first step. So `jitter` must be chosen.

        Parameters
        ----------
        dense : name -> tensor, with the names and shapes of one expert
        jitter : >= 0, standard deviation of the noise relative to that of the tensor's entries
        generator : of the noise

        Raises
        ------
        InvalidProblem
        """
        if not jitter >= 0:
            raise InvalidProblem(f"jitter is {jitter}; a number >= 0 is needed")
        wanted = {name: tuple(p.shape[1:]) for name, p in self.named_parameters()}
        given = {name: tuple(t.shape) for name, t in dense.items()}
        if given != wanted:
            raise InvalidProblem(f"the dense feed-forward has the tensors {given}; one expert has {wanted}")
        for name, parameter in self.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float32).to(parameter)
            parameter.copy_(dense[name].to(parameter) + jitter * dense[name].float().std() * noise)

    def extra_repr(self) -> str:
        return f"n_experts={self.n_experts}, activation={self.activation!r}"
