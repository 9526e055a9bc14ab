"""Routers: which experts a token, a segment or a sequence uses, and how much."""

from ..router_output import RouterOutput
from .base import Router
from .catalog import ROUTERS, follow, make_router
from .cosine import CosineRouter
from .linear import LinearRouter
from .noisy_topk import NoisyTopKRouter
from .segment import SegmentRouter
from .sequence import SequenceRouter
from .sigmoid import SigmoidRouter
from .softmax import SoftmaxRouter
from .stable import StableRouter
from .xmoe import XMoERouter

__all__ = [
    "ROUTERS",
    "CosineRouter",
    "LinearRouter",
    "NoisyTopKRouter",
    "Router",
    "RouterOutput",
    "SegmentRouter",
    "SequenceRouter",
    "SigmoidRouter",
    "SoftmaxRouter",
    "StableRouter",
    "XMoERouter",
    "follow",
    "make_router",
]
