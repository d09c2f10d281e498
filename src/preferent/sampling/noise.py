"""Noise that depends on its key alone: (seed, version, prompt, reply, position), whatever else is in the batch.

A reply's position has one uniform number, from a counter-based hash, so that no generator's state ties one reply to
another; it is turned into a token through the distribution function.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import pad

BLOCK = 64


def row_keys(seed: int, version: int, prompt: Sequence[int], reply: int) -> tuple[int, int]:
    """Two signed 32-bit words for one reply to one prompt."""
    text = f"{seed},{version},{reply}:{','.join(map(str, prompt))}"
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return int.from_bytes(digest[:4], signed=True), int.from_bytes(digest[4:], signed=True)


def uniforms(keys: Tensor, position: Tensor) -> Tensor:
    """[r, k] in (0, 1) with 53 random bits, for rows of ``keys`` [r, 2] at ``position`` [r or 1, k], both int32."""
    at = mixed(position + 1)  # the bijection leaves 0 where it is
    first, second = mixed(keys[:, :1] ^ at), mixed(keys[:, 1:] + at)
    high, low = mixed(first + second), mixed(second ^ mixed(first + 1))
    return ((high.double() + 2.0**31) * 2.0**21 + (low.double() + 2.0**31) * 2.0**-11 + 0.5) * 2.0**-53


def drawn(weights: Tensor, uniform: Tensor) -> Tensor:
    """[r] tokens, of ``weights`` [r, v] that need not sum to 1, by inverting the distribution function.

    In two levels, first a block of tokens and then one of it, summed in double precision: a token of probability 1e-12
    is drawn as often as it should be, behind whatever came before it.
    """
    r, v = weights.shape
    p = (pad(weights, (0, -v % BLOCK)) if v % BLOCK else weights).view(r, -1, BLOCK)
    block, rest = inverted(p.sum(-1, dtype=torch.double), uniform)
    inside = p[torch.arange(r, device=p.device), block].double()
    token, _ = inverted(inside, rest / inside.sum(-1))
    return block * BLOCK + token


def inverted(weights: Tensor, uniform: Tensor) -> tuple[Tensor, Tensor]:
    """Of weights [r, k] the one at which their running sum passes a share of the whole, and what is left of it then."""
    sums = weights.cumsum(-1)
    wanted = (uniform * sums[:, -1]).minimum(sums[:, -1].nextafter(sums.new_zeros(())))
    at = torch.searchsorted(sums, wanted[:, None], right=True).clamp(max=weights.shape[-1] - 1)  # beyond it if NaN
    return at[:, 0], wanted - (sums.gather(1, at) - weights.gather(1, at))[:, 0]


def mixed(x: Tensor) -> Tensor:
    """A bijection of 32-bit words whose every output bit depends on every input bit (murmur3's finaliser)."""
    x = (x ^ ((x >> 16) & 0xFFFF)) * -2048144789
    x = (x ^ ((x >> 13) & 0x7FFFF)) * -1028477387
    return x ^ ((x >> 16) & 0xFFFF)
