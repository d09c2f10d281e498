"""The laws of the protocols in ``preferent.types``, as checks of any implementation: a test of yours calls them.

Each raises AssertionError with a sentence where a law is broken, and ValueError where the material given is so plain
that a broken law would not show. Tolerances are absolute and relative, for fp32.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TypeVar

import torch
from torch import Tensor

from preferent.data import collate
from preferent.types import (
    ActorCritic,
    Annotator,
    Batch,
    Comparison,
    Critic,
    Episode,
    Learner,
    Objective,
    Policy,
    Prompt,
    Replies,
    Reward,
    Sampler,
    Score,
    Scorer,
)

X = TypeVar("X")
Y = TypeVar("Y")
M = TypeVar("M")
B = TypeVar("B", bound=Batch)


@torch.no_grad()
def check_policy(policy: Policy, batch: Replies, *, tolerance: float = 1e-5) -> None:
    """Zero off ``learn``; a token's log-probability depends on its prompt and the tokens before it, on nothing else."""
    reading = policy.read(batch)
    expect(reading.logprobs.shape == batch.tokens.shape, f"logprobs must be [r, t], not {reading.logprobs.shape}")
    expect(bool((reading.logprobs[~batch.learn] == 0).all()), "logprobs must be 0 off learn")
    expect(bool((reading.logprobs <= tolerance).all()), "a log-probability is above 0 or not a number")
    expect(reading.entropy is None, "entropy must be None unless it is asked for")
    asked = policy.read(batch, entropy=True)
    entropy = answered(asked.entropy)
    expect(entropy.shape == batch.tokens.shape, f"entropy must be [r, t], not {entropy.shape}")
    expect(bool((entropy[~batch.learn] == 0).all()), "entropy must be 0 off learn")
    expect(bool((entropy >= -tolerance).all()), "an entropy is below 0 or not a number")
    same(asked.logprobs, reading.logprobs, tolerance, "asking for the entropy changes the log-probabilities")
    check_alone(lambda x: policy.read(x).logprobs, batch, tolerance, "a log-probability")
    check_causal(lambda x: policy.read(x).logprobs, batch, tolerance, "a log-probability", sees=0)
    check_alone(lambda x: answered(policy.read(x, entropy=True).entropy), batch, tolerance, "an entropy")


@torch.no_grad()
def check_critic(critic: Critic, batch: Replies, *, tolerance: float = 1e-5) -> None:
    """A value depends on what came before it alone; the entries behind a reply's end are free, but for the first."""
    r, t = batch.tokens.shape

    def values(x: Replies) -> Tensor:
        got = critic.values(x)
        reached = torch.arange(got.shape[1], device=got.device) <= x.present.sum(-1, keepdim=True)
        return got.where(reached, 0)

    got = critic.values(batch)
    expect(got.shape == (r, t + 1), f"values must be [r, t + 1], here {(r, t + 1)}, not {tuple(got.shape)}")
    expect(bool(values(batch).isfinite().all()), "a value is not finite")
    check_alone(values, batch, tolerance, "a value")
    check_causal(values, batch, tolerance, "a value", sees=1)


@torch.no_grad()
def check_actor_critic(model: ActorCritic, batch: Replies, *, tolerance: float = 1e-5) -> None:
    """Policy and critic each keep their laws, and together say what each says alone."""
    check_policy(model, batch, tolerance=tolerance)
    check_critic(model, batch, tolerance=tolerance)
    reading, values = model.read_with_values(batch)
    same(reading.logprobs, model.read(batch).logprobs, tolerance, "read_with_values and read differ")
    same(values, model.values(batch), tolerance, "read_with_values and values differ")


@torch.no_grad()
def check_scorer(scorer: Scorer[Replies], batch: Replies, *, tolerance: float = 1e-5) -> None:
    """One finite number for each reply and head, whatever stands in the padding or in the rest of the batch."""
    scores = scorer.scores(batch)
    expect(scores.dim() == 2 and len(scores) == len(batch.tokens), f"scores must be [r, h], not {tuple(scores.shape)}")
    expect(bool(scores.isfinite().all()), "a score is not finite")
    check_alone(scorer.scores, batch, tolerance, "a score")


