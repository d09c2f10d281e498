"""A small tokenizer and model from scratch, out of nothing but text: for machines with no weights at hand."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Any

from annotated_types import Gt

from preferent.config import UsageError

END, PAD = "<|end|>", "<|pad|>"
ROLES = ("<|system|>", "<|user|>", "<|assistant|>", "<|tool|>")
CHAT_TEMPLATE = """\
{%- for message in messages -%}
{%- if message.role == 'assistant' -%}
<|assistant|>{% generation %}{{ message.content }}<|end|>{% endgeneration %}
{%- else -%}
<|{{ message.role }}|>{{ message.content }}<|end|>
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}<|assistant|>{%- endif -%}"""


@dataclass(frozen=True, kw_only=True)
class Size:
    """Size: a decoder with rotary positions, RMS norms and gated feed-forward layers (Qwen2)."""

    hidden: Annotated[int, "width of the hidden states; a multiple of twice the heads", Gt(0)] = 128
    layers: Annotated[int, "decoder layers", Gt(0)] = 4
    heads: Annotated[int, "attention heads", Gt(0)] = 4
    vocabulary: Annotated[int, "tokens of the byte-level BPE tokenizer, at most", Gt(0)] = 4096
    context: Annotated[int, "longest prompt with its reply, in tokens", Gt(0)] = 2048


def train_tokenizer(texts: Iterable[str], *, vocabulary: int) -> Any:
    """Byte-level BPE over the texts, with one token for each role, an end token and a chat template.

    It cuts words as Qwen2's tokenizer does, because that is the one which ``AutoTokenizer`` loads for such a model.
    """
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers
    from transformers import Qwen2Tokenizer

    if vocabulary < 300:
        raise UsageError(
            f"A byte-level tokenizer needs a vocabulary of at least 300 (256 bytes and marks), not {vocabulary}."
        )
    core, like = Tokenizer(models.BPE()), Qwen2Tokenizer().backend_tokenizer
    core.normalizer, core.pre_tokenizer, core.decoder = like.normalizer, like.pre_tokenizer, like.decoder
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[PAD, END, *ROLES],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator(texts, trainer)
    learned = json.loads(core.to_str())["model"]
    tokenizer = Qwen2Tokenizer(
        vocab=learned["vocab"],
        merges=[tuple(merge) for merge in learned["merges"]],
        unk_token=None,  # every byte is known; Qwen2's own mark would stand outside the model's vocabulary
        eos_token=END,
        pad_token=PAD,
        extra_special_tokens=list(ROLES),
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def new_model(tokenizer: Any, size: Size, *, seed: int = 0) -> Any:
    """A Qwen2 model with random weights for this tokenizer, its input and output embeddings tied."""
    import torch
    from transformers import AutoModelForCausalLM, Qwen2Config

    if size.hidden % (2 * size.heads):
        raise UsageError(f"hidden {size.hidden} must be a multiple of twice the heads, {2 * size.heads}.")
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=size.hidden,
        intermediate_size=8 * size.hidden // 3,
        num_hidden_layers=size.layers,
        num_attention_heads=size.heads,
        num_key_value_heads=size.heads,
        max_position_embeddings=size.context,
        tie_word_embeddings=True,
        # 0.02 at GPT-2's width of 768, and as much more as a narrower model's sums are shorter.
        initializer_range=0.02 * (768 / size.hidden) ** 0.5,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return AutoModelForCausalLM.from_config(config, dtype=torch.float32)
