"""The suites that users run on their own implementations, on the real ones."""

import pytest

from preferent.models.load import actor_critic, critic_from, load_policy, load_scorer
from preferent.models.policy import LanguagePolicy
from preferent.models.probe import can_share, can_use_own_head
from preferent.models.scorer import ScoringModel
from preferent.sampling.local import LocalSampler
from preferent.sampling.support import Support
from preferent.testing import check_actor_critic, check_critic, check_policy, check_sampler, check_scorer
from preferent.types import Prompt
from tiny_models import PLAIN, SHARING, Spaced, tiny
from toys import replies_of, saved_policy

X = replies_of([(4, (3, 8, 1)), (7, (6,)), (1, (9, 2)), (3, (5,))], high=60)
PROMPTS = [Prompt((7, 8, 9, 10, 11, 12, 13)), Prompt((5, 6)), Prompt((20, 21, 22, 23))]
# Random weights doubled make numbers of some size: rounding is relative to them.
TOLERANCE = 2e-5
EVERY = [*SHARING, *PLAIN]


def policy_of(name, **rest):
    model = tiny(name)
    return LanguagePolicy(model, Spaced(), sharing=can_share(model), own_head=can_use_own_head(model), **rest)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return saved_policy(tmp_path_factory.mktemp("base") / "model")


@pytest.mark.parametrize("name", EVERY)
def test_a_language_model_is_a_policy(name):
    check_policy(policy_of(name, temperature=0.7), X, tolerance=TOLERANCE)


@pytest.mark.parametrize("name", ["Qwen2", "Gemma 2", "Mistral with a window", "GPT-NeoX"])
def test_a_sequence_classifier_is_a_scorer_and_a_critic(name):
    model = tiny(name, "AutoModelForSequenceClassification", num_labels=2)
    for sharing in (True, False):
        check_scorer(ScoringModel(model, sharing=sharing), X, tolerance=TOLERANCE)
        check_critic(ScoringModel(model, sharing=sharing), X, tolerance=TOLERANCE)


@pytest.mark.parametrize("name", ["Qwen2", "Cohere 2", "Bloom"])
def test_a_policy_with_a_critic_is_an_actor_critic(name):
    model = actor_critic(policy_of(name))
    model.critic.base.score.weight.data.normal_()
    check_actor_critic(model, X, tolerance=TOLERANCE)


def test_with_adapters_they_are_what_they_were(base):
    policy, scorer = load_policy(base, lora=2), load_scorer(base, lora=2)
    check_policy(policy, X, tolerance=TOLERANCE)
    check_policy(policy.frozen(), X, tolerance=TOLERANCE)
    check_scorer(scorer, X, tolerance=TOLERANCE)
    check_critic(critic_from(scorer), X, tolerance=TOLERANCE)


@pytest.mark.parametrize("name", ["Qwen2", "Gemma 2", "Mistral with a window", "Bloom"])
def test_the_local_sampler_is_a_sampler(name):
    policy = policy_of(name, temperature=0.8)
    check_sampler(LocalSampler(policy, max_new_tokens=9, seed=3), policy, PROMPTS)


def test_a_narrowed_sampler_still_says_what_the_whole_policy_says():
    policy = policy_of("Qwen2")
    check_sampler(LocalSampler(policy, max_new_tokens=9, support=Support(top_k=5, top_p=0.9)), policy, PROMPTS)
