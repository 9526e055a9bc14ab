"""How alike the outputs of a released model's experts are on the same tokens: figures 1, 6 and 8 at full size."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from ...torch_moe.pictures import output_cosines, plot_cosines
from ..book import Book
from ..data.library_text import library_files
from ..panels import panels
from ..study import Claim, Records, Strict
from ._transformers import PAD, Tokens, byte_tokens, load, model_tokens


class Settings(Strict):
    """Model and text.

    Attributes
    ----------
    model : name on the hub, or folder
    layers : of the model's blocks of experts, whose maps are drawn
    texts, length : how many texts, and tokens of each; sources of Python's standard library
    dtype : of the model's weights
    sizes : of a random Switch Transformer, for reduced runs
    """

    model: str
    layers: list[int] = Field(default=[0, -1], min_length=1)
    texts: int = Field(default=16, ge=1)
    length: int = Field(default=128, ge=2)
    dtype: str = "bfloat16"
    sizes: dict[str, int] = Field(default_factory=dict)


def run(settings: Settings, book: Book) -> None:
    """One unit: every block of experts sees what it sees in the model, and all its experts answer."""
    for key in book.todo(["maps"]):
        model = build(settings).to(book.device).eval()
        tokenize = byte_tokens(settings.length) if settings.sizes else model_tokens(settings.model, settings.length)
        given = tokenize([text for _, text in library_files("test")[: settings.texts]]).to(book.device)
        maps = {name: found.round(4).tolist() for name, found in expert_maps(model, given).items()}
        book.record(key, model=settings.model, maps=maps, drawn=settings.layers)


def build(settings: Settings) -> Any:
    """The released model, or a small random one."""
    from transformers import (
        AutoConfig,
        AutoModelForCausalLM,
        AutoModelForSeq2SeqLM,
        SwitchTransformersConfig,
        SwitchTransformersForConditionalGeneration,
    )

    if settings.sizes:
        torch.manual_seed(0)
        config: Any = SwitchTransformersConfig
        return SwitchTransformersForConditionalGeneration(config(decoder_start_token_id=PAD, **settings.sizes))
    pair = load(AutoConfig, settings.model).is_encoder_decoder
    kind = AutoModelForSeq2SeqLM if pair else AutoModelForCausalLM
    return load(kind, settings.model, dtype=getattr(torch, settings.dtype))


@torch.no_grad()
def expert_maps(model: Any, given: Tokens) -> dict[str, np.ndarray]:
    """Name of each block -> mean cosines (N, N) of its experts' outputs on the tokens that are not padding."""
    from ...transformers.finding import find_blocks

    ids, mask = given.ids, given.mask
    found: dict[str, np.ndarray] = {}

    def look(block: Any) -> Any:
        def hook(_: nn.Module, given: tuple[Tensor, ...]) -> None:
            x = given[0].reshape(-1, given[0].shape[-1])
            x = x[mask.reshape(-1)] if len(x) == mask.numel() else x
            outputs = []
            for i in range(block.experts.n_experts):
                expert = block.experts.expert(i)
                outputs.append((block.experts.activation(x @ expert["up_proj"].mT) @ expert["down_proj"].mT).float())
            found[block.place.name] = output_cosines(torch.stack(outputs).cpu().numpy())

        return block.module.register_forward_pre_hook(hook)

    handles = [look(block) for block in find_blocks(model)]
    more = {"decoder_input_ids": ids} if model.config.is_encoder_decoder else {}
    model(input_ids=ids, attention_mask=mask.long(), **more)
    for handle in handles:
        handle.remove()
    return found


def reduced(settings: Settings) -> Settings:
    """A tiny random Switch Transformer."""
    sizes = {"d_model": 16, "d_ff": 16, "d_kv": 8, "num_layers": 2, "num_decoder_layers": 2, "num_heads": 2}
    sizes |= {"num_sparse_encoder_layers": 1, "num_sparse_decoder_layers": 1, "num_experts": 4, "vocab_size": 260}
    return settings.changed(sizes=sizes, texts=2, length=16)


def pictures(records: Records, curves: Any) -> dict[str, Any]:
    """The maps of the chosen layers."""
    (record,) = [r for r in records if "maps" in r]
    names = list(record["maps"])
    chosen = [names[k] for k in record["drawn"] if -len(names) <= k < len(names)]
    axes = panels(1, len(chosen), (4.5 * len(chosen), 4.0))
    for ax, name in zip(axes, chosen, strict=True):
        plot_cosines(np.array(record["maps"][name], dtype=float), title=name, ax=ax)
    return {"maps": axes[0]}


def claims(records: Records) -> list[Claim]:
    """Figures 1, 6 and 8 say that experts differ by layer."""
    (record,) = [r for r in records if "maps" in r]
    means = [off_diagonal(np.array(found, dtype=float)) for found in record["maps"].values()]
    return [
        Claim(
            "Outputs of experts are alike in some layers and far apart in others",
            "figures 1, 6 and 8",
            f"mean cosine of two experts: {min(means):.2f} to {max(means):.2f} over {len(means)} layers",
            "reproduced" if max(means) - min(means) > 0.2 else "not reproduced",
            "a range above 0.2 counts as different",
        )
    ]


def off_diagonal(cosines: np.ndarray) -> float:
    """Mean over pairs of different experts."""
    return float(np.nanmean(cosines[~np.eye(len(cosines), dtype=bool)]))
