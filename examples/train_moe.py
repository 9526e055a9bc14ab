"""Train a small byte-level transformer on the sources of Python's standard library, with any of the systems.

    python examples/train_moe.py --system namex_full
    python examples/train_moe.py --system smoe_top2 --seconds 30 --out run

Prints bits per byte on held-out files and the share of the training time that bargaining and the base-expert chain
take, and writes telemetry and pictures into the folder named by --out (train-moe-run).
"""

from __future__ import annotations

import math
import time
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from sysconfig import get_paths
from typing import Annotated, Any

import torch
import typer
from torch import nn
from tqdm import tqdm

from nashsolve.integrations.torch_moe import SYSTEMS, MoE, MoEConfig, link
from nashsolve.integrations.torch_moe.chain_clock import ChainClock
from nashsolve.integrations.torch_moe.feed_forward import feed_forward
from nashsolve.integrations.torch_moe.pictures import (
    output_cosines,
    plot_alpha_map,
    plot_base_updates,
    plot_cosines,
    plot_stability_map,
)
from nashsolve.integrations.torch_moe.routers import ROUTERS, follow
from nashsolve.integrations.torch_moe.small_transformer import SmallTransformer
from nashsolve.integrations.torch_moe.strict import nearest
from nashsolve.integrations.torch_moe.telemetry import Telemetry
from nashsolve.plotting import save

VOCAB = 256
BY_TOKEN = ("smoe_top1", "smoe_top1_published", "smoe_top2", "token_nash", "usage")
OVER_A_BASE = ("camex", "ep_camex", "namex")


def read_sources() -> tuple[torch.Tensor, torch.Tensor]:
    """Bytes of the standard library without its tests: training and held-out files, split by a hash of their names."""
    root = Path(get_paths()["stdlib"])
    parts: dict[bool, list[bytes]] = {False: [], True: []}
    for path in sorted(root.rglob("*.py")):
        name = path.relative_to(root).as_posix()
        if name.startswith("site-packages/") or any(word in name for word in ("test/", "tests/", "idle_test")):
            continue
        parts[zlib.crc32(name.encode()) % 20 == 0].append(path.read_bytes())
    train, held_out = (torch.frombuffer(bytearray(b"".join(parts[k])), dtype=torch.uint8) for k in (False, True))
    return train, held_out


