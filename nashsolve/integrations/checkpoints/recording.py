"""Inputs of every MoE block of a loaded model, written to a file that recipes name as calibration."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

from nashsolve.core.errors import MissingExtra

from .adapters import choose_adapter
from .calibration import SUFFIX
from .errors import CheckpointRefused


def record_calibration(
    model: Any, batches: Iterable[Any], path: str | os.PathLike[str], *, tokens: int = 4096
) -> dict[str, int]:
    """Run a model on some text and keep what goes into its MoE blocks.

    Parameters
    ----------
    model : model of transformers, of a supported family
    batches : integer tensors (batch, length), fed as ``input_ids`` until enough tokens are recorded
    path : safetensors file to write
    tokens : rows kept for each block

    Returns
    -------
    dict
        Rows recorded by block name.

    Raises
    ------
    CheckpointRefused, MissingExtra
    """
    try:
        import torch
        from safetensors.torch import save_file
    except ImportError as error:
        raise MissingExtra(str(error.name), "moe", "record_calibration") from None
    adapter = choose_adapter(model.config.to_dict())
    suffix = (adapter.fused_block or adapter.block).rpartition("*")[2]
    on_disk = adapter.block.rpartition("*")[2]
    found: dict[str, list[Any]] = {}
    hooks = []

    def keep(name: str) -> Any:
        def hook(module: Any, inputs: tuple[Any, ...]) -> None:
            rows = inputs[0].detach().reshape(-1, inputs[0].shape[-1]).float().cpu()
            found.setdefault(name, []).append(rows)

        return hook

    for name, module in model.named_modules():
        if name.endswith(suffix) and hasattr(module, "experts"):
            hooks.append(module.register_forward_pre_hook(keep(name.removesuffix(suffix) + on_disk)))
    if not hooks:
        raise CheckpointRefused(f"the model has no modules ...{suffix} with experts, as {adapter.name} should")
    training = model.training
    try:
        model.eval()
        with torch.no_grad():
            for batch in batches:
                model(input_ids=batch)
                if all(sum(map(len, rows)) >= tokens for rows in found.values()):
                    break
    finally:
        model.train(training)
        for hook in hooks:
            hook.remove()
    tensors = {name + SUFFIX: torch.cat(rows)[:tokens].contiguous() for name, rows in found.items()}
    save_file(tensors, os.fspath(path))
    return {name.removesuffix(SUFFIX): len(rows) for name, rows in tensors.items()}
