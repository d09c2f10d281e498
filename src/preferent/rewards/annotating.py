"""A reward as an annotator: of the replies that it is asked to compare, it prefers the one with the higher score."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from preferent.rewards.finite import finite
from preferent.types import Comparison, Episode, Preference, Prompt, Reward, Score

Chance = Callable[[float], float]  # of a difference of scores: the probability that the first reply is better


def hard(gap: float) -> float:
    """The higher score wins; equal scores are a tie."""
    return 0.5 + 0.5 * ((gap > 0) - (gap < 0))


def soft(gap: float) -> float:
    """σ(gap): Bradley–Terry's own probability, as an expected label in place of a drawn one."""
    return 0.5 + 0.5 * math.tanh(gap / 2)


@dataclass(frozen=True, slots=True)
class Rewarded:
    """Answers everything it is asked. Of more than two options it compares its best with its worst, and no others.

    Raises NoScore for a score that is not a number.
    """

    reward: Reward
    chance: Chance = hard
    name: str = "reward"

    def __call__(self, comparisons: Sequence[Comparison[Prompt, Episode]], /) -> list[Preference[Prompt, Episode]]:
        marks = iter(self.reward([option for comparison in comparisons for option in comparison.options]))
        answers = []
        for comparison in comparisons:
            scores = [next(marks).value for _ in comparison.options]
            first, second = extremes(finite(scores, self.name))
            better = self.chance(scores[first] - scores[second])
            options = comparison.options[first], comparison.options[second]
            answers.append(Preference(Comparison(comparison.context, options), (better, 1 - better), self.name))
        return answers


def extremes(scores: Sequence[float]) -> tuple[int, int]:
    """Places of the highest score and of the lowest; of two, both, in their order."""
    if len(scores) == 2:
        return 0, 1
    best = max(range(len(scores)), key=scores.__getitem__)
    return best, min((i for i in range(len(scores)) if i != best), key=scores.__getitem__)


@dataclass
class Once:
    """The same reward, asked once about the replies of a step, whoever wants to know: a metric, then an annotator."""

    reward: Reward
    known: dict[int, tuple[Episode, Score]] = field(default_factory=dict)  # by identity; holds what it knows of

    def __call__(self, episodes: Sequence[Episode], /) -> list[Score]:
        if any(id(episode) not in self.known for episode in episodes):
            said = self.reward(episodes)
            if len(said) != len(episodes):
                return said  # for who asks to refuse
            self.known = {id(e): (e, score) for e, score in zip(episodes, said, strict=True)}
        return [self.known[id(episode)][1] for episode in episodes]
