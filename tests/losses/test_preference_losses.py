import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from preferent.losses import preference

law = settings(deadline=None, max_examples=30)
seeds = st.integers(0, 2**16)
betas = st.floats(0.01, 2)
ON_LOG_RATIOS = {"dpo": preference.dpo, "ipo": preference.ipo, "hinge": preference.hinge}
every_loss = pytest.mark.parametrize("loss", ON_LOG_RATIOS.values(), ids=ON_LOG_RATIOS.keys())


def numbers(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def minus_log_sigmoid(x):
    """Written for numpy, apart from what the package uses: log(1 + e^-x)."""
    return np.logaddexp(0, -x)


@law
@given(seed=seeds, beta=betas, flip=st.floats(0, 0.49), margin=st.floats(-2, 2))
def test_each_loss_is_its_formula(seed, beta, flip, margin):
    w, v = numbers(6, seed=seed), numbers(6, seed=seed + 1)
    a, b = w.numpy(), v.numpy()
    h = beta * (a - b)
    right, wrong = minus_log_sigmoid(h), minus_log_sigmoid(-h)
    d = a - b - margin
    expected = {
        "dpo": (1 - flip) * right + flip * wrong,
        "robust_dpo": ((1 - flip) * right - flip * wrong) / (1 - 2 * flip),
        "ipo": (a - b - 1 / (2 * beta)) ** 2,
        "hinge": np.maximum(0, 1 - h),
        "bradley_terry": (1 - flip) * minus_log_sigmoid(d) + flip * minus_log_sigmoid(-d),
    }
    got = {
        "dpo": preference.dpo(w, v, beta=beta, flip=flip),
        "robust_dpo": preference.robust_dpo(w, v, beta=beta, flip=flip),
        "ipo": preference.ipo(w, v, beta=beta),
        "hinge": preference.hinge(w, v, beta=beta),
        "bradley_terry": preference.bradley_terry(w, v, margin=margin, flip=flip),
    }
    for name, formula in expected.items():
        np.testing.assert_allclose(got[name].numpy(), formula, rtol=1e-10, err_msg=name)


def test_a_policy_equal_to_its_reference_has_log_two_whatever_the_labels():
    zero = torch.zeros(1, dtype=torch.float64)
    assert preference.dpo(zero, zero, beta=0.1).item() == pytest.approx(math.log(2))
    assert preference.dpo(zero, zero, beta=3.0, flip=0.3).item() == pytest.approx(math.log(2))
    assert preference.robust_dpo(zero, zero, beta=0.1, flip=0.3).item() == pytest.approx(math.log(2))
    assert preference.bradley_terry(zero, zero).item() == pytest.approx(math.log(2))


def test_numbers_derived_by_hand():
    """Log-ratios 2 and -1, β = ½: h = 3, βh = 3/2.

    DPO log(1 + e^-1.5) = 0.201413; IPO (3 - 1)² = 4; hinge max(0, 1 - 1.5) = 0, and 1 - (-1.5) = 2.5 the other way.
    Scores 2 and 0 with margin 1: log(1 + e^-1) = 0.313262.
    """
    a, b = torch.tensor([2.0]), torch.tensor([-1.0])
    assert preference.dpo(a, b, beta=0.5).item() == pytest.approx(0.201413, abs=1e-6)
    assert preference.ipo(a, b, beta=0.5).item() == pytest.approx(4)
    assert preference.hinge(a, b, beta=0.5).item() == 0
    assert preference.hinge(b, a, beta=0.5).item() == 2.5
    score = preference.bradley_terry(torch.tensor([2.0]), torch.tensor([0.0]), margin=1.0)
    assert score.item() == pytest.approx(0.313262, abs=1e-6)


@every_loss
@law
@given(seed=seeds)
def test_near_the_reference_the_gradient_raises_the_chosen_and_lowers_the_rejected(loss, seed):
    chosen, rejected = (0.01 * numbers(4, seed=seed + i) for i in (0, 1))
    chosen.requires_grad_()
    rejected.requires_grad_()
    up, down = torch.autograd.grad(loss(chosen, rejected, beta=0.1).sum(), (chosen, rejected))
    assert (up < 0).all()
    assert (down > 0).all()


@law
@given(seed=seeds)
def test_a_tie_prefers_neither(seed):
    a, b = numbers(4, seed=seed), numbers(4, seed=seed + 1)
    torch.testing.assert_close(preference.dpo(a, b, beta=0.1, flip=0.5), preference.dpo(b, a, beta=0.1, flip=0.5))
    tie = torch.full((4,), 0.5, dtype=torch.float64)
    torch.testing.assert_close(preference.bradley_terry(a, b, flip=tie), preference.bradley_terry(b, a, flip=tie))


@law
@given(seed=seeds, flips=st.lists(st.floats(0, 0.49), min_size=4, max_size=4))
def test_flips_may_differ_from_pair_to_pair(seed, flips):
    a, b = numbers(4, seed=seed), numbers(4, seed=seed + 1)
    flip = torch.tensor(flips, dtype=torch.float64)
    for loss in (preference.dpo, preference.robust_dpo):
        one_by_one = [loss(a[i : i + 1], b[i : i + 1], beta=0.3, flip=flips[i]) for i in range(4)]
        torch.testing.assert_close(loss(a, b, beta=0.3, flip=flip), torch.cat(one_by_one))


@law
@given(beta=betas, flip=st.floats(0.01, 0.49))
def test_a_soft_label_is_fitted_where_the_model_says_as_much(beta, flip):
    """-(1 - ε)·logσ(βh) - ε·logσ(-βh) is least where σ(βh) = 1 - ε."""
    h = torch.tensor([math.log((1 - flip) / flip) / beta], dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(preference.dpo(h, torch.zeros_like(h), beta=beta, flip=flip).sum(), h)
    assert slope.item() == pytest.approx(0, abs=1e-9)


@law
@given(seed=seeds, flip=st.floats(0, 0.45))
def test_robust_dpo_is_on_average_over_flipped_labels_the_loss_of_the_true_ones(seed, flip):
    a, b = numbers(4, seed=seed), numbers(4, seed=seed + 1)
    right, flipped = (preference.robust_dpo(x, y, beta=0.5, flip=flip) for x, y in ((a, b), (b, a)))
    torch.testing.assert_close((1 - flip) * right + flip * flipped, preference.dpo(a, b, beta=0.5))


@pytest.mark.parametrize("flip", [0.5, 0.9, -0.1, torch.tensor([0.1, 0.5])])
def test_robust_dpo_refuses_labels_that_say_nothing_or_the_opposite(flip):
    with pytest.raises(ValueError, match=r"flip must be in \[0, ½\)"):
        preference.robust_dpo(torch.zeros(2), torch.zeros(2), beta=0.1, flip=flip)


@law
@given(beta=betas)
def test_ipo_stops_at_its_margin_and_the_hinge_beyond_its_own(beta):
    h = torch.tensor([1 / (2 * beta)], dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(preference.ipo(h, torch.zeros_like(h), beta=beta).sum(), h)
    assert slope.item() == pytest.approx(0, abs=1e-9)
    far = torch.tensor([1.01 / beta], dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(preference.hinge(far, torch.zeros_like(far), beta=beta).sum(), far)
    assert slope.item() == 0


@law
@given(seed=seeds, shift=st.floats(-5, 5))
def test_only_differences_of_scores_matter(seed, shift):
    a, b = numbers(4, seed=seed), numbers(4, seed=seed + 1)
    torch.testing.assert_close(preference.bradley_terry(a + shift, b + shift), preference.bradley_terry(a, b))


@law
@given(seed=seeds)
def test_a_margin_asks_for_as_much_more_from_the_better_score(seed):
    a, b, margin = (numbers(4, seed=seed + i) for i in range(3))
    moved = preference.bradley_terry(a - margin, b)
    torch.testing.assert_close(preference.bradley_terry(a, b, margin=margin), moved)


def test_pairs_that_are_very_wrong_have_a_finite_loss_and_gradient():
    chosen = torch.tensor([-1e4], requires_grad=True)
    loss = preference.dpo(chosen, torch.tensor([1e4]), beta=1.0, flip=0.1)
    loss.sum().backward()
    assert loss.isfinite().all()
    assert chosen.grad.item() == pytest.approx(-0.9)


def test_accuracy_counts_equal_scores_half_and_leaves_undecided_pairs_out():
    """Right with weight 2, equal with weight 1, a tie in the data: (2 + ½) / 3."""
    better, worse = torch.tensor([2.0, 1.0, 5.0]), torch.tensor([1.0, 1.0, 0.0])
    found = preference.accuracy(better, worse, torch.tensor([2.0, 1.0, 7.0]), torch.tensor([1.0, 0.8, 0.5]))
    assert found.value == pytest.approx(2.5 / 3)
