"""Sizes of released language models with experts, to count them without downloading anything."""

from __future__ import annotations

from typing import Any

import torch

from nashsolve.core.errors import InvalidProblem, MissingExtra

from ...torch_moe.strict import nearest

RELEASED: dict[str, tuple[str, dict[str, Any]]] = {
    "Qwen/Qwen1.5-MoE-A2.7B": (
        "Qwen2Moe",
        {
            "vocab_size": 151_936,
            "hidden_size": 2048,
            "num_hidden_layers": 24,
            "num_attention_heads": 16,
            "num_key_value_heads": 16,
            "intermediate_size": 5632,
            "moe_intermediate_size": 1408,
            "shared_expert_intermediate_size": 5632,
            "num_experts": 60,
            "num_experts_per_tok": 4,
        },
    ),
    "deepseek-ai/DeepSeek-V2-Lite": (
        "DeepseekV2",
        {
            "vocab_size": 102_400,
            "hidden_size": 2048,
            "num_hidden_layers": 27,
            "num_attention_heads": 16,
            "num_key_value_heads": 16,
            "intermediate_size": 10_944,
            "moe_intermediate_size": 1408,
            "n_routed_experts": 64,
            "n_shared_experts": 2,
            "num_experts_per_tok": 6,
            "first_k_dense_replace": 1,
            "kv_lora_rank": 512,
            "q_lora_rank": None,
            "qk_nope_head_dim": 128,
            "qk_rope_head_dim": 64,
            "v_head_dim": 128,
            "tie_word_embeddings": False,
        },
    ),
}
"""Name on the hub -> family in transformers, sizes. DeepSeek-MoE-16B has no class there; V2-Lite has its experts."""


def count_released(name: str) -> int:
    """Parameters of a released model, on the meta device.

    Raises
    ------
    InvalidProblem
        For a model whose sizes are not written down here.
    """
    if name not in RELEASED:
        raise InvalidProblem(f"model is {name!r}; {nearest(name, list(RELEASED))}")
    try:
        import transformers
    except ImportError:
        raise MissingExtra("transformers", "experiments") from None
    family, sizes = RELEASED[name]
    config = getattr(transformers, f"{family}Config")(**sizes)
    with torch.device("meta"):
        model = getattr(transformers, f"{family}ForCausalLM")(config)
    return sum(p.numel() for p in model.parameters())
