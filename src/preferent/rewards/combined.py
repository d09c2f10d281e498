"""Several rewards at once, and what a reply that never ended costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from preferent.types import Episode, Reward, Score


@dataclass(frozen=True, slots=True)
class Weighted:
    """The sum of weight · reward; each reward's own value is a part by its name."""

    rewards: Mapping[str, tuple[Reward, float]]

    def __call__(self, episodes: Sequence[Episode], /) -> list[Score]:
        said = {name: reward(episodes) for name, (reward, _) in self.rewards.items()}
        return [
            Score(
                sum(weight * said[name][i].value for name, (_, weight) in self.rewards.items()),
                {name: scores[i].value for name, scores in said.items()},
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
