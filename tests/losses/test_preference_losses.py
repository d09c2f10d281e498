import math
from functools import partial

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


# --- DPO's relatives ------------------------------------------------------------------------------

# Every loss on two numbers a pair, as a function of these alone, with what else it takes set to one value.
LENGTHS = {"chosen_length": torch.tensor([7.0, 3.0, 5.0, 5.0]), "rejected_length": torch.tensor([4.0, 6.0, 5.0, 2.0])}
ON_PAIRS = {
    "dpo": partial(preference.dpo, beta=0.3),
    "cdpo": partial(preference.dpo, beta=0.3, flip=0.2),
    "robust_dpo": partial(preference.robust_dpo, beta=0.3, flip=0.2),
    "ipo": partial(preference.ipo, beta=0.3),
    "hinge": partial(preference.hinge, beta=0.3),
    "slic": partial(preference.slic, margin=0.7),
    "simpo": partial(preference.simpo, beta=0.3, gamma=0.4),
    "cpo": partial(preference.cpo, beta=0.3),
    "apo_zero": partial(preference.apo_zero, beta=0.3),
    "apo_down": partial(preference.apo_down, beta=0.3),
    "nca": partial(preference.nca, beta=0.3),
    "sppo": partial(preference.sppo, beta=0.3),
    "exo": partial(preference.exo, beta=0.3, flip=0.2),
    "discopop": partial(preference.discopop, beta=0.3, temperature=0.5),
    "dpop": partial(preference.dpop, beta=0.3, penalty=5.0),
    "rdpo": partial(preference.rdpo, **LENGTHS, beta=0.3, alpha=0.1),
    "sigmoid_norm": partial(preference.sigmoid_norm, beta=0.3),
    "f_dpo, reverse": partial(preference.f_dpo, beta=0.3, divergence="reverse"),
    "f_dpo, forward": partial(preference.f_dpo, beta=0.3, divergence="forward"),
    "f_dpo, jensen-shannon": partial(preference.f_dpo, beta=0.3, divergence="jensen-shannon"),
    "f_dpo, alpha": partial(preference.f_dpo, beta=0.3, divergence="alpha", alpha=0.4),
    "xpo": partial(preference.xpo, reference_sample_logp=numbers(4, seed=9), beta=0.3, alpha=0.2),
    "orpo": preference.orpo,
}
ON_PROBABILITIES = {"orpo"}  # whose arguments are log-probabilities, below 0
every_relative = pytest.mark.parametrize("name", ON_PAIRS)


def sides(name, seed, scale=1.0):
    """Two [4], in the loss's domain."""
    both = (scale * numbers(4, seed=seed), scale * numbers(4, seed=seed + 1))
    return tuple(-x.abs() - 0.01 for x in both) if name in ON_PROBABILITIES else both


def log_sigmoid(x):
    return -math.log1p(math.exp(-x))


def s(x):
    return 1 / (1 + math.exp(-x))


