"""Three tasks share one network on handwritten digits: which rule for their step trains all of them, and at what cost?

    python examples/multitask_digits.py [--steps 300] [--seeds 3] [--out multitask_digits.png] [--json FILE]

The tasks differ in kind and in the size of their losses: the digit (ten classes), whether it is odd, and the picture's
two centre-of-ink coordinates in pixels (a regression, whose loss is large). nashsolve's aggregator trains next to
TorchJD's own NashMTL, UPGrad, MGDA and Mean through the same lines of code. Needs
`pip install "nashsolve[torchjd,plot]" scikit-learn`; NashMTL also cvxpy and ecos, UPGrad quadprog and qpsolvers.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torchjd.aggregation import MGDA, Aggregator, Mean, UPGrad
from torchjd.aggregation import NashMTL as PublishedNashMTL
from torchjd.autojac import jac_to_grad, mtl_backward

from nashsolve.integrations.torchjd import NashBargaining

TASKS = ("digit: error rate", "odd: error rate", "centre of ink: RMS error, pixels")
RULES: dict[str, Callable[[], Aggregator]] = {
    "nashsolve NashBargaining": NashBargaining,
    "TorchJD NashMTL": lambda: PublishedNashMTL(n_tasks=3),
    "TorchJD UPGrad": UPGrad,
    "TorchJD MGDA": MGDA,
    "TorchJD Mean": Mean,
}


@dataclass
class Run:
    """Test figures (steps, 3) every few steps, and the processor time of the steps alone."""

    rule: str
    seed: int
    at: list[int] = field(default_factory=list)
    figures: list[list[float]] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    hurt: int = 0
    """Steps against the gradient of some task."""

    @property
    def milliseconds(self) -> float:
        return 1e3 * sorted(self.seconds)[len(self.seconds) // 2]


class Network(nn.Module):
    """A shared trunk and one linear head for each task."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(64, 48), nn.Tanh(), nn.Linear(48, 24), nn.Tanh())
        self.heads = nn.ModuleList([nn.Linear(24, 10), nn.Linear(24, 1), nn.Linear(24, 2)])


def data() -> tuple[list[Tensor], list[Tensor]]:
    """Training and test (x, digit, odd, centre)."""
    digits = load_digits()
    x = torch.tensor(digits.data, dtype=torch.float32) / 16
    label = torch.tensor(digits.target)
    ink = x.view(-1, 8, 8) / x.sum(-1)[:, None, None]
    place = torch.arange(8.0)
    centre = torch.stack([(ink.sum(2) * place).sum(1), (ink.sum(1) * place).sum(1)], 1)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    parts = [t[order] for t in (x, label, (label % 2).float(), centre)]
    return [t[:1200] for t in parts], [t[1200:] for t in parts]


def losses(network: Network, h: Tensor, label: Tensor, odd: Tensor, centre: Tensor) -> list[Tensor]:
    """The three losses from the shared features h."""
    return [
        nn.functional.cross_entropy(network.heads[0](h), label),
        nn.functional.binary_cross_entropy_with_logits(network.heads[1](h)[:, 0], odd),
        100 * nn.functional.mse_loss(network.heads[2](h), centre),
    ]


@torch.no_grad()
def evaluate(network: Network, x: Tensor, label: Tensor, odd: Tensor, centre: Tensor) -> list[float]:
    h = network.trunk(x)
    wrong = (network.heads[0](h).argmax(1) != label).float().mean()
    missed = ((network.heads[1](h)[:, 0] > 0) != odd.bool()).float().mean()
    off = (network.heads[2](h) - centre).square().sum(1).mean().sqrt()
    return [wrong.item(), missed.item(), off.item()]


