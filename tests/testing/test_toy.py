"""The suites pass on the toy model, and each of their checks fails on a toy with that one fault."""

import math
from dataclasses import replace

import pytest
import torch

from preferent.data import collate
from preferent.losses import means
from preferent.testing import (
    END,
    Bigram,
    ToySampler,
    check_actor_critic,
    check_annotator,
    check_critic,
    check_learner,
    check_policy,
    check_reward,
    check_sampler,
    check_scorer,
)
from preferent.types import Comparison, Loss, Preference, Prompt, Reading, Reply, Score

PROMPTS = [Prompt((5, 2)), Prompt((3,)), Prompt((4, 6, 7))]


def reply(*tokens, given=()):
    return Reply(tokens, tuple(token not in given for token in tokens))


def batch():
    """Three prompts; the first has three replies, one of them with tokens (4) that nobody learns from."""
    groups = [[reply(2, 3, END), reply(2, 4, 4, 5, END, given=(4,)), reply(END)], [reply(6, END)], [reply(2, 2, 3, 7)]]
    return collate.replies(list(zip(PROMPTS, groups, strict=True)))


# --- the toy keeps the laws ----------------------------------------------------------------------


def test_the_bigram_is_an_actor_with_a_critic_and_a_scorer():
    check_actor_critic(Bigram(), batch())
    check_scorer(Bigram(), batch())


def test_the_toy_sampler_says_what_the_policy_says():
    check_sampler(ToySampler(Bigram(), seed=3), Bigram(), PROMPTS)


def test_a_reply_ends_at_its_end_token_or_at_the_length():
    for episode in (e for group in ToySampler(Bigram(), length=3).sample(PROMPTS, 20) for e in group):
        assert END not in episode.tokens[:-1]
        assert episode.stop == ("end" if episode.tokens[-1] == END else "length")
        assert episode.stop == "end" or len(episode.tokens) == 3


def test_a_prompt_that_stands_twice_in_one_call_gets_other_replies_the_second_time():
    sampler = ToySampler(Bigram())
    twice = sampler.sample([PROMPTS[0], PROMPTS[1], PROMPTS[0]], 4)
    assert twice[0] + twice[2] == sampler.sample([PROMPTS[0]], 8)[0]
    assert [e.tokens for e in twice[0]] != [e.tokens for e in twice[2]]


def test_another_seed_and_another_version_draw_other_replies():
    def drawn(seed, version):
        sampler = ToySampler(Bigram(), seed=seed)
        sampler.load(Bigram().state_dict(), version)
        episodes = sampler.sample(PROMPTS, 8)
        assert all(e.version == version for group in episodes for e in group)
        return [e.tokens for group in episodes for e in group]

    assert drawn(0, 0) != drawn(1, 0)
    assert drawn(0, 0) != drawn(0, 1)


def test_the_toy_sampler_draws_from_the_models_distribution():
    """Pearson's χ² of 4,000 first tokens over 8: 7 degrees of freedom exceed 24.3 once in a thousand."""
    (group,) = ToySampler(Bigram(), length=1).sample([PROMPTS[0]], 4000)
    counts = torch.tensor([e.tokens[0] for e in group]).bincount(minlength=8)
    expected = 4000 * Bigram().next.weight[PROMPTS[0].tokens[-1]].softmax(-1)
    assert ((counts - expected) ** 2 / expected).sum() < 24.3


def test_after_loading_the_sampler_draws_with_the_new_weights_and_no_longer_follows_the_model():
    model = Bigram()
    sampler = ToySampler(model)
    with torch.no_grad():
        model.next.weight[:, END] = 50.0
    assert {e.stop for e in sampler.sample(PROMPTS[:1], 20)[0]} == {"end", "length"}
    sampler.load(model.state_dict(), 1)
    assert all(e.tokens == (END,) for e in sampler.sample(PROMPTS[:1], 20)[0])


def test_a_frozen_bigram_stays_as_it_was():
    model = Bigram()
    reference = model.frozen()
    with torch.no_grad():
        model.next.weight.add_(torch.randn_like(model.next.weight))
    assert reference.read(batch()).logprobs.equal(Bigram().read(batch()).logprobs)
    assert not any(weight.requires_grad for weight in reference.parameters())


# --- the suites fail where a law is broken -------------------------------------------------------


class SpeaksOffLearn(Bigram):
    def read(self, x, *, entropy=False):
        return super().read(replace(x, learn=x.present), entropy=entropy)


class LooksAhead(Bigram):
    def read(self, x, *, entropy=False):
        logp, spread = super().read(x, entropy=entropy)
        after = torch.cat([x.tokens.where(x.present, 0)[:, 1:], x.tokens[:, :1] * 0], 1)
        return Reading((logp - after).where(x.learn, 0), spread)


