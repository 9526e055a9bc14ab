"""Tiny random checkpoints on disk with a tokenizer of their own: what recipes read in place of released models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch


def tokenizer(folder: Path, padding_side: str = "left") -> Path:
    """A tokenizer of bytes whose padding is neither token 0 nor, unless asked, behind the text."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {letter: k for k, letter in enumerate(letters)} | {"<end>": 256, "<pad>": 257}
    built = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    built.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    built.decoder = decoders.ByteLevel()
    made: Any = PreTrainedTokenizerFast(
        tokenizer_object=built, eos_token="<end>", pad_token="<pad>", padding_side=padding_side, model_max_length=512
    )
    made.save_pretrained(folder)
    return folder


def qwen(folder: Path) -> Path:
    """A Qwen2-MoE of two layers with its tokenizer."""
    from transformers import Qwen2MoeConfig, Qwen2MoeForCausalLM

    torch.manual_seed(0)
    kind: Any = Qwen2MoeConfig
    config = kind(
        vocab_size=260,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        intermediate_size=16,
        moe_intermediate_size=8,
        shared_expert_intermediate_size=8,
        num_experts=4,
        num_experts_per_tok=2,
        max_position_embeddings=1024,
        eos_token_id=256,
        pad_token_id=257,
    )
    Qwen2MoeForCausalLM(config).save_pretrained(folder)
    return tokenizer(folder)
