"""Batches and tiny models that several test files share. Tokens tell where they come from, so cuts can be checked."""

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
from hypothesis import strategies as st

from preferent.algorithms.dpo import Referred
from preferent.data import collate
from preferent.models.load import save
from preferent.models.policy import LanguagePolicy
from preferent.models.scratch import Size, new_model, train_tokenizer
from preferent.types import Comparison, Demonstration, Pairs, Preference, Prompt, Ranking, Replies, Reply

VOCABULARY = 8  # of the bigram
Sizes = Sequence[tuple[int, Sequence[int]]]  # (prompt length, reply lengths) for each prompt

# At least one prompt, each with at least one reply; every length at least 1.
SIZES = st.lists(
    st.tuples(st.integers(1, 5), st.lists(st.integers(1, 6), min_size=1, max_size=4)), min_size=1, max_size=7
)


def drawn(key: torch.Generator, length: int, low: int = 2, high: int = VOCABULARY) -> tuple[int, ...]:
    return tuple(torch.randint(low, high, (length,), generator=key).tolist())


def replies_of(sizes: Sizes, seed: int = 0, *, high: int = VOCABULARY) -> Replies:
    """Random tokens; every fourth one of a reply is not learned."""
    key = torch.Generator().manual_seed(seed)
    return collate.replies(
        [
            (
                Prompt(drawn(key, s, high=high)),
                [Reply(drawn(key, t, high=high), tuple(i % 4 != 3 for i in range(t))) for t in lengths],
            )
            for s, lengths in sizes
        ]
    )


def pairs_of(x: Replies, seed: int = 0) -> Pairs:
    """Every pair of replies to a prompt, with random labels, margins and weights."""
    key = torch.Generator().manual_seed(seed)
    rows = [(i, j) for p in range(len(x)) for i in x.rows([p]).tolist() for j in x.rows([p]).tolist() if i != j]
    better, worse = torch.tensor(rows, dtype=torch.long).reshape(-1, 2).T
    choice, margin, weight = torch.rand(3, len(rows), generator=key)
    return Pairs(x, better, worse, choice, margin, weight + 0.1)


def referred_of(x: Replies, seed: int = 0) -> Referred:
    said = torch.randn(x.tokens.shape, generator=torch.Generator().manual_seed(seed))
    return Referred(pairs_of(x, seed), said.where(x.learn, 0))


TEXTS = (
    "Hello, how are you today? I am fine, thank you.",
    "Where is my parcel? It left the depot on Monday.",
    "Thank you for the help. You are welcome, any time.",
)


@cache
def tokenizer(vocabulary: int = 320) -> Any:
    """A small byte-level tokenizer with a chat template."""
    return train_tokenizer(TEXTS * 5, vocabulary=vocabulary)


def tiny_policy(seed: int = 0, *, vocabulary: int = 320) -> LanguagePolicy:
    """A Qwen2 of a few thousand parameters, whose tokens are neither all alike nor certain."""
    words = tokenizer(vocabulary)
    model = new_model(words, Size(hidden=16, layers=2, heads=2, context=128), seed=seed).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(0.1 / parameter.std())
    return LanguagePolicy(model, words, sharing=True)


def saved_policy(folder: Path, seed: int = 0, *, vocabulary: int = 320) -> Path:
    """The same as a Hugging Face folder."""
    save(tiny_policy(seed, vocabulary=vocabulary), folder)
    return folder


def preference(prompt: Prompt, *options: Reply, choice: Sequence[float] = (1.0, 0.0), **extra: Any) -> Any:
    return Preference(Comparison(prompt, options), tuple(choice), **extra)


def ranking(prompt: Prompt, *options: Reply, ranks: Sequence[int]) -> Any:
    return Ranking(Comparison(prompt, options), tuple(ranks))


def reply(*tokens: int) -> Reply:
    return Reply(tokens, (True,) * len(tokens))


def demonstration(prompt: Sequence[int], tokens: Sequence[int]) -> Demonstration:
    return Demonstration(Prompt(tuple(prompt)), reply(*tokens))
