r"""Floating point operations of a transformer with a system's feed-forwards, by arithmetic.

A product of matrices (a, b) and (b, c) counts 2abc, a backward pass twice its forward pass. A merged expert of R
parameters costs 2NR per segment over which it is shared; the chain costs :math:`2RN^2` (Gram) and :math:`2RN` (step)
per layer and training step, curvature four small products per expert, whatever the number of tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..torch_moe.config import MoEConfig
from ..torch_moe.curvature import divisors
from .systems import DENSE, by_token


@dataclass(frozen=True)
class Shape:
    """A transformer and how it is trained.

    d_model, d_hidden, layers, experts, vocab : sizes
    length : tokens of a sequence; segment : tokens that share a merged expert; tokens : of a training step
    matrices : of a feed-forward, 2, or 3 where it is gated
    attentions : of a layer; T5's decoder has cross-attention, too
    """

    d_model: int
    d_hidden: int
    layers: int
    experts: int
    vocab: int
    length: int
    segment: int
    tokens: int
    matrices: int = 2
    attentions: float = 1.0

    @property
    def expert(self) -> int:
        """Parameters of an expert, without biases."""
        return self.matrices * self.d_model * self.d_hidden


SHAPES = {
    "T5-base": Shape(768, 3072, 24, 8, 32128, 512, 512, 16 * 512, attentions=1.5),
    "WikiText-103 medium": Shape(352, 352, 6, 16, 267735, 512, 256, 48 * 512),
    "Qwen1.5-MoE": Shape(2048, 1408, 24, 60, 151936, 2048, 256, 16 * 2048, 3),
}
"""Models of the paper."""


def per_token(system: str, layer: MoEConfig | None, shape: Shape) -> dict[str, float]:
    """Operations per token: of one inference pass, and of a training step with its share of the chain.

    Parameters
    ----------
    system : name, "dense" included
    layer : its settings; None for dense
    shape : of the model

    Returns
    -------
    dict with inference, training, and shares: feed_forward and merging of inference, chain (with curvature) of training
    """
    d, n = shape.d_model, shape.experts
    attention = shape.attentions * (8 * d * d + 4 * shape.length * d)
    forward = 2 * shape.expert
    chosen = 0 if layer is None else layer.router.options.get("top_k", 1)
    mixed = forward * (chosen if by_token(system) else 1) if system != DENSE else forward
    merging = 0.0 if system == DENSE or by_token(system) else 2 * n * shape.expert / shape.segment
    routing = 0.0 if system == DENSE else 2 * d * n
    feed_forward = shape.layers * (mixed + merging + routing)
    inference = shape.layers * attention + feed_forward + 2 * d * shape.vocab
    chain = (_chain(layer, shape) + 3 * _curvature(layer, shape)) / shape.tokens
    training = 3 * inference + chain
    return {
        "inference": inference,
        "training": training,
        "feed_forward": feed_forward / inference,
        "merging": shape.layers * merging / inference,
        "chain": chain / training,
    }


def _chain(layer: MoEConfig | None, shape: Shape) -> float:
    """Operations of the chain in one step: Grams where it solves, steps, and their adjoint, which costs two steps."""
    if layer is None or layer.chain is None:
        return 0.0
    links = shape.layers - 1
    settings: Any = layer.chain
    if settings.bargain == "uniform":
        solves = 0
    else:
        solves = 1 if settings.interval == "once" else -(-links // settings.interval)
    return float(solves * 2 * shape.expert * shape.experts**2 + links * 3 * 2 * shape.expert * shape.experts)


def _curvature(layer: MoEConfig | None, shape: Shape) -> float:
    """Operations of the learned curvature in one forward pass: four small products for every expert and term."""
    if layer is None or layer.curvature.kind == "identity":
        return 0.0
    sides = 2 * (sum(divisors(shape.d_model)) + sum(divisors(shape.d_hidden)))
    return float(shape.layers * shape.experts * layer.curvature.rank * shape.expert * sides)