def test_the_relatives_by_hand():
    """c = 2, r = -1, β = ½: βc = 1, βr = -½, βh = 1.5. Means -0.5 and -1.5; lengths 7 and 4."""
    c, r = torch.tensor([2.0], dtype=torch.float64), torch.tensor([-1.0], dtype=torch.float64)
    mean = torch.tensor([-0.5], dtype=torch.float64), torch.tensor([-1.5], dtype=torch.float64)
    lengths = torch.tensor([7.0], dtype=torch.float64), torch.tensor([4.0], dtype=torch.float64)
    right = s(1.5)  # 0.817574
    odds = [-0.5 - math.log(1 - math.exp(-0.5)), -1.5 - math.log(1 - math.exp(-1.5))]  # 0.432752, -1.247526
    expected = {
        "slic, met": (preference.slic(c, r, margin=1.0), 0.0),
        "slic, missed": (preference.slic(c, r, margin=4.0), 1.0),
        "simpo": (preference.simpo(*mean, beta=2.0, gamma=0.5), -log_sigmoid(2 * 1 - 0.5)),  # 0.201413
        "cpo": (preference.cpo(c, r, beta=0.5), 0.201413),
        "orpo": (preference.orpo(*mean), -log_sigmoid(odds[0] - odds[1])),  # 0.170966
        "apo_zero": (preference.apo_zero(c, r, beta=0.5), (1 - 0.731059) + 0.377541),
        "apo_down": (preference.apo_down(c, r, beta=0.5), 0.731059 + (1 - 0.817574)),
        "nca": (preference.nca(c, r, beta=0.5), 0.313262 + 0.5 * 1.313262 + 0.5 * 0.474077),
        "sppo": (preference.sppo(c, r, beta=0.5), (2 - 1) ** 2 + (-1 + 1) ** 2),
        "exo": (
            preference.exo(c, r, beta=0.5, flip=0.25),
            right * math.log(right / 0.75) + (1 - right) * math.log((1 - right) / 0.25),  # 0.013042
        ),
        "discopop": (
            preference.discopop(c, r, beta=0.5, temperature=0.5),
            (1 - s(3)) * 0.201413 + s(3) * math.exp(-1.5),  # 0.222106
        ),
        "dpop, no loss of likelihood": (preference.dpop(c, r, beta=0.5, penalty=9.0), 0.201413),
        # The other way round: h = -3, and the better has lost 1: ½·(-3 - 2·1) = -2.5.
        "dpop": (preference.dpop(r, c, beta=0.5, penalty=2.0), -log_sigmoid(-2.5)),  # 2.578890
        "rdpo": (preference.rdpo(c, r, *lengths, beta=0.5, alpha=0.1), -log_sigmoid(1.5 + 0.1 * 3)),  # 0.153042
        "sigmoid_norm": (preference.sigmoid_norm(*mean, beta=2.0), -log_sigmoid(2.0)),
        "xpo": (preference.xpo(c, r, torch.tensor([-4.0]), beta=0.5, alpha=0.1), 0.201413 - 0.4),
        "f_dpo, reverse": (preference.f_dpo(c, r, beta=0.5, divergence="reverse"), 0.201413),
        # u = e² and e⁻¹: -1/u = -e⁻² and -e; 2u/(1 + u) = 2σ(2) and 2σ(-1); 2(1 - u^-½) = 2(1 - e⁻¹) and 2(1 - e^½).
        "f_dpo, forward": (
            preference.f_dpo(c, r, beta=0.5, divergence="forward"),
            -log_sigmoid(0.5 * (math.e - math.exp(-2))),
        ),
        "f_dpo, jensen-shannon": (
            preference.f_dpo(c, r, beta=0.5, divergence="jensen-shannon"),
            -log_sigmoid(0.5 * (math.log(s(2)) - math.log(s(-1)))),
        ),
        "f_dpo, alpha": (
            preference.f_dpo(c, r, beta=0.5, divergence="alpha", alpha=0.5),
            -log_sigmoid(0.5 * 2 * (math.exp(0.5) - math.exp(-1))),
        ),
    }
    for name, (loss, number) in expected.items():
        assert loss.item() == pytest.approx(number, abs=2e-6), name


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def with_numpy(c, r, beta=0.3, flip=0.2):
    """The formulas as other libraries write them, on log-ratios [b]; ``LENGTHS`` and the rest as in ``ON_PAIRS``."""
    h, x, y = beta * (c - r), beta * c, beta * r
    right, wrong = minus_log_sigmoid(h), minus_log_sigmoid(-h)
    lengths = (LENGTHS["chosen_length"] - LENGTHS["rejected_length"]).numpy()
    share, q = sigmoid(h / 0.5), sigmoid(h)
    powers = [(1 - np.exp(-0.4 * z)) / 0.4 for z in (c, r)]
    softened = [np.log(2 * np.exp(z) / (1 + np.exp(z))) for z in (c, r)]
    return {
        "dpo": right,
        "cdpo": (1 - flip) * right + flip * wrong,
        "robust_dpo": ((1 - flip) * right - flip * wrong) / (1 - 2 * flip),
        "ipo": (c - r - 0.5 / beta) ** 2,
        "hinge": np.maximum(0, 1 - h),
        "slic": np.maximum(0, 0.7 - c + r),
        "simpo": minus_log_sigmoid(beta * (c - r - 0.4 / beta)),
        "cpo": right,
        "apo_zero": 1 - sigmoid(x) + sigmoid(y),
        "apo_down": sigmoid(x) + 1 - sigmoid(h),
        "nca": minus_log_sigmoid(x) + 0.5 * minus_log_sigmoid(-x) + 0.5 * minus_log_sigmoid(-y),
        "sppo": (c - 0.5 / beta) ** 2 + (r + 0.5 / beta) ** 2,
        "exo": q * (np.log(q) - np.log(1 - flip)) + (1 - q) * (np.log(1 - q) - np.log(flip)),
        "discopop": right * (1 - share) + np.exp(-h) * share,
        "dpop": minus_log_sigmoid(beta * (c - r - 5 * np.maximum(0, -c))),
        "rdpo": minus_log_sigmoid(h + 0.1 * lengths),
        "sigmoid_norm": right,
        "f_dpo, reverse": right,
        "f_dpo, forward": minus_log_sigmoid(beta * (np.exp(-r) - np.exp(-c))),
        "f_dpo, jensen-shannon": minus_log_sigmoid(beta * (softened[0] - softened[1])),
        "f_dpo, alpha": minus_log_sigmoid(beta * (powers[0] - powers[1])),
        "xpo": right + 0.2 * numbers(4, seed=9).numpy(),
    }