class Training:
    """One network trained by one rule: plain SGD with momentum, the trunk by the rule, every head by its own loss."""

    def __init__(self, rule: str, seed: int) -> None:
        torch.manual_seed(seed)
        self.network, self.run = Network(), Run(rule, seed)
        self.train_set, self.test_set = data()
        self.aggregator = RULES[rule]()
        self.trunk = list(self.network.trunk.parameters())
        self.picks = torch.Generator().manual_seed(seed)
        heads = self.network.heads
        self.optimizers = [
            torch.optim.SGD(self.trunk, lr=0.02, momentum=0.9),
            torch.optim.SGD([*heads[0].parameters(), *heads[1].parameters()], lr=0.2, momentum=0.9),
            torch.optim.SGD(heads[2].parameters(), lr=0.0005, momentum=0.9),
        ]

    def step(self) -> None:
        pick = torch.randint(len(self.train_set[0]), (64,), generator=self.picks)
        begin = time.process_time()
        x, *targets = [t[pick] for t in self.train_set]
        h = self.network.trunk(x)
        mtl_backward(losses(self.network, h, *targets), features=h)
        jacobian = torch.cat([p.jac.flatten(1) for p in self.trunk], 1)
        jac_to_grad(self.trunk, self.aggregator)
        moved = torch.cat([p.grad.ravel() for p in self.trunk])
        norm = moved.norm().clamp(min=1e-12)
        for p in self.trunk:
            p.grad /= norm  # every rule makes a step of length one, so that directions are compared, not lengths
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad()
        self.run.seconds.append(time.process_time() - begin)
        self.run.hurt += int(bool((jacobian @ moved < -1e-6 * jacobian.norm(dim=1) * norm).any()))

    def evaluate(self, step: int) -> None:
        self.run.at.append(step)
        self.run.figures.append(evaluate(self.network, *self.test_set))


def train(seed: int, steps: int) -> list[Run]:
    """All rules side by side, one step of each in turn, so that their times can be compared."""
    trainings = []
    for rule in RULES:
        try:
            trainings.append(Training(rule, seed))
        except ImportError as error:
            print(f"{rule} is left out: {error}")
    for step in range(steps + 1):
        for training in trainings:
            if step % max(1, steps // 30) == 0 or step == steps:
                training.evaluate(step)
            if step < steps:
                training.step()
    return [training.run for training in trainings]


def picture(runs: Sequence[Run], path: Path) -> None:
    """One panel for each task, one line for each rule: the mean over the seeds."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, 3, figsize=(12, 3.8), layout="constrained")
    for k, (axis, name) in enumerate(zip(axes, TASKS, strict=True)):
        for rule in RULES:
            mine = [r for r in runs if r.rule == rule]
            if mine:
                mean = torch.tensor([r.figures for r in mine]).mean(0)[:, k]
                ours = rule.startswith("nashsolve")
                label = f"{rule}, {sorted(r.milliseconds for r in mine)[len(mine) // 2]:.1f} ms a step"
                axis.plot(mine[0].at, mean, label=label, linewidth=2.4 if ours else 1.4, zorder=3 if ours else 2)
        axis.set(title=name, xlabel="step", yscale="log")
        axis.grid(alpha=0.3, which="both")
    axes[0].legend(fontsize=8)
    figure.suptitle("Three tasks, one trunk: test figures while training (lower is better)")
    figure.savefig(path, dpi=130)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("multitask_digits.png"))
    parser.add_argument("--json", type=Path, help="write all figures to this file")
    options = parser.parse_args(arguments)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # CVXPY warns at every problem that NashMTL compiles anew
        runs = [run for seed in range(options.seeds) for run in train(seed, options.steps)]
    print(f"{'':26}{'ms a step':>10}{'steps that hurt a task':>24}   {'   '.join(TASKS)}")
    for rule in dict.fromkeys(run.rule for run in runs):
        mine = [run for run in runs if run.rule == rule]
        last = torch.tensor([r.figures[-1] for r in mine]).mean(0).tolist()
        middle = sorted(r.milliseconds for r in mine)[len(mine) // 2]
        hurt = f"{sum(r.hurt for r in mine)} of {options.steps * len(mine)}"
        cells = "   ".join(f"{v:>{len(t)}.4f}" for v, t in zip(last, TASKS, strict=True))
        print(f"{rule:26}{middle:>10.2f}{hurt:>24}   {cells}")
    picture(runs, options.out)
    print(f"curves: {options.out}")
    if options.json:
        content = [asdict(r) | {"seconds": None, "milliseconds": r.milliseconds} for r in runs]
        options.json.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