@torch.no_grad()
def check_sampler(
    sampler: Sampler, policy: Policy, prompts: Sequence[Prompt], *, n: int = 3, tolerance: float = 1e-4
) -> None:
    """Its log-probabilities are the policy's; the same seed draws the same replies, whatever is drawn with them."""
    if len({prompt.tokens for prompt in prompts}) < max(2, len(prompts)) or n < 2:
        raise ValueError("check_sampler needs two or more different prompts, and n of 2 or more")
    groups = sampler.sample(prompts, n)
    expect([len(group) for group in groups] == [n] * len(prompts), f"there must be {n} episodes for each prompt")
    for prompt, group in zip(prompts, groups, strict=True):
        for episode in group:
            check_episode(episode, prompt)
    x = collate.episodes(groups)
    drawn = collate.logprobs(groups)
    same(policy.read(x).logprobs.to(drawn), drawn, tolerance, "the sampler's log-probabilities are not the policy's")
    expect(spoken(sampler.sample(prompts, n)) == spoken(groups), "asked again, it draws other replies")
    backwards = sampler.sample(prompts[::-1], n)[::-1]
    expect(spoken(backwards) == spoken(groups), "in another order of the prompts, it draws other replies")
    expect(spoken(sampler.sample(prompts[1:], n)) == spoken(groups[1:]), "without one prompt, others get other replies")
    fewer = sampler.sample(prompts, n - 1)
    expect(spoken(fewer) == [group[:-1] for group in spoken(groups)], f"with n - 1 = {n - 1}, it draws other replies")


def check_episode(episode: Episode, prompt: Prompt) -> None:
    """As long in each field; nothing said of tokens that no policy drew."""
    expect(episode.prompt.tokens == prompt.tokens, "an episode stands with another prompt's")
    expect(len(episode.tokens) > 0, "an episode is empty: a reply has its end token at least")
    sizes = len(episode.tokens), len(episode.learn), len(episode.logprobs)
    expect(len(set(sizes)) == 1, f"tokens, learn and logprobs must be equally long, not {sizes}")
    given = [p for p, drawn in zip(episode.logprobs, episode.learn, strict=True) if not drawn]
    expect(not any(given), "logprobs must be 0 where the policy did not draw")


def check_reward(reward: Reward, episodes: Sequence[Episode], *, tolerance: float = 1e-5) -> None:
    """One finite score for each episode, which does not depend on the others."""
    if len(episodes) < 2:
        raise ValueError("check_reward needs two or more episodes")
    scores = reward(episodes)
    expect(
        len(scores) == len(episodes), f"there must be {len(episodes)} scores, one for each episode, not {len(scores)}"
    )
    for score in scores:
        numbers = [score.value, *score.parts.values()]
        expect(all(map(math.isfinite, numbers)), f"a score is not finite: {score}")
    backwards, alone = reward(episodes[::-1])[::-1], [s for episode in episodes for s in reward([episode])]
    expect(alike(backwards, scores, tolerance), "in another order, the episodes get other scores")
    expect(alike(alone, scores, tolerance), "alone, an episode gets another score than among others")


def check_annotator(
    annotator: Annotator[X, Y], comparisons: Sequence[Comparison[X, Y]], *, symmetric: bool = False
) -> None:
    """Answers are distributions over the options, in the order in which the options stand in the comparison.

    A ``symmetric`` annotator says the same of the options however they are ordered; others report their bias.
    """
    answers = annotator(comparisons)
    expect(len(answers) > 0, "it answered nothing")
    for answer in answers:
        expect(answer.comparison in comparisons, f"an answer to a question that was not asked: {answer.comparison}")
        n = len(answer.comparison.options)
        expect(len(answer.choice) == n, f"a choice must have {n} numbers, one for each option: {answer.choice}")
        proper = min(answer.choice) >= 0 and math.isclose(sum(answer.choice), 1, abs_tol=1e-6)
        expect(proper, f"a choice must be a distribution: {answer.choice}")
    if not symmetric:
        return
    swapped = annotator([replace(c, options=c.options[::-1]) for c in comparisons])
    expect(len(swapped) == len(answers), "with the options swapped, it answers another number of questions")
    for here, there in zip(answers, swapped, strict=True):
        close = all(math.isclose(a, b, abs_tol=1e-6) for a, b in zip(here.choice, there.choice[::-1], strict=True))
        expect(close, f"with the options swapped, it answers {there.choice[::-1]} instead of {here.choice}")


