import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from preferent.losses import advantage

law = settings(deadline=None, max_examples=30)
seeds = st.integers(0, 2**16)
OVER_GROUPS = {
    "centred": advantage.centred,
    "standardised": advantage.standardised,
    "leave_one_out": advantage.leave_one_out,
}
every_group_advantage = pytest.mark.parametrize("estimate", OVER_GROUPS.values(), ids=OVER_GROUPS.keys())
masks = st.lists(st.booleans(), min_size=1, max_size=8)


def numbers(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@every_group_advantage
@law
@given(seed=seeds, n=st.integers(2, 9))
def test_the_advantages_of_a_group_sum_to_zero(estimate, seed, n):
    assert estimate(numbers(3, n, seed=seed)).sum(-1).abs().max() < 1e-9


@every_group_advantage
@law
@given(seed=seeds, shift=st.floats(-5, 5))
def test_a_prompt_that_is_easier_for_all_replies_changes_no_advantage(estimate, seed, shift):
    rewards = numbers(3, 4, seed=seed)
    torch.testing.assert_close(estimate(rewards + shift), estimate(rewards))


@every_group_advantage
def test_a_group_of_equal_rewards_has_no_advantage(estimate):
    assert estimate(torch.full((2, 3), 0.1)).abs().max() < 1e-3


@law
@given(seed=seeds, n=st.integers(2, 9))
def test_leave_one_out_is_the_reward_less_the_mean_of_the_others(seed, n):
    r = numbers(1, n, seed=seed)
    expected = [r[0, i] - torch.cat([r[0, :i], r[0, i + 1 :]]).mean() for i in range(n)]
    torch.testing.assert_close(advantage.leave_one_out(r)[0], torch.stack(expected))


def test_maximum_likelihood_divides_by_the_mean_by_hand():
    """Rewards 1, 0, 0, 0: mean ¼; ¾/¼ = 3 and -1. A group with nothing right, and one all right: 0."""
    rewards = torch.tensor([[1.0, 0, 0, 0], [0, 0, 0, 0], [1, 1, 1, 1]], dtype=torch.float64)
    expected = torch.tensor([[3.0, -1, -1, -1], [0] * 4, [0] * 4], dtype=torch.float64)
    torch.testing.assert_close(advantage.max_rl(rewards), expected, atol=1e-4, rtol=0)
    with pytest.raises(ValueError, match="0 or more, not -1"):
        advantage.max_rl(-rewards)
    with pytest.raises(ValueError, match="needs 2 or more, not 1"):
        advantage.max_rl(rewards[:, :1])


def test_what_is_still_to_come_by_hand():
    """1, 2, (masked), 4: 7, 6, 0, 4."""
    rewards = torch.tensor([[1.0, 2.0, math.nan, 4.0]])
    mask = torch.tensor([[True, True, False, True]])
    assert advantage.to_go(rewards, mask).tolist() == [[7, 6, 0, 4]]


@law
@given(seed=seeds)
def test_without_a_critic_what_is_still_to_come_is_gaes_return_at_lambda_one(seed):
    rewards, mask = numbers(3, 5, seed=seed), numbers(3, 5, seed=seed + 1) > -0.5
    _, returns = advantage.gae(rewards, torch.zeros(3, 6, dtype=torch.float64), mask, gamma=1.0, lam=1.0)
    torch.testing.assert_close(advantage.to_go(rewards, mask), returns)


def test_standardising_divides_by_the_unbiased_deviation():
    """Rewards 0 and 1: mean ½, deviation √(½² + ½²) = .707107; ½/(.707107 + .0001) = .707007."""
    got = advantage.standardised(torch.tensor([[0.0, 1.0]]))
    torch.testing.assert_close(got, torch.tensor([[-0.707007, 0.707007]]), atol=1e-6, rtol=0)


@pytest.mark.parametrize("estimate", [advantage.standardised, advantage.leave_one_out])
def test_a_reply_without_siblings_cannot_be_compared(estimate):
    with pytest.raises(ValueError, match="2 or more, not 1"):
        estimate(torch.zeros(3, 1))


def by_definition(rewards, values, *, after, gamma, lam):
    """The discounted sum of temporal differences, in plain numbers: no masks, no recursion."""
    following = [*values, after][1:]
    deltas = [r + gamma * w - v for r, v, w in zip(rewards, values, following, strict=True)]
    return [sum((gamma * lam) ** (j - i) * deltas[j] for j in range(i, len(deltas))) for i in range(len(deltas))]


@law
@given(seed=seeds, rows=st.lists(masks, min_size=1, max_size=3), lam=st.floats(0, 1), gamma=st.floats(0.5, 1))
def test_gae_is_the_discounted_sum_of_temporal_differences_over_the_tokens_under_the_mask(seed, rows, lam, gamma):
    width = max(map(len, rows))
    mask = torch.tensor([row + [False] * (width - len(row)) for row in rows])
    rewards, values = numbers(*mask.shape, seed=seed), numbers(len(rows), width + 1, seed=seed + 1)
    got, returns = advantage.gae(rewards, values, mask, gamma=gamma, lam=lam)
    for i in range(len(rows)):
        here, v = mask[i], values[i, :-1][mask[i]]
        expected = by_definition(rewards[i][here].tolist(), v.tolist(), after=0.0, gamma=gamma, lam=lam)
        torch.testing.assert_close(got[i][here], torch.tensor(expected, dtype=torch.float64))
        torch.testing.assert_close(returns[i][here], got[i][here] + v)
    assert (got[~mask] == 0).all()
    assert (returns[~mask] == 0).all()


@law
@given(seed=seeds, row=masks)
def test_values_and_rewards_of_a_tools_tokens_do_not_leak(seed, row):
    mask = torch.tensor([row])
    rewards, values = numbers(1, len(row), seed=seed), numbers(1, len(row) + 1, seed=seed + 1)
    poisoned = values.clone()
    poisoned[:, :-1] = values[:, :-1].where(mask, math.nan)
    poisoned[:, -1] = math.nan  # terminal: not looked at
    here = advantage.gae(rewards, values, mask, gamma=0.9, lam=0.8)
    there = advantage.gae(rewards.where(mask, math.nan), poisoned, mask, gamma=0.9, lam=0.8)
    torch.testing.assert_close(there, here)


def test_gae_by_hand():
    """Rewards 0, 0, 1, values ½, γ = 1, λ = ½: differences 0, 0, ½, so advantages ⅛, ¼, ½."""
    rewards, values = torch.tensor([[0.0, 0.0, 1.0]]), torch.tensor([[0.5, 0.5, 0.5, 9.0]])
    got, returns = advantage.gae(rewards, values, torch.ones(1, 3, dtype=torch.bool), gamma=1.0, lam=0.5)
    torch.testing.assert_close(got, torch.tensor([[0.125, 0.25, 0.5]]))
    torch.testing.assert_close(returns, torch.tensor([[0.625, 0.75, 1.0]]))


@law
@given(seed=seeds)
def test_with_lambda_one_the_critics_target_is_the_reward_still_to_come(seed):
    rewards, values = numbers(2, 5, seed=seed), numbers(2, 6, seed=seed + 1)
    _, returns = advantage.gae(rewards, values, torch.ones(2, 5, dtype=torch.bool), gamma=1.0, lam=1.0)
    torch.testing.assert_close(returns, rewards.flip(1).cumsum(1).flip(1))


def test_only_an_episode_that_was_cut_off_counts_on_the_value_after_its_end():
    """One token, reward 1, value 2, value after the end 10: terminal 1 - 2 = -1, cut off 1 + 10/2 - 2 = 4 (γ = ½).

    The second row's end is where its own mask ends, not where the tensor does.
    """
    rewards, values = torch.tensor([[1.0, 0.0]] * 2), torch.tensor([[2.0, 10.0, 99.0]] * 2)
    mask = torch.tensor([[True, False]] * 2)
    got, _ = advantage.gae(rewards, values, mask, gamma=0.5, lam=1.0, bootstrap=torch.tensor([False, True]))
    torch.testing.assert_close(got[:, 0], torch.tensor([-1.0, 4.0]))


def test_an_episode_cut_off_after_a_tools_tokens_counts_on_the_value_after_those():
    """Reward 1, value 2, then a tool's token, and 10 after it: 1 + 10 - 2 = 9, whatever stood between."""
    rewards, values = torch.tensor([[1.0, 0.0, 0.0]]), torch.tensor([[2.0, -50.0, 10.0, 99.0]])
    mask, present = torch.tensor([[True, False, False]]), torch.tensor([[True, True, False]])
    cut = torch.tensor([True])
    got, _ = advantage.gae(rewards, values, mask, gamma=1.0, lam=1.0, bootstrap=cut, present=present)
    assert got[0, 0].item() == 9


@law
@given(seed=seeds)
def test_whitened_advantages_have_mean_zero_and_variance_one(seed):
    x, mask = numbers(4, 5, seed=seed), numbers(4, 5, seed=seed + 1) > -1
    white = advantage.whiten(x.where(mask, math.nan), mask)
    chosen = white[mask]
    assert (white[~mask] == 0).all()
    assert chosen.mean().item() == pytest.approx(0, abs=1e-9)
    assert chosen.var(correction=0).item() == pytest.approx(1, abs=1e-6)


@law
@given(seed=seeds)
def test_without_the_shift_whitening_keeps_the_mean(seed):
    x, mask = numbers(4, 5, seed=seed) + 3, numbers(4, 5, seed=seed + 1) > -1
    chosen = advantage.whiten(x, mask, shift_mean=False)[mask]
    assert chosen.mean().item() == pytest.approx(x[mask].mean().item())
    assert chosen.var(correction=0).item() == pytest.approx(1, abs=1e-6)


def test_whitening_uses_the_population_variance():
    """1 and 3: mean 2, population variance 1, so -1 and 1."""
    white = advantage.whiten(torch.tensor([[1.0, 3.0]]), torch.ones(1, 2, dtype=torch.bool))
    torch.testing.assert_close(white, torch.tensor([[-1.0, 1.0]]))


@pytest.mark.parametrize("constant", [0.0, 0.1, -3.3, 12345.678])
@pytest.mark.parametrize("size", [1, 7, 1000])
def test_a_constant_is_whitened_to_zero_in_single_precision(constant, size):
    x = torch.full((1, size), constant)
    assert advantage.whiten(x, torch.ones_like(x, dtype=torch.bool)).abs().max() < 1e-5


def test_nothing_under_the_mask_is_whitened_to_nothing():
    assert (advantage.whiten(torch.full((2, 3), math.nan), torch.zeros(2, 3, dtype=torch.bool)) == 0).all()


def test_advantages_change_none_of_their_arguments():
    rewards, values, mask = numbers(2, 5), numbers(2, 6, seed=1), numbers(2, 5, seed=2) > 0
    kept = rewards.clone(), values.clone(), mask.clone()
    advantage.gae(rewards, values, mask, gamma=1.0, lam=0.9, bootstrap=torch.tensor([True, False]))
    advantage.whiten(rewards, mask)
    for estimate in OVER_GROUPS.values():
        estimate(rewards)
    assert all(a.equal(b) for a, b in zip(kept, (rewards, values, mask), strict=True))
