"""An output in transformers: no key missing, none unexpected, finite logits."""

from __future__ import annotations

import logging
import os
import warnings
from typing import Any, Protocol

from .folder import Checkpoint


class Findings(Protocol):
    """Where the outcome goes."""

    checks: list[str]
    problems: list[str]


def load_and_run(checkpoint: Checkpoint, found: Findings, *, required: bool) -> None:
    """Load the folder with its own architecture and run eight tokens; remote code is never run."""
    try:
        import torch
        import transformers
    except ImportError as error:
        text = f"not loaded: {error.name} is not installed"
        (found.problems if required else found.checks).append(text)
        return
    name = (checkpoint.config.get("architectures") or [""])[0]
    kind: Any = getattr(transformers, str(name), None)
    if kind is None:
        text = f"not loaded: transformers {transformers.__version__} has no {name or 'architecture for it'}"
        (found.problems if required else found.checks).append(text)
        return
    logger = logging.getLogger("transformers")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model, info = kind.from_pretrained(os.fspath(checkpoint.path), output_loading_info=True)
            tokens = torch.arange(8).remainder(int(model.config.vocab_size))[None]
            extra = {"decoder_input_ids": tokens} if getattr(model.config, "is_encoder_decoder", False) else {}
            with torch.no_grad():
                logits = model.eval()(input_ids=tokens, **extra).logits
    except Exception as error:
        found.problems.append(f"{name} cannot be loaded and run: {type(error).__name__}: {str(error)[:300]}")
        return
    finally:
        logger.setLevel(level)
    for what in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        keys = sorted(map(str, info.get(what) or ()))
        if keys:
            found.problems.append(f"{name} reports {len(keys)} {what.replace('_', ' ')}: {', '.join(keys[:5])}")
    if not bool(torch.isfinite(logits).all()):
        found.problems.append(f"{name} computes logits that are not finite")
    elif not found.problems:
        found.checks.append(f"{name} loads with every key and computes finite logits")