@law
@given(seed=seeds)
def test_every_relative_is_its_formula(seed):
    chosen, rejected = numbers(4, seed=seed), numbers(4, seed=seed + 1)
    expected = with_numpy(chosen.numpy(), rejected.numpy())
    assert expected.keys() == ON_PAIRS.keys() - ON_PROBABILITIES
    for name, formula in expected.items():
        np.testing.assert_allclose(ON_PAIRS[name](chosen, rejected).numpy(), formula, rtol=1e-9, err_msg=name)
    c, r = (-numbers(4, seed=seed + i).abs() - 0.01 for i in (0, 1))
    odds = [np.exp(x) / (1 - np.exp(x)) for x in (c.numpy(), r.numpy())]
    np.testing.assert_allclose(preference.orpo(c, r).numpy(), minus_log_sigmoid(np.log(odds[0] / odds[1])), rtol=1e-9)


@every_relative
@pytest.mark.parametrize("seed", [1, 2])
def test_every_gradient_is_that_of_its_value(name, seed):
    """Finite differences in float64."""
    inputs = tuple(x.requires_grad_() for x in sides(name, 10 * seed))
    assert torch.autograd.gradcheck(ON_PAIRS[name], inputs)


@every_relative
def test_a_loss_is_a_number_for_each_pair_and_leaves_its_arguments_alone(name):
    chosen, rejected = sides(name, 3)
    before = chosen.clone(), rejected.clone()
    loss = ON_PAIRS[name](chosen, rejected)
    assert loss.shape == (4,)
    assert loss.dtype == torch.float64
    assert chosen.equal(before[0])
    assert rejected.equal(before[1])


@every_relative
@pytest.mark.parametrize(("c", "r"), [(1e4, -1e4), (-1e4, 1e4), (1e4, 1e4), (-1e4, -1e4), (0.0, 0.0)])
def test_extreme_log_ratios_have_finite_losses_and_gradients_in_fp32(name, c, r):
    """And those that are wrong are told how to get better."""
    chosen, rejected = (torch.full((4,), x, requires_grad=True) for x in (c, r))
    if name in ON_PROBABILITIES:
        chosen, rejected = ((-x.detach().abs()).requires_grad_() for x in (chosen, rejected))
    loss = ON_PAIRS[name](chosen, rejected)
    gradients = torch.autograd.grad(loss.sum(), (chosen, rejected))
    assert loss.isfinite().all()
    for gradient in gradients:
        assert gradient.isfinite().all()
        assert gradient.double().square().sum() < torch.finfo(torch.float32).max  # a norm of it can be taken


DIFFERENCES = ("dpo", "cdpo", "robust_dpo", "ipo", "hinge", "slic", "simpo", "cpo", "exo", "discopop", "rdpo",
               "sigmoid_norm", "f_dpo, reverse", "xpo")  # fmt: skip


@pytest.mark.parametrize("name", DIFFERENCES)
@law
@given(seed=seeds, shift=st.floats(-5, 5))
def test_what_is_added_to_both_sides_does_not_matter(name, seed, shift):
    chosen, rejected = sides(name, seed)
    moved = ON_PAIRS[name](chosen + shift, rejected + shift)
    torch.testing.assert_close(moved, ON_PAIRS[name](chosen, rejected))


@pytest.mark.parametrize("name", sorted(ON_PAIRS.keys() - set(DIFFERENCES)))
def test_the_others_hold_each_side_by_itself(name):
    chosen, rejected = sides(name, 5)
    moved = ON_PAIRS[name](chosen - 0.5, rejected - 0.5)
    assert not torch.allclose(moved, ON_PAIRS[name](chosen, rejected), atol=1e-3)


