"""Training the model, tuning it on other text, and measuring bits per byte."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any

import torch
from transformers import Qwen2MoeConfig, Qwen2MoeForCausalLM

from experiments.byte_moe.text import batches, read

LENGTH = 128
BATCH = 16


def new_model(seed: int) -> Any:
    """Four layers of eight experts, top 2, and a shared expert: 2.3 million parameters."""
    torch.manual_seed(seed)
    config = Qwen2MoeConfig(
        vocab_size=256,
        hidden_size=128,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=4,
        intermediate_size=256,
        moe_intermediate_size=128,
        shared_expert_intermediate_size=128,
        num_experts=8,
        num_experts_per_tok=2,
        norm_topk_prob=True,
        output_router_logits=True,
        router_aux_loss_coef=0.01,
        max_position_embeddings=LENGTH,
        tie_word_embeddings=False,
        bos_token_id=0,
        eos_token_id=0,
        pad_token_id=0,
        use_cache=False,
    )
    return Qwen2MoeForCausalLM(config)


def train(model: Any, kind: str, steps: int, rate: float, seed: int) -> float:
    """AdamW with warm-up and cosine decay; returns the seconds it took."""
    begun = time.perf_counter()
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, betas=(0.9, 0.95), weight_decay=0.1)
    for step, batch in enumerate(batches(read(kind, held_out=False), steps, BATCH, LENGTH, seed)):
        share = min(1.0, (step + 1) / 50) * 0.5 * (1 + math.cos(math.pi * step / steps))
        for group in optimizer.param_groups:
            group["lr"] = rate * max(share, 0.02)
        tokens = torch.from_numpy(batch)
        loss = model(input_ids=tokens[:, :-1], labels=tokens[:, :-1]).loss
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if step % 100 == 0:
            print(f"  {kind} step {step}/{steps}: loss {loss.item():.3f}", flush=True)
    return time.perf_counter() - begun


@torch.no_grad()
def bits_per_byte(model: Any, kind: str, count: int = 16) -> float:
    """Mean -log2 probability of held-out bytes, over the same windows for every model."""
    model.eval()
    total = seen = 0.0
    for batch in batches(read(kind, held_out=True), count, BATCH, LENGTH, seed=99):
        tokens = torch.from_numpy(batch)
        logits = model(input_ids=tokens[:, :-1], output_router_logits=False).logits
        loss = torch.nn.functional.cross_entropy(logits.reshape(-1, 256), tokens[:, 1:].reshape(-1), reduction="sum")
        total += float(loss)
        seen += tokens[:, 1:].numel()
    return total / seen / math.log(2)


def load(folder: Path) -> Any:
    """A saved model, with proof that no key was missing or unexpected."""
    model, info = Qwen2MoeForCausalLM.from_pretrained(folder, output_loading_info=True)
    problems = {kind: keys for kind, keys in info.items() if keys}
    if problems:
        raise SystemExit(f"{folder.name} does not load cleanly: {problems}")
    return model
