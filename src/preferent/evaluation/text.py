"""What replies look like from outside: how long, how varied, whether they ended."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from statistics import fmean

from preferent.types import Episode


def distinct(replies: Sequence[Sequence[Hashable]], n: int) -> float:
    """Different n-grams as a share of all n-grams, over all replies together: distinct-n (Li et al. 2016).

    Of tokens or of words, as given. It falls as more text is counted, so compare equally many replies to the same
    prompts. 0 where no reply has n tokens.
    """
    grams = [tuple(reply[i : i + n]) for reply in replies for i in range(len(reply) - n + 1)]
    return len(set(grams)) / len(grams) if grams else 0.0


def length(episodes: Sequence[Episode]) -> float:
    """Mean number of tokens that the policy chose, the end token included."""
    return fmean(sum(episode.learn) for episode in episodes)


def ended(episodes: Sequence[Episode]) -> float:
    """Share of the episodes that came to an end of their own, by the end token or a stop string."""
    return fmean(episode.stop != "length" for episode in episodes)


def described(episodes: Sequence[Episode]) -> dict[str, float]:
    """All of these, as metrics. Raises ValueError where there is no episode."""
    if not episodes:
        raise ValueError("there are no episodes to describe")
    tokens = [episode.tokens for episode in episodes]
    return {
        "length": length(episodes),
        "ended": ended(episodes),
        "distinct_1": distinct(tokens, 1),
        "distinct_2": distinct(tokens, 2),
    }
