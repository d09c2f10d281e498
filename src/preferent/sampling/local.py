"""Sampling in process: each prompt is read once, its replies branch off, rows leave the batch as they end."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import isnan
from typing import Any, Literal

import torch
from torch import Tensor

from preferent.config import UsageError
from preferent.models.half import follow, halved
from preferent.models.merging import merged
from preferent.models.policy import LanguagePolicy
from preferent.models.room import no_room, reason, release, too_large
from preferent.sampling.cached import Branching, Repeating
from preferent.sampling.direct import Direct, can_decode
from preferent.sampling.noise import drawn, row_keys, uniforms
from preferent.sampling.support import Support
from preferent.types import Episode, Prompt

log = logging.getLogger(__name__)
BLOCK = 64  # positions whose noise is made at a time
EMPTY = 2  # times as many places as there are tokens, at most
NOT_A_NUMBER = (
    "The policy's log-probabilities are not numbers (NaN), so that nothing can be drawn from it. Its training has gone "
    "astray: go back to an earlier checkpoint, and take a lower --lr or --max-grad-norm."
)
Stop = Literal["end", "length", "stop_string"]


@dataclass(slots=True)
class Drawn:
    """One reply: to which prompt, the key of its noise, and what has been drawn of it so far."""

    prompt: Prompt
    place: int  # of the prompt among those asked about
    key: tuple[int, int]
    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    stop: Stop | None = None


class LocalSampler:
    """Draws replies from a policy in this process; the weights are the policy's own, or with ``half`` a copy in bf16.

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
        half: bool = False,
    ) -> None:
        if max_new_tokens < 1:
            raise ValueError(f"expected max_new_tokens of at least 1; got {max_new_tokens}")
        self.source = policy  # whose weights are loaded
        self.policy = policy = halved(policy) if half else policy  # from which is drawn
        self.max_new_tokens = max_new_tokens
        self.end_tokens = frozenset(end_tokens if end_tokens is not None else [policy.tokenizer.eos_token_id])
        self.support = support
        self.stop = tuple(stop)
        self.tail = 8 + 4 * max(map(len, self.stop), default=0)  # tokens that a stop string may lie in: of a byte each
        self.seed = seed
        self.cache_tokens = cache_tokens  # keys and values held at a time, over all rows
        self.version = 0
        self.direct = can_decode(policy)

    def load(self, weights: Mapping[str, Tensor], version: int) -> None:
        """The learner's weights: nothing to copy where they are the policy's own, as they are in one process."""
        own = {name.removeprefix("policy."): value for name, value in weights.items()}
        with torch.no_grad():
            for name, parameter in self.source.named_parameters():
                if name in own and own[name].data_ptr() != parameter.data_ptr():
                    parameter.copy_(own[name])
        if self.policy is not self.source:
            follow(self.policy, self.source)
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
        """The same as they come: the place of a prompt, and its episodes once all of them have ended.

        Where memory does not suffice, fewer are drawn at a time from then on. Raises UsageError where one is too many.
        An adapter stays added to the policy's weights until the last have come.
        """
        if n < 1:
            raise ValueError(f"expected at least one reply to each prompt; got {n}")
        groups = self.begun(prompts, n)
        left = [n] * len(groups)
        waiting = self.queue(groups)
        while waiting:
            tried = {id(row): row for rows in waiting for row in rows}
            try:
                with merged(self.policy):
                    for ended in self.growing(waiting):
                        for row in ended:
                            left[row.place] -= 1
                            if not left[row.place]:
                                yield row.place, [self.episode(each) for each in groups[row.place]]
            except (RuntimeError, MemoryError) as error:
                if not no_room(error):
                    raise
                why = str(error)
            else:
                return
            release()
            for row in (row for rows in waiting for row in rows):
                del tried[id(row)]
            waiting = self.again(groups, list(tried.values()), why)

    def begun(self, prompts: Sequence[Prompt], n: int) -> list[list[Drawn]]:
        """For each prompt the replies that are to be drawn, still empty."""
        seen: dict[tuple[int, ...], int] = {}
        groups: list[list[Drawn]] = []
        for place, prompt in enumerate(prompts):
            first = seen.get(prompt.tokens, 0)
            seen[prompt.tokens] = first + n
            keys = [row_keys(self.seed, self.version, prompt.tokens, first + i) for i in range(n)]
            groups.append([Drawn(prompt, place, key) for key in keys])
        return groups

    # --- what is drawn at a time ---------------------------------------------------------------------
    def queue(self, groups: Sequence[Sequence[Drawn]]) -> deque[list[Drawn]]:
        """Replies that begin together, those to long prompts first; of one prompt no more than the cache may hold."""
        waiting: deque[list[Drawn]] = deque()
        for group in sorted(groups, key=lambda rows: -len(rows[0].prompt.tokens)):
            rows = list(group)
            while rows:
                most = next((n for n in range(len(rows), 1, -1) if self.held(rows[:n]) <= self.cache_tokens), 1)
                waiting.append(rows[:most])
                del rows[:most]
        return waiting

    def held(self, rows: Sequence[Drawn]) -> int:
        """Places of keys and values in the cache when the last of these rows, which begin together, ends."""
        lengths = self.prompt_lengths(rows)
        return len(lengths) * max(lengths) + len(rows) * self.max_new_tokens

    def prompt_lengths(self, rows: Sequence[Drawn]) -> list[int]:
        """Tokens of each prompt that stands in the cache: once for all its replies where they are decoded by hand."""
        reading = {row.place: row for row in rows}.values() if self.direct else rows
        return [len(row.prompt.tokens) for row in reading]

    def admitted(self, waiting: deque[list[Drawn]], alive: Sequence[Drawn]) -> list[list[Drawn]]:
        """Those that begin now: as many as the cache has room for, once half of it is free.

        A prompt takes as many places as the longest beside it, and a reply as many as the oldest has come to have when
        the youngest ends. Prompts that are so much shorter that most places would be empty wait for one another; so do,
        where each reply has its prompt to itself, all of another length.
        """
        lengths, new = self.prompt_lengths(alive), list[list[Drawn]]()
        count, longest, tokens, rows = len(lengths), max(lengths, default=0), sum(lengths), len(alive)
        each = self.max_new_tokens + max((len(row.tokens) for row in alive), default=0)
        if alive and count * longest + rows * each > self.cache_tokens // 2:
            return new
        while waiting:
            lengths = self.prompt_lengths(waiting[0])
            count, longest, tokens = count + len(lengths), max(longest, *lengths), tokens + sum(lengths)
            rows += len(waiting[0])
            places = count * longest + rows * each
            fits = places <= self.cache_tokens and places <= EMPTY * (tokens + rows * each)
            if (alive or new) and not (fits and (self.policy.sharing or tokens == count * longest)):
                break
            new.append(waiting.popleft())
        return new

    def again(self, groups: Sequence[Sequence[Drawn]], tried: Sequence[Drawn], why: str) -> deque[list[Drawn]]:
        """The queue after memory ran out over these: those that had not ended begin again, half as many at a time."""
        if not tried:
            raise UsageError(
                "Memory does not suffice to begin drawing replies: an adapter is added to a copy of the weights "
                f"meanwhile. Take a smaller --model.\n({reason(why)})"
            )
        if len(tried) == 1:
            prompt = tried[0].prompt.tokens
            raise too_large(
                f"to draw a single reply: its prompt has {len(prompt)} tokens, and --max-new-tokens is "
                f"{self.max_new_tokens}",
                prompt,
                tokenizer=self.policy.tokenizer,
                helps="Lower that or --max-length, or take a smaller --model.",
                said=why,
            )
        cost = min(self.cache_tokens, self.held(tried))
        self.cache_tokens = cost // 2
        log.warning(
            "Keys and values of %d tokens do not fit into memory: fewer replies are drawn at a time from here on.", cost
        )
        unended = [[row for row in group if row.stop is None] for group in groups]
        for group in unended:
            for row in group:
                row.tokens, row.logprobs = [], []
        return self.queue([group for group in unended if group])

    # --- drawing -------------------------------------------------------------------------------------
    @torch.inference_mode()
    def growing(self, waiting: deque[list[Drawn]]) -> Iterator[list[Drawn]]:
        """Draws the replies in ``waiting``, taking them from it; after each token, those that ended with it."""
        device = self.policy.base.device
        block = torch.arange(BLOCK, dtype=torch.int32, device=device)
        state: Any = None
        alive, column, logits = list[Drawn](), 0, torch.empty(0, device=device)
        while waiting or alive:
            new = self.admitted(waiting, alive) if waiting and (self.direct or not alive) else []
            if new:
                if not alive:
                    state = None  # what it holds is let go before another takes as much
                    state = self.state()
                first = state.admit([rows[0].prompt.tokens for rows in new], [len(rows) for rows in new])
                logits = torch.cat([logits, first]) if alive else first
                alive += [row for rows in new for row in rows]
                keys = torch.tensor([row.key for row in alive], dtype=torch.int32, device=device)
            if new or column == BLOCK:
                at = torch.tensor([[len(row.tokens)] for row in alive], dtype=torch.int32, device=device)
                noise, column = uniforms(keys, at + block), 0
            tokens, logprobs = self.choose(logits, noise[:, column])
            column += 1
            said = logprobs.tolist()
            if isnan(sum(said)):
                raise UsageError(NOT_A_NUMBER)
            going = [
                place
                for place, each in enumerate(zip(alive, tokens.tolist(), said, strict=True))
                if not self.ended(*each) and len(alive[place].tokens) < self.max_new_tokens
            ]
            ended = [alive[place] for place in set(range(len(alive))).difference(going)]
            for row in ended:
                row.stop = row.stop or "length"
            yield ended
            if ended:
                order = closed(going)
                alive = [alive[place] for place in order]
                kept = torch.tensor(order, dtype=torch.long, device=device)
                tokens, keys, noise = tokens[kept], keys[kept], noise[kept]
                state.keep(kept)
            if alive:
                logits = state.step(tokens)

    def state(self) -> Direct | Branching | Repeating:
        """What keeps keys and values."""
        if self.direct:
            return Direct(self.policy, longest=self.max_new_tokens)
        return Branching(self.policy) if self.policy.sharing else Repeating(self.policy)

    def choose(self, logits: Tensor, uniform: Tensor) -> tuple[Tensor, Tensor]:
        """[r] tokens of logits [r, v], and their log-probabilities in the whole distribution."""
        scores = logits.float()
        if self.policy.temperature != 1:
            scores = scores / self.policy.temperature
        whole = scores.softmax(-1)
        tokens = drawn(whole if self.support.whole else self.support(whole.log()).exp(), uniform)
        return tokens, whole.gather(1, tokens[:, None])[:, 0].log()

    def ended(self, row: Drawn, token: int, logprob: float) -> bool:
        """Write the token down; whether it ends the reply, however much may follow."""
        row.tokens.append(token)
        row.logprobs.append(logprob)
        if token in self.end_tokens:
            row.stop = "end"
        elif self.stop and any(stop in self.text(row.tokens[-self.tail :]) for stop in self.stop):
            row.stop = "stop_string"
        return row.stop is not None

    def text(self, tokens: Sequence[int]) -> str:
        return str(self.policy.tokenizer.decode(tokens, skip_special_tokens=True))

    def episode(self, row: Drawn) -> Episode:
        text = self.text(row.tokens) if self.policy.tokenizer is not None else ""
        for stop in self.stop:
            text = text.split(stop)[0]
        learn = (True,) * len(row.tokens)
        stopped = row.stop or "length"
        return Episode(row.prompt, tuple(row.tokens), learn, tuple(row.logprobs), stopped, self.version, text.strip())


def closed(going: Sequence[int]) -> list[int]:
    """Those that go on, with the last of them in the places that have become free: few need to be moved."""
    alive, last = set(going), reversed(going)
    return [place if place in alive else next(last) for place in range(len(going))]
