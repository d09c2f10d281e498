"""A simulated crowd: people who see a utility through noise, and answer comparisons of two options as people do.

The utility may be anything; where it is a hidden gold one, its owner learns of it only what the crowd answers.
With u the utility, z = sharpness · reliability · (u_a − u_b) + position_bias · (±1, shown first) + length_bias ·
(words of a − words of b), a person

    answers anything, one option or the other, with probability lapse;
    else calls it a tie with probability tie_rate · exp(−sharpness · |u_a − u_b|);
    else prefers a with probability logistic(z): Bradley–Terry with biases.

Left out on purpose: fatigue, moods, and people with tastes of their own. Answers depend on the seed, the person and
what is compared, and on nothing else: not on the batch, nor on which option stands first in the canonical order.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import KW_ONLY, dataclass, replace
from typing import Generic, NamedTuple, TypeVar

from preferent.config import UsageError
from preferent.feedback import summary
from preferent.feedback.agreement import Text, as_text, by_comparison, content
from preferent.types import Comparison, Preference

X = TypeVar("X")
Y = TypeVar("Y")
T = TypeVar("T")

FIRST, SECOND, TIE = (1.0, 0.0), (0.0, 1.0), (0.5, 0.5)


class Probabilities(NamedTuple):
    """Of one person's answers to one comparison, in its canonical order."""

    first: float
    tie: float
    second: float


class Ceiling(NamedTuple):
    """How often the better option by utility is the one preferred: the accuracy of knowing the utility perfectly.

    Ties among the answers are left out of both; options of equal utility are right half of the time. None where there
    is nothing to count. A learner can pass it by learning the crowd's biases along with the utility.
    """

    single: float | None  # against each person's answer
    merged: float | None  # against the majority of each comparison
    answers: int  # that were counted for ``single``
    comparisons: int  # that were counted for ``merged``
    ties: float  # share of the answers


@dataclass(frozen=True)
class Crowd(Generic[X, Y]):
    """Simulated people, as an annotator: each comparison goes to ``per_comparison`` of them, one answer each.

    People's reliabilities are spread evenly between the two given. Raises UsageError for impossible settings.
    """

    utility: Callable[[X, Y], float]
    _: KW_ONLY
    seed: int
    people: int = 9
    per_comparison: int = 3
    sharpness: float = 14.0  # log-odds for one unit of utility, for a person of reliability 1
    reliability: tuple[float, float] = (0.5, 1.0)
    position_bias: float = 0.15  # log-odds for what is shown first
    length_bias: float = 0.02  # log-odds for each word more
    tie_rate: float = 0.3  # between options of equal utility
    lapse: float = 0.03
    pace: float = 3.5  # words read a second, by a person of average pace
    text: Text = as_text
    name: str = "simulated crowd"

    def __post_init__(self) -> None:
        if not 1 <= self.per_comparison <= self.people:
            raise UsageError(
                f"A comparison can go to 1 … {self.people} of {self.people} people; got {self.per_comparison}."
            )
        if self.pace <= 0:
            raise UsageError(f"pace is in words a second, above 0; got {self.pace}.")
        for word, rate in {"tie_rate": self.tie_rate, "lapse": self.lapse}.items():
            if not 0 <= rate <= 1:
                raise UsageError(f"{word} is a probability, between 0 and 1; got {rate}.")
        if min(self.sharpness, *self.reliability) < 0:
            raise UsageError("sharpness and reliability cannot be negative: 0 is a person who guesses.")

    def __call__(self, comparisons: Sequence[Comparison[X, Y]], /) -> list[Preference[X, Y]]:
        """Everybody's answers, those to one comparison one after another. Raises UsageError where not two options."""
        gaps = [self.gap(each) for each in comparisons]
        pairs = zip(comparisons, gaps, strict=True)
        return [self.answer(each, person, gap=gap) for each, gap in pairs for person in self.panel(each)]

    def gap(self, comparison: Comparison[X, Y]) -> float:
        """How much more useful the first option is. Raises UsageError where there are not two."""
        return gap_of(comparison, self.utility)

    def panel(self, comparison: Comparison[X, Y]) -> list[int]:
        """The people who are asked."""
        key = self._key(comparison)
        order = sorted(range(self.people), key=lambda person: chance(self.seed, "panel", *key, person))
        return sorted(order[: self.per_comparison])

    def answer(
        self, comparison: Comparison[X, Y], person: int, *, shown_first: int | None = None, gap: float | None = None
    ) -> Preference[X, Y]:
        """What one person says. ``shown_first`` is drawn when not given; either way the record is in canonical order.

        ``gap`` is that of the utilities, for who has it already.

        One draw decides; it is laid over the options in the order of their texts, so that swapping them changes nothing
        but the places.
        """
        key = self._key(comparison)
        flipped = self._flipped(comparison)
        if shown_first is None:
            shown_first = self.shown_first(comparison, person)
        p = self.probabilities(comparison, person, shown_first=shown_first, gap=gap)
        drawn = chance(self.seed, "answer", *key, person)
        low, up = (p.second, SECOND), (p.first, FIRST)
        (below, if_below), (_, otherwise) = (low, up) if flipped else (up, low)
        choice = if_below if drawn < below else TIE if drawn < below + p.tie else otherwise
        return Preference(comparison, choice, annotator=f"{self.name}, person {person + 1}")

    def probabilities(
        self, comparison: Comparison[X, Y], person: int, *, shown_first: int | None = None, gap: float | None = None
    ) -> Probabilities:
        """Exactly what ``answer`` draws from; over both orders of presentation when ``shown_first`` is not given."""
        gap = self.gap(comparison) if gap is None else gap
        if shown_first is None:
            both = [self.probabilities(comparison, person, shown_first=i, gap=gap) for i in (0, 1)]
            return Probabilities(*(sum(pair) / 2 for pair in zip(*both, strict=True)))
        longer, than = (len(self.text(option).split()) for option in comparison.options)
        position = self.position_bias * (1 - 2 * shown_first)
        z = self.sharpness * self.reliability_of(person) * gap + position + self.length_bias * (longer - than)
        tie = (1 - self.lapse) * self.tie_rate * math.exp(-self.sharpness * abs(gap))
        first = self.lapse / 2 + (1 - self.lapse - tie) * logistic(z)
        return Probabilities(first, tie, 1 - first - tie)

    def reliability_of(self, person: int) -> float:
        low, high = self.reliability
        return high if self.people == 1 else low + (high - low) * person / (self.people - 1)

    def seconds(self, comparison: Comparison[X, Y], person: int) -> float:
        """How long a person takes: all words at a pace of their own, then two seconds, a half more or less."""
        words = sum(len(part.split()) for part in content(comparison, self.text))
        own = self.pace * (0.7 + 0.6 * chance(self.seed, "pace", person))
        return round(words / own + 2 * (0.5 + chance(self.seed, "seconds", *self._key(comparison), person)), 3)

    def shown_first(self, comparison: Comparison[X, Y], person: int) -> int:
        """The place of the option that this person sees first, the same option whichever order it is asked in."""
        return int((chance(self.seed, "order", *self._key(comparison), person) < 0.5) != self._flipped(comparison))

    def _flipped(self, comparison: Comparison[X, Y]) -> bool:
        """Whether the options stand against the order of their texts."""
        return self.text(comparison.options[0]) > self.text(comparison.options[1])

    def _key(self, comparison: Comparison[X, Y]) -> tuple[str, ...]:
        """The content, the same for both canonical orders."""
        context, *options = content(comparison, self.text)
        return (context, *sorted(options))


