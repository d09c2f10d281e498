"""What methods that compare the policy's own replies have in common: what is asked, and learning from the answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import combinations

from preferent.algorithms.dpo import Objective, Referred
from preferent.algorithms.rollouts import Group
from preferent.algorithms.said import Said
from preferent.data.comparisons import by_prompt, pairs
from preferent.types import Annotator, Comparison, Episode, Learner, Metrics, Policy, Preference, Prompt

Opinions = Sequence[Preference[Prompt, Episode]]
Asking = Callable[[Group], list[Comparison[Prompt, Episode]]]  # different replies to one prompt → what is asked


def in_pairs(group: Group) -> list[Comparison[Prompt, Episode]]:
    """Each with each."""
    return [Comparison(a.prompt, (a, b)) for a, b in combinations(group, 2)]


def at_once(group: Group) -> list[Comparison[Prompt, Episode]]:
    """One question: people choose the best, and a reward says which is best and which is worst."""
    return [Comparison(group[0].prompt, tuple(group))] if len(group) > 1 else []


def learned(
    learner: Learner[Policy],
    of: Said,
    annotator: Annotator[Prompt, Episode],
    objective: Objective,
    asking: Asking = in_pairs,
) -> Metrics:
    """One update on the answers. Where there are none, the step is skipped, and the policy stays as it is."""
    asked = [comparison for group in of.groups for comparison in asking(different(group))]
    opinions = annotator(asked) if asked else []
    if opinions:
        batch = referred(of, opinions)
        metrics = learner.update(objective.prepare(learner, batch) if objective.prepare else batch, objective)
    else:
        metrics = learner.skip()
    return {**metrics, "answered": answered(opinions, asked)}


def answered(opinions: Opinions, asked: Sequence[Comparison[Prompt, Episode]]) -> float:
    """The share of questions with an answer, however many have answered one."""
    of = {frozenset(map(id, opinion.comparison.options)) for opinion in opinions}
    return len(of) / max(len(asked), 1)


def different(group: Group) -> list[Episode]:
    """The first of each that say the same: a reply is not compared with itself."""
    return list({episode.tokens: episode for episode in reversed(group)}.values())[::-1]


def referred(of: Said, opinions: Opinions) -> Referred:
    """The answers as pairs, with what the reference has said of their replies already."""
    flat = [episode for group in of.groups for episode in group]
    place = {(episode.prompt.tokens, episode.tokens): row for row, episode in enumerate(flat)}
    batch = pairs(opinions)
    # In the order of ``pairs``: prompts, and the replies to each, as they are first met.
    rows = [
        place[group[0].comparison.context.tokens, tokens]
        for group in by_prompt(opinions, lambda opinion: opinion.comparison.context)
        for tokens in dict.fromkeys(option.tokens for opinion in group for option in opinion.comparison.options)
    ]
    return Referred(batch, of.reference[rows, : batch.replies.tokens.shape[1]])
