"""What sampling methods have in common: scores, mini-batches, best of n, and what a reward without a number does."""

import math
from itertools import islice

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from preferent.algorithms.best_of_n import best_of_n
from preferent.algorithms.grpo import GRPO, Config, grpo
from preferent.algorithms.ppo import Config as PPOConfig
from preferent.algorithms.ppo import ppo
from preferent.algorithms.rollouts import described, minibatches, scored
from preferent.data.collate import episodes, logprobs
from preferent.rewards.shaping import AdaptiveKL
from preferent.runtime.learner import NotFinite, local_learner
from preferent.testing import END, Bigram, ToySampler
from preferent.types import Episode, Prompt, Score
from toys import replies_of

PROMPTS = [Prompt((5, 2)), Prompt((3,)), Prompt((4, 6, 7))]


def by_token(episodes):
    return [Score(float(e.tokens.count(2)), {"twos": e.tokens.count(2)}) for e in episodes]


@given(st.integers(1, 12), st.integers(1, 15), st.integers(0, 3), st.integers(0, 99))
def test_mini_batches_hold_each_prompt_once_an_epoch_in_an_order_that_hangs_on_the_key_alone(n, size, epochs, key):
    x = replies_of([(i + 1, (1,)) for i in range(n)])
    torch.manual_seed(key)
    parts = [part.prompt_length.tolist() for part in minibatches(x, size, epochs, key=key)]
    torch.manual_seed(key + 1)
    assert parts == [part.prompt_length.tolist() for part in minibatches(x, size, epochs, key=key)]
    each = math.ceil(n / size)
    assert len(parts) == epochs * each
    for epoch in range(epochs):
        seen = [length for part in parts[epoch * each : (epoch + 1) * each] for length in part]
        assert sorted(seen) == list(range(1, n + 1))


def test_epochs_and_keys_have_orders_of_their_own():
    x = replies_of([(i + 1, (1,)) for i in range(20)])
    first, second = (part.prompt_length.tolist() for part in minibatches(x, 20, 2, key=0))
    (other,) = (part.prompt_length.tolist() for part in minibatches(x, 20, 1, key=1))
    assert first != second != other != first


def test_scores_come_with_the_means_of_their_parts():
    drawn = [Episode(PROMPTS[0], (2,) * n, (True,) * n, (0.0,) * n, "end", 0) for n in (1, 2, 3)]
    values, parts = scored(by_token, drawn)
    assert values.tolist() == [1, 2, 3]
    assert parts == {"reward/twos": 2}
    with pytest.raises(ValueError, match="gave 2 scores for 3 episodes; expected one for each"):
        scored(lambda es: by_token(es)[1:], drawn)


def test_what_a_person_watches_by_hand():
    """Rewards 1, 3: mean 2, spread 1. Lengths 1, 3: mean 2. One of two was cut off. Tokens drawn at −1, and at −2 each:
    7 nats in 4 tokens.
    """
    drawn = [
        Episode(PROMPTS[0], (END,), (True,), (-1.0,), "end", 0),
        Episode(PROMPTS[0], (2, 2, 2), (True,) * 3, (-2.0,) * 3, "length", 0),
    ]
    told = described(drawn, torch.tensor([1.0, 3.0]), episodes([drawn]), logprobs([drawn]))
    assert told == {"reward": 2, "reward_std": 1, "length": 2, "ended": 0.5, "entropy": 1.75}


def test_entropy_is_estimated_without_bias():
    """The toy model after token 0 says each of its tokens with the probabilities of a softmax: over 4,000 replies the
    estimate is within four standard errors of Σ −p log p.
    """
    sampler = ToySampler(Bigram())
    groups = sampler.sample(PROMPTS[:1], 4000)
    first = torch.tensor([episode.logprobs[0] for episode in groups[0]])
    by_token = {episode.tokens[0]: episode.logprobs[0] for episode in groups[0]}
    exact = -sum(math.exp(logp) * logp for logp in by_token.values())
    assert sum(math.exp(logp) for logp in by_token.values()) == pytest.approx(1)
    assert abs(-first.mean().item() - exact) < 4 * first.std().item() / 4000**0.5


def test_best_of_n_beats_the_mean_and_keeps_the_order_of_the_prompts():
    sampler = ToySampler(Bigram())
    prompts = PROMPTS * 20
    chosen = best_of_n(sampler, by_token, prompts, n=8)
    assert [e.prompt for e in chosen] == prompts
    one = best_of_n(sampler, by_token, prompts, n=1)
    mean, best = (sum(score.value for score in by_token(es)) / len(es) for es in (one, chosen))
    assert best > mean + 0.5


def test_of_equal_replies_the_first_is_best():
    sampler = ToySampler(Bigram())
    (group,) = sampler.sample(PROMPTS[:1], 5)
    (chosen,) = best_of_n(sampler, lambda es: [Score(0.0) for _ in es], PROMPTS[:1], n=5)
    assert chosen == group[0]


# --- a reward that is no number -------------------------------------------------------------------


def sometimes(n_bad):
    """NaN for one episode in each of the first steps."""
    calls = iter(range(100))

    def reward(episodes):
        bad = next(calls) < n_bad
        return [Score(math.nan) if bad and i == 1 else score for i, score in enumerate(by_token(episodes))]

    return reward


def runs(reward, folder):
    for name in ("grpo", "ppo"):
        policy = Bigram()
        reference = policy.frozen()
        learner = local_learner(policy, lr=0.05, bad_batches=folder / name)
        sampler, batches = ToySampler(policy), [PROMPTS] * 5
        if name == "grpo":
            yield learner, grpo(learner, reference, sampler, reward(), batches, config=Config(group=3, grpo_epochs=2))
        else:
            config = PPOConfig(ppo_epochs=2, mini_batch=2)
            yield (
                learner,
                ppo(learner, reference, sampler, reward(), batches, price=AdaptiveKL(0.1), config=config),
            )


def test_a_reward_that_is_no_number_skips_its_step_and_the_run_goes_on(tmp_path):
    for learner, steps in runs(lambda: sometimes(1), tmp_path):
        before = learner.model.next.weight.clone()
        told = list(islice(steps, 1))
        assert told[0]["skipped"] == 1
        assert math.isnan(told[0]["reward"])
        assert learner.model.next.weight.equal(before)
        assert learner.version == 1  # one try, and no second epoch on spoilt advantages
        told = list(islice(steps, 1))
        assert told[0]["skipped"] == 0
        assert not learner.model.next.weight.equal(before)
    assert len(list(tmp_path.glob("*/update-0.safetensors"))) == 2


def test_after_three_such_steps_the_run_ends(tmp_path):
    for _, steps in runs(lambda: sometimes(9), tmp_path):
        assert [told["skipped"] for told in islice(steps, 2)] == [1, 1]
        with pytest.raises(NotFinite, match="expected finite numbers"):
            next(steps)


def test_grpos_objective_is_silent_about_groups_that_agree():
    """Equal rewards in a group: no advantage, no gradient but that of the KL."""
    policy = Bigram()
    learner = local_learner(policy, lr=0.1)
    reward = lambda es: [Score(3.0) for _ in es]  # noqa: E731
    before = policy.next.weight.clone()
    (told,) = grpo(learner, policy.frozen(), ToySampler(policy), reward, [PROMPTS], objective=GRPO)
    assert told["grad_norm"] == pytest.approx(0, abs=1e-6)
    assert (policy.next.weight - before).abs().max() < 0.1 + 1e-6
