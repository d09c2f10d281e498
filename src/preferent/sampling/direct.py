"""Decoding by hand for decoders of Llama's kind: a prompt's keys and values stand once, however many replies it has.

A model's own forward reads a copy of the prompt's cache for each reply, and at one token a row its modules spend more
time in Python than in arithmetic. Here the queries of a prompt's replies are rows of one matrix, which meets the
prompt's keys in one product; a reply's own keys grow in a buffer. Layers are a few operations each, on the modules' own
weights (and adapters). ``can_decode`` asks once, in numbers, whether a model is of that kind.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import rms_norm

from preferent.models.forward import FULL
from preferent.models.head import head_of
from preferent.models.policy import LanguagePolicy
from preferent.models.probe import random_replies, relative, tolerance

Tokens = Sequence[int]
ROOM = 64  # reply tokens that the buffer holds at first
PREFILL = 8192  # tokens of prompts in one forward
WASTE = 0.85  # of a prefill's places must be tokens
WORTH = 0.75  # rows are moved together when so few of the places are still wanted


@torch.no_grad()
def can_decode(policy: LanguagePolicy) -> bool:
    """Whether a model is decoded by hand as it says itself: tried on a few random tokens, longer than one buffer."""
    config = policy.text_config
    windows = getattr(config, "sliding_window", None) and getattr(config, "use_sliding_window", True)
    if not policy.sharing or not policy.own_head or windows or set(getattr(config, "layer_types", None) or ()) - {FULL}:
        return False
    x = random_replies(policy.base)
    prompts = [row[:length].tolist() for row, length in zip(x.prompts, x.prompt_length.tolist(), strict=True)]
    try:
        state = Direct(policy, prompts, 2)
        found = [state.begin()]
        found += [state.step(x.tokens[:, i]) for i in range(3)]
        state.keep(torch.tensor([0, 3], device=state.at.device))  # a reply of each prompt: the buffers are moved
        found += [state.step(x.tokens[[0, 3], i])[[0, 0, 1, 1]] for i in range(3, 6)]
    except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError):
        return False
    rows = [[*prompts[i // 2], *x.tokens[i, :6].tolist()] for i in (0, 3)]
    error = 0.0
    for row, i in zip(rows, (0, 3), strict=True):
        said = policy.base(input_ids=torch.tensor([row], device=x.tokens.device)).logits[0, -7:]
        error = max(error, relative(torch.stack([each[i] for each in found]), said[: len(found)]))
    return error <= tolerance(policy.base)


class Direct:
    """Keys and values of prompts [g, h, p, d] and of their replies [g, h, n, t, d], for each layer."""

    def __init__(self, policy: LanguagePolicy, prompts: Sequence[Tokens], n: int) -> None:
        self.policy = policy
        self.model = policy.base.base_model
        self.head = head_of(policy.base)
        self.prompts = prompts
        self.n = n
        self.at = torch.arange(len(prompts) * n, device=policy.base.device)  # the place of each row alive
        self.t = 0  # reply tokens in the buffers

    # --- the prompts ---------------------------------------------------------------------------------
    def begin(self) -> Tensor:
        """Logits [r, v] for each reply's first token."""
        device, lengths = self.policy.base.device, [len(prompt) for prompt in self.prompts]
        self.length = torch.tensor(lengths, device=device)  # [g]
        width = max(lengths)
        states: list[Tensor] = []
        parts: list[list[tuple[Tensor, Tensor]]] = []
        order: list[int] = []
        for some in together(lengths):
            last, layers = self.prefill([self.prompts[i] for i in some], width)
            states.append(last)
            parts.append(layers)
            order += some
        back = torch.tensor(order, device=device).argsort()
        self.keys = [torch.cat([part[i][0] for part in parts])[back] for i in range(len(parts[0]))]
        self.values = [torch.cat([part[i][1] for part in parts])[back] for i in range(len(parts[0]))]
        heads, d = self.keys[0].shape[1], self.keys[0].shape[3]
        shape = (len(self.prompts), heads, self.n, ROOM, d)
        self.own_keys = [key.new_empty(shape) for key in self.keys]
        self.own_values = [key.new_empty(shape) for key in self.keys]
        self.hide()
        return self.head(torch.cat(states)[back]).repeat_interleave(self.n, 0)

    def prefill(self, prompts: Sequence[Tokens], width: int) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
        """The last state [g, hidden], and each layer's keys and values, padded to ``width``.

        Prompts stand on the left: what follows them is seen by none of their tokens, so that no mask is needed.
        """
        from transformers import DynamicCache

        device, longest = self.policy.base.device, max(map(len, prompts))
        tokens = torch.tensor([[*prompt, *[0] * (longest - len(prompt))] for prompt in prompts], device=device)
        cache = DynamicCache()
        out = self.model(input_ids=tokens, attention_mask=None, past_key_values=cache, use_cache=True)
        last = torch.tensor([len(prompt) - 1 for prompt in prompts], device=device)
        states = out.last_hidden_state[torch.arange(len(prompts), device=device), last]
        pad = (0, 0, 0, width - longest)
        each = [
            (torch.nn.functional.pad(layer.keys, pad), torch.nn.functional.pad(layer.values, pad))
            for layer in cache.layers
        ]
        return states, each

    def hide(self) -> None:
        """What is added to scores [g, 1, 1, p] of the prompts' keys: minus infinity behind the shorter ones."""
        p = self.keys[0].shape[2]
        behind = torch.arange(p, device=self.length.device) >= self.length[:, None]
        zero = torch.zeros((), dtype=self.keys[0].dtype, device=behind.device)
        hidden = zero.masked_fill(behind, -torch.inf)[:, None, None]
        self.hidden = hidden if bool(behind.any()) else None

    # --- the replies ---------------------------------------------------------------------------------
    def step(self, tokens: Tensor) -> Tensor:
        """Logits [r, v] of the rows alive after one more token [r] each."""
        if self.t == self.own_keys[0].shape[3]:
            self.own_keys, self.own_values = map(roomier, (self.own_keys, self.own_values))
        g, n = len(self.length), self.n
        every = tokens.new_zeros(g * n)
        every[self.at] = tokens
        x = self.model.embed_tokens(every)
        positions = (self.length + self.t).repeat_interleave(n)[None]
        cos, sin = (each.view(g * n, 1, -1) for each in self.model.rotary_emb(x[None], positions))
        for i, layer in enumerate(self.model.layers):
            attention = layer.self_attn
            h = normed(layer.input_layernorm, x)
            x = x + attention.o_proj(self.attend(i, attention, h, cos, sin))
            x = x + layer.mlp(normed(layer.post_attention_layernorm, x))
        self.t += 1
        return self.head(normed(self.model.norm, x[self.at]))

    def attend(self, i: int, attention: Any, h: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """[g · n, heads · d] of one layer, whose buffers get this token's key and value."""
        keys, values, own_keys, own_values = (
            each[i] for each in (self.keys, self.values, self.own_keys, self.own_values)
        )
        g, n, d = len(self.length), self.n, keys.shape[3]
        q, k, v = (project(h).view(g * n, -1, d) for project in (attention.q_proj, attention.k_proj, attention.v_proj))
        if hasattr(attention, "q_norm"):
            q, k = normed(attention.q_norm, q), normed(attention.k_norm, k)
        both = torch.cat([q, k], 1)
        both = torch.addcmul(both * cos, rotated(both), sin)
        heads, few = q.shape[1], k.shape[1]
        q, k = both.split([heads, few], 1)
        own_keys[:, :, :, self.t] = k.reshape(g, n, few, d).transpose(1, 2)
        own_values[:, :, :, self.t] = v.view(g, n, few, d).transpose(1, 2)
        end, p, times = self.t + 1, keys.shape[2], heads // few

        q = (q * attention.scaling).reshape(g, n, few, times, d).transpose(1, 2)  # [g, few, n, times, d]
        scores = torch.cat(
            [
                q.reshape(g, few, n * times, d) @ keys.transpose(-1, -2)
                if self.hidden is None
                else (q.reshape(g, few, n * times, d) @ keys.transpose(-1, -2)).add_(self.hidden),
                (q @ own_keys[:, :, :, :end].transpose(-1, -2)).reshape(g, few, n * times, end),
            ],
            -1,
        )
        share = scores.softmax(-1)
        out = share[..., :p] @ values
        out = out.view(g, few, n, times, d) + share[..., p:].reshape(g, few, n, times, end) @ own_values[:, :, :, :end]
        return out.transpose(1, 2).reshape(g * n, heads * d)

    def keep(self, rows: Tensor) -> None:
        """Let the others go: they have ended. Those alive are moved together once that saves enough."""
        self.at = self.at[rows]
        group, place = self.at // self.n, self.at % self.n
        alive = torch.bincount(group, minlength=len(self.length))
        groups, n = (alive > 0).nonzero()[:, 0], int(alive.max())
        if len(groups) * n > WORTH * len(self.length) * self.n:
            return
        first = (alive.cumsum(0) - alive)[group]
        new = torch.arange(len(group), device=group.device) - first  # places within a group; rows are in order
        wanted = torch.zeros(len(self.length), n, dtype=torch.long, device=group.device)
        wanted[group, new] = place
        wanted = wanted[groups]
        renamed = torch.empty_like(alive)
        renamed[groups] = torch.arange(len(groups), device=group.device)
        if len(groups) < len(self.length):
            self.length = self.length[groups]
            self.keys, self.values = ([each[groups] for each in of] for of in (self.keys, self.values))
            self.hide()
        self.own_keys, self.own_values = (
            [moved(each, groups, wanted, self.t) for each in of] for of in (self.own_keys, self.own_values)
        )
        self.at, self.n = renamed[group] * n + new, n


def moved(own: Tensor, groups: Tensor, wanted: Tensor, t: int) -> Tensor:
    """A buffer [g, h, n, room, d] of these groups and, of each, the wanted places [g', n']."""
    fewer = own.new_empty(len(groups), own.shape[1], wanted.shape[1], *own.shape[3:])
    fewer[:, :, :, :t] = own[groups[:, None], :, wanted, :t].transpose(1, 2)
    return fewer


def roomier(buffers: list[Tensor]) -> list[Tensor]:
    """The same with twice the room."""
    return [torch.cat([each, torch.empty_like(each)], 3) for each in buffers]


def together(lengths: Sequence[int]) -> list[list[int]]:
    """Which prompts are read in one forward: of like length, as few places as possible empty."""
    parts: list[list[int]] = []
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        longest = lengths[parts[-1][0]] if parts else 0
        held = sum(lengths[j] for j in parts[-1]) + lengths[i] if parts else 0
        places = longest * (len(parts[-1]) + 1) if parts else 0
        if not parts or places > PREFILL or held < WASTE * places:
            parts.append([])
        parts[-1].append(i)
    return parts


def normed(norm: Any, x: Tensor) -> Tensor:
    """A root-mean-square norm in one operation."""
    return rms_norm(x, x.shape[-1:], norm.weight, norm.variance_epsilon)


def rotated(x: Tensor) -> Tensor:
    a, b = x.chunk(2, -1)
    return torch.cat([-b, a], -1)
