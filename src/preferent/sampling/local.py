"""Sampling in process: each prompt is read once, its replies branch off, rows leave the batch as they end."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from preferent.config import UsageError
from preferent.models.forward import attention_mask
from preferent.models.head import head_of
from preferent.models.merging import merged
from preferent.models.policy import LanguagePolicy
from preferent.models.room import no_room, release, too_large
from preferent.sampling.direct import Direct, can_decode
from preferent.sampling.noise import drawn, row_keys, uniforms
from preferent.sampling.support import Support
from preferent.types import Episode, Prompt

log = logging.getLogger(__name__)
BLOCK = 64  # positions whose noise is made at a time
Stop = Literal["end", "length", "stop_string"]


@dataclass(frozen=True, slots=True)
class Request:
    """One reply to draw."""

    prompt: Prompt
    keys: tuple[int, int]


@dataclass(slots=True)
class Drawn:
    """What has been drawn of one reply so far."""

    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    stop: Stop = "length"


class LocalSampler:
    """Draws replies from a policy in this process; the weights are the policy's own, not a copy.

    ``support`` narrows what may be drawn (top-p and its kin): for evaluation and demonstrations. The log-probabilities
    are those of the whole distribution at the policy's temperature, as ``Policy.read`` gives them.
    """

    def __init__(
        self,
        policy: LanguagePolicy,
        *,
        max_new_tokens: int,
        end_tokens: Sequence[int] | None = None,
        support: Support = Support(),
        stop: Sequence[str] = (),
        seed: int = 0,
        cache_tokens: int = 1 << 17,
    ) -> None:
        self.policy = policy
        self.max_new_tokens = max_new_tokens
        self.end_tokens = frozenset(end_tokens if end_tokens is not None else [policy.tokenizer.eos_token_id])
        self.support = support
        self.stop = tuple(stop)
        self.seed = seed
        self.cache_tokens = cache_tokens  # keys and values held at a time, over all rows
        self.version = 0
        self.direct = can_decode(policy)

    def load(self, weights: Mapping[str, Tensor], version: int) -> None:
        """The learner's weights: nothing to copy where they are the policy's own, as they are in one process."""
        own = {name.removeprefix("policy."): value for name, value in weights.items()}
        with torch.no_grad():
            for name, parameter in self.policy.named_parameters():
                if name in own and own[name].data_ptr() != parameter.data_ptr():
                    parameter.copy_(own[name])
        self.version = version

    def state_dict(self) -> dict[str, Any]:
        """How much is drawn at a time, on which the last bits of a log-probability depend."""
        return {"cache_tokens": self.cache_tokens}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.cache_tokens = int(state["cache_tokens"])

    def sample(self, prompts: Sequence[Prompt], n: int) -> list[list[Episode]]:
        """``n`` episodes for each prompt, in order. A prompt that stands twice gets 2 n different replies."""
        drawn = dict(self.drawn(prompts, n))
        return [drawn[i] for i in range(len(prompts))]

    def drawn(self, prompts: Sequence[Prompt], n: int) -> Iterator[tuple[int, list[Episode]]]:
        """The same as they come: the place of a prompt, and its episodes."""
        groups = self.requests(prompts, n)
        for chunk in self.chunks(groups):
            rows = self.decode([groups[i] for i in chunk])
            for place, i in enumerate(chunk):
                mine = rows[place * n : (place + 1) * n]
                yield i, [self.episode(request, row) for request, row in zip(groups[i], mine, strict=True)]

    def requests(self, prompts: Sequence[Prompt], n: int) -> list[list[Request]]:
        """What is to be drawn for each prompt, with the keys of its noise."""
        seen: dict[tuple[int, ...], int] = {}
        groups: list[list[Request]] = []
        for prompt in prompts:
            first = seen.get(prompt.tokens, 0)
            seen[prompt.tokens] = first + n
            keys = [row_keys(self.seed, self.version, prompt.tokens, first + i) for i in range(n)]
            groups.append([Request(prompt, key) for key in keys])
        return groups

    def chunks(self, groups: list[list[Request]]) -> list[list[int]]:
        """Prompts of similar length together, as many as the cache may hold; of equal length on the plain path."""
        chunks: list[list[int]] = []
        held, length = 0, -1
        for i in sorted(range(len(groups)), key=lambda i: -len(groups[i][0].prompt.tokens)):
            own = len(groups[i][0].prompt.tokens)
            cost = len(groups[i]) * (own + self.max_new_tokens)
            if not chunks or held + cost > self.cache_tokens or (not self.policy.sharing and own != length):
                chunks.append([])
                held, length = 0, own
            chunks[-1].append(i)
            held += cost
        return chunks

    def decode(self, groups: list[list[Request]]) -> list[Drawn]:
        """All replies of a chunk; half of them at a time, and fewer from then on, where memory does not suffice."""
        rows: list[Drawn] = []
        try:
            with merged(self.policy):
                for rows in self.growing(groups):  # noqa: B007  (the last is the whole)
                    pass
        except (RuntimeError, MemoryError) as error:
            if not no_room(error):
                raise
            why = str(error)
        else:
            return rows
        release()
        if len(groups) == len(groups[0]) == 1:
            raise self.too_large(groups[0][0].prompt, why)
        first, second = halves(groups)
        cost = sum(len(group) * (len(group[0].prompt.tokens) + self.max_new_tokens) for group in groups)
        self.cache_tokens = min(self.cache_tokens, cost // 2)
        log.warning(
            "Keys and values of %d tokens do not fit into memory: fewer replies are drawn at a time from here on.", cost
        )
        return self.decode(first) + self.decode(second)

    def too_large(self, prompt: Prompt, why: str) -> UsageError:
        return too_large(
            f"to draw a single reply: its prompt has {len(prompt.tokens)} tokens, and --max-new-tokens is "
            f"{self.max_new_tokens}",
            prompt.tokens,
            tokenizer=self.policy.tokenizer,
            helps="Lower that or --max-length, or take a smaller --model.",
            said=why,
        )

    @torch.no_grad()
    def growing(self, groups: list[list[Request]]) -> Iterator[list[Drawn]]:
        """All replies of a chunk, after each token that they got."""
        device = self.policy.base.device
        state: Any = (
            Direct(self.policy, [group[0].prompt.tokens for group in groups], len(groups[0]))
            if self.direct
            else (Branching if self.policy.sharing else Repeating)(self.policy, groups)
        )
        keys = torch.tensor([r.keys for group in groups for r in group], dtype=torch.int32, device=device)
        rows = [Drawn() for group in groups for _ in group]
        alive = list(range(len(rows)))
        logits = state.begin()
        for position in range(self.max_new_tokens):
            scores = logits.float()
            if self.policy.temperature != 1:
                scores = scores / self.policy.temperature
            scores = scores.log_softmax(-1)
            if position % BLOCK == 0:
                coming = torch.arange(position, position + BLOCK, dtype=torch.int32, device=device)
                noise = uniforms(keys[alive], coming)
            tokens = drawn(self.support(scores), noise[:, position % BLOCK])
            logprobs = scores.gather(1, tokens[:, None]).squeeze(1).tolist()
            going = [
                place
                for place, (row, token, logp) in enumerate(zip(alive, tokens.tolist(), logprobs, strict=True))
                if not self.ended(rows[row], token, logp)
            ]
            yield rows
            if not going or position + 1 == self.max_new_tokens:
                break
            if len(going) < len(alive):
                alive = [alive[place] for place in going]
                kept = torch.tensor(going, device=device)
                state.keep(kept)
                tokens, noise = tokens[kept], noise[kept]
            logits = state.step(tokens)

    def ended(self, row: Drawn, token: int, logprob: float) -> bool:
        """Write the token down; whether it was the reply's last."""
        row.tokens.append(token)
        row.logprobs.append(logprob)
        if token in self.end_tokens:
            row.stop = "end"
        elif self.stop and any(stop in self.text(row.tokens) for stop in self.stop):
            row.stop = "stop_string"
        return row.stop != "length"

    def text(self, tokens: Sequence[int]) -> str:
        return str(self.policy.tokenizer.decode(tokens, skip_special_tokens=True))

    def episode(self, request: Request, row: Drawn) -> Episode:
        text = self.text(row.tokens) if self.policy.tokenizer is not None else ""
        for stop in self.stop:
            text = text.split(stop)[0]
        learn = (True,) * len(row.tokens)
        return Episode(
            request.prompt, tuple(row.tokens), learn, tuple(row.logprobs), row.stop, self.version, text.strip()
        )


