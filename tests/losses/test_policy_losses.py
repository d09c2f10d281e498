import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from preferent.losses import means, policy

SURROGATES = {
    "reinforce": policy.reinforce,
    "clipped": policy.clipped,
    "cispo": policy.cispo,
    "gspo": policy.gspo,
    "gmpo": policy.gmpo,
    "sapo": policy.sapo,
}
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
    """For GSPO and GMPO, whose ratio is the whole reply's, where all tokens of a reply have one advantage."""
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


def test_gmpo_clips_each_token_before_the_geometric_mean():
    """Log-ratios 1 and -.2, and a masked one; high = .4. Good reply: (.4 - .2)/2 = .1: -e^.1 for both tokens.

    Bad reply (A = -1), low = .4: what is clipped is a fall: 1 and -.2 stay, (1 - .2)/2 = .4: e^.4. With -1 and .2, the
    fall stops at -.4: (-.4 + .2)/2 = -.1: e^-.1.
    """
    mask = torch.tensor([[True, True, False]])
    old = torch.zeros(1, 3, dtype=torch.float64)

    def loss(a, b, advantage):
        logp = torch.tensor([[a, b, 9.0]], dtype=torch.float64)
        return policy.gmpo(logp, old, torch.full_like(old, advantage), mask)[0].tolist()

    assert loss(1.0, -0.2, 1.0) == pytest.approx([-math.exp(0.1)] * 2 + [0])
    assert loss(1.0, -0.2, -1.0) == pytest.approx([math.exp(0.4)] * 2 + [0])
    assert loss(-1.0, 0.2, -1.0) == pytest.approx([math.exp(-0.1)] * 2 + [0])


def test_a_token_that_gmpo_clipped_has_no_gradient_and_the_others_keep_theirs():
    """Two tokens, log-ratios 1 (clipped at .4) and 0: loss -e^.2 at each; gradient -2·e^.2·½ for the second alone."""
    logp = torch.tensor([[1.0, 0.0]], dtype=torch.float64, requires_grad=True)
    ones = torch.ones(1, 2, dtype=torch.float64)
    policy.gmpo(logp, 0 * ones, ones, ones.bool()).sum().backward()
    assert logp.grad.tolist()[0] == pytest.approx([0, -math.exp(0.2)])


def test_sapo_gates_softly_and_lets_go_of_bad_tokens_sooner():
    """-(4/τ)·σ(τ(ρ - 1))·A. At ρ = 1: -(4/1)·½ = -2 with gradient -1 for a good token; 4/1.05·½ for a bad one.

    At ρ = 2: the gradient is 4·σ(1)·σ(-1)·ρ = 4·.196612·2 = 1.572896 downhill; for a bad token with τ = 1.05,
    4·σ(1.05)·σ(-1.05)·2 = 4·.192 225·2 = 1.537800 the other way.
    """
    assert at_ratio(1.0, 1.0, policy.sapo) == pytest.approx((-2, -1))
    assert at_ratio(1.0, -1.0, policy.sapo) == pytest.approx((2 / 1.05, 1))
    assert at_ratio(2.0, 1.0, policy.sapo)[1] == pytest.approx(-1.572896, abs=1e-5)
    sigmoid = 1 / (1 + math.exp(-1.05))
    assert at_ratio(2.0, -1.0, policy.sapo)[1] == pytest.approx(8 * sigmoid * (1 - sigmoid), rel=1e-12)  # τ in float64
    assert at_ratio(2.0, -1.0, policy.sapo)[1] < 1.572896


@pytest.mark.parametrize("surrogate", [policy.gmpo, policy.sapo, policy.gspo, policy.clipped])
def test_gradients_are_those_of_the_numbers(surrogate):
    """Away from where a clip begins."""
    old, mask = numbers(3, 4, seed=1), numbers(3, 4, seed=2) > -1
    logp, advantage = (old + 0.1 * numbers(3, 4, seed=3)).requires_grad_(), numbers(3, 1, seed=4).expand(3, 4)
    wide = {"low": 0.9, "high": 0.9} if surrogate in (policy.gspo, policy.gmpo, policy.clipped) else {}
    assert torch.autograd.gradcheck(lambda x: surrogate(x, old, advantage, mask, **wide), logp)