class LooksAtTheBatch(Bigram):
    def read(self, x, *, entropy=False):
        logp, spread = super().read(x, entropy=entropy)
        return Reading(logp * len(x.tokens), spread)


class LooksAtPadding(Bigram):
    def read(self, x, *, entropy=False):
        logp, spread = super().read(x, entropy=entropy)
        padding = x.tokens.where(~x.present, 0).sum(-1, keepdim=True)
        return Reading((logp - padding).where(x.learn, 0), spread)


class LooksAtTheOrder(Bigram):
    def read(self, x, *, entropy=False):
        logp, spread = super().read(x, entropy=entropy)
        return Reading((logp - x.prompt_of.unsqueeze(-1)).where(x.learn, 0), spread)


class GivesEntropyUnasked(Bigram):
    def read(self, x, *, entropy=False):
        return super().read(x, entropy=True)


class WithoutEntropy(Bigram):
    def read(self, x, *, entropy=False):
        return super().read(x)


class NotANumber(Bigram):
    def read(self, x, *, entropy=False):
        logp, spread = super().read(x, entropy=entropy)
        return Reading((logp * math.nan).where(x.learn, 0), spread)


@pytest.mark.parametrize(
    ("policy", "sentence"),
    [
        (SpeaksOffLearn, "must be 0 off learn"),
        (LooksAhead, "depends on tokens that come after it"),
        (LooksAtTheBatch, "depends on what else is in the batch"),
        (LooksAtPadding, "depends on what stands in the padding"),
        (LooksAtTheOrder, "depends on"),
        (GivesEntropyUnasked, "must be None unless"),
        (WithoutEntropy, "entropy was asked for and is None"),
        (NotANumber, "not a number"),
    ],
)
def test_a_policy_with_one_fault_is_found_out(policy, sentence):
    with pytest.raises(AssertionError, match=sentence):
        check_policy(policy(), batch())


class ValuesOfWhatWasDrawn(Bigram):
    """Off by one: the value before a token has seen the token."""

    def values(self, x):
        return super().values(x).roll(-1, dims=1)


class ValuesOfTokensOnly(Bigram):
    def values(self, x):
        return super().values(x)[:, 1:]


@pytest.mark.parametrize(
    ("critic", "sentence"),
    [(ValuesOfWhatWasDrawn, "a value depends on"), (ValuesOfTokensOnly, r"must be \[r, t \+ 1\]")],
)
def test_a_critic_with_one_fault_is_found_out(critic, sentence):
    with pytest.raises(AssertionError, match=sentence):
        check_critic(critic(), batch())


def test_an_actor_critic_that_contradicts_itself_is_found_out():
    class TwoMinds(Bigram):
        def read_with_values(self, x, *, entropy=False):
            return self.read(x, entropy=entropy), self.values(x) + 1

    with pytest.raises(AssertionError, match="read_with_values and values differ"):
        check_actor_critic(TwoMinds(), batch())


def test_a_score_read_at_a_padding_token_is_found_out():
    class ReadsTheLastColumn(Bigram):
        def scores(self, x):
            return self.score(x.tokens[:, -1])

    with pytest.raises(AssertionError, match="a score depends on"):
        check_scorer(ReadsTheLastColumn(), batch())


def test_a_batch_in_which_faults_would_not_show_is_refused():
    plain = collate.replies([(PROMPTS[0], [reply(2, END)]), (PROMPTS[1], [reply(3, END)])])
    with pytest.raises(ValueError, match="of different lengths"):
        check_policy(Bigram(), plain)


class Unkeyed(ToySampler):
    """Noise from one stream, in the order of the calls."""

    stream = torch.Generator().manual_seed(0)

    def noise(self, prompt, i, table):
        return -table.new_empty(self.length, len(table)).exponential_(generator=self.stream).log()


class KeyedByPlace(ToySampler):
    """The same call draws the same replies, but each prompt's depend on where it stands."""

    def sample(self, prompts, n):
        groups = super().sample([replace(p, info={"place": i}) for i, p in enumerate(prompts)], n)
        return [[replace(e, prompt=p) for e in group] for p, group in zip(prompts, groups, strict=True)]

    def noise(self, prompt, i, table):
        return super().noise(Prompt((*prompt.tokens, prompt.info["place"])), i, table)


class Sharpened(ToySampler):
    """Draws at another temperature than the policy's, and says so in its log-probabilities."""

    def load_sharp(self):
        with torch.no_grad():
            self.model.next.weight.mul_(2)
        return self


@pytest.mark.parametrize(
    ("sampler", "sentence"),
    [
        (Unkeyed(Bigram()), "asked again"),
        (KeyedByPlace(Bigram()), "in another order"),
        (Sharpened(Bigram()).load_sharp(), "are not the policy's"),
    ],
)
def test_a_sampler_with_one_fault_is_found_out(sampler, sentence):
    with pytest.raises(AssertionError, match=sentence):
        check_sampler(sampler, Bigram(), PROMPTS)


