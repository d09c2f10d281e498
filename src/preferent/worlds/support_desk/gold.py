"""What people want from the desk, hidden from training: the right fact, said directly, warmly and briefly.

    value = readable · (0.35 right + 0.20 direct + 0.27 warm + 0.18 brief),   all in [0, 1]

right     1 when the right value is said, whole, and no other value of the aspect nor another topic is named; else 0.
direct    how early the right value comes; hedging costs most of it. Nothing for a wrong answer.
warm      one natural warm phrase is worth 1, an official courtesy 0.35; more of them add nothing.
brief     of the number of words: best between 7 and 12, little for two, little for more than twenty.
readable  1 for words that follow each other as they do in some reply of the desk; gibberish, repetition, a sentence
          cut off and endless text cost.

Warmth and brevity are of an answer: they count in full with a right one, by half with a wrong one that is hedged, by
a sixth with a wrong one stated as certain, the worst answer there is, and not at all where nothing is answered.
"""

from __future__ import annotations

import math
import re
from typing import Literal

from preferent.types import Score
from preferent.worlds.support_desk.facts import ASPECTS, TOPICS, Fact
from preferent.worlds.support_desk.styles import ENDERS, SLOTS, follows


def spoken(tokens: list[str]) -> str:
    """The words without the signs, a space before and after each."""
    return " ".join(["", *(token for token in tokens if token[0].isalnum()), ""])


def tokenise(text: str) -> list[str]:
    """Lowercase words and signs, whether or not signs stand apart."""
    return re.findall(r"\w+|[^\w\s]", text.lower())


def lines(*phrases: str) -> tuple[str, ...]:
    return tuple(spoken(tokenise(phrase)) for phrase in phrases)


WEIGHTS = {"right": 0.35, "direct": 0.20, "warm": 0.27, "brief": 0.18}
PATIENCE = 45  # tokens, after which half of the people have stopped reading

WARM = lines(*SLOTS["glad"], *SLOTS["warm"], "thank you for asking", "take care")
OFFICIAL = lines("thank you for contacting", "please do not hesitate", "at your service", "your valued message")
HEDGES = lines(*SLOTS["think"], *SLOTS["doubt"], "hmm", "might", "not sure", "could be")
DENIALS = {"not", "never", "no", "without", "hardly"}

Answer = Literal["right", "wrong", "none"]


def gold(fact: Fact, reply: str) -> Score:
    """The hidden utility of a reply to a question about ``fact``; ``parts`` holds each part by its name."""
    tokens = tokenise(reply)
    line = spoken(tokens)
    heard, hedged = answer(fact, line), says(HEDGES, line)
    credit = {"right": 1.0, "wrong": 1 / 2 if hedged else 1 / 6, "none": 0.0}[heard]
    parts = {
        "right": float(heard == "right"),
        "direct": early(find(fact.value, line)) * (0.1 if hedged else 1.0) if heard == "right" else 0.0,
        "warm": credit * warmth(line),
        "brief": credit * brevity(len(line.split())),
        "readable": readable(tokens),
    }
    return Score(parts["readable"] * sum(weight * parts[name] for name, weight in WEIGHTS.items()), parts)


def answer(fact: Fact, line: str) -> Answer:
    """Which answer was heard. To list several values is to know none, and to speak of another topic is to miss."""
    aspect = ASPECTS[fact.aspect]
    named = {value for tell, value in zip(aspect.tell, aspect.values, strict=True) if f" {tell} " in line}
    if not named:
        return "none"
    at = find(fact.value, line)
    denied = at is not None and not DENIALS.isdisjoint(line.split()[max(0, at - 2) : at])
    elsewhere = any(f" {topic[0]} " in line for topic in TOPICS[aspect.kind] if topic[0] != fact.topic)
    return "right" if named == {fact.value} and at is not None and not denied and not elsewhere else "wrong"


def early(at: int | None) -> float:
    """1 while at most four words come before the value, 0.37 with nine."""
    return 0.0 if at is None else math.exp(-max(0, at - 4) / 5)


def warmth(line: str) -> float:
    return 1.0 if says(WARM, line) else 0.35 if says(OFFICIAL, line) else 0.0


def brevity(n: int) -> float:
    """Rises over the first seven words and falls around the eighteenth."""
    return (1 - math.exp(-((n / 4) ** 2))) / (1 + math.exp((n - 18) / 2.5))


def readable(tokens: list[str]) -> float:
    """((1 − share of word pairs that no reply has) · (1 − share of repeats))², less for text without end."""
    if not tokens:
        return 0.0
    before = ["^", *("^" if token in ENDERS else token for token in tokens)]
    pairs = list(zip(before, [*tokens, *(["cut off"] if tokens[-1] not in ENDERS else [])], strict=False))
    strange = sum(pair not in follows() for pair in pairs) / len(pairs)
    threes = list(zip(tokens, tokens[1:], tokens[2:], strict=False))
    again = 1 - len(set(threes)) / len(threes) if threes else 0.0
    return ((1 - strange) * (1 - again)) ** 2 / (1 + math.exp((len(tokens) - PATIENCE) / 4))


def find(phrase: str, line: str) -> int | None:
    """How many words come before the phrase; None when it is not there, word for word."""
    at = line.find(f" {phrase} ")
    return None if at < 0 else line.count(" ", 0, at)


def says(phrases: tuple[str, ...], line: str) -> bool:
    return any(phrase in line for phrase in phrases)
