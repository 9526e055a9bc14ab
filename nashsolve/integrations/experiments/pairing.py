"""The same start for every system: what two models have in common begins with the same numbers."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import nn

Model = TypeVar("Model", bound=nn.Module)


def paired_model(build: Callable[[str], Model], system: str, seed: int, reference: str = "smear") -> Model:
    """A model of `system` whose parameters equal those of the reference system wherever both have them.

    What the reference lacks (base experts, curvature) is drawn from the same seed.

    Parameters
    ----------
    build : makes a model of a system from PyTorch's global generator
    system, reference : names of systems
    seed : of that generator; its state is given back afterwards
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = build(system)
        torch.manual_seed(seed)
        given = {_name(name): tensor for name, tensor in build(reference).state_dict().items()}
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            source = given.get(_name(name))
            if source is not None and source.shape == tensor.shape:
                tensor.copy_(source)
    return model


def _name(parameter: str) -> str:
    """Routers of sequences and segments wrap a router of tokens: the same weights under another name."""
    return parameter.replace(".router.inner.", ".router.")
