"""Tiny models of many architectures, made from configurations: no weights are downloaded."""

import logging
from typing import Any

import torch

VOCABULARY = 64
SMALL = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
NO_GROUPS = {key: value for key, value in SMALL.items() if key != "num_key_value_heads"}
BOTH = ["sliding_attention", "full_attention"] * 2
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
ROPE = {"rope_type": "default", "rope_theta": 10000.0}
MAMBA = {"mamba_d_ssm": 64, "mamba_n_heads": 4, "mamba_d_head": 16, "mamba_d_state": 16, "mamba_n_groups": 1}

# name: (configuration class, its arguments beside SMALL)
SHARING: dict[str, tuple[str, dict[str, Any]]] = {
    "Qwen2": ("Qwen2Config", SMALL),
    "Qwen3": ("Qwen3Config", SMALL | {"head_dim": 8}),
    "Llama": ("LlamaConfig", SMALL),
    "Mistral with a window": ("MistralConfig", SMALL | {"sliding_window": 6}),
    "Gemma 2": ("Gemma2Config", SMALL | {"head_dim": 8, "sliding_window": 6, "query_pre_attn_scalar": 8}),
    "Gemma 3": ("Gemma3TextConfig", SMALL | {"head_dim": 8, "sliding_window": 6, "layer_types": BOTH}),
    "Cohere 2": ("Cohere2Config", SMALL | {"sliding_window": 6, "layer_types": BOTH}),
    "GPT-OSS": (
        "GptOssConfig",
        SMALL
        | {
            "head_dim": 8,
            "sliding_window": 6,
            "num_local_experts": 4,
            "num_experts_per_tok": 2,
            "rope_parameters": ROPE,
        },
    ),
    "GPT-NeoX": ("GPTNeoXConfig", NO_GROUPS),
    "Phi-3": ("Phi3Config", SMALL),
    "Qwen3-MoE, a mixture of experts": ("Qwen3MoeConfig", SMALL | {"head_dim": 8} | EXPERTS),
    "Granite": ("GraniteConfig", SMALL | {"logits_scaling": 4.0}),
}
PLAIN: dict[str, tuple[str, dict[str, Any]]] = {
    "Bloom": ("BloomConfig", {"vocab_size": VOCABULARY, "hidden_size": 32, "n_layer": 2, "n_head": 4}),
    "Falcon-H1, a Mamba hybrid": ("FalconH1Config", SMALL | MAMBA),
}


class Spaced:
    """A tokenizer's decoder for tests that only need to see numbers."""

    eos_token_id = 2

    def decode(self, tokens: Any, **_: Any) -> str:
        return " ".join(map(str, tokens))


def tiny(name: str, kind: str = "AutoModelForCausalLM", *, seed: int = 0, **extra: Any) -> Any:
    """A model with random weights, doubled so that it is not too sure that all tokens are alike."""
    import transformers

    transformers.logging.set_verbosity_error()
    logging.getLogger("transformers").setLevel(logging.ERROR)
    cls, arguments = {**SHARING, **PLAIN}[name]
    eager = {"attn_implementation": "eager"} if name in ("Gemma 2", "GPT-OSS") else {}
    config = getattr(transformers, cls)(**arguments | extra)
    torch.manual_seed(seed)
    model = getattr(transformers, kind).from_config(config, **eager).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(2)
    return model
