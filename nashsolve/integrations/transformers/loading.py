"""Models that merge, read back from a folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import nn

from nashsolve.core.errors import InvalidProblem

from ..torch_moe.strict import nearest
from .config import ConvertConfig, MergingConfig
from .conversion import convert
from .merging import NAME, Merging
from .saving import FORMAT, SETTINGS, TENSORS, routers_digest
from .upcycle_config import UpcycleConfig

KINDS: dict[str, type[MergingConfig]] = {"ConvertConfig": ConvertConfig, "UpcycleConfig": UpcycleConfig}


def from_pretrained(folder: str | Path, kind: Any = None, **options: Any) -> Any:
    """A model with its merging, as `save_pretrained` wrote them.

    Parameters
    ----------
    folder : that `save_pretrained` of a converted or upcycled model wrote
    kind : class of transformers, such as AutoModelForCausalLM; by default the one that the folder names
    **options : of the class's own `from_pretrained` (dtype, device_map, ...); not for upcycled models

    Returns
    -------
    the model, in evaluation mode; its merging is ``model.nashsolve``

    Raises
    ------
    InvalidProblem
    """
    settings = read_settings(folder)
    if isinstance(settings, UpcycleConfig):
        if options:
            raise InvalidProblem(f"an upcycled model takes no options here (got {', '.join(options)})")
        return _upcycled(Path(folder), settings, kind)
    model = (kind or _named(folder)).from_pretrained(str(folder), **options)
    load_merging(model, folder)
    return model


def load_merging(model: Any, folder: str | Path, *, check: bool = True) -> Merging:
    """Read merging into a model that holds the folder's weights; the model is converted first if it is not.

    Parameters
    ----------
    model : a PreTrainedModel
    folder : with `nashsolve.json` and `nashsolve.safetensors`
    check : refuse files that were saved with other routers, that is, with another model's weights

    Returns
    -------
    Merging

    Raises
    ------
    InvalidProblem
    """
    settings = read_settings(folder)
    found = getattr(model, NAME, None)
    if isinstance(found, Merging):
        merging = found
        if merging.config != settings:
            raise InvalidProblem(f"the model merges with other settings than {folder} was saved with")
    elif isinstance(settings, ConvertConfig):
        merging = convert(model, settings, show=False)
    else:
        raise InvalidProblem(f"{folder} holds an upcycled model; read it with from_pretrained")
    if check and _written(folder)["routers"] != routers_digest(merging):
        raise InvalidProblem(f"the merging in {folder} was saved with other weights than this model's")
    fill(merging, folder)
    return merging


def fill(merging: Merging, folder: str | Path) -> None:
    """Copy the saved tensors in; every name and shape must fit."""
    tensors = load_file(Path(folder) / TENSORS)
    wanted = {key: tuple(t.shape) for key, t in merging.state_dict().items()}
    given = {key: tuple(t.shape) for key, t in tensors.items()}
    if wanted != given:
        odd = sorted(set(wanted.items()) ^ set(given.items()))
        raise InvalidProblem(f"{TENSORS} in {folder} does not fit the model: {odd[0][0]!r} differs")
    merging.load_state_dict(tensors)
    merging.mark(behind=False)
    for layer in merging.members:
        if layer.base is not None:
            layer.base.ready = True
    merging.invalidate()


def read_settings(folder: str | Path) -> MergingConfig:
    """The settings that a folder's merging was saved with."""
    written = _written(folder)
    if written.get("format") != FORMAT or written.get("kind") not in KINDS:
        raise InvalidProblem(f"{SETTINGS} in {folder} was written by another release of nashsolve")
    return KINDS[written["kind"]](**written["config"])


def _written(folder: str | Path) -> dict[str, Any]:
    path = Path(folder) / SETTINGS
    if not path.is_file() or not (Path(folder) / TENSORS).is_file():
        raise InvalidProblem(f"{folder} holds no {SETTINGS} and {TENSORS}: nothing that merges was saved there")
    written: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return written


def _named(folder: str | Path) -> Any:
    """The class of transformers that a folder's config.json names."""
    import transformers

    names = json.loads((Path(folder) / "config.json").read_text(encoding="utf-8")).get("architectures") or ["none"]
    if not hasattr(transformers, names[0]):
        raise InvalidProblem(f"architecture {names[0]!r} is unknown; {nearest(names[0], dir(transformers))}")
    return getattr(transformers, names[0])


def _upcycled(folder: Path, settings: UpcycleConfig, kind: Any) -> Any:
    """Build the dense model without weights, upcycle it without starts, and fill everything."""
    from transformers import AutoConfig

    from .upcycling import upcycle

    config = AutoConfig.from_pretrained(str(folder))
    model = (kind or _named(folder))._from_config(config)
    upcycle(model, settings, show=False)
    tensors: dict[str, torch.Tensor] = {}
    for path in sorted(folder.glob("model*.safetensors")):
        tensors |= load_file(path)
    _load(model, tensors, folder)
    fill(model.nashsolve, folder)
    return model.eval()


def _load(model: nn.Module, tensors: dict[str, torch.Tensor], folder: Path) -> None:
    """All weights but merging's own; only tied ones may be missing."""
    result = model.load_state_dict(tensors, strict=False)
    model.tie_weights()  # type: ignore[operator]
    tied = set(getattr(model, "all_tied_weights_keys", None) or ())
    missing = [key for key in result.missing_keys if not key.startswith(f"{NAME}.") and key not in tied]
    if missing or result.unexpected_keys:
        raise InvalidProblem(f"the weights in {folder} do not fit: {(missing + result.unexpected_keys)[0]!r}")
