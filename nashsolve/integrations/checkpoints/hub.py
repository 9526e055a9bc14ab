"""Models by name: a local folder as it is; a name on the hub only with the full commit, into a folder of its own."""

from __future__ import annotations

import os
import re
from pathlib import Path

from nashsolve.core.errors import MissingExtra

from .errors import CheckpointRefused
from .header import show

_PATTERNS = ["*.safetensors", "*.json", "tokenizer*", "*.txt", "*.model"]


def locate(model: str, revision: str | None) -> Path:
    """The folder of a model.

    Parameters
    ----------
    model : a folder, or owner/name on the hub
    revision : full commit (40 hexadecimal digits), needed for the hub, refused for a folder

    Raises
    ------
    CheckpointRefused, MissingExtra
    """
    folder = Path(model).expanduser()
    if folder.exists():
        if revision is not None:
            raise CheckpointRefused(f"{folder.name} is a folder, which has no revision; leave revision out")
        return folder
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", model):
        raise CheckpointRefused(f"model {show(model)} is no folder here, and no owner/name of a hub either")
    if revision is None or not re.fullmatch(r"[0-9a-f]{40}", revision):
        raise CheckpointRefused(
            f"model {show(model)} is no folder here; from the hub it needs revision, the full commit of 40 hexadecimal "
            f"digits, so that the merge can be repeated (it is {show(revision)})"
        )
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.constants import HF_HUB_CACHE, HF_HUB_OFFLINE
    except ImportError:
        raise MissingExtra("huggingface-hub", "moe", f"model {model}") from None
    target = Path(HF_HUB_CACHE) / "nashsolve" / f"{model.replace('/', '--')}-{revision}"
    if HF_HUB_OFFLINE:
        if not target.is_dir():
            raise CheckpointRefused(f"{model} at {revision[:8]} is not in the cache, and the hub is switched off")
        return target
    return Path(snapshot_download(model, revision=revision, allow_patterns=_PATTERNS, local_dir=os.fspath(target)))
