"""Rewards of one's own, such as `--reward examples/rewards.py:brief`."""

import asyncio

from preferent.types import Episode, Score


def brief(episodes: list[Episode], longest: list[int]) -> list[float]:
    """0 for a reply of at most ``longest`` words, a column of the data; a tenth less for each word more."""
    words = [len(episode.text.split()) for episode in episodes]
    return [-0.1 * max(0, n - most) for n, most in zip(words, longest, strict=True)]


def plain(episodes: list[Episode]) -> list[Score]:
    """How plainly a reply speaks, and of what that is made."""
    return [marked(episode.text) for episode in episodes]


def marked(text: str) -> Score:
    hedges = sum(text.count(word) for word in ("perhaps", "probably", "might"))
    thanks = sum(text.count(word) for word in ("thank you", "valued"))
    return Score(-float(hedges + thanks), {"hedges": float(hedges), "thanks": float(thanks)})


async def asked_elsewhere(episodes: list[Episode]) -> list[float]:
    """Marks that take a while to come, such as a service's: all of them are asked for at once."""
    return list(await asyncio.gather(*(answer(episode.text) for episode in episodes)))


async def answer(text: str) -> float:
    await asyncio.sleep(0)  # here stands the request
    return float("coins" in text)