@pytest.mark.parametrize(
    "loss",
    [preference.dpo, preference.hinge, preference.apo_zero, preference.apo_down, preference.nca,
     partial(preference.exo, flip=0.1), partial(preference.discopop, temperature=0.5),
     partial(preference.dpop, penalty=3.0)],
    ids=["dpo", "hinge", "apo_zero", "apo_down", "nca", "exo", "discopop", "dpop"],
)  # fmt: skip
@law
@given(seed=seeds, scale=st.floats(0.1, 5))
def test_only_the_product_of_beta_and_the_log_ratio_matters(loss, seed, scale):
    chosen, rejected = numbers(4, seed=seed), numbers(4, seed=seed + 1)
    torch.testing.assert_close(
        loss(scale * chosen, scale * rejected, beta=0.3 / scale), loss(chosen, rejected, beta=0.3)
    )


UP_AND_DOWN = [name for name in ON_PAIRS if name not in ("apo_down", "exo", "nca")]


@pytest.mark.parametrize("name", UP_AND_DOWN)
def test_near_the_reference_every_relative_raises_the_better_and_lowers_the_worse(name):
    chosen, rejected = (x.requires_grad_() for x in sides(name, 7, scale=0.01))
    up, down = torch.autograd.grad(ON_PAIRS[name](chosen, rejected).sum(), (chosen, rejected))
    assert (up < 0).all()
    assert (down > 0).all()


def test_at_the_reference_nca_raises_the_better_by_a_quarter_and_apo_down_lowers_the_worse_alone():
    """NCA: β(-½ + ¼, ¼). APO-down: σ' = ¼: β(¼ - ¼, ¼); beyond it both go down: at c = r = 1, β = 1, c gains σ'(1) - ¼.

    EXO with ε = .1: σ'·(log odds of ½ - log odds of .9) = -¼·log 9 for the better.
    """
    for loss, up, down in (
        (preference.nca, -0.25, 0.25),
        (preference.apo_down, 0.0, 0.25),
        (partial(preference.exo, flip=0.1), -math.log(9) / 4, math.log(9) / 4),
    ):
        zero = [torch.zeros(1, dtype=torch.float64, requires_grad=True) for _ in range(2)]
        got = torch.autograd.grad(loss(*zero, beta=2.0).sum(), zero)
        assert [g.item() for g in got] == pytest.approx([2 * up, 2 * down])


def saturation(name):
    """How much a pair that is right, or wrong, by far still pulls on its better side, per β."""
    found = []
    for c, r in ((50.0, -50.0), (-50.0, 50.0)):
        chosen = torch.tensor([c] * 4, dtype=torch.float64, requires_grad=True)
        rejected = torch.tensor([r] * 4, dtype=torch.float64)
        (gradient,) = torch.autograd.grad(ON_PAIRS[name](chosen, rejected).sum(), chosen)
        found.append(gradient[0].item() / 0.3)
    return found


def test_what_saturates():
    """A pair right by far pulls no more under a logistic loss; one wrong by far does, unless the loss is bounded."""
    for name in ("dpo", "hinge", "cpo", "simpo", "sigmoid_norm", "rdpo", "discopop"):
        right, wrong = saturation(name)
        assert right == pytest.approx(0, abs=1e-6), name
        assert wrong == pytest.approx(-1, rel=1e-6), name
    for name in ("apo_zero", "apo_down", "exo"):  # bounded: neither pulls
        assert saturation(name) == pytest.approx([0, 0], abs=1e-4), name
    right, wrong = saturation("cdpo")  # a wrong label pulls back
    assert (right, wrong) == (pytest.approx(0.2), pytest.approx(-0.8))
    right, wrong = saturation("robust_dpo")  # and here a sure one is pulled on further
    assert (right, wrong) == (pytest.approx(-0.2 / 0.6), pytest.approx(-0.8 / 0.6))
    right, wrong = saturation("nca")  # the better reply's likelihood has an end
    assert (right, wrong) == (pytest.approx(0.5), pytest.approx(-1))
    right, wrong = saturation("dpop")  # a loss of likelihood counts 1 + λ
    assert (right, wrong) == (pytest.approx(0, abs=1e-6), pytest.approx(-6))


