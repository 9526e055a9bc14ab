"""Settings of a chain over many processes."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from ..strict import Strict


class DistributedConfig(Strict):
    """How the ranks work together.

    Attributes
    ----------
    timeout : seconds that a rank waits for the others in one collective, > 0
    grams : "layer": one all_reduce for every solve; "joint": one for the whole chain, from the Gram of all experts of
        all layers at once, which costs as many times the arithmetic as there are layers and loses digits where domain
        vectors are short beside the way of the base expert (the bargain's error bound says how many)
    solve : "everywhere": every rank solves the same bytes; "broadcast": rank 0 solves, for machines that differ
    bases : "full": whole base experts on every rank; "local": only the columns that the rank's experts have, for
        tensor parallel layers
    base_dtype : "chain": float32 (float64 for float64 experts), as the chain computes; "bfloat16": base experts are
        rounded before they travel to the layers, their gradients are summed in float32
    first_base : who differentiates the first layer's own use of its base expert: "module", where a wrapper (DDP,
        FSDP2) reduces its gradient; "chain" where nothing does
    divide : divisor of the sum of all ranks' gradients of base experts; None: the number of ranks, that is, the mean
    expert_divide : the same for what the chain adds to the experts' gradients, where they have a factor of their own
        (`set_gradient_divide_factor` of FSDP2); None: as `divide`
    exchange_bytes : memory for experts on their way between ranks, where shards cut the expert axis
    automatic : add the chain's gradients at the end of every backward pass outside of `no_sync`; False: call
        `ShardedChain.backward`
    """

    timeout: float = Field(default=60.0, gt=0)
    grams: Literal["layer", "joint"] = "layer"
    solve: Literal["everywhere", "broadcast"] = "everywhere"
    bases: Literal["full", "local"] = "full"
    base_dtype: Literal["chain", "bfloat16"] = "chain"
    first_base: Literal["module", "chain"] = "module"
    divide: float | None = Field(default=None, gt=0)
    expert_divide: float | None = Field(default=None, gt=0)
    exchange_bytes: int = Field(default=2**26, ge=1)
    automatic: bool = True
