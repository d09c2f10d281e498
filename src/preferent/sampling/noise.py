"""Noise that depends on its key alone: (seed, version, prompt, reply, position), whatever else is in the batch.

Drawing is by exponential race: argmin of E / p with E ~ Exp(1) for each token is a draw from p (the Gumbel-max trick
in other words). A counter-based hash gives E, so that no generator's state ties one reply to another.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor


def row_keys(seed: int, version: int, prompt: Sequence[int], reply: int) -> tuple[int, int]:
    """Two signed 32-bit words for one reply to one prompt."""
    text = f"{seed},{version},{reply}:{','.join(map(str, prompt))}"
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return int.from_bytes(digest[:4], signed=True), int.from_bytes(digest[4:], signed=True)


def exponentials(keys: Tensor, position: Tensor, vocabulary: int) -> Tensor:
    """[r, v] from ``keys`` [r, 2] and ``position`` [r], both int32: Exp(1), exact to the smallest values in fp32."""
    tokens = torch.arange(vocabulary, dtype=torch.int32, device=keys.device)
    at = mixed(keys[:, 0] ^ mixed(position))
    bits = mixed(mixed(tokens ^ at[:, None]) + keys[:, 1:])
    # 32 random bits as (n + 1/2) / 2³²: small values keep all their digits, and -log1p(-u) turns them into the race's
    # winners; rounding is left to the losers.
    uniform = (bits.double() + (2.0**31 + 0.5)).mul_(2.0**-32).float()
    return -torch.log1p(-uniform)


def mixed(x: Tensor) -> Tensor:
    """A bijection of 32-bit words whose every output bit depends on every input bit (murmur3's finaliser)."""
    x = (x ^ ((x >> 16) & 0xFFFF)) * -2048144789
    x = (x ^ ((x >> 13) & 0x7FFFF)) * -1028477387
    return x ^ ((x >> 16) & 0xFFFF)
