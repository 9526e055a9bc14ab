"""Something to do once at the end of a backward pass, after the wrappers of the model."""

from __future__ import annotations

from collections.abc import Callable

import torch


def at_the_end_of_backward(do: Callable[[], None]) -> None:
    """Call `do` when the backward pass that is under way has ended.

    DDP and FSDP2 queue their own ends of the pass, some of them late in it; what is queued by something that was
    queued comes after all of them.
    """
    queue = torch.autograd.Variable._execution_engine.queue_callback
    queue(lambda: queue(do))
