"""What token-level Nash merging costs beyond top-k routing: seconds of forward and backward of one layer.

    python -m benchmarks.token_nash [--quick] [--k 2,4] [--json FILE]

All systems share widths, router and tokens and are timed in turns within one run, in CPU seconds of one thread, which
other programs on the machine lengthen less than those of the clock. "bargain" is what the shares alone take: inner
products, the bargains of all tokens and their derivative.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # run as a file, too

from benchmarks import measure
from nashsolve.integrations.torch_moe import MoE, MoEConfig
from nashsolve.integrations.torch_moe.merge_rules.token_bargain import token_shares

FULL = {"d_model": 768, "d_hidden": 3072, "n_experts": 8}
QUICK = {"d_model": 256, "d_hidden": 1024, "n_experts": 8}
VARIANTS: dict[str, dict[str, Any]] = {
    "top-k": {"rule": "smoe"},
    "token_nash, outputs": {"rule": "token_nash", "vectors": "outputs"},
    "token_nash, parameters": {"rule": "token_nash", "vectors": "parameters"},
    "token_nash, outputs, all experts": {"rule": "token_nash", "vectors": "outputs", "players": "all"},
    "token_nash, merged parameters": {"rule": "token_nash", "vectors": "parameters", "eta": 0.5},
}


def layer(sizes: dict[str, int], merge: dict[str, Any], k: int) -> MoE:
    """One layer; the same seed for all."""
    torch.manual_seed(0)
    options = {"top_k": k, "normalize": True} if k > 1 else {"top_k": k}
    return MoE(MoEConfig(**sizes, activation="relu", merge=merge, router={"options": options}))


def step(moe: MoE, x: torch.Tensor) -> None:
    """Forward and backward."""
    moe.zero_grad(set_to_none=True)
    moe(x).square().mean().backward()


def bargain(outputs: torch.Tensor, weights: torch.Tensor) -> None:
    """Inner products, shares, and their derivative by the weights."""
    shares, _ = token_shares(outputs @ outputs.mT, weights)
    torch.autograd.grad(shares[:, 0].sum(), weights)


def run(sizes: dict[str, int], tokens: int, k: int, rounds: int) -> dict[str, float]:
    """Median CPU seconds of every variant."""
    x = torch.randn(1, tokens, sizes["d_model"], generator=torch.Generator().manual_seed(1))
    layers = {name: layer(sizes, merge, k) for name, merge in VARIANTS.items()}
    calls = {name: (lambda moe=moe: step(moe, x)) for name, moe in layers.items()}
    outputs = torch.randn(tokens, k, sizes["d_model"], generator=torch.Generator().manual_seed(2))
    weights = torch.rand(tokens, k, generator=torch.Generator().manual_seed(3)).requires_grad_()
    calls["bargain"] = lambda: bargain(outputs, weights)
    for call in calls.values():
        call()
    times: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(rounds):
        shift = turn % len(calls)
        for name in [*calls][shift:] + [*calls][:shift]:
            begin = time.process_time()
            calls[name]()
            times[name].append(time.process_time() - begin)
    return {name: statistics.median(seconds) for name, seconds in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a third of the widths, fewer tokens")
    parser.add_argument("--k", default="2,4", help="selected experts, separated by commas")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    measure.limit_torch_threads()
    sizes, tokens = (QUICK, 1024) if options.quick else (FULL, 2048)
    print(measure.banner())
    found = {}
    for k in (int(part) for part in options.k.split(",")):
        times = found[k] = run(sizes, tokens, k, options.rounds)
        rows = [[name, f"{1e3 * s:.1f}", f"{s / times['top-k']:.3f}"] for name, s in times.items()]
        title = f"Forward and backward of one layer {sizes}, {tokens} tokens, k = {k}"
        print(measure.table(title, ["", "ms", "of top-k"], rows))
    if options.json:
        measure.write_json(options.json, {"sizes": sizes, "tokens": tokens, "seconds": found})


if __name__ == "__main__":
    main()
