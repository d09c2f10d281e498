"""Small tokenizers, trained here, and chat templates in the shapes that are met in practice."""

from functools import cache
from typing import Any

SPECIAL = ["<pad>", "<s>", "</s>", "<unk>", "<|im_start|>", "<|im_end|>", "<|eot_id|>", "<|start_header_id|>"]
SPECIAL += ["<|end_header_id|>", "<start_of_turn>", "<end_of_turn>", "<|user|>", "<|assistant|>", "<|system|>"]
SPECIAL += ["[INST]", "[/INST]", "[TOOL]", "<think>", "</think>"]
TEXT = [
    "hello world how are you\n\n\n\nI am well",
    "user\nsystem\nassistant\nmodel\n\n",
    "What is it?\n\nIt is that.\n\n",
]


def byte_level(vocabulary: int = 340) -> Any:
    """Bytes merged into pairs: every text has tokens, and a token may hold the end of one line and the next."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
    )
    core.train_from_iterator(TEXT * 5, trainer)
    return core


def word_level() -> Any:
    """Whole words: spaces are lost, and most words are unknown."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    core = Tokenizer(models.WordLevel(unk_token="<unk>"))  # noqa: S106  no password
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    core.train_from_iterator(TEXT, trainers.WordLevelTrainer(special_tokens=SPECIAL, show_progress=False))
    return core


def sentence_pieces() -> Any:
    """Spaces written as ▁, and one put before each text, as Llama 2's tokenizer does: text taken apart gets it too."""
    from tokenizers import Tokenizer, decoders, models, normalizers, trainers

    core = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True))  # noqa: S106  no password
    core.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    core.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    bytes_ = [f"<0x{byte:02X}>" for byte in range(256)]
    core.train_from_iterator(TEXT * 5, trainers.BpeTrainer(special_tokens=[*SPECIAL, *bytes_], show_progress=False))
    return core


def wrapped(tokens: Any, template: str | None, **names: str) -> Any:
    from transformers import PreTrainedTokenizerFast

    names = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"} | names
    others = [text for text in SPECIAL if text not in names.values()]
    known = {name: text for name, text in names.items() if text}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=tokens, extra_special_tokens=others, clean_up_tokenization_spaces=False, **known
    )
    tokenizer.chat_template = template
    return tokenizer


@cache
def core(kind: str) -> Any:
    return {"byte_level": byte_level, "word_level": word_level, "sentence_pieces": sentence_pieces}[kind]()


def tokenizer_with(template: str | None, kind: str = "byte_level", **names: str) -> Any:
    """A fresh wrapper round a core that is trained once; ``eos_token=""`` takes the end token away."""
    return wrapped(core(kind), template, **names)


CHATML = """\
{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}\
{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"""

CHATML_MARKED = """\
{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' }}{% if message['role'] == 'assistant' %}\
{% generation %}{{ message['content'] + '<|im_end|>' }}{% endgeneration %}{% else %}\
{{ message['content'] + '<|im_end|>' }}{% endif %}{{ '\n' }}{% endfor %}\
{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"""

# Marks that stop before the end token: it must be learned nevertheless.
CHATML_MARKED_SHORT = CHATML_MARKED.replace(
    "{{ message['content'] + '<|im_end|>' }}{% endgeneration %}",
    "{{ message['content'] }}{% endgeneration %}{{ '<|im_end|>' }}",
)

# Marks that begin too early: the header is the prompt's, and nobody's to learn.
CHATML_MARKED_HEADER = """\
{% for message in messages %}{% if message['role'] == 'assistant' %}{% generation %}\
{{ '<|im_start|>assistant\n' + message['content'] + '<|im_end|>\n' }}{% endgeneration %}{% else %}\
{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}{% endif %}{% endfor %}\
{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"""

LLAMA3 = """\
{{ bos_token }}{% for message in messages %}{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' }}\
{{ message['content'] | trim }}{{ '<|eot_id|>' }}{% endfor %}\
{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"""

# The system's message goes into the first user's turn; turns must alternate.
MISTRAL = """\
{{ bos_token }}{% if messages[0]['role'] == 'system' %}{% set system = messages[0]['content'] + '\n\n' %}\
{% set rest = messages[1:] %}{% else %}{% set system = '' %}{% set rest = messages %}{% endif %}\
{% for message in rest %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}\
{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}\
{% if message['role'] == 'user' %}{{ '[INST] ' + (system if loop.first else '') + message['content'] + ' [/INST]' }}\
{% else %}{{ ' ' + message['content'] + eos_token }}{% endif %}{% endfor %}"""

GEMMA = """\
{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}\
{% for message in messages %}{% set role = 'model' if message['role'] == 'assistant' else message['role'] %}\
{{ '<start_of_turn>' + role + '\n' + message['content'] | trim + '<end_of_turn>\n' }}{% endfor %}\
{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"""

ZEPHYR = """\
{% for message in messages %}{{ '<|' + message['role'] + '|>\n' + message['content'] + eos_token + '\n' }}{% endfor %}\
{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"""

# Qwen 3: the last reply gets a block of thoughts, earlier ones lose theirs.
THINKING = """\
{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' }}\
{% if message['role'] == 'assistant' and loop.last %}{{ '<think>\n\n</think>\n\n' }}{% endif %}\
{{ message['content'] + '<|im_end|>\n' }}{% endfor %}\
{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}\
{% if enable_thinking is defined and not enable_thinking %}{{ '<think>\n\n</think>\n\n' }}{% endif %}{% endif %}"""

# R1: sampling begins inside a thought, which training text does not have.
OPENS_A_THOUGHT = CHATML.replace("{{ '<|im_start|>assistant\n' }}", "{{ '<|im_start|>assistant\n<think>\n' }}")

# The first turn is written differently when the last one is short.
LOOKS_AHEAD = (
    """\
{% if messages[-1]['content'] | length < 4 %}{{ 'Be brief. ' }}{% endif %}"""
    + CHATML
)

DATED = "{{ '<|im_start|>system\n' + strftime_now('%d %b %Y') + '<|im_end|>\n' }}" + CHATML

NO_END = """\
{% for message in messages %}{{ message['role'] + ': ' + message['content'] + '\n' }}{% endfor %}\
{% if add_generation_prompt %}{{ 'assistant:' }}{% endif %}"""

TEMPLATES = {
    "ChatML": CHATML,
    "ChatML, marked": CHATML_MARKED,
    "ChatML, marked without the end": CHATML_MARKED_SHORT,
    "ChatML, marked with the header": CHATML_MARKED_HEADER,
    "Llama 3": LLAMA3,
    "Mistral": MISTRAL,
    "Gemma": GEMMA,
    "Zephyr": ZEPHYR,
    "Qwen 3": THINKING,
    "R1": OPENS_A_THOUGHT,
    "looks ahead": LOOKS_AHEAD,
    "dated": DATED,
    "no end": NO_END,
}