def halves(groups: list[list[Request]]) -> tuple[list[list[Request]], list[list[Request]]]:
    """Cut between prompts, or between the replies to one."""
    if len(groups) > 1:
        return groups[: len(groups) // 2], groups[len(groups) // 2 :]
    (only,) = groups
    return [only[: len(only) // 2]], [only[len(only) // 2 :]]


class Branching:
    """Keys and values of each prompt, computed once and then repeated for its replies; masked by position."""

    def __init__(self, policy: LanguagePolicy, groups: list[list[Request]]) -> None:
        from transformers import DynamicCache

        self.policy = policy
        self.head = head_of(policy.base)
        self.prompts = [group[0].prompt.tokens for group in groups]
        self.n = len(groups[0])
        self.cache: Any = DynamicCache()  # whole keys even for sliding layers: the mask holds the window

    def begin(self) -> Tensor:
        """Logits [r, v] for each reply's first token."""
        device = self.policy.base.device
        width = max(map(len, self.prompts))
        tokens = torch.tensor([[0] * (width - len(p)) + list(p) for p in self.prompts], device=device)
        pads = torch.tensor([width - len(p) for p in self.prompts], device=device)
        columns = torch.arange(width, device=device)
        self.positions = (columns - pads[:, None]).clamp(min=0)  # [r, k] of every key
        self.valid = columns >= pads[:, None]  # [r, k]
        logits = self.forward(tokens, self.positions)
        self.cache.batch_repeat_interleave(self.n)
        self.positions = self.positions.repeat_interleave(self.n, 0)
        self.valid = self.valid.repeat_interleave(self.n, 0)
        return logits.repeat_interleave(self.n, 0)

    def step(self, tokens: Tensor) -> Tensor:
        """Logits [r, v] after one more token [r] each."""
        self.positions = torch.cat([self.positions, self.positions[:, -1:] + 1], 1)
        self.valid = torch.cat([self.valid, torch.ones_like(self.valid[:, :1])], 1)
        return self.forward(tokens[:, None], self.positions[:, -1:])

    def keep(self, rows: Tensor) -> None:
        """Let the others go: they have ended."""
        self.cache.batch_select_indices(rows)
        self.positions, self.valid = self.positions[rows], self.valid[rows]

    def forward(self, tokens: Tensor, positions: Tensor) -> Tensor:
        mask = attention_mask(self.policy.base, lambda window: self.allowed(positions, window))
        out = self.policy.base.base_model(
            input_ids=tokens, attention_mask=mask, position_ids=positions, past_key_values=self.cache, use_cache=True
        )
        states = out.last_hidden_state[:, -1]
        if self.policy.own_head:
            return self.head(states)
        raise ValueError(f"{type(self.policy.base).__name__} shares prefixes, but its head cannot be applied by hand")

    def allowed(self, positions: Tensor, window: int | None) -> Tensor:
        """[r, q, k] for the last q columns; padding may see itself, so that no row of the softmax is empty."""
        q, k = positions.shape[1], self.positions.shape[1]
        distance = positions[:, :, None] - self.positions[:, None, :]
        seen = self.valid[:, None, :] & (distance >= 0)
        if window is not None:
            seen = seen & (distance < window)
        itself = torch.arange(k - q, k, device=seen.device)[:, None] == torch.arange(k, device=seen.device)
        return seen | itself


class Repeating:
    """The plain path: every reply has its prompt to itself, prompts are of one length, the model makes its cache."""

    def __init__(self, policy: LanguagePolicy, groups: list[list[Request]]) -> None:
        self.policy = policy
        self.prompts = [request.prompt.tokens for group in groups for request in group]
        self.alive = torch.arange(len(self.prompts), device=policy.base.device)
        self.cache: Any = None
        self.seen = 0

    def begin(self) -> Tensor:
        """Logits [r, v] for each reply's first token."""
        return self.forward(torch.tensor(self.prompts, device=self.policy.base.device))

    def step(self, tokens: Tensor) -> Tensor:
        """Logits [r, v] of those alive; rows that have ended stay in the batch, for caches of all kinds."""
        every = torch.zeros(len(self.prompts), 1, dtype=torch.long, device=tokens.device)
        every[self.alive, 0] = tokens
        return self.forward(every)[self.alive]

    def keep(self, rows: Tensor) -> None:
        self.alive = self.alive[rows]

    def forward(self, tokens: Tensor) -> Tensor:
        self.seen += tokens.shape[1]
        mask = torch.ones(len(tokens), self.seen, dtype=torch.long, device=tokens.device)
        out = self.policy.base(input_ids=tokens, attention_mask=mask, past_key_values=self.cache, use_cache=True)
        self.cache = out.past_key_values
        return out.logits[:, -1]  # type: ignore[no-any-return]
