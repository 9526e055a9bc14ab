"""What the studies on transformers models share: systems as settings of conversion, and tokens without a tokenizer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from nashsolve.core.errors import InvalidProblem, MissingExtra

from ...torch_moe.config import MoEConfig
from ..systems import by_token, moe_config

PAD, END = 0, 1
"""Of byte tokens; a checkpoint's tokenizer has others, so that the mask alone says what is padding."""


@dataclass(frozen=True)
class Tokens:
    """Texts as ids (count, length) int64, filled behind, and a mask of the same shape, True where there is text."""

    ids: Tensor
    mask: Tensor

    def __getitem__(self, rows: Any) -> Tokens:
        return Tokens(self.ids[rows], self.mask[rows])

    def to(self, device: str) -> Tokens:
        """Both on a device."""
        return Tokens(self.ids.to(device), self.mask.to(device))

    def row(self, k: int) -> Tensor:
        """Ids of one text without what fills it."""
        return self.ids[k][self.mask[k]]


Tokenize = Callable[[Sequence[str]], Tokens]


def merging_settings(system: str, eta: float, chain: dict[str, Any] | None = None) -> dict[str, Any]:
    """Rule, curvature and chain of a system, as `upcycle` and `convert` take them."""
    more: dict[str, Any] = {"chain": chain} if chain else {}
    # Widths are the model's own; these only make the settings valid.
    found: MoEConfig = moe_config(
        system, level={"level": "sequence"}, eta=eta, d_model=4, d_hidden=4, n_experts=4, **more
    )
    settings: dict[str, Any] = {"merge": found.merge, "curvature": found.curvature, "chain": found.chain}
    return settings


def router_settings(system: str, name: str = "linear") -> dict[str, Any]:
    """The router of an upcycled system, whose weights sum to one."""
    if not by_token(system):
        return {"name": name, "options": {}}
    top_k = 1 if "top1" in system else 2
    return {"name": name, "options": {"top_k": top_k, "softmax": "after"}}


def byte_tokens(length: int, end: bool = True) -> Tokenize:
    """Bytes behind three special tokens, cut and filled to `length`; with `end` the last one is the end of the text."""

    def tokenize(texts: Sequence[str]) -> Tokens:
        ids = torch.full((len(texts), length), PAD)
        for row, text in zip(ids, texts, strict=True):
            found = [byte + 3 for byte in text.encode()[: length - end]] + [END] * end
            row[: len(found)] = torch.tensor(found)
        return Tokens(ids, ids != PAD)

    return tokenize


def model_tokens(model: str, length: int) -> Tokenize:
    """The tokenizer of a checkpoint, from a folder or the hub; texts are filled behind, whatever it does otherwise."""
    try:
        from transformers import AutoTokenizer
    except ImportError:
        raise MissingExtra("transformers", "experiments") from None
    tokenizer = load(AutoTokenizer, model, padding_side="right")
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token

    def tokenize(texts: Sequence[str]) -> Tokens:
        found = tokenizer(list(texts), max_length=length, truncation=True, padding="max_length", return_tensors="pt")
        return Tokens(found["input_ids"], found["attention_mask"].bool())

    return tokenize


def t5_config(**sizes: Any) -> Any:
    """T5's configuration; without sizes that of T5-base."""
    from transformers import T5Config

    base = {"d_model": 768, "d_ff": 3072, "num_layers": 12, "num_heads": 12, "decoder_start_token_id": PAD}
    kind: Any = T5Config
    return kind(**{**base, **sizes})


def load(kind: Any, model: str, **options: Any) -> Any:
    """`from_pretrained`, whose failures say what to do."""
    try:
        return kind.from_pretrained(model, **options)
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise InvalidProblem(
            f"{model} could not be loaded ({type(error).__name__}: {reason}); download it on a machine with a network "
            "and set the recipe's model to its folder:  --set model=PATH"
        ) from error