def test_nca_is_least_where_the_better_is_at_even_odds_with_one_more_and_the_worse_has_gone():
    """-logσ(x) - ½logσ(-x): σ(-x) = ½σ(x), x = log 2."""
    x = torch.tensor([math.log(2) / 0.3] * 4, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(ON_PAIRS["nca"](x, torch.zeros(4, dtype=torch.float64)).sum(), x)
    assert slope.abs().max() < 1e-9


@law
@given(flip=st.floats(0.01, 0.99), beta=betas)
def test_exo_is_nothing_where_the_policy_says_the_label_and_more_elsewhere(flip, beta):
    h = torch.tensor([math.log((1 - flip) / flip) / beta], dtype=torch.float64)
    zero = torch.zeros_like(h)
    assert preference.exo(h, zero, beta=beta, flip=flip).item() == pytest.approx(0, abs=1e-9)
    assert preference.exo(h + 1 / beta, zero, beta=beta, flip=flip).item() > 1e-4


@pytest.mark.parametrize("flip", [0.0, 1.0, torch.tensor([0.1, 0.0])])
def test_exo_refuses_a_label_that_leaves_nothing_to_one_side(flip):
    with pytest.raises(ValueError, match="0 < flip < 1"):
        preference.exo(torch.zeros(2), torch.zeros(2), beta=0.1, flip=flip)


@pytest.mark.parametrize("alpha", [0.0, 1.0, -0.5])
def test_an_alpha_divergence_lies_between_its_ends_which_have_names_of_their_own(alpha):
    with pytest.raises(ValueError, match="reverse and forward KL"):
        preference.f_dpo(torch.zeros(1), torch.zeros(1), beta=0.1, divergence="alpha", alpha=alpha)


@law
@given(seed=seeds)
def test_the_alpha_divergence_goes_from_the_reverse_to_the_forward_kl(seed):
    chosen, rejected = numbers(4, seed=seed), numbers(4, seed=seed + 1)
    f = partial(preference.f_dpo, chosen, rejected, beta=0.3)
    torch.testing.assert_close(f(divergence="alpha", alpha=1e-6), f(divergence="reverse"), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(f(divergence="alpha", alpha=1 - 1e-6), f(divergence="forward"), atol=1e-5, rtol=1e-5)


def test_beyond_where_exp_ends_the_forward_kl_still_pulls_a_lost_reply_back():
    chosen = torch.tensor([-200.0], requires_grad=True)
    loss = preference.f_dpo(chosen, torch.tensor([0.0]), beta=0.1, divergence="forward")
    (gradient,) = torch.autograd.grad(loss.sum(), chosen)
    assert gradient.item() < -1e6


def test_the_odds_of_what_is_certain_have_an_end():
    certain = torch.zeros(1, requires_grad=True)
    loss = preference.orpo(certain, torch.tensor([-1.0]))
    loss.sum().backward()
    assert loss.item() == pytest.approx(0, abs=1e-5)
    assert certain.grad.isfinite().all()


def test_length_that_explains_a_choice_is_not_learned():
    """The better reply is 10 tokens longer, and r = β·h + α·10: the longer it is, the less its log-ratio has to say."""
    h, zero = torch.zeros(1, dtype=torch.float64, requires_grad=True), torch.zeros(1, dtype=torch.float64)

    def pull(longer):
        loss = preference.rdpo(h, zero, zero + 10 + longer, zero + 10, beta=1.0, alpha=0.1)
        return -torch.autograd.grad(loss.sum(), h)[0].item()

    assert pull(10) == pytest.approx(s(-1))  # less than DPO's ½
    assert pull(0) == pytest.approx(0.5)
    assert pull(-10) == pytest.approx(s(1))


@law
@given(seed=seeds)
def test_discopop_is_the_logistic_loss_where_wrong_and_the_exponential_one_where_right(seed):
    x = numbers(4, seed=seed).abs() + 1
    zero = torch.zeros_like(x)
    f = partial(preference.discopop, beta=1.0, temperature=0.02)
    torch.testing.assert_close(f(x, zero), (-x).exp())
    torch.testing.assert_close(f(-x, zero), torch.from_numpy(minus_log_sigmoid(-x.numpy())))


@pytest.mark.parametrize("h", [-2.3714, 1.44012])
def test_discopop_has_the_local_optima_that_its_paper_gives(h):
    """For β = τ = 0.05. Between them, at h = 0, its gradient lowers the better reply."""
    f = partial(preference.discopop, beta=0.05, temperature=0.05)
    for at, slope in ((h, 0.0), (0.0, 0.05 * ((1 - math.log(2)) / (4 * 0.05) - 0.75))):
        x = torch.tensor([at], dtype=torch.float64, requires_grad=True)
        (got,) = torch.autograd.grad(f(x, torch.zeros_like(x)).sum(), x)
        assert got.item() == pytest.approx(slope, abs=1e-6)
