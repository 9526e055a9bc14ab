"""Tiny randomly initialised models of every architecture, and merging written down slowly."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers", minversion="5.0")

from torch import Tensor  # noqa: E402

from nashsolve.integrations.transformers import Merging  # noqa: E402

logging.getLogger("transformers").setLevel(logging.ERROR)
transformers.utils.logging.disable_progress_bar()

VOCAB = 40
SMALL: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": 16,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": None,
}
DEEPSEEK = SMALL | {
    "num_hidden_layers": 4,
    "first_k_dense_replace": 1,
    "intermediate_size": 24,
    "moe_intermediate_size": 8,
    "n_shared_experts": 2,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "kv_lora_rank": 8,
    "q_lora_rank": 8,
    "qk_rope_head_dim": 4,
    "qk_nope_head_dim": 4,
    "v_head_dim": 8,
    "routed_scaling_factor": 1.5,
}
SETTINGS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "mixtral": (
        "MixtralConfig",
        "MixtralForCausalLM",
        SMALL | {"num_hidden_layers": 3, "intermediate_size": 12, "num_local_experts": 4, "num_experts_per_tok": 2},
    ),
    "qwen2_moe": (
        "Qwen2MoeConfig",
        "Qwen2MoeForCausalLM",
        SMALL
        | {"num_hidden_layers": 3, "intermediate_size": 24, "moe_intermediate_size": 8}
        | {"shared_expert_intermediate_size": 16, "num_experts": 4, "num_experts_per_tok": 2},
    ),
    "qwen3_moe": (
        "Qwen3MoeConfig",
        "Qwen3MoeForCausalLM",
        SMALL
        | {"num_hidden_layers": 3, "intermediate_size": 24, "moe_intermediate_size": 8, "head_dim": 8}
        | {"num_experts": 4, "num_experts_per_tok": 2},
    ),
    "olmoe": (
        "OlmoeConfig",
        "OlmoeForCausalLM",
        SMALL | {"num_hidden_layers": 3, "intermediate_size": 12, "num_experts": 4, "num_experts_per_tok": 2},
    ),
    "deepseek_v2": (
        "DeepseekV2Config",
        "DeepseekV2ForCausalLM",
        DEEPSEEK | {"n_group": 2, "topk_group": 1, "topk_method": "group_limited_greedy"},
    ),
    "deepseek_v3": ("DeepseekV3Config", "DeepseekV3ForCausalLM", DEEPSEEK | {"n_group": 2, "topk_group": 1}),
    "switch_transformers": (
        "SwitchTransformersConfig",
        "SwitchTransformersForConditionalGeneration",
        {"vocab_size": VOCAB, "d_model": 16, "d_ff": 12, "d_kv": 8, "num_heads": 2, "num_experts": 4}
        | {"num_layers": 4, "num_sparse_encoder_layers": 2, "num_decoder_layers": 4, "num_sparse_decoder_layers": 2}
        | {"decoder_start_token_id": 0, "pad_token_id": 0, "eos_token_id": None, "dropout_rate": 0.0},
    ),
    "t5": (
        "T5Config",
        "T5ForConditionalGeneration",
        {"vocab_size": VOCAB, "d_model": 16, "d_ff": 24, "d_kv": 8, "num_heads": 2, "num_layers": 2}
        | {"decoder_start_token_id": 0, "pad_token_id": 0, "eos_token_id": None},
    ),
    "t5_gated": (
        "T5Config",
        "T5ForConditionalGeneration",
        {"vocab_size": VOCAB, "d_model": 16, "d_ff": 24, "d_kv": 8, "num_heads": 2, "num_layers": 2}
        | {"decoder_start_token_id": 0, "pad_token_id": 0, "eos_token_id": None, "feed_forward_proj": "gated-gelu"},
    ),
    "bert": (
        "BertConfig",
        "BertForMaskedLM",
        {"vocab_size": VOCAB, "hidden_size": 16, "intermediate_size": 24, "num_attention_heads": 2}
        | {"num_hidden_layers": 3, "max_position_embeddings": 64},
    ),
    "gpt2": (
        "GPT2Config",
        "GPT2LMHeadModel",
        {"vocab_size": VOCAB, "n_embd": 16, "n_head": 2, "n_layer": 3, "n_positions": 64}
        | {"bos_token_id": 1, "eos_token_id": None, "pad_token_id": 0},
    ),
    "llama": ("LlamaConfig", "LlamaForCausalLM", SMALL | {"num_hidden_layers": 3, "intermediate_size": 24}),
    "vit": (
        "ViTConfig",
        "ViTForImageClassification",
        {"hidden_size": 16, "intermediate_size": 24, "num_attention_heads": 2, "num_hidden_layers": 3}
        | {"image_size": 8, "patch_size": 4},
    ),
    "swin": (
        "SwinConfig",
        "SwinForImageClassification",
        {"image_size": 16, "patch_size": 2, "embed_dim": 8, "depths": [2, 2], "num_heads": [2, 4], "window_size": 2},
    ),
}
MOE = ("mixtral", "qwen2_moe", "qwen3_moe", "olmoe", "deepseek_v2", "deepseek_v3", "switch_transformers")
LANGUAGE = MOE[:-1]
DENSE = ("t5", "t5_gated", "bert", "gpt2", "llama", "vit", "swin")
ENCODERS = ("switch_transformers", "t5", "t5_gated", "bert", "vit", "swin")
DECODERS = (*MOE, "t5", "t5_gated", "gpt2", "llama")


def build(name: str, seed: int = 0, **changes: Any) -> Any:
    """A model of an architecture in evaluation mode, with weights large enough that merging shows."""
    config, kind, settings = SETTINGS[name]
    torch.manual_seed(seed)
    model = getattr(transformers, kind)(getattr(transformers, config)(**(settings | changes)))
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if "expert" in key or "gate" in key or "router" in key:
                parameter.mul_(5)
    return model.eval()


def levels(name: str, level: str = "sequence", causal: str = "segment", size: int = 4) -> dict[str, Any]:
    """The levels that a model's stacks need."""
    found: dict[str, Any] = {}
    if name in ENCODERS:
        found["level"] = level
    if name in DECODERS:
        found["causal_level"] = causal
    if "segment" in found.values():
        found["segment_length"] = size
    return found


