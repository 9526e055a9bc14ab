"""Memory and time of CAMEx's curved merge, forward and backward: ours against the published einsums.

    python -m benchmarks.camex_memory [--quick] [--json FILE]

One linear layer of T5-base (3072 x 768), seven experts, rank eight, eight sequences, as in the published scripts. The
einsums are written down as published: all experts and terms at once, every intermediate kept by autograd. Times are
taken in turns within one process; the peak of resident memory is taken in a process of its own for each, over that of a
process that only holds the inputs.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
from pathlib import Path

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # run as a file, too

from benchmarks import measure
from nashsolve.integrations.torch_moe.curvature import FACTORS, KroneckerCurvature
from nashsolve.integrations.torch_moe.experts import Slot
from nashsolve.integrations.torch_moe.merge_rules.curved_merge import curved_merge

FULL = {"out": 3072, "inner": 768, "experts": 7, "rank": 8, "rows": 8}
QUICK = {"out": 768, "inner": 192, "experts": 7, "rank": 8, "rows": 8}
NAMES = ("inputs", "ours", "einsums")
MIB = 2.0**20


class Case:
    """The inputs of one merge, the same for every way to compute it."""

    def __init__(self, out: int, inner: int, experts: int, rank: int, rows: int) -> None:
        torch.manual_seed(0)
        self.experts = torch.randn(experts, out, inner).requires_grad_()
        self.base = torch.randn(out, inner).requires_grad_()
        self.weights = torch.rand(rows, experts).requires_grad_()
        self.curvature = KroneckerCurvature(experts, {"w": (out, inner)}, rank, True)
        self.upstream = torch.randn(1, 1, 1)

    @property
    def leaves(self) -> list[Tensor]:
        return [self.experts, self.base, self.weights, *self.curvature.parameters()]

    def run(self, name: str) -> list[Tensor]:
        """Gradients of all inputs."""
        if name == "inputs":
            return []
        merged = self.ours() if name == "ours" else self.einsums()
        return list(torch.autograd.grad((merged * self.upstream).sum(), self.leaves))

    def ours(self) -> Tensor:
        slot = Slot("w", (self.experts,), True)
        return curved_merge(slot, self.base, self.weights, self.curvature.slot("w"), ties=False)

    def einsums(self) -> Tensor:
        a, a2, b, b2 = (getattr(self.curvature, f"w_{name}") for name in FACTORS)
        tau = self.experts - self.base
        x = tau.reshape(len(tau), a.shape[-1], a2.shape[-1], b.shape[-1], b2.shape[-1])
        x = torch.einsum("nrpa,nabcd->nrpbcd", a, x)
        x = torch.einsum("nrqb,nrpbcd->nrpqcd", a2, x)
        x = torch.einsum("nrsc,nrpqcd->nrpqsd", b, x)
        x = torch.einsum("nrtd,nrpqsd->nrpqst", b2, x)
        curved = self.curvature.scale * x.sum(1).reshape(tau.shape)
        return self.base + torch.einsum("bn,noi->boi", self.weights, curved)


def peak_of_this_process() -> float:
    """Peak of resident memory in MiB. ru_maxrss would tell that of the process before exec, too."""
    status = Path("/proc/self/status")
    if status.exists():
        return next(int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith("VmHWM")) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def peak(name: str, quick: bool) -> float:
    """Peak of resident memory of a process that runs one way, in MiB."""
    command = [sys.executable, "-m", "benchmarks.camex_memory", "--one", name, *(["--quick"] if quick else [])]
    root = Path(__file__).resolve().parent.parent
    return float(subprocess.run(command, check=True, capture_output=True, text=True, cwd=root).stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a sixteenth of the parameters")
    parser.add_argument("--one", choices=NAMES, help="run one way and print the peak of resident memory in MiB")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    sizes = QUICK if options.quick else FULL
    if options.one:
        Case(**sizes).run(options.one)
        print(peak_of_this_process())
        return
    measure.limit_torch_threads()
    case = Case(**sizes)
    worst = max(
        float((one - other).abs().max() / other.abs().max())
        for one, other in zip(case.run("ours"), case.run("einsums"), strict=True)
    )
    calls = {name: (lambda name=name: case.run(name)) for name in NAMES[1:]}
    times = measure.interleaved(calls, dict.fromkeys(calls, 0.0), rounds=options.rounds, shortest=0.0)
    memory = {name: peak(name, options.quick) for name in NAMES}
    extra = {name: memory[name] - memory["inputs"] for name in calls}
    print(measure.banner())
    rows = [[name, f"{extra[name]:.0f}", f"{times[name]:.2f}"] for name in calls]
    title = f"One curved merge with its backward pass, {sizes}: memory beyond the inputs and seconds"
    print(measure.table(title, ["", "MiB", "s"], rows))
    inputs = sum(t.numel() for t in case.leaves) * 4 / MIB
    print(
        f"the einsums take {extra['einsums'] / extra['ours']:.1f} times the memory and "
        f"{times['einsums'] / times['ours']:.2f} times the time of ours (inputs and gradients: {2 * inputs:.0f} MiB); "
        f"largest difference of gradients {worst:.1e}"
    )
    if options.json:
        measure.write_json(options.json, {"sizes": sizes, "extra_mib": extra, "seconds": times, "difference": worst})


if __name__ == "__main__":
    main()