def check_learner(
    make: Callable[[int], Learner[M]], batch: B, objective: Objective[M, B], *, tolerance: float = 1e-5
) -> None:
    """The update does not depend on how the batch is cut. ``make`` builds the same learner for any token budget."""
    sizes = list(batch.tokens_each())
    if len(batch) < 3 or len(set(sizes)) < 2:
        raise ValueError("check_learner needs three or more prompts of different sizes, so that cuts are uneven")
    whole, cut = make(sum(sizes)), make(max(sizes))
    start, before = {name: weight.clone() for name, weight in whole.weights().items()}, whole.version
    whole.update(batch, objective)
    cut.update(batch, objective)
    expect(whole.version == before + 1, "an update must raise the version by one")
    moved = any(not weight.equal(start[name]) for name, weight in whole.weights().items())
    expect(moved, "the update changed no weight")
    for name, weight in whole.weights().items():
        same(cut.weights()[name], weight, tolerance, f"cut into parts, the batch gives another update of {name}")
    whole.skip()
    expect(whole.version == before + 2, "a step that is skipped must raise the version by one, too")


def check_alone(f: Callable[[Replies], Tensor], batch: Replies, tolerance: float, what: str) -> None:
    """F gives each reply [r, …] what it gives it alone, unshared and unpadded, and does not look at padding."""
    lengths = batch.present.sum(-1)
    if len(batch) < 2 or len(batch.tokens) == len(batch) or len(set(lengths.tolist())) < 2:
        raise ValueError("give two or more prompts, one of them with several replies, of different lengths")
    whole = f(batch)
    for row in range(len(batch.tokens)):
        single = f(alone(batch, row))[0]
        same(single, whole[row, : len(single)], tolerance, f"{what} depends on what else is in the batch")
    backwards = list(range(len(batch)))[::-1]
    same(f(batch[backwards]), whole[batch.rows(backwards)], tolerance, f"{what} depends on the order of the prompts")
    place = torch.arange(batch.prompts.shape[1], device=batch.prompts.device)
    other = replace(
        batch,
        prompts=batch.prompts.where(place < batch.prompt_length.unsqueeze(-1), different(batch)(batch.prompts)),
        tokens=batch.tokens.where(batch.present, different(batch)(batch.tokens)),
    )
    same(f(other), whole, tolerance, f"{what} depends on what stands in the padding")


def check_causal(f: Callable[[Replies], Tensor], batch: Replies, tolerance: float, what: str, *, sees: int) -> None:
    """F does not look ahead: entry i may depend on the tokens before i, and on token i if ``sees`` is 0."""
    whole, change = f(batch), different(batch)
    width = batch.tokens.shape[1]
    for first in sorted({1, width // 2, width - 1} - {0}):
        later = torch.arange(width, device=batch.tokens.device) >= first
        changed = f(replace(batch, tokens=change(batch.tokens).where(later, batch.tokens)))
        kept = first + sees
        same(changed[:, :kept], whole[:, :kept], tolerance, f"{what} depends on tokens that come after it")


def alone(batch: Replies, row: int) -> Replies:
    """One reply with its prompt, without padding."""
    prompt = int(batch.prompt_of[row])
    s, t = int(batch.prompt_length[prompt]), int(batch.present[row].sum())
    return Replies(
        prompts=batch.prompts[prompt : prompt + 1, :s],
        prompt_length=batch.prompt_length[prompt : prompt + 1],
        prompt_of=torch.zeros_like(batch.prompt_of[:1]),
        tokens=batch.tokens[row : row + 1, :t],
        present=batch.present[row : row + 1, :t],
        learn=batch.learn[row : row + 1, :t],
    )


def different(batch: Replies) -> Callable[[Tensor], Tensor]:
    """What replaces every token by another one that the batch holds."""
    held = batch.tokens[batch.present]
    low, high = held.min(), held.max()
    if low == high:
        raise ValueError("give replies with two or more different tokens")
    return lambda tokens: high.where(tokens == low, low)


def spoken(groups: Sequence[Sequence[Episode]]) -> list[list[tuple[int, ...]]]:
    return [[episode.tokens for episode in group] for group in groups]


def alike(a: Sequence[Score], b: Sequence[Score], tolerance: float) -> bool:
    values = zip(a, b, strict=True)
    return all(math.isclose(x.value, y.value, rel_tol=tolerance, abs_tol=tolerance) for x, y in values)


def answered(entropy: Tensor | None) -> Tensor:
    if entropy is None:
        raise AssertionError("entropy was asked for and is None")
    return entropy


def same(a: Tensor, b: Tensor, tolerance: float, otherwise: str) -> None:
    """Equal within the tolerance, absolute and relative; NaN equals nothing."""
    expect(a.shape == b.shape, f"{otherwise}: shapes {tuple(a.shape)} and {tuple(b.shape)}")
    if not torch.allclose(a, b, rtol=tolerance, atol=tolerance):
        raise AssertionError(f"{otherwise}: the largest difference is {(a - b).abs().max().item():.1e}")


def expect(holds: bool, otherwise: str) -> None:
    if not holds:
        raise AssertionError(otherwise)