# --- rewards, annotators, learners ---------------------------------------------------------------


def by_length(episodes):
    return [Score(float(len(e.tokens)), {"tokens": len(e.tokens)}) for e in episodes]


def drawn():
    return [e for group in ToySampler(Bigram()).sample(PROMPTS, 3) for e in group]


def test_a_reward_that_looks_at_each_episode_alone_passes():
    check_reward(by_length, drawn())


@pytest.mark.parametrize(
    ("reward", "sentence"),
    [
        (lambda episodes: by_length(episodes)[:-1], "one for each episode"),
        (lambda episodes: [Score(math.nan) for _ in episodes], "not finite"),
        (lambda episodes: [Score(float(i)) for i, _ in enumerate(episodes)], "in another order"),
        (lambda episodes: [Score(s.value / len(episodes)) for s in by_length(episodes)], "alone"),
    ],
)
def test_a_reward_with_one_fault_is_found_out(reward, sentence):
    with pytest.raises(AssertionError, match=sentence):
        check_reward(reward, drawn())


QUESTIONS = [Comparison("long?", ("aaa", "b")), Comparison("long?", ("a", "b")), Comparison("x", ("c", "dd", "e"))]


def likes_longer(comparisons):
    """Shares its vote among the longest options."""
    answers = []
    for c in comparisons:
        longest = [len(option) == max(map(len, c.options)) for option in c.options]
        answers.append(Preference(c, tuple(best / sum(longest) for best in longest)))
    return answers


def likes_the_first(comparisons):
    return [Preference(c, (1.0,) + (0.0,) * (len(c.options) - 1)) for c in comparisons]


def answers_as_shown(comparisons):
    """Turns the options round to show them, and forgets to turn them back."""
    return likes_longer([Comparison(c.context, c.options[::-1]) for c in comparisons])


def test_a_symmetric_annotator_passes_and_a_biased_one_as_long_as_it_is_not_called_symmetric():
    check_annotator(likes_longer, QUESTIONS, symmetric=True)
    check_annotator(lambda comparisons: likes_longer(comparisons)[:1], QUESTIONS)
    check_annotator(likes_the_first, QUESTIONS)


@pytest.mark.parametrize(
    ("annotator", "sentence"),
    [
        (likes_the_first, "with the options swapped"),
        (answers_as_shown, "not asked"),
        (lambda comparisons: [], "answered nothing"),
        (lambda comparisons: [Preference(c, (1.0,)) for c in comparisons], "one for each option"),
        (lambda comparisons: [Preference(c, (1.0,) * len(c.options)) for c in comparisons], "a distribution"),
    ],
)
def test_an_annotator_with_one_fault_is_found_out(annotator, sentence):
    with pytest.raises(AssertionError, match=sentence):
        check_annotator(annotator, QUESTIONS, symmetric=True)


class Likelihood:
    def counts(self, x):
        return {"nll": means.over_tokens.count(x.learn)}

    def __call__(self, model, x):
        return Loss({"nll": (1.0, means.over_tokens(-model.read(x).logprobs, x.learn))})


class PlainDescent:
    """Gradient descent on a bigram, in parts of at most ``budget`` tokens: a learner in fifteen lines."""

    def __init__(self, budget):
        self.model, self.budget, self.version = Bigram(), budget, 0

    def parts(self, x):
        part, size = [], 0
        for prompt, tokens in enumerate(x.tokens_each()):
            if part and size + tokens > self.budget:
                yield x[part]
                part, size = [], 0
            part, size = [*part, prompt], size + tokens
        yield x[part]

    def divisor(self, objective, x, part):
        return objective.counts(x)["nll"]

    def update(self, x, objective):
        for part in self.parts(x):
            weight, mean = objective(self.model, part).terms["nll"]
            (weight * mean.total / self.divisor(objective, x, part)).backward()
        with torch.no_grad():
            for p in self.model.parameters():
                if p.grad is not None:
                    p -= p.grad
        return self.skip()

    def skip(self):
        self.version += 1
        return {}

    def map(self, x, f):
        return torch.cat([f(self.model, part) for part in self.parts(x)])

    def weights(self):
        return self.model.state_dict()


class DividesInsideAPart(PlainDescent):
    def divisor(self, objective, x, part):
        return objective.counts(part)["nll"]


class DoesNothing(PlainDescent):
    def update(self, x, objective):
        self.version += 1
        return {}


def test_a_learner_that_divides_once_by_the_whole_steps_count_passes():
    check_learner(PlainDescent, batch(), Likelihood())


@pytest.mark.parametrize(
    ("learner", "sentence"), [(DividesInsideAPart, "another update"), (DoesNothing, "changed no weight")]
)
def test_a_learner_with_one_fault_is_found_out(learner, sentence):
    with pytest.raises(AssertionError, match=sentence):
        check_learner(learner, batch(), Likelihood())
