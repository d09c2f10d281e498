"""A reward from reward models: one, or an ensemble whose disagreement can be made to cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from preferent.data.batches import Opinion, moved, replies
from preferent.data.template import Template
from preferent.losses.reward import Combination, combine
from preferent.models.scorer import ScoringModel
from preferent.types import Episode, Prompt, Reply, Score


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
    token_budget: int = 16_384

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

    def score_rows(self, said: list[tuple[Prompt, Reply | Episode]]) -> Tensor:
        rows: list[Tensor] = []
        for chunk in self.chunks(said):
            x = replies([(prompt, [reply]) for prompt, reply in chunk])
            rows.append(
                torch.stack(
                    [
                        (member.scores(moved(x, member.base.device))[:, 0].cpu() - scale.mean) / scale.std
                        for member, scale in zip(self.members, self.scales, strict=True)
                    ]
                )
            )
        return torch.cat(rows, 1)

    def rendered(self, episode: Episode) -> tuple[Prompt, Reply | Episode]:
        if self.template is None:
            return episode.prompt, episode
        messages = episode.prompt.info["messages"]
        reply = {"role": "assistant", "content": episode.text}
        said = self.template.demonstration([*messages, reply], start=len(messages))
        return said.prompt, said.reply

    def chunks(self, rows: list[tuple[Prompt, Reply | Episode]]) -> list[list[tuple[Prompt, Reply | Episode]]]:
        """Neighbours up to the token budget."""
        chunks: list[list[tuple[Prompt, Reply | Episode]]] = []
        held = self.token_budget
        for prompt, reply in rows:
            tokens = len(prompt.tokens) + len(reply.tokens)
            if held + tokens > self.token_budget:
                chunks.append([])
                held = 0
            chunks[-1].append((prompt, reply))
            held += tokens
        return chunks


@torch.no_grad()
def scale_of(scorer: ScoringModel, opinions: Sequence[Opinion]) -> Scale:
    """Mean and standard deviation of a member's scores over the replies of these comparisons, ties included."""
    seen: list[tuple[Prompt, Reply | Episode]] = [
        (opinion.comparison.context, option) for opinion in opinions for option in opinion.comparison.options
    ]
    scores = LearnedReward([scorer], [Scale()]).score_rows(seen)[0]
    return Scale(scores.mean().item(), max(scores.std(correction=0).item(), 1e-6))