def inputs(name: str, batch: int = 2, length: int = 10, seed: int = 1) -> dict[str, Any]:
    """What a model is called with."""
    generator = torch.Generator().manual_seed(seed)
    if name in ("vit", "swin"):
        size = SETTINGS[name][2]["image_size"]
        return {"pixel_values": torch.randn(batch, 3, size, size, generator=generator)}
    ids = torch.randint(2, VOCAB, (batch, length), generator=generator)
    if name in ("t5", "t5_gated", "switch_transformers"):
        return {"input_ids": ids, "decoder_input_ids": torch.randint(2, VOCAB, (batch, 7), generator=generator)}
    return {"input_ids": ids}


def padded(ids: Tensor, widths: Sequence[int], side: str) -> tuple[Tensor, Tensor]:
    """Rows of ids cut to their first `widths` tokens and padded on a side, with their mask."""
    rows, masks = torch.zeros_like(ids), torch.zeros_like(ids)
    for b, width in enumerate(widths):
        where = slice(ids.shape[1] - width, None) if side == "left" else slice(0, width)
        rows[b, where], masks[b, where] = ids[b, :width], 1
    return rows, masks


class SlowMerge:
    """Merging written down: every token's own merged expert, built from stacked copies, with plain Python loops.

    Takes the place of the forward of a `MergingLayer`; the base experts are given.
    """

    def __init__(self, merging: Merging, bases: Sequence[dict[str, Tensor]], eta: float) -> None:
        self.merging, self.bases, self.eta = merging, bases, eta

    def __enter__(self) -> SlowMerge:
        for layer in self.merging.members:
            layer.forward = self.forward_of(layer)
        return self

    def __exit__(self, *_: object) -> None:
        for layer in self.merging.members:
            del layer.forward

    def forward_of(self, layer: Any) -> Callable[[Tensor], Tensor]:
        def forward(hidden: Tensor) -> Tensor:
            call = layer.stack.current()
            x = hidden.reshape(call.batch, call.length, -1) if call.batch else hidden
            mask = call.mask if call.mask is not None else torch.ones(x.shape[:2], dtype=torch.bool)
            rows = [torch.stack(self.sequence(layer, x[b], mask[b])) for b in range(len(x))]
            return torch.stack(rows).reshape(hidden.shape)

        return forward

    def sequence(self, layer: Any, x: Tensor, mask: Tensor) -> list[Tensor]:
        """Outputs of one sequence's tokens."""
        real = [t for t in range(len(x)) if mask[t]]
        return [self.token(layer, x[t], self.look(layer, x, real, t)) for t in range(len(x))]

    def look(self, layer: Any, x: Tensor, real: list[int], t: int) -> Tensor:
        """By what the router decides about token t."""
        level, size, causal = layer.stack.level, layer.stack.size, layer.stack.causal
        if level == "token":
            return x[t]
        if level == "sequence":
            return x[real].mean(0)
        segment = (real.index(t) if t in real else len(real)) // size - int(causal)
        if segment < 0:
            return layer.start if layer.start is not None else torch.zeros_like(x[0])
        inside = real[segment * size : (segment + 1) * size]
        return x[inside].mean(0) if inside else torch.zeros_like(x[0])

    def token(self, layer: Any, x: Tensor, look: Tensor) -> Tensor:
        """The merged expert of a token, built and used."""
        weights = layer.router.route(look[None])
        s = weights.probs[0] if layer.config.merge.selection == "all" else weights.dense()[0]
        experts = [layer.experts.expert(i) for i in range(layer.experts.n_experts)]
        base = self.bases[layer.number]
        merged = {}
        for name, start in base.items():
            step = sum(s[i] * (experts[i][name] - start) for i in range(len(experts)))
            merged[name] = start + self.eta * step
        inner = merged["up_proj"] @ x + merged.get("up_proj_bias", 0.0)
        return merged["down_proj"] @ layer.experts.activation(inner) + merged.get("down_proj_bias", 0.0)