@pytest.mark.parametrize("divergence", [policy.reverse, policy.reverse_off_policy])
def test_the_kl_as_a_loss_has_the_gradient_of_its_numbers_and_is_zero_off_the_mask(divergence):
    old, reference, mask = numbers(3, 4, seed=1), numbers(3, 4, seed=2), numbers(3, 4, seed=3) > 0
    logp = numbers(3, 4, seed=4).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: divergence(x, old, reference, mask), logp)
    poisoned = [x.detach().where(mask, math.nan) for x in (logp, old, reference)]
    there = divergence(*poisoned, mask)
    assert (there[~mask] == 0).all()
    torch.testing.assert_close(there, divergence(logp.detach(), old, reference, mask))
    (here,) = torch.autograd.grad(divergence(logp, *poisoned[1:], mask).sum(), logp)
    assert (here[~mask] == 0).all()
    assert here[mask].isfinite().all()


@law
@given(seed=seeds)
def test_after_the_policy_moved_the_corrected_kl_still_has_the_gradient_of_the_reverse_kl_and_k2_has_not(seed):
    """Draws of the old policy, all four tokens weighed by its probabilities."""
    logits, logp, reference = categorical(seed)
    old, mask = numbers(4, seed=seed + 3).log_softmax(-1), torch.ones(4, dtype=torch.bool)
    reverse, _ = reverse_and_forward(logits, logp, reference)

    def expected(divergence):
        loss = (old.exp() * divergence(logp, old, reference, mask)).sum()
        return torch.autograd.grad(loss, logits, retain_graph=True)[0]

    torch.testing.assert_close(expected(policy.reverse_off_policy), reverse)
    assert (expected(policy.reverse) - reverse).abs().max() > 1e-6


# --- what drew is not what learns -----------------------------------------------------------------


def test_weights_by_hand():
    """Ratios 4 and ½, and a masked one. Tokens, capped at 2: 2, ½. Masked out beyond 2: 0, ½; below ½ + ε: 0, 0.

    The reply's ratio is 2: capped at 1.5, 1.5 for both; masked at 3, 2 for both; masked at 1.5, 0.
    """
    logp = torch.tensor([[math.log(4), math.log(0.5), math.nan]], dtype=torch.float64)
    behaviour, mask = torch.zeros_like(logp), torch.tensor([[True, True, False]])

    def weights(kind, **how):
        return kind(logp, behaviour, mask, **how)[0].tolist()

    assert weights(policy.truncated) == pytest.approx([2, 0.5, 0])
    assert weights(policy.masked) == pytest.approx([0, 0.5, 0])
    assert weights(policy.masked, cap=5.0, low=0.6) == pytest.approx([4, 0, 0])
    assert weights(policy.truncated, cap=1.5, whole=True) == pytest.approx([1.5, 1.5, 0])
    assert weights(policy.masked, cap=3.0, whole=True) == pytest.approx([2, 2, 0])
    assert weights(policy.masked, cap=1.5, whole=True) == pytest.approx([0, 0, 0])


@pytest.mark.parametrize("kind", [policy.truncated, policy.masked])
@pytest.mark.parametrize("whole", [False, True])
def test_nothing_is_learned_through_a_weight_and_on_policy_it_is_one(kind, whole):
    logp, mask = numbers(3, 4).requires_grad_(), numbers(3, 4, seed=1) > 0
    weight = kind(logp, logp.detach(), mask, whole=whole)
    assert not weight.requires_grad
    assert weight.equal(mask.double())


@law
@given(seed=seeds)
def test_a_replys_weight_makes_what_another_policy_drew_unbiased(seed):
    """Σ_y b(y)·w(y)·f(y) = Σ_y p(y)·f(y) over the sixteen replies of two tokens, where no cap is reached."""
    logp, behaviour = (numbers(2, 4, seed=seed + i).log_softmax(-1) for i in range(2))
    at = torch.cartesian_prod(torch.arange(4), torch.arange(4))
    p, b = (torch.stack([table[0][at[:, 0]], table[1][at[:, 1]]], 1) for table in (logp, behaviour))
    f, mask = numbers(16, seed=seed + 2), torch.ones(16, 2, dtype=torch.bool)
    weight = policy.truncated(p, b, mask, cap=math.inf, whole=True)[:, 0]
    torch.testing.assert_close((b.sum(-1).exp() * weight * f).sum(), (p.sum(-1).exp() * f).sum())


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
