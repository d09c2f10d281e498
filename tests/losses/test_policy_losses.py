import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from preferent.losses import means, policy

SURROGATES = {"reinforce": policy.reinforce, "clipped": policy.clipped, "cispo": policy.cispo, "gspo": policy.gspo}
every_surrogate = pytest.mark.parametrize("surrogate", SURROGATES.values(), ids=SURROGATES.keys())
law = settings(deadline=None, max_examples=30)
seeds = st.integers(0, 2**16)
sizes = st.tuples(st.integers(1, 5), st.integers(1, 6))
ONE = torch.ones(1, 1, dtype=torch.bool)


def numbers(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def at_ratio(ratio, advantage, surrogate, **options):
    """Loss and gradient for one token whose ratio to the old policy is ``ratio``; there, d loss/d logp."""
    logp = torch.tensor([[math.log(ratio)]], dtype=torch.float64, requires_grad=True)
    old, a = torch.zeros_like(logp), torch.full_like(logp, advantage)
    loss = surrogate(logp, old, a, ONE, **options).sum()
    (gradient,) = torch.autograd.grad(loss, logp)
    return loss.item(), gradient.item()


@every_surrogate
@law
@given(size=sizes, seed=seeds)
def test_on_policy_every_surrogate_has_the_gradient_of_reinforce(surrogate, size, seed):
    """For GSPO, whose ratio is the whole reply's, where all tokens of a reply have one advantage."""
    logp, advantage = numbers(*size, seed=seed).requires_grad_(), numbers(size[0], 1, seed=seed + 1).expand(size)
    mask = numbers(*size, seed=seed + 2) > -1
    loss = surrogate(logp, logp.detach(), advantage, mask)
    assert loss.shape == size
    (gradient,) = torch.autograd.grad(loss.sum(), logp)
    torch.testing.assert_close(gradient, -advantage.where(mask, 0))


@every_surrogate
@law
@given(size=sizes, seed=seeds)
def test_what_is_masked_cannot_matter_even_if_it_is_not_a_number(surrogate, size, seed):
    clean = [numbers(*size, seed=seed + i) for i in range(3)]
    mask = numbers(*size, seed=seed + 3) > 0
    logp = clean[0].clone().requires_grad_()
    poisoned = [x.where(mask, math.nan) for x in clean]
    poisoned[0].requires_grad_()
    here, there = surrogate(logp, *clean[1:], mask), surrogate(*poisoned, mask)
    torch.testing.assert_close(there, here)
    assert (there[~mask] == 0).all()
    torch.testing.assert_close(torch.autograd.grad(there.sum(), poisoned[0]), torch.autograd.grad(here.sum(), logp))


@law
@given(seed=seeds)
def test_clipping_is_pessimistic(seed):
    logp, old, advantage = (numbers(3, 4, seed=seed + i) for i in range(3))
    free = -(logp - old).exp() * advantage
    assert (policy.clipped(logp, old, advantage, torch.ones(3, 4, dtype=torch.bool)) >= free).all()


def test_ppo_clips_where_the_policy_has_moved_far_enough_in_the_wanted_direction():
    """-min(ρA, clip(ρ, .8, 1.2)·A). Good token: at ρ = 1.5, -1.2 and no gradient; at .5, -.5 and gradient -.5.

    Bad token (A = -1): at ρ = 1.5, 1.5 and gradient 1.5; at .5, .8 and no gradient.
    """
    assert at_ratio(1.5, 1.0, policy.clipped) == pytest.approx((-1.2, 0))
    assert at_ratio(0.5, 1.0, policy.clipped) == pytest.approx((-0.5, -0.5))
    assert at_ratio(1.5, -1.0, policy.clipped) == pytest.approx((1.5, 1.5))
    assert at_ratio(0.5, -1.0, policy.clipped) == pytest.approx((0.8, 0))


def test_clip_higher_leaves_more_room_upwards_only():
    assert at_ratio(1.25, 1.0, policy.clipped, high=0.28) == pytest.approx((-1.25, -1.25))
    assert at_ratio(1.25, 1.0, policy.clipped) == pytest.approx((-1.2, 0))
    assert at_ratio(0.75, -1.0, policy.clipped, high=0.28) == pytest.approx((0.8, 0))


def test_dual_clipping_bounds_the_loss_of_a_bad_token_that_became_likely_and_nothing_else():
    """A = -1, ρ = 5: PPO says 5; with dual = 3, the gain max(-5, 3·-1) = -3, a loss of 3 without gradient."""
    assert at_ratio(5.0, -1.0, policy.clipped) == pytest.approx((5, 5))
    assert at_ratio(5.0, -1.0, policy.clipped, dual=3.0) == pytest.approx((3, 0))
    assert at_ratio(2.0, -1.0, policy.clipped, dual=3.0) == pytest.approx((2, 2))
    assert at_ratio(5.0, 1.0, policy.clipped, dual=3.0) == pytest.approx((-1.2, 0))


def test_cispo_caps_the_weight_and_keeps_the_gradient():
    """The gradient is -min(ρ, 5)·A: -5 at ρ = 10, where PPO has none; -2 at ρ = 2; no lower cap: -.1 at ρ = .1."""
    assert at_ratio(10.0, 1.0, policy.cispo)[1] == pytest.approx(-5)
    assert at_ratio(2.0, 1.0, policy.cispo)[1] == pytest.approx(-2)
    assert at_ratio(0.1, 1.0, policy.cispo)[1] == pytest.approx(-0.1)


def test_gspo_has_one_ratio_for_the_reply_the_geometric_mean_of_its_tokens():
    """Ratios 4 and 1, and a masked one: √4 = 2. Clipped at 1.5, the loss of both tokens is -1.5; at 3, -2."""
    logp = torch.tensor([[math.log(4), 0.0, 9.0]])
    mask = torch.tensor([[True, True, False]])
    old, advantage = torch.zeros(1, 3), torch.ones(1, 3)
    tight = policy.gspo(logp, old, advantage, mask, low=0.5, high=0.5)
    wide = policy.gspo(logp, old, advantage, mask, low=0.5, high=2.0)
    torch.testing.assert_close(tight, torch.tensor([[-1.5, -1.5, 0.0]]))
    torch.testing.assert_close(wide, torch.tensor([[-2.0, -2.0, 0.0]]))
    assert means.over_sequences(tight, mask).value == pytest.approx(-1.5)


@law
@given(seed=seeds)
def test_for_replies_of_one_token_gspo_is_ppo(seed):
    logp, old, advantage = (numbers(4, 1, seed=seed + i) for i in range(3))
    mask = torch.ones(4, 1, dtype=torch.bool)
    here = policy.gspo(logp, old, advantage, mask, low=0.2, high=0.2)
    torch.testing.assert_close(here, policy.clipped(logp, old, advantage, mask))


def test_the_clipped_value_loss_takes_the_worse_of_the_value_and_the_value_kept_near():
    """Value 2, old 0, target 1, clip .2: near .2; ½·max(1, .64) = .5.

    Value 0, old 1, target 0: near .8; ½·.64 = .32.
    """
    value, old, target = torch.tensor([2.0, 0.0]), torch.tensor([0.0, 1.0]), torch.tensor([1.0, 0.0])
    torch.testing.assert_close(policy.clipped_value(value, old, target, clip=0.2), torch.tensor([0.5, 0.32]))


def test_a_value_that_overshot_the_clip_towards_its_target_has_no_gradient():
    value = torch.tensor([0.5], requires_grad=True)
    policy.clipped_value(value, torch.tensor([0.0]), torch.tensor([1.0]), clip=0.2).sum().backward()
    assert value.grad.item() == 0


@pytest.mark.parametrize("estimator", [policy.k1, policy.k2, policy.k3])
@law
@given(seed=seeds)
def test_the_kl_of_a_policy_to_itself_is_zero(estimator, seed):
    logp = numbers(3, 4, seed=seed)
    assert estimator(logp, logp).abs().max() == 0


@law
@given(seed=seeds)
def test_k2_and_k3_are_never_negative(seed):
    logp, reference = numbers(3, 4, seed=seed), numbers(3, 4, seed=seed + 1)
    assert (policy.k2(logp, reference) >= 0).all()
    assert (policy.k3(logp, reference) >= 0).all()


# Facts about gradients, by exact enumeration: an expectation is a sum over the four tokens of a categorical.


def categorical(seed):
    logits = numbers(4, seed=seed).requires_grad_()
    return logits, logits.log_softmax(-1), numbers(4, seed=seed + 1).log_softmax(-1)


def expected_gradient(loss, logp, logits):
    """E over the policy's own draws of d loss/d logits: the draws are not differentiated."""
    (gradient,) = torch.autograd.grad((logp.detach().exp() * loss).sum(), logits, retain_graph=True)
    return gradient


def reverse_and_forward(logits, logp, reference):
    reverse = (logp.exp() * (logp - reference)).sum()
    forward = (reference.exp() * (reference - logp)).sum()
    return [torch.autograd.grad(kl, logits, retain_graph=True)[0] for kl in (reverse, forward)]


@law
@given(seed=seeds)
def test_k1_and_k3_estimate_the_reverse_kl_without_bias(seed):
    _, logp, reference = categorical(seed)
    p = logp.exp()
    kl = (p * (logp - reference)).sum()
    torch.testing.assert_close((p * policy.k1(logp, reference)).sum(), kl)
    torch.testing.assert_close((p * policy.k3(logp, reference)).sum(), kl)


@law
@given(seed=seeds)
def test_as_a_loss_k1_has_no_expected_gradient(seed):
    logits, logp, reference = categorical(seed)
    assert expected_gradient(policy.k1(logp, reference), logp, logits).abs().max() < 1e-12


@law
@given(seed=seeds)
def test_as_a_loss_k2_has_on_policy_the_gradient_of_the_reverse_kl(seed):
    logits, logp, reference = categorical(seed)
    reverse, _ = reverse_and_forward(logits, logp, reference)
    torch.testing.assert_close(expected_gradient(policy.k2(logp, reference), logp, logits), reverse)


@law
@given(seed=seeds)
def test_as_a_loss_k3_has_the_gradient_of_the_forward_kl(seed):
    logits, logp, reference = categorical(seed)
    _, forward = reverse_and_forward(logits, logp, reference)
    torch.testing.assert_close(expected_gradient(policy.k3(logp, reference), logp, logits), forward)


@law
@given(seed=seeds)
def test_weighted_by_the_importance_ratio_k3_has_the_gradient_of_the_reverse_kl(seed):
    logits, logp, reference = categorical(seed)
    ratio = policy.token_ratio(logp, logp.detach(), torch.ones(4, dtype=torch.bool))
    reverse, _ = reverse_and_forward(logits, logp, reference)
    torch.testing.assert_close(expected_gradient(ratio * policy.k3(logp, reference), logp, logits), reverse)


@every_surrogate
@law
@given(seed=seeds)
def test_the_expected_gradient_of_a_surrogate_is_that_of_the_expected_reward(surrogate, seed):
    logits, logp, _ = categorical(seed)
    reward = numbers(4, seed=seed + 2)
    (ascent,) = torch.autograd.grad((logp.exp() * reward).sum(), logits, retain_graph=True)
    each = surrogate(logp[:, None], logp.detach()[:, None], reward[:, None], torch.ones(4, 1, dtype=torch.bool))[:, 0]
    torch.testing.assert_close(expected_gradient(each, logp, logits), -ascent)


@every_surrogate
def test_a_surrogate_changes_none_of_its_arguments(surrogate):
    given_ = [numbers(2, 3, seed=i) for i in range(3)] + [numbers(2, 3, seed=3) > 0]
    kept = [x.clone() for x in given_]
    surrogate(*given_)
    assert all(a.equal(b) for a, b in zip(kept, given_, strict=True))
