"""A reward from reward models: one, or an ensemble whose disagreement can be made to cost."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from preferent.data.batches import Opinion, moved, replies
from preferent.data.template import Template
from preferent.losses.reward import Combination, combine
from preferent.models.plan import token_budget
from preferent.models.scorer import ScoringModel
from preferent.types import Episode, Prompt, Reply, Score

Said = Reply | Episode


@dataclass(frozen=True, slots=True)
class Scale:
    """What a member's scores are measured in: (score - mean) / std over replies that are the same for all members.

    All of them learned from these where there are fewer members than folds of the prompts; else the first one did.
    """

    mean: float = 0.0
    std: float = 1.0


@dataclass(frozen=True)
class LearnedReward:
    """Scores of m reward models, each on its own scale, combined (Coste et al. 2023).

    With ``template``, the models have another tokenizer or template than the policy: they are fed the same messages,
    rendered again. ``parts`` holds the members' mean and their spread.
    """

    members: Sequence[ScoringModel]
    scales: Sequence[Scale]
    how: Combination = "mean"
    caution: float = 0.0
    template: Template | None = None
    token_budget: int | None = None  # of one forward pass; None: what suits the device

    @torch.no_grad()
    def __call__(self, episodes: Sequence[Episode], /) -> list[Score]:
        each = self.member_scores(episodes)
        value, mean, spread = combine(each, self.how, caution=self.caution), each.mean(0), each.std(0, correction=0)
        single = len(each) == 1
        return [
            Score(v, {} if single else {"members_mean": m, "members_spread": s})
            for v, m, s in torch.stack([value, mean, spread], 1).tolist()
        ]

    def member_scores(self, episodes: Sequence[Episode]) -> Tensor:
        """[m, r], each member on its scale."""
        return self.score_rows([self.rendered(episode) for episode in episodes])

    def score_rows(self, said: list[tuple[Prompt, Said]]) -> Tensor:
        rows: list[Tensor] = []
        for chunk in self.chunks(said):
            x = replies(chunk)
            rows.append(
                torch.stack(
                    [
                        (member.scores(moved(x, member.base.device))[:, 0].cpu() - scale.mean) / scale.std
                        for member, scale in zip(self.members, self.scales, strict=True)
                    ]
                )
            )
        return torch.cat(rows, 1)

    def rendered(self, episode: Episode) -> tuple[Prompt, Said]:
        if self.template is None:
            return episode.prompt, episode
        messages = episode.prompt.info["messages"]
        reply = {"role": "assistant", "content": episode.text}
        said = self.template.demonstration([*messages, reply], start=len(messages))
        return said.prompt, said.reply

    def chunks(self, rows: Sequence[tuple[Prompt, Said]]) -> Iterator[list[tuple[Prompt, list[Said]]]]:
        """Prompts, each with those of its replies that follow one another, up to the token budget."""
        budget = self.token_budget or token_budget(self.members[0].base.device)
        chunk: list[tuple[Prompt, list[Said]]] = []
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


@torch.no_grad()
def scale_of(scorer: ScoringModel, opinions: Sequence[Opinion]) -> Scale:
    """Mean and standard deviation of a member's scores over the replies of these comparisons, ties included."""
    seen: list[tuple[Prompt, Said]] = [
        (opinion.comparison.context, option) for opinion in opinions for option in opinion.comparison.options
    ]
    scores = LearnedReward([scorer], [Scale()]).score_rows(seen)[0]
    return Scale(scores.mean().item(), max(scores.std(correction=0).item(), 1e-6))
