"""A geometric mixture of two policies: what is drawn has its distribution, at any temperature."""

import pytest
import torch
from test_local import PROMPTS, policy_of

from preferent.models.load import load_policy
from preferent.models.policy import Follower
from preferent.sampling.local import LocalSampler
from preferent.sampling.mixture import MixtureSampler
from preferent.types import Prompt
from toys import saved_policy

SMALL = {"vocab_size": 6, "bos_token_id": None, "eos_token_id": None, "pad_token_id": None}


def two(name="Qwen2", **extra):
    first, second = policy_of(name, **extra), policy_of(name, **extra)
    key = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in second.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=key), alpha=0.3)
    return first, second


def test_it_draws_from_the_product_of_powers_at_the_policys_temperature():
    """p^0.7·q^0.3, normalised: 4,000 first tokens, and the log-probabilities of first and second ones."""
    first, second = two(**SMALL)
    for policy in (first, second):
        policy.temperature = 0.7
    sampler = MixtureSampler(first, second, share=0.3, max_new_tokens=2, end_tokens=[])
    prompt = Prompt((3, 1, 4))
    (group,) = sampler.sample([prompt], 4000)
    rows = torch.tensor([[*prompt.tokens, token] for token in range(6)])
    with torch.no_grad():
        p, q = ((policy.model(input_ids=rows).logits / 0.7).log_softmax(-1) for policy in (first, second))
    mixed = (0.7 * p + 0.3 * q).log_softmax(-1)
    assert (mixed[0, 2].exp() - p[0, 2].exp()).abs().max() > 0.02
    drawn = torch.tensor([episode.tokens[0] for episode in group]).bincount(minlength=6) / 4000
    assert (drawn - mixed[0, 2].exp()).abs().max() < 0.03
    for episode in group[:200]:
        one, two_ = episode.tokens
        assert episode.logprobs[0] == pytest.approx(mixed[0, 2, one].item(), abs=1e-4)
        assert episode.logprobs[1] == pytest.approx(mixed[one, 3, two_].item(), abs=1e-4)


@pytest.mark.parametrize("name", ["Qwen2", "Gemma 3", "Bloom"])
@pytest.mark.parametrize("share", [0.0, 1.0])
def test_with_all_of_one_it_draws_what_that_one_draws(name, share):
    first, second = two(name)
    mixture = MixtureSampler(first, second, share=share, max_new_tokens=8, seed=3)
    alone = LocalSampler(second if share else first, max_new_tokens=8, seed=3)
    for sampler in (mixture, alone):
        sampler.load({}, 4)
    ours, theirs = mixture.sample(PROMPTS, 3), alone.sample(PROMPTS, 3)
    assert [[e.tokens for e in group] for group in ours] == [[e.tokens for e in group] for group in theirs]


def test_an_adapter_mixes_with_what_it_was_in_memory_that_both_share(tmp_path):
    """As with another copy of the model: what is added to the one's weights while it draws, the other never sees."""
    folder = saved_policy(tmp_path)
    policy, apart = load_policy(folder, lora=2, device="cpu"), load_policy(folder, device="cpu")
    reference = Follower(policy).policy
    frozen = {p.data_ptr() for p in policy.parameters() if not p.requires_grad}
    assert frozen < {p.data_ptr() for p in reference.parameters()}
    key = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in (p for p in policy.parameters() if p.requires_grad):
            parameter.add_(torch.randn(parameter.shape, generator=key), alpha=0.3)
    drawn = []
    for other in (reference, apart, policy):
        (group,) = MixtureSampler(policy, other, share=0.5, max_new_tokens=8, seed=3).sample([Prompt((6, 7, 8))], 4)
        drawn.append(group)
    ours, theirs, alone = drawn
    assert [e.tokens for e in ours] == [e.tokens for e in theirs]
    assert [e.logprobs for e in ours] == [pytest.approx(e.logprobs, abs=1e-5) for e in theirs]
    assert [e.logprobs for e in ours] != [pytest.approx(e.logprobs, abs=1e-3) for e in alone]
