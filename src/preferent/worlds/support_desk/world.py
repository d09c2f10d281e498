"""The support desk as a world: questions, demonstrations, and the gold utility behind them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from preferent.config import UsageError
from preferent.feedback.crowd import chance
from preferent.types import Score
from preferent.worlds.support_desk.facts import Fact, facts
from preferent.worlds.support_desk.gold import gold, tokenise
from preferent.worlds.support_desk.phrasings import QUESTIONS, ask, held_out
from preferent.worlds.support_desk.styles import demonstrate

Messages = Sequence[Mapping[str, str]]

INTRODUCTION = (
    "Gale & Thimble make small weather: rain in a tin, snow in a box, a kettle with a storm in it. "
    "Customers write to the support desk, where most people still give last year's answers. "
    "The desk, its customers and the crowd that judges it are simulated."
)


@dataclass(frozen=True, slots=True)
class Question:
    """One cell: a fact, in one of its phrasings."""

    text: str
    fact: Fact

    @property
    def messages(self) -> tuple[Mapping[str, str], ...]:
        """What a policy is given: the question as a user's message."""
        return ({"role": "user", "content": self.text},)


@dataclass(frozen=True)
class World:
    """Everything about one support desk, from its seed alone: another seed deals other values to the same topics."""

    seed: int = 0
    heldout_share: float = 0.2  # of each fact's phrasings

    @cached_property
    def facts(self) -> tuple[Fact, ...]:
        return facts(self.seed)

    @cached_property
    def train_questions(self) -> tuple[Question, ...]:
        return tuple(self._questions(heldout=False))

    @cached_property
    def heldout_questions(self) -> tuple[Question, ...]:
        """Facts × phrasings never met in training, in a keyed order, so that any first few are a fair sample."""
        shuffled = sorted(self._questions(heldout=True), key=lambda each: chance(self.seed, "evaluation", each.text))
        return tuple(shuffled)

    def demonstrations(self, n: int, seed: int) -> list[tuple[Question, str]]:
        """``n`` training questions with a reply each, in mixed styles and not all right.

        Questions come round in a new order each time, so that none is asked twice before all were asked once.
        """
        of = self.train_questions
        rounds = range(-(-n // len(of)))
        order = [i for r in rounds for i in sorted(range(len(of)), key=lambda i: chance(self.seed, seed, "turn", r, i))]
        key = (self.seed, seed, "demonstration")
        return [(of[i], demonstrate(of[i].fact, *key, place).text) for place, i in enumerate(order[:n])]

    @cached_property
    def text(self) -> tuple[str, ...]:
        """What a tokenizer is trained on: the training questions, and replies of every style to each of them."""
        replies = [demonstrate(each.fact, self.seed, "text", each.text).text for each in self.train_questions]
        return (*(each.text for each in self.train_questions), *replies)

    @cached_property
    def vocabulary(self) -> tuple[str, ...]:
        return tuple(sorted({word for text in self.text for word in text.split()}))

    def gold(self, question: Question | Fact | str | Messages, reply: str | Messages) -> Score:
        """The hidden utility. Never show it to training: it is for the simulated crowd, and for evaluation.

        A question may also be its text, or messages that end with it; a reply may be messages that end with it.
        Raises UsageError for a question that this world does not ask.
        """
        fact = question.fact if isinstance(question, Question) else question
        return gold(fact if isinstance(fact, Fact) else self.fact_of(last(fact)), last(reply))

    def utility(self, question: Question | Fact | str | Messages, reply: str | Messages) -> float:
        """The value of ``gold`` alone, as a ``Crowd`` wants it."""
        return self.gold(question, reply).value

    def fact_of(self, text: str) -> Fact:
        """What a question is about, however its signs are spaced. Raises UsageError when it is none of this world's."""
        try:
            return self._by_text[" ".join(tokenise(text))]
        except KeyError:
            raise UsageError(f"Expected a question of this world (seed {self.seed}); got {text[:80]!r}.") from None

    def examples(self, n: int) -> tuple[Question, ...]:
        """Held-out questions to show to people, each about another aspect while there are aspects left."""
        of = self.heldout_questions
        first = {each.fact.aspect: each for each in reversed(of)}
        order = sorted(first.values(), key=of.index)
        return tuple((*order, *(each for each in of if each not in order))[:n])

    @cached_property
    def _by_text(self) -> dict[str, Fact]:
        return {" ".join(tokenise(each.text)): each.fact for each in (*self.train_questions, *self.heldout_questions)}

    def _questions(self, *, heldout: bool) -> list[Question]:
        apart = held_out(self.facts, self.seed, self.heldout_share)
        cells = [(fact, i) for fact in self.facts for i in range(len(QUESTIONS[fact.aspect]))]
        return [Question(ask(fact, i, self.seed), fact) for fact, i in cells if ((fact, i) in apart) == heldout]


def last(text: str | Messages) -> str:
    """The text, or what the last message says."""
    return text if isinstance(text, str) else text[-1]["content"]


def printed(text: str) -> str:
    """A question or reply as one would print it, signs joined to their words: "customer: how much is the sun jar?"."""
    return re.sub(r"\s+([.,:;!?])", r"\1", text).strip()
