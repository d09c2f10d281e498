"""Several rewards at once, and what a reply that never ended costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from preferent.types import Episode, Reward, Score


@dataclass(frozen=True, slots=True)
class Weighted:
    """The sum of weight · reward; each reward's own value is a part by its name, and so are its parts, behind it."""

    rewards: Mapping[str, tuple[Reward, float]]

    def __call__(self, episodes: Sequence[Episode], /) -> list[Score]:
        said = {name: reward(episodes) for name, (reward, _) in self.rewards.items()}
        return [
            Score(
                sum(weight * said[name][i].value for name, (_, weight) in self.rewards.items()),
                {name: scores[i].value for name, scores in said.items()}
                | {f"{name}/{part}": x for name, scores in said.items() for part, x in scores[i].parts.items()},
            )
            for i in range(len(episodes))
        ]


@dataclass(frozen=True, slots=True)
class EndRewarded:
    """A reply cut off at its length is worth ``penalty`` less (Stiennon et al. 2020)."""

    reward: Reward
    penalty: float

    def __call__(self, episodes: Sequence[Episode], /) -> list[Score]:
        return [
            score if episode.stop != "length" else Score(score.value - self.penalty, score.parts)
            for episode, score in zip(episodes, self.reward(episodes), strict=True)
        ]


@dataclass(frozen=True, slots=True)
class SoftOverlong:
    """A reply in its last ``buffer`` tokens before ``longest`` is worth less: linearly, to ``weight`` less at the end.

    DAPO's soft over-long punishment (Yu et al. 2025, eq. 13), for replies that cannot be longer than ``longest``: 0 up
    to longest - buffer, then (longest - buffer - length)/buffer, floored at -1. It is a part named ``overlong``.
    """

    reward: Reward
    longest: int  # tokens
    buffer: int  # tokens
    weight: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.buffer <= self.longest:
            raise ValueError(f"expected a buffer of 1 to {self.longest} tokens, the longest reply; got {self.buffer}")

    def __call__(self, episodes: Sequence[Episode], /) -> list[Score]:
        prices = [max(-1.0, min(0.0, (self.longest - self.buffer - len(e.tokens)) / self.buffer)) for e in episodes]
        return [
            Score(score.value + self.weight * price, {**score.parts, "overlong": price})
            for score, price in zip(self.reward(episodes), prices, strict=True)
        ]