def merged(preferences: Iterable[Preference[X, Y]], *, text: Text | None = None) -> list[Preference[X, Y]]:
    """One answer for each comparison: the mean of its choices as a soft label, from all of its annotators together."""
    return [together(group) for group in by_comparison(preferences, text=text).values()]


def together(group: Sequence[Preference[X, Y]]) -> Preference[X, Y]:
    """Answers to one comparison as one, in the way in which an export says them."""
    said = summary.together(group)
    return replace(
        group[0],
        choice=said.choice,
        annotator=" + ".join(dict.fromkeys(each.annotator for each in group if each.annotator)),
        strength=said.strength,
        both_bad=said.both_bad,
        judgements=tuple(judgement for each in group for judgement in each.judgements),
    )


def noise_ceiling(
    preferences: Sequence[Preference[X, Y]], utility: Callable[[X, Y], float], *, text: Text | None = None
) -> Ceiling:
    """Counted on a crowd's own answers: give it the comparisons that a reward model's accuracy is measured on."""
    groups = list(by_comparison(preferences, text=text).values())
    gaps = [gap_of(group[0].comparison, utility) for group in groups]
    pairs = list(zip(groups, gaps, strict=True))
    single = [hit for group, gap in pairs for each in group if (hit := agrees(each.choice, gap)) is not None]
    majority = [hit for group, gap in pairs if (hit := agrees(together(group).choice, gap)) is not None]
    ties = sum(each.choice[0] == each.choice[1] for each in preferences) / max(1, len(preferences))
    return Ceiling(mean(single), mean(majority), len(single), len(majority), ties)


def agrees(choice: tuple[float, ...], gap: float) -> float | None:
    """1 where the option of higher utility got the greater share, ½ where utilities are equal, None for a tie."""
    if choice[0] == choice[1]:
        return None
    return 0.5 if gap == 0 else float((gap > 0) == (choice[0] > choice[1]))


def gap_of(comparison: Comparison[X, Y], utility: Callable[[X, Y], float]) -> float:
    """How much more useful the first option is than the second. Raises UsageError when there are not two."""
    if len(comparison.options) != 2:
        raise UsageError(f"A comparison is of two options here; got {len(comparison.options)}. Ask in pairs.")
    a, b = comparison.options
    return utility(comparison.context, a) - utility(comparison.context, b)


def mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def logistic(z: float) -> float:
    return 1 / (1 + math.exp(-z)) if z >= 0 else math.exp(z) / (1 + math.exp(z))


def chance(*key: object) -> float:
    """A number in [0, 1) that depends on the key alone: 53 bits of its SHA-256."""
    digest = hashlib.sha256("\x1f".join(map(str, key)).encode()).digest()
    return (int.from_bytes(digest[:8], "big") >> 11) / 2**53


def pick(options: Sequence[T], *key: object) -> T:
    """One of the options, by key."""
    return options[int(chance(*key) * len(options))]
