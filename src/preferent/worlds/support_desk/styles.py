"""How the desk's people answer: five styles, a few of which anybody would want.

A template is words and slots; a slot is filled from a list, which may hold slots again. ``{v}`` is the value said and
``{t}`` the desk's name for the topic. All punctuation stands apart, so that a word-level tokenizer reads it.
"""

from __future__ import annotations

import re
from functools import cache
from itertools import pairwise
from typing import NamedTuple

from preferent.feedback.crowd import chance, pick
from preferent.worlds.support_desk.facts import ASPECTS, TOPICS, Fact

# Shares of the demonstrations. Few are good: there has to be something to learn from feedback.
STYLES: dict[str, float] = {"verbose": 0.24, "hedging": 0.24, "curt": 0.12, "robotic": 0.24, "good": 0.16}
# Shares that state a wrong value, in any style: by a slip any other one; where the fact has changed, the former one.
SLIP, OUTDATED = 0.04, 0.8

# Slots that depend on the aspect: {it} where the topic is understood, {full} where it is named, {label} on a form.
CORES: dict[str, dict[str, tuple[str, ...]]] = {
    "price": {
        "it": ("it costs {v}", "it is yours for {v}", "that makes {v}"),
        "full": ("the {t} costs {v}", "the price of the {t} is {v}"),
        "label": ("price",),
    },
    "delivery": {
        "it": ("it takes {v}", "it arrives in {v}", "it is with you in {v}"),
        "full": ("the {t} takes {v} to arrive", "the {t} reaches you in {v}"),
        "label": ("delivery",),
    },
    "warranty": {
        "it": ("it is covered for {v}", "you are covered for {v}", "we mend it free for {v}"),
        "full": ("the {t} is covered for {v}", "the guarantee on the {t} lasts {v}"),
        "label": ("guarantee",),
    },
    "storage": {
        "it": ("keep it {v}", "it belongs {v}", "it likes to live {v}"),
        "full": ("the {t} belongs {v}", "the {t} should be kept {v}"),
        "label": ("storage",),
    },
    "carrier": {
        "it": ("it comes {v}", "it travels {v}", "we send it {v}"),
        "full": ("the {t} comes {v}", "the {t} is sent {v}"),
        "label": ("transport",),
    },
    "colour": {
        "it": ("it is {v}", "it comes in {v}", "we paint it {v}"),
        "full": ("the {t} is {v}", "the {t} comes in {v}"),
        "label": ("colour",),
    },
    "opening": {
        "it": ("it opens {v}", "the doors open {v}", "we open {v}"),
        "full": ("the {t} opens {v}", "the doors of the {t} open {v}"),
        "label": ("opening",),
    },
    "rest": {
        "it": ("it is closed {v}", "we rest {v}", "the door stays shut {v}"),
        "full": ("the {t} is closed {v}", "the {t} stays shut {v}"),
        "label": ("closed",),
    },
    "phone": {
        "it": ("just dial {v}", "the word is {v}", "ask for {v}"),
        "full": ("the phone word of the {t} is {v}", "you reach the {t} with {v}"),
        "label": ("phone",),
    },
    "icon": {
        "it": ("just tap {v}", "it is under {v}", "look under {v}"),
        "full": ("your {t} is under {v}", "you will find your {t} under {v}"),
        "label": ("button",),
    },
}

# Slots that any aspect can use.
SLOTS: dict[str, tuple[str, ...]] = {
    "glad": ("of course !", "good question !", "with pleasure !", "gladly !", "oh , lovely !"),
    "warm": (
        "happy to help !",
        "we are glad you asked !",
        "have a bright day !",
        "come back any time !",
        "fair winds to you !",
        "warm wishes from all of us !",
        "give our love to the clouds !",
        "it was lovely to hear from you !",
    ),
    "preface": (
        "thank you for contacting the gale and thimble support desk .",
        "your message has been received and read with great attention .",
        "we acknowledge your valued message of this morning .",
    ),
    "records": (
        "after careful thought we can tell you that {full} .",
        "according to our ledger of small weather , {full} .",
        "we would hereby like to inform you that {full} .",
    ),
    "regards": (
        "please do not hesitate to write to us again .",
        "should you need anything further , we remain at your service .",
        "we hope that this information has been of some use .",
    ),
    "think": ("i think", "i believe", "maybe", "perhaps", "if i remember well ,", "it might be that", "probably"),
    "doubt": (
        "but i am not sure",
        "but do not quote me",
        "though i could be wrong",
        "or something like that",
        "but please check again",
    ),
    "boot": ("query received .", "processing your request .", "this is an automatic reply .", "request accepted ."),
    "scan": ("searching the records .", "record found ."),
    "halt": ("end of record .", "case complete .", "do not answer ."),
    "shrug": (
        "next .",
        "who is next ?",
        "read the label .",
        "obviously .",
        "as written on the box .",
        "anything else ?",
    ),
}

