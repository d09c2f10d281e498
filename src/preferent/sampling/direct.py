"""Decoding by hand for decoders of Llama's kind: a prompt's keys and values stand once, however many replies it has.

A model's own forward reads a copy of the prompt's cache for each reply, and at one token a row its modules spend more
time in Python than in arithmetic. Here the queries of a prompt's replies are rows of one matrix, which meets the
prompt's keys in one product; a reply's own keys grow in a buffer. Layers are a few operations each, on the modules' own
weights (and adapters), for the rows alive only. ``can_decode`` asks once, in numbers, whether a model is of that kind.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad, rms_norm
from transformers import DynamicCache

from preferent.models.forward import FULL
from preferent.models.head import head_of
from preferent.models.linear import copied_bytes, products
from preferent.models.plan import token_budget
from preferent.models.policy import LanguagePolicy
from preferent.models.probe import random_replies, relative, tolerance
from preferent.types import Replies

Tokens = Sequence[int]
ROOM = 64  # reply tokens that the buffers hold at first
WORTH = 0.75  # prompts are moved together when so few of them still have replies alive


@torch.no_grad()
def can_decode(policy: LanguagePolicy) -> bool:
    """Whether a model is decoded by hand as it says itself: tried on a few random tokens, with replies that end."""
    config = policy.text_config
    windows = getattr(config, "sliding_window", None) and getattr(config, "use_sliding_window", True)
    if not policy.sharing or not policy.own_head or windows or set(getattr(config, "layer_types", None) or ()) - {FULL}:
        return False
    x = random_replies(policy.base)
    prompts = [row[:length].tolist() for row, length in zip(x.prompts, x.prompt_length.tolist(), strict=True)]
    try:
        state = Direct(policy, longest=6)
        found = [state.admit(prompts, [2, 2])[[3, 0]]]
        found += [state.step(x.tokens[:, i])[[3, 0]] for i in range(3)]
        state.keep(torch.tensor([3, 0], device=x.tokens.device))
        found += [state.step(x.tokens[[3, 0], i]) for i in range(3, 6)]
    except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError):
        return False
    error = 0.0
    for place, reply in enumerate((3, 0)):
        row = torch.tensor([[*prompts[reply // 2], *x.tokens[reply, :6].tolist()]], device=x.tokens.device)
        said = policy.base(input_ids=row).logits[0, -7:]
        error = max(error, relative(torch.stack([each[place] for each in found]), said))
    return error <= tolerance(policy.base)


class Direct:
    """For each layer, keys and values of g prompts [g, h, p, d], and of the r replies alive [r and more, h, t, d].

    Replies that are admitted later than others have nothing at the buffers' first places. No reply has more than
    ``longest`` tokens.
    """

    def __init__(self, policy: LanguagePolicy, *, longest: int) -> None:
        self.policy = policy
        self.longest = longest
        self.model = policy.base.base_model
        copied = copied_bytes(policy.base) > 0
        self.layers = [Layer(layer, copied=copied) for layer in self.model.layers]
        head = head_of(policy.base)
        self.head = replace(head, linear=alone(products([head.linear], copied=copied)))
        none = torch.zeros(0, dtype=torch.long, device=policy.base.device)
        self.length = none  # [g] of the prompts
        self.group, self.position, self.born = none, none, none  # [r] which prompt, the next token's place, t at first
        self.t = 0  # places of the buffers in use
        self.room = 0

    # --- the prompts ---------------------------------------------------------------------------------
    def admit(self, prompts: Sequence[Tokens], counts: Sequence[int]) -> Tensor:
        """Logits [new, v] for the first token of so many replies to each prompt, which stand behind those alive."""
        device, r = self.policy.base.device, len(self.group)
        counted = torch.tensor(counts, device=device)
        which = torch.arange(len(prompts), device=device).repeat_interleave(counted)
        self.leave(worth=1.0)
        first = self.forgotten()
        length = torch.tensor([len(prompt) for prompt in prompts], device=device)
        width = max(self.length.tolist() + length.tolist())
        self.room = max(self.room, self.t + min(ROOM, self.longest))
        states, kept = self.prefill(prompts, width)
        for layer, (keys, values) in zip(self.layers, kept, strict=True):
            fresh = [keys.new_empty(len(which), keys.shape[1], self.room, keys.shape[3]) for _ in range(2)]
            for each in fresh:
                each[:, :, : self.t] = 0
            if r:
                keys = torch.cat([wide(layer.keys, width), keys])
                values = torch.cat([wide(layer.values, width), values])
                before = [wide(own[:r, :, first:], self.room) for own in layer.own]
                fresh = [torch.cat(each) for each in zip(before, fresh, strict=True)]
            layer.keys, layer.values, layer.own = keys, values, fresh
        self.group = torch.cat([self.group, len(self.length) + which])
        self.length = torch.cat([self.length, length])
        self.position = torch.cat([self.position, length[which]])
        self.born = torch.cat([self.born, torch.full_like(which, self.t)])
        self.hide()
        self.arrange()
        return self.head(states).repeat_interleave(counted, 0)

    def prefill(self, prompts: Sequence[Tokens], width: int) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
        """Each prompt's last state [g, hidden], and every layer's keys and values [g, h, width, d]."""
        states: list[Tensor] = []
        parts: list[list[tuple[Tensor, Tensor]]] = []
        for some in together([len(prompt) for prompt in prompts], token_budget(self.policy.base.device)):
            cache = DynamicCache()
            plan = self.policy.plan(unanswered(prompts[some], self.policy.base.device))
            given = self.policy.inputs(plan) | {"past_key_values": cache, "use_cache": True}
            last, length = plan.states[:, 0], plan.positions.flatten()[plan.states[:, :1]] + 1
            states.append(self.model(**given).last_hidden_state.flatten(0, 1)[last])
            along = torch.arange(width, device=last.device)
            at = last[:, None] + 1 - length + along.minimum(length - 1)  # a prompt's last key again behind it: hidden
            parts.append([(spread(layer.keys, at), spread(layer.values, at)) for layer in cache.layers])
        each = [[torch.cat(of) for of in zip(*layer, strict=True)] for layer in zip(*parts, strict=True)]
        return torch.cat(states), [(keys, values) for keys, values in each]

    def hide(self) -> None:
        """What is added to the scores of what is no key: behind shorter prompts, before a reply was admitted."""
        behind = torch.arange(self.layers[0].keys.shape[2], device=self.length.device) >= self.length[:, None]
        before = torch.arange(self.room, device=self.born.device) < self.born[:, None]
        zero = torch.zeros((), dtype=self.layers[0].keys.dtype, device=behind.device)
        self.behind, self.before = (  # [g, 1, 1, p] and [r, 1, 1, room], or nothing
            zero.masked_fill(where, -torch.inf)[:, None, None] if bool(where.any()) else None
            for where in (behind, before)
        )

    def arrange(self) -> None:
        """A place for each row among its prompt's, so that a prompt's keys meet the queries of all in one product."""
        alive = torch.bincount(self.group, minlength=len(self.length))
        order = self.group.argsort(stable=True)
        ordered = torch.arange(len(order), device=order.device)
        place = torch.empty_like(order)
        place[order] = ordered - (alive.cumsum(0) - alive)[self.group[order]]
        self.n = int(alive.max()) if len(order) else 0
        full = len(order) == len(alive) * self.n and bool((order == ordered).all())
        self.places = None if full else (self.group, place)

    # --- the replies ---------------------------------------------------------------------------------
    def step(self, tokens: Tensor) -> Tensor:
        """Logits [r, v] of the rows alive after one more token [r] each."""
        if self.t == self.room:
            self.grow()
        r = len(tokens)
        x = self.model.embed_tokens(tokens)
        cos, sin = (each.view(r, 1, -1) for each in self.model.rotary_emb(x[None], self.position[None]))
        for layer in self.layers:
            x = x + layer.output(self.attend(layer, normed(layer.first_norm, x), cos, sin))
            x = x + layer.mlp(normed(layer.second_norm, x))
        self.t += 1
        self.position = self.position + 1
        return self.head(normed(self.model.norm, x))

    def attend(self, layer: Layer, h: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """[r, heads · d] of one layer, whose buffers get this token's key and value."""
        r, d, p, end = len(h), layer.keys.shape[3], layer.keys.shape[2], self.t + 1
        q, k, v = (each.view(r, -1, d) for each in layer.projected(h))
        if layer.norms is not None:
            q, k = normed(layer.norms[0], q), normed(layer.norms[1], k)
        both = torch.cat([q, k], 1)
        both = torch.addcmul(both * cos, rotated(both), sin)
        q, k = both.split([q.shape[1], k.shape[1]], 1)
        own_keys, own_values = layer.own
        own_keys[:r, :, self.t], own_values[:r, :, self.t] = k, v
        own_keys, own_values = own_keys[:r, :, :end], own_values[:r, :, :end]

        q = (q * layer.scaling).view(r, k.shape[1], -1, d)  # [r, h, times, d]
        of_prompt = self.gathered(q) @ layer.keys.transpose(-1, -2)
        if self.behind is not None:
            of_prompt += self.behind
        of_own = q @ own_keys.transpose(-1, -2)
        if self.before is not None:
            of_own += self.before[..., :end]
        share = torch.cat([self.scattered(of_prompt), of_own], -1).softmax(-1)
        out = self.scattered(self.gathered(share[..., :p]) @ layer.values) + share[..., p:] @ own_values
        return out.reshape(r, -1)

    def gathered(self, x: Tensor) -> Tensor:
        """[g, h, n · times, k] of [r, h, times, k]: rows beside the others of their prompt."""
        h, times, k = x.shape[1:]
        g, n = len(self.length), self.n
        if self.places is None:
            every = x.view(g, n, h, times, k).transpose(1, 2)
        else:
            every = x.new_zeros(g, h, n, times, k)
            every[self.places[0], :, self.places[1]] = x
        return every.reshape(g, h, n * times, k)

    def scattered(self, x: Tensor) -> Tensor:
        """The way back."""
        g, h, rows, k = x.shape
        every = x.view(g, h, self.n, rows // self.n, k)
        if self.places is None:
            return every.transpose(1, 2).flatten(0, 1)
        return every[self.places[0], :, self.places[1]]

    def keep(self, rows: Tensor) -> None:
        """Of those alive these go on [r'], in this order; the others have ended."""
        moved = (rows != torch.arange(len(rows), device=rows.device)).nonzero()[:, 0]
        if len(moved):
            source = rows[moved]
            for layer in self.layers:
                for own in layer.own:
                    own[moved, :, : self.t] = own[source, :, : self.t]
        self.group, self.position, self.born = self.group[rows], self.position[rows], self.born[rows]
        self.leave(worth=WORTH)
        if self.before is not None:
            self.hide()
        self.arrange()

    def leave(self, worth: float) -> None:
        """Let prompts go whose replies have ended, once no more than this share of them is left."""
        groups, group = self.group.unique(return_inverse=True)
        if len(groups) == len(self.length) or len(groups) > worth * len(self.length):
            return
        self.length, self.group = self.length[groups], group
        longest = int(self.length.max()) if len(groups) else 0
        for layer in self.layers:
            layer.keys, layer.values = (each[groups, :, :longest] for each in (layer.keys, layer.values))
        self.hide()

    def grow(self) -> None:
        """Twice the room for the rows alive, or as much as they can fill."""
        r, first = len(self.group), self.forgotten()
        self.room = min(max(ROOM, 2 * self.t), self.longest + int(self.born.max()))
        for layer in self.layers:
            layer.own = [wide(own[:r, :, first:], self.room) for own in layer.own]
        self.hide()

    def forgotten(self) -> int:
        """How many of the buffers' first places no row alive has anything at: they do not count from here on."""
        first = int(self.born.min()) if len(self.born) else self.t
        self.born, self.t, self.room = self.born - first, self.t - first, self.room - first
        return first


class Layer:
    """One layer's parts, as a step needs them, and what it keeps of the tokens that it has seen."""

    keys: Tensor  # [g, h, p, d]
    values: Tensor
    own: list[Tensor]  # keys and values [r and more, h, room, d]

    def __init__(self, layer: Any, *, copied: bool) -> None:
        attention = layer.self_attn
        self.first_norm, self.second_norm = layer.input_layernorm, layer.post_attention_layernorm
        self.projected = products([attention.q_proj, attention.k_proj, attention.v_proj], copied=copied)
        self.norms = (attention.q_norm, attention.k_norm) if hasattr(attention, "q_norm") else None
        self.scaling: float = attention.scaling
        self.output = alone(products([attention.o_proj], copied=copied))
        self.mlp = perceptron(layer.mlp, copied=copied)


def perceptron(mlp: Any, *, copied: bool) -> Callable[[Tensor], Tensor]:
    """A layer's other half, in two products where it is of the usual kind."""
    if not all(hasattr(mlp, name) for name in ("gate_proj", "up_proj", "down_proj", "act_fn")):
        return mlp  # type: ignore[no-any-return]
    widened = products([mlp.gate_proj, mlp.up_proj], copied=copied)
    narrowed = alone(products([mlp.down_proj], copied=copied))

    def gated(x: Tensor) -> Tensor:
        gate, up = widened(x)
        return narrowed(mlp.act_fn(gate) * up)

    return gated


def alone(product: Callable[[Tensor], tuple[Tensor, ...]]) -> Callable[[Tensor], Tensor]:
    """Of a single layer."""
    return lambda x: product(x)[0]


def unanswered(prompts: Sequence[Tokens], device: torch.device) -> Replies:
    """Prompts, each with a reply of no tokens."""
    length = torch.tensor([len(prompt) for prompt in prompts], device=device)
    rows = [[*prompt, *[0] * (int(length.max()) - len(prompt))] for prompt in prompts]
    nothing = torch.zeros(len(prompts), 0, dtype=torch.long, device=device)
    which = torch.arange(len(prompts), device=device)
    return Replies(torch.tensor(rows, device=device), length, which, nothing, nothing.bool(), nothing.bool())


def together(lengths: Sequence[int], budget: int) -> list[slice]:
    """Which prompts are read in one forward."""
    cuts, held = [0], 0
    for i, length in enumerate(lengths):
        if held + length > budget and held:
            cuts.append(i)
            held = 0
        held += length
    return [slice(*each) for each in zip(cuts, [*cuts[1:], len(lengths)], strict=True)]


def spread(x: Tensor, at: Tensor) -> Tensor:
    """[g, h, p, d] of keys [n, h, w, d], at flat places [g, p] of n · w."""
    return x.transpose(1, 2).flatten(0, 1)[at].transpose(1, 2).contiguous()


def wide(x: Tensor, width: int) -> Tensor:
    """[.., h, width, d] of [.., h, less, d], with nothing behind."""
    return pad(x, (0, 0, 0, width - x.shape[2]))


def normed(norm: Any, x: Tensor) -> Tensor:
    """A root-mean-square norm in one operation."""
    return rms_norm(x, x.shape[-1:], norm.weight, norm.variance_epsilon)


def rotated(x: Tensor) -> Tensor:
    a, b = x.chunk(2, -1)
    return torch.cat([-b, a], -1)