def draw(data: torch.Tensor, batch: int, length: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Random windows (batch, length) and the bytes that follow."""
    starts = torch.randint(0, len(data) - length - 1, (batch, 1), generator=generator)
    windows = data[starts + torch.arange(length + 1)].long()
    return windows[:, :-1], windows[:, 1:]


def make_config(system: str, d_model: int, experts: int, eta: float, segment: int, router: str = "") -> MoEConfig:
    """Settings of a system: routed by tokens where it selects experts, by the segment before where it merges them."""
    own = SYSTEMS.get(system, {})
    name, options = own.get("router", {}).get("name", "linear"), dict(own.get("router", {}).get("options", {}))
    if router and router != name:
        name, top_k = router, min(options.get("top_k", experts), experts)
        options = {"vocab_size": VOCAB, "reduction": "mean"} if router == "stable" else {"top_k": top_k}
    if system not in BY_TOKEN:
        options |= {"level": "segment", "segment_length": segment}
    settings: dict[str, Any] = {"router": {"name": name, "options": options}}
    if system.startswith(OVER_A_BASE) and "eta" not in own.get("merge", {}):
        settings["merge"] = {"eta": eta}
    if system.startswith("smoe"):
        settings["balance"] = {"switch": 0.01}
    return MoEConfig.preset(system, d_model=d_model, d_hidden=2 * d_model, n_experts=experts, **settings)


@torch.no_grad()
def bits_per_byte(model: SmallTransformer, data: torch.Tensor, length: int, windows: int) -> float:
    """Mean code length on windows spread evenly over the data."""
    model.eval()
    starts = torch.linspace(0, len(data) - length - 2, windows).long()[:, None]
    rows = data[starts + torch.arange(length + 1)].long()
    total = 0.0
    for part in rows.split(8):
        logits = model(part[:, :-1])
        total += float(nn.functional.cross_entropy(logits.flatten(0, 1), part[:, 1:].flatten(), reduction="sum"))
    model.train()
    return total / (rows.shape[0] * length) / math.log(2)


def check_name(option: str, name: str, known: list[str]) -> None:
    """Refuse a name that is not known, with the nearest that is."""
    if name not in known:
        raise typer.BadParameter(f"{option} {name!r}: {nearest(name, [word for word in known if word])}")


@dataclass
class Trainer:
    """One training run: the model with its chains, the data, and what is seen on the way."""

    model: SmallTransformer
    chains: list[Any]
    data: torch.Tensor
    batch: int
    length: int
    lr: float
    seed: int
    history: Telemetry = field(default_factory=Telemetry)
    clock: ChainClock = field(default_factory=ChainClock)
    seconds: float = 0.0

    def fit(self, seconds: float, steps: int) -> int:
        """Train until the time or the steps are over; returns the number of steps."""
        optimizer = torch.optim.AdamW(self.model.parameters(), lr=self.lr, betas=(0.9, 0.98), weight_decay=0.01)
        if self.model.layers():
            follow(optimizer, self.model)
        generator = torch.Generator().manual_seed(self.seed)
        bar = tqdm(total=round(seconds), unit="s", disable=None)
        step = 0
        while self.seconds < seconds and step < steps:
            begin = time.perf_counter()
            progress = max(self.seconds / seconds, step / steps)
            for group in optimizer.param_groups:
                group["lr"] = self.lr * min(1.0, (step + 1) / 50) * (0.1 + 0.45 * (1 + math.cos(math.pi * progress)))
            loss = self.step(optimizer, generator) / math.log(2)
            self.seconds += time.perf_counter() - begin
            if step % 10 == 0:
                self.history.log(step, self.chains, self.model, bits_per_byte=loss)
                bar.set_postfix_str(f"step {step}, {loss:.3f} bits per byte")
            bar.update(min(int(self.seconds), round(seconds)) - bar.n)
            step += 1
        bar.close()
        return step

    def step(self, optimizer: torch.optim.Optimizer, generator: torch.Generator) -> float:
        """One optimizer step; returns the loss in nats per byte, without balance losses."""
        x, y = draw(self.data, self.batch, self.length, generator)
        optimizer.zero_grad(set_to_none=True)
        with self.clock.gathered(self.chains):
            loss = nn.functional.cross_entropy(self.model(x).flatten(0, 1), y.flatten())
            (loss + self.model.auxiliary_loss()).backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        optimizer.step()
        return loss.item()


def draw_pictures(out: Path, run: Trainer, data: torch.Tensor) -> list[Path]:
    """Everything there is to see of this run."""
    drawn = []
    if run.chains:
        chain = run.chains[0]
        drawn += [
            save(plot_alpha_map(run.history, chain=chain.name), out / "coefficients.png"),
            save(plot_base_updates(run.history, chain=chain.name), out / "base_updates.png"),
        ]
        h = max(record["h"] for record in chain.report())
        momentum = {"this run": complex(chain.momentum.multiplier)}
        drawn.append(save(plot_stability_map(1.0, h, momentum, published=False), out / "stability.png"))
    if run.model.layers():
        outputs = expert_outputs(run.model, run.model.layers()[-1], data[None, : run.length].long())
        title = "outputs of the last layer's experts"
        drawn.append(save(plot_cosines(output_cosines(outputs), title=title), out / "outputs.png"))
    return drawn


@torch.no_grad()
def expert_outputs(model: SmallTransformer, layer: MoE, ids: torch.Tensor) -> torch.Tensor:
    """Outputs (N, tokens, d) of every expert of a layer on the same tokens, whatever the router says."""
    seen: list[torch.Tensor] = []
    handle = layer.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    model(ids)
    handle.remove()
    x = seen[0].reshape(-1, seen[0].shape[-1])
    every = range(layer.config.n_experts)
    return torch.stack([feed_forward(x, layer.experts.expert(i), layer.config.activation) for i in every])


def train(
    system: Annotated[str, typer.Option(help=f"dense, {', '.join(SYSTEMS)}")] = "namex_full",
    seconds: Annotated[float, typer.Option(help="training time", min=1.0)] = 120.0,
    steps: Annotated[int, typer.Option(help="largest number of steps; 0 for no limit", min=0)] = 0,
    eta: Annotated[float, typer.Option(help="step from the base expert to the merged expert")] = 0.5,
    router: Annotated[str, typer.Option(help=f"in place of the system's own: {', '.join(ROUTERS)}")] = "",
    layers: int = 4,
    d_model: int = 96,
    heads: int = 4,
    experts: int = 8,
    length: int = 256,
    segment: Annotated[int, typer.Option(help="tokens that share one merged expert")] = 64,
    batch: int = 8,
    lr: float = 3e-3,
    seed: int = 0,
    threads: Annotated[int, typer.Option(help="0 keeps PyTorch's choice; try 1 on a busy machine", min=0)] = 0,
    out: Annotated[Path | None, typer.Option(help="folder for telemetry.jsonl and pictures")] = Path("train-moe-run"),
) -> None:
    """Train, print bits per byte and the merging's share of the step, draw the telemetry."""
    check_name("--system", system, ["dense", *SYSTEMS])
    check_name("--router", router, ["", *ROUTERS])
    if threads:
        torch.set_num_threads(threads)
    torch.manual_seed(seed)
    config = None if system == "dense" else make_config(system, d_model, experts, eta, segment, router)

    def make() -> nn.Module:
        hidden = 2 * d_model
        dense = nn.Sequential(nn.Linear(d_model, hidden), nn.GELU(), nn.Linear(hidden, d_model))
        return dense if config is None else MoE(config)

    model = SmallTransformer(VOCAB, d_model, layers, heads, make)
    chains = link(model) if config is not None and config.chain is not None else []
    data, held_out = read_sources()
    run = Trainer(model, chains, data, batch, length, lr, seed)
    step = run.fit(seconds, steps or 10**9)
    parameters = sum(p.numel() for p in model.parameters()) / 1e6
    print(f"{system}: {parameters:.2f} M parameters, {step} steps of {batch * length} bytes in {run.seconds:.0f} s")
    print(f"held-out bits per byte: {bits_per_byte(model, held_out, length, windows=64):.3f}")
    print(f"bytes per second: {step * batch * length / run.seconds:,.0f}")
    if chains:
        share, solve = 100 * run.clock.total / run.seconds, 100 * run.clock.solves / run.seconds
        print(f"merging's share of the training step: {share:.2f} % (base-expert chain; its solves are {solve:.2f} %)")
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        print(f"wrote {run.history.save(out / 'telemetry.jsonl')}")
        for path in draw_pictures(out, run, held_out):
            print(f"drew {path}")


if __name__ == "__main__":
    typer.run(train)
