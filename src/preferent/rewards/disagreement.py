"""What an ensemble's disagreement is good for besides caution: weights for DPO's pairs, and what to ask people next."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from preferent.losses.reward import certainty
from preferent.rewards.learned import LearnedReward
from preferent.types import Learner, Pairs, Score


def reweighted(
    batches: Iterable[Pairs], reward: LearnedReward, learner: Learner[Any], *, temperature: float = 1.0
) -> Iterator[Pairs]:
    """The batches, each pair's weight times the members' ``certainty`` of its margin, scored in the learner's cuts.

    The step still divides by the sum of the weights: pairs that members agree on count for more, not all for less. It
    takes a batch when it is asked for one, so the position of ``batches`` is all the state there is. Raises ValueError
    for models of other tokens than the batch's, and for a single member, which agrees with itself.
    """
    refuse_unfit(reward)
    for x in batches:
        said = learner.map(x.replies, lambda _, cut: reward.read_replies(cut)[..., 0].T).T  # [m, r]
        better, worse = x.better.to(said.device), x.worse.to(said.device)
        sure = certainty(said[:, better] - said[:, worse], temperature=temperature)
        yield replace(x, weight=x.weight * sure.to(x.weight))


def refuse_unfit(reward: LearnedReward) -> None:
    """Raise ValueError for an ensemble that cannot say what it disagrees on about pairs in the policy's tokens."""
    if reward.template is not None:
        raise ValueError(
            "reward models with another tokenizer or chat template than the policy's cannot weigh its pairs"
        )
    if len(reward.members) < 2:
        raise ValueError("a single reward model does not disagree with itself: train several, with --members")


class Exploit(NamedTuple):
    """Two replies to a prompt, by their places: one that the reward may be wrong about, and one to compare it with."""

    prompt: int
    suspect: int
    trusted: int
    spread: float  # of the suspect's scores between members


def exploits(groups: Sequence[Sequence[Score]], k: int, *, caution: float = 1.0) -> list[Exploit]:
    """The k prompts whose likely exploit the members agree on least, the least agreed on first.

    ``groups`` holds what an ensemble says of the replies to each prompt, which should differ. A suspect scores highest
    where doubt is taken for the best: mean + caution·spread. The trusted one scores highest of the others where it is
    taken for the worst. People who compare the two teach the reward what it is exploited for. Left out: how far replies
    are from those that were judged, which an ensemble's spread stands for. Ties go to the earlier place.
    """
    found = [pick(prompt, group, caution) for prompt, group in enumerate(groups) if len(group) > 1]
    return sorted((each for each in found if each.spread > 0), key=lambda each: -each.spread)[:k]


def pick(prompt: int, group: Sequence[Score], caution: float) -> Exploit:
    means = [score.parts.get("members_mean", score.value) for score in group]
    spreads = [score.parts.get("members_spread", 0.0) for score in group]
    places = range(len(group))
    suspect = max(places, key=lambda i: means[i] + caution * spreads[i])
    trusted = max((i for i in places if i != suspect), key=lambda i: means[i] - caution * spreads[i])
    return Exploit(prompt, suspect, trusted, spreads[suspect])
