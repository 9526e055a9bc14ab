"""What merging adds is saved beside the model: its keys and files stay those of the plain model."""

from __future__ import annotations

import hashlib
import json
import types
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

from nashsolve.core.errors import InvalidProblem

from .merging import NAME, Merging, merging_of

TENSORS, SETTINGS = "nashsolve.safetensors", "nashsolve.json"
FORMAT = 1


def save_beside(model: Any, merging: Merging) -> list[Callable[[], object]]:
    """Let `save_pretrained` leave merging out of the model's file and write it into its own; returns what undoes."""
    before = model._keys_to_ignore_on_save
    model._keys_to_ignore_on_save = {*(before or ()), *(f"{NAME}.{key}" for key in merging.state_dict())}
    model.save_pretrained = types.MethodType(_save_pretrained, model)

    handle = model.register_load_state_dict_post_hook(_note)
    return [partial(_unsave, model, before), handle.remove]


def _note(model: Any, keys: Any) -> None:
    """Weights were loaded, perhaps by a Trainer: was merging among them?"""
    merging_of(model).mark(any(key.startswith(f"{NAME}.") for key in keys.missing_keys))


def _unsave(model: Any, before: Any) -> None:
    model._keys_to_ignore_on_save = before
    del model.save_pretrained


def _save_pretrained(self: Any, save_directory: Any, is_main_process: bool = True, **options: Any) -> Any:
    """As the class's own, with two files of merging beside."""
    if options.get("push_to_hub"):
        raise InvalidProblem("push_to_hub would leave merging behind: save first, then upload the folder")
    merging = merging_of(self)
    if merging.upcycled:
        # The original format of a dense model has no names for experts.
        options["save_original_format"] = False
    elif merging.save_fused:
        options.setdefault("save_original_format", False)
    result = type(self).save_pretrained(self, save_directory, is_main_process=is_main_process, **options)
    # Where the model is sharded, every rank is called to give its part, and the first one writes.
    if getattr(self, "should_save_on_this_rank", bool)(is_main_process):
        write(self, merging, Path(save_directory))
    return result


def write(model: nn.Module, merging: Merging, folder: Path) -> None:
    """Tensors and settings of merging, each complete or not there at all."""
    tensors = {key: t.detach().cpu().contiguous().clone() for key, t in merging.saved_state().items()}
    content: dict[str, Any] = {
        "format": FORMAT,
        "kind": type(merging.config).__name__,
        "config": merging.config.model_dump(mode="json", exclude_unset=True),
        "routers": routers_digest(merging),
    }
    part = folder / f"{TENSORS}.part"
    save_file(tensors, part, metadata={"format": "pt", "routers": content["routers"]})
    part.replace(folder / TENSORS)
    part = folder / f"{SETTINGS}.part"
    part.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    part.replace(folder / SETTINGS)


def routers_digest(merging: Merging) -> str:
    """SHA-256 of all routers' tensors: whether a file of merging belongs to a model's weights."""
    digest = hashlib.sha256()
    for layer in merging.members:
        for key, tensor in sorted(layer.router.module.state_dict().items()):
            # In bfloat16, so that a model may be loaded in another precision than it was saved in.
            flat = tensor.detach().cpu().bfloat16().contiguous().reshape(-1).view(torch.uint8)
            digest.update(key.encode())
            digest.update(flat.numpy().tobytes())
    return digest.hexdigest()
