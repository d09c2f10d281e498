"""Rows dealt out to parts by their prompts, so that no part has seen what another is asked.

The side of a prompt is drawn from its hash, and a prompt nearly the same as one before goes where that one went.
A decision therefore depends on the prompt and on those before it: rows that are added at the end move no old one. Where
a new prompt is nearly the same as two that went to different sides, no side is right, and the row is left out.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from preferent.feedback.curation.minhash import Near, words


@dataclass(frozen=True, slots=True)
class Claim:
    """A side that a prompt must be on, because of the row that went there before (from 0, in order of asking)."""

    side: str
    row: int


@dataclass(frozen=True, slots=True)
class Torn:
    """Two claims on different sides: the prompt can be on neither."""

    one: Claim
    other: Claim


@dataclass
class Dealer:
    """Deals prompts out to the parts that ``shares`` names, and remembers which went where."""

    shares: Mapping[str, float]
    threshold: float = 0.8
    seed: int = 0
    near: Near = field(init=False)
    dealt: list[Claim] = field(default_factory=list)  # of each prompt in ``near``
    same: dict[str, Claim] = field(default_factory=dict)  # of prompts, by their words
    groups: dict[str, Claim] = field(default_factory=dict)
    rows: int = 0

    def __post_init__(self) -> None:
        self.near = Near(self.threshold)

    def deal(self, prompt: str, groups: Sequence[str] = ()) -> Claim | Torn:
        """The side of the next row. Rows with a group in common, a conversation say, stay together in any case."""
        row, key = self.rows, " ".join(words(prompt))
        self.rows += 1
        sketch = None if key in self.same else self.near.sketch([prompt])
        claims = [self.groups[group] for group in groups if group in self.groups]
        claims += [self.same[key]] if sketch is None else [self.dealt[place] for place, _ in self.near.alike(sketch)]
        other = next((claim for claim in claims if claim.side != claims[0].side), None)
        if other is not None:
            return Torn(claims[0], other)
        chosen = claims[0].side if claims else side(groups[0] if groups else key, self.shares, self.seed)
        mine = Claim(chosen, row)
        for group in groups:
            self.groups.setdefault(group, mine)
        if sketch is not None:
            self.near.add(sketch)
            self.dealt.append(mine)
            self.same[key] = mine
        return mine


def side(key: str, shares: Mapping[str, float], seed: int = 0) -> str:
    """The part that a key falls into, in proportion to the shares: of the key alone, as if drawn uniformly."""
    drawn = int.from_bytes(hashlib.blake2b(f"{seed} {key}".encode("utf-8", "replace"), digest_size=8).digest()) / 2**64
    total = sum(shares.values())
    name, reached = "", 0.0
    for name, share in shares.items():
        reached += share / total
        if drawn < reached:
            return name
    return name