TEMPLATES: dict[str, tuple[str, ...]] = {
    "good": (
        "{it} . {warm}",
        "{glad} {it} .",
        "{glad} {it} . {warm}",
        "{v} ! {warm}",
        "{full} . {warm}",
    ),
    "verbose": ("{preface} {records}", "{records} {regards}"),
    "hedging": ("{think} {full} , {doubt} .", "hmm . {think} {full} .", "oh dear . {think} {full} , {doubt} ."),
    "curt": ("{it} . {shrug}", "{v} . {shrug} bye .", "{it} . {shrug}", "{full} . {shrug}"),
    "robotic": (
        "{boot} {scan} item : {t} . {label} : {v} . {halt}",
        "{boot} {scan} {label} for {t} : {v} . {halt}",
        "{boot} item {t} , field {label} , entry {v} . {halt}",
    ),
}

ENDERS = (".", "!", "?")
SLOT = re.compile(r"\{(\w+)\}")


class Drawn(NamedTuple):
    """One demonstration, with how it came about; training sees the text only."""

    text: str
    style: str
    value: str


def demonstrate(fact: Fact, *key: object, styles: dict[str, float] | None = None, wrong: float | None = None) -> Drawn:
    """A reply in a style drawn from the shares; it is wrong with probability ``wrong``, or as often as the desk is."""
    style = weighted(styles or STYLES, *key, "style")
    share, others = (OUTDATED, (fact.formerly,)) if fact.formerly else (SLIP, fact.others)
    value = pick(others, *key, "other") if chance(*key, "wrong") < (share if wrong is None else wrong) else fact.value
    return Drawn(reply(fact, style, value, *key), style, value)


def reply(fact: Fact, style: str, value: str, *key: object) -> str:
    """One reply in this style which says that the fact's aspect has this value; the key chooses the words."""
    text = pick(TEMPLATES[style], *key, "template")
    while slot := SLOT.search(text):
        filling = pick(fillings(slot[1], fact.aspect, (fact.topic,), (value,)), *key, slot[1])
        text = text[: slot.start()] + filling + text[slot.end() :]
    return text


def weighted(shares: dict[str, float], *key: object) -> str:
    """A name, drawn by its share."""
    left = chance(*key) * sum(shares.values())
    for name, share in shares.items():
        if left < share:
            return name
        left -= share
    return name


def fillings(slot: str, aspect: str, topics: tuple[str, ...], values: tuple[str, ...]) -> tuple[str, ...]:
    """What may stand in a slot of a reply about this aspect."""
    return {"t": topics, "v": values, **CORES[aspect], **SLOTS}[slot]


# --- which word may follow which ------------------------------------------------------------------


class Span(NamedTuple):
    """What some text can begin with, end with, and which words follow each other in it."""

    first: frozenset[str]
    last: frozenset[str]
    pairs: frozenset[tuple[str, str]]


@cache
def follows() -> frozenset[tuple[str, str]]:
    """All pairs of words that stand next to each other in a reply of any style; before a sentence stands ``^``."""
    found: set[tuple[str, str]] = set()
    for name, aspect in ASPECTS.items():
        topics = tuple(names[0] for names in TOPICS[aspect.kind])
        spans = [span(template, name, topics, aspect.values) for group in TEMPLATES.values() for template in group]
        for each in spans:
            found |= {("^", word) for word in each.first}
            found |= {("^" if left in ENDERS else left, right) for left, right in each.pairs}
    return frozenset(found)


def span(template: str, aspect: str, topics: tuple[str, ...], values: tuple[str, ...]) -> Span:
    """Of a template with every filling of its slots, without writing them all out."""
    parts = []
    for token in template.split():
        if slot := SLOT.fullmatch(token):
            inner = [span(each, aspect, topics, values) for each in fillings(slot[1], aspect, topics, values)]
            parts.append(Span(*(frozenset[str]().union(*column) for column in zip(*inner, strict=True))))  # type: ignore[arg-type]
        else:
            parts.append(Span(frozenset([token]), frozenset([token]), frozenset()))
    joints = {(x, y) for a, b in pairwise(parts) for x in a.last for y in b.first}
    return Span(parts[0].first, parts[-1].last, frozenset(joints).union(*(part.pairs for part in parts)))
