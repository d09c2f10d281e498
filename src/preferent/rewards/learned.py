"""A reward from reward models: one, or an ensemble whose disagreement can be made to cost."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from preferent.data.collate import moved, replies
from preferent.data.comparisons import Opinion
from preferent.data.template import Template
from preferent.losses.reward import Combination, combine
from preferent.models.plan import token_budget
from preferent.models.room import no_room, release, too_large
from preferent.models.scorer import ScoringModel
from preferent.types import Episode, Prompt, Replies, Reply, Score

log = logging.getLogger(__name__)
Said = Reply | Episode
Chunk = list[tuple[Prompt, list[Said]]]


@dataclass(frozen=True, slots=True)
class Scale:
    """What a member's scores are measured in: (score - mean) / std over replies that are the same for all members.

    All of them learned from these where there are fewer members than folds of the prompts; else the first one did.
    """

    mean: float = 0.0
    std: float = 1.0


@dataclass
class LearnedReward:
    """Scores of m reward models, each on its own scale, combined (Coste et al. 2023).

    With ``template``, the models have another tokenizer or template than the policy: they are fed the same messages,
    rendered again. ``parts`` holds the members' mean and their spread, and what they say, in the mean, in each of the
    ``heads`` that stand behind the first one.

    Stateful: memory that does not suffice makes the token budget smaller for good, and the last bits of a score depend
    on what else was read with it.
    """

    members: Sequence[ScoringModel]
    scales: Sequence[Scale]
    how: Combination = "mean"
    caution: float = 0.0
    template: Template | None = None
    token_budget: int | None = None  # of one forward pass; None: what suits the device
    heads: Sequence[str] = ()

    def __call__(self, episodes: Sequence[Episode], /) -> list[Score]:
        heads = self.head_rows([self.rendered(episode) for episode in episodes])
        each = heads[..., 0]
        value, mean, spread = combine(each, self.how, caution=self.caution), each.mean(0), each.std(0, correction=0)
        single = len(each) == 1
        said = heads[..., 1 : 1 + len(self.heads)].mean(0).tolist()
        parts = [dict(zip(self.heads, row, strict=True)) for row in said]
        return [
            Score(v, part if single else {"members_mean": m, "members_spread": s, **part})
            for (v, m, s), part in zip(torch.stack([value, mean, spread], 1).tolist(), parts, strict=True)
        ]

    def member_scores(self, episodes: Sequence[Episode]) -> Tensor:
        """[m, r], each member on its scale."""
        return self.score_rows([self.rendered(episode) for episode in episodes])

    def score_rows(self, said: Sequence[tuple[Prompt, Said]]) -> Tensor:
        """[m, r]: the first head, or the only one."""
        return self.head_rows(said)[..., 0]

    @torch.no_grad()
    def head_rows(self, said: Sequence[tuple[Prompt, Said]]) -> Tensor:
        """[m, r, h]; fewer at a time, and from then on, where memory does not suffice.

        Raises UsageError where it does not for a single reply.
        """
        rows: list[Tensor] = []
        done = 0
        while done < len(said):
            chunk = next(self.chunks(said[done:]))
            try:
                rows.append(self.read(chunk))
            except (RuntimeError, MemoryError) as error:
                if not no_room(error):
                    raise
                why = str(error)
            else:
                done += sum(len(replies) for _, replies in chunk)
                continue
            release()
            self.cut_smaller(chunk, why, place=f"number {done + 1} of the {len(said)} in this batch")
        return torch.cat(rows, 1)

    def read(self, chunk: Chunk) -> Tensor:
        return self.read_replies(replies(chunk))

    def read_replies(self, x: Replies) -> Tensor:
        """[m, r, h] of a batch in the models' own tokens, all at once."""
        each = [member.scores(moved(x, member.base.device)).cpu() for member in self.members]
        return torch.stack([(s - scale.mean) / scale.std for s, scale in zip(each, self.scales, strict=True)])

    def cut_smaller(self, chunk: Chunk, why: str, *, place: str) -> None:
        (prompt, (reply, *others)), *rest = chunk
        if not others and not rest:
            raise too_large(
                f"for a reward model to read a single reply: {place}, with a prompt of {len(prompt.tokens)} tokens and "
                f"{len(reply.tokens)} of its own",
                prompt.tokens,
                tokenizer=self.members[0].tokenizer,
                helps="Shorter texts help (--max-length, --max-new-tokens), a smaller reward model or fewer of them; "
                "in training also --lora, and with it --load-4bit, which make room beside it.",
                said=why,
            )
        held = sum(len(p.tokens) + sum(len(each.tokens) for each in said) for p, said in chunk)
        self.token_budget = held // 2
        log.warning("%d tokens at a time do not fit into memory: reward models read %d from here on.", held, held // 2)

    def state_dict(self) -> dict[str, Any]:
        return {"token_budget": self.token_budget}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.token_budget = None if state["token_budget"] is None else int(state["token_budget"])

    def rendered(self, episode: Episode) -> tuple[Prompt, Said]:
        if self.template is None:
            return episode.prompt, episode
        messages = episode.prompt.info["messages"]
        reply = {"role": "assistant", "content": episode.text}
        said = self.template.demonstration([*messages, reply], start=len(messages))
        return said.prompt, said.reply

    def chunks(self, rows: Sequence[tuple[Prompt, Said]]) -> Iterator[Chunk]:
        """Prompts, each with those of its replies that follow one another, up to the token budget."""
        budget = self.token_budget or token_budget(self.members[0].base.device)
        chunk: Chunk = []
        held = 0
        for prompt, reply in rows:
            known = bool(chunk) and chunk[-1][0].tokens == prompt.tokens
            tokens = len(reply.tokens) + (0 if known else len(prompt.tokens))
            if chunk and held + tokens > budget:
                yield chunk
                chunk, held, known = [], 0, False
                tokens = len(reply.tokens) + len(prompt.tokens)
            if not known:
                chunk.append((prompt, []))
            chunk[-1][1].append(reply)
            held += tokens
        if chunk:
            yield chunk


def scale_of(scorer: ScoringModel, opinions: Sequence[Opinion]) -> Scale:
    """That of a member's first head."""
    return scales_of(scorer, opinions)[0]


def scales_of(scorer: ScoringModel, opinions: Sequence[Opinion]) -> list[Scale]:
    """Mean and standard deviation of each head's scores over the replies of these comparisons, ties included."""
    seen: list[tuple[Prompt, Said]] = [
        (opinion.comparison.context, option) for opinion in opinions for option in opinion.comparison.options
    ]
    scores = LearnedReward([scorer], [Scale()]).head_rows(seen)[0]
    return [Scale(each.mean().item(), max(each.std(correction=0).item(), 1e-6)) for each in scores.T]
