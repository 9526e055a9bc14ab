"""The state of a training in one safetensors file: model, optimizer, random numbers, step."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

STATE = "state.safetensors"


def save_state(
    path: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    generator: torch.Generator,
    step: int,
    whole: bool = True,
    **more: Any,
) -> None:
    """Write everything that a continuation needs; a kill meanwhile leaves the earlier file.

    Parameters
    ----------
    path : of the file
    model, optimizer : at the end of a step
    generator : of the data
    step : steps done
    whole : False leaves out parameters and the optimizer's state, which another rank saves
    **more : values for JSON
    """
    from safetensors.torch import save_file

    apart = set() if whole else {name for name, _ in model.named_parameters(remove_duplicate=False)}
    tensors = {f"model/{name}": tensor for name, tensor in model.state_dict().items() if name not in apart}
    plain: dict[str, Any] = {}
    for index, state in optimizer.state_dict()["state"].items() if whole else ():
        for name, value in state.items():
            if isinstance(value, Tensor):
                tensors[f"optimizer/{index}/{name}"] = value
            else:
                plain[f"{index}/{name}"] = value
    tensors["random/data"] = generator.get_state()
    tensors["random/torch"] = torch.get_rng_state()
    if torch.cuda.is_initialized():
        tensors["random/cuda"] = torch.cuda.get_rng_state()
    told = {"step": step, "optimizer": plain, "more": more}
    aside = path.with_name(f"new-{path.name}")
    # Clones, because safetensors refuses tensors that share memory.
    save_file({k: t.detach().contiguous().clone() for k, t in tensors.items()}, aside, {"state": json.dumps(told)})
    aside.replace(path)


def load_state(
    path: Path, model: nn.Module, optimizer: torch.optim.Optimizer | None, generator: torch.Generator
) -> tuple[int, dict[str, Any]]:
    """Put a saved state back; returns the steps done and the values given as `more`.

    Of a state that is not whole, pass no optimizer: what it lacks stays as it is.
    """
    from safetensors import safe_open
    from safetensors.torch import load_file

    tensors = load_file(path)
    with safe_open(path, framework="pt") as stream:
        told = json.loads(stream.metadata()["state"])
    given = {k.removeprefix("model/"): t for k, t in tensors.items() if k.startswith("model/")}
    model.load_state_dict(given, strict=optimizer is not None)
    state: dict[int, dict[str, Any]] = {}
    for name, tensor in tensors.items():
        kind, _, rest = name.partition("/")
        if kind == "optimizer":
            index, _, field = rest.partition("/")
            state.setdefault(int(index), {})[field] = tensor
    for name, value in told["optimizer"].items():
        index, _, field = name.partition("/")
        state.setdefault(int(index), {})[field] = value
    if optimizer is not None:
        optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    generator.set_state(tensors["random/data"])
    torch.set_rng_state(tensors["random/torch"])
    if "random/cuda" in tensors:
        torch.cuda.set_rng_state(tensors["random/cuda"])
    return int(told["step"]), dict(told["more"])
