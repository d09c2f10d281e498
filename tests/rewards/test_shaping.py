import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from preferent.rewards.shaping import AdaptiveKL, kl_in_reward, score_at_end

law = settings(deadline=None, max_examples=30)
seeds = st.integers(0, 2**16)


def numbers(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_a_score_stands_on_the_last_token_of_its_reply_and_not_on_padding():
    """Lengths 3 and 1, a hole in the third reply, nothing in the fourth."""
    mask = torch.tensor([[1, 1, 1], [1, 0, 0], [1, 0, 1], [0, 0, 0]]).bool()
    expected = torch.tensor([[0.0, 0, 5], [6, 0, 0], [0, 0, 7], [0, 0, 0]])
    torch.testing.assert_close(score_at_end(torch.tensor([5.0, 6.0, 7.0, 8.0]), mask), expected)


@law
@given(seed=seeds)
def test_the_rewards_of_a_reply_sum_to_its_score_less_the_price_of_its_log_ratio(seed):
    scores, logp, reference = numbers(3, seed=seed), numbers(3, 4, seed=seed + 1), numbers(3, 4, seed=seed + 2)
    mask = numbers(3, 4, seed=seed + 3) > 0
    mask[:, 0] = True
    poisoned = logp.where(mask, math.nan)
    rewards = kl_in_reward(scores, poisoned, reference, mask, beta=0.3)
    ratio = (logp - reference).where(mask, 0).sum(-1)
    torch.testing.assert_close(rewards.sum(-1), scores - 0.3 * ratio)
    assert (rewards[~mask] == 0).all()


def test_tokens_that_became_likelier_than_the_reference_has_them_cost_something():
    """Log-ratios 1 and -2, β = ½, score 3: -½, and 3 + 1 = 4."""
    logp, reference = torch.tensor([[-1.0, -3.0]]), torch.tensor([[-2.0, -1.0]])
    rewards = kl_in_reward(torch.tensor([3.0]), logp, reference, torch.ones(1, 2, dtype=torch.bool), beta=0.5)
    torch.testing.assert_close(rewards, torch.tensor([[-0.5, 4.0]]))


def test_no_gradient_flows_through_a_reward():
    logp = torch.zeros(1, 2, requires_grad=True)
    reward = kl_in_reward(torch.ones(1), logp, torch.zeros(1, 2), torch.ones(1, 2, dtype=torch.bool), beta=0.5)
    assert not reward.requires_grad


def test_the_price_of_kl_follows_its_target_by_a_fifth_a_horizon_at_most():
    """Target 6, horizon 100, 10 episodes. KL 12 is clipped to +.2: ·1.02; KL 5.4 is -.1: ·.99; KL 0 is -.2: ·.98."""
    for kl, factor in ((12.0, 1.02), (5.4, 0.99), (0.0, 0.98), (6.0, 1.0)):
        price = AdaptiveKL(0.05, target=6.0, horizon=100)
        price.update(kl, 10)
        assert price.beta == pytest.approx(0.05 * factor)


@pytest.mark.parametrize("kl", [math.nan, math.inf, -math.inf])
def test_a_kl_that_is_no_number_does_not_move_the_price(kl):
    price = AdaptiveKL(0.05, target=6.0, horizon=100)
    price.update(kl, 10)
    assert price.beta == 0.05


def test_without_a_horizon_the_price_is_fixed():
    price = AdaptiveKL(0.05)
    price.update(100.0, 1000)
    assert price.beta == 0.05


@law
@given(kls=st.lists(st.floats(0, 50), min_size=2, max_size=6), stop=st.integers(0, 5))
def test_stopping_and_resuming_equals_not_stopping(kls, stop):
    straight, first, second = (AdaptiveKL(0.1, target=3.0, horizon=50) for _ in range(3))
    for kl in kls:
        straight.update(kl, 8)
    for kl in kls[:stop]:
        first.update(kl, 8)
    second.load_state_dict(first.state_dict())
    for kl in kls[stop:]:
        second.update(kl, 8)
    assert second.beta == straight.beta


@pytest.mark.parametrize(
    "options", [{"initial": -1.0}, {"initial": 0.1, "target": 0.0}, {"initial": 0.1, "horizon": 0}]
)
def test_a_price_that_makes_no_sense_is_refused(options):
    with pytest.raises(ValueError, match="a KL price needs"):
        AdaptiveKL(**options)


def test_a_horizon_so_short_that_the_price_could_turn_negative_is_refused():
    with pytest.raises(ValueError, match="longer horizon"):
        AdaptiveKL(0.1, horizon=10).update(0.0, 50)
