"""Losses on replies judged one by one: their formulas, their gradients, and what has none."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from preferent.losses import unpaired

law = settings(deadline=None, max_examples=30)
seeds = st.integers(0, 2**16)
BOTH = {"kto": unpaired.kto, "bco": unpaired.bco}
either = pytest.mark.parametrize("loss", BOTH.values(), ids=BOTH.keys())


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def numbers(*values):
    return torch.tensor(values, dtype=torch.float64)


def test_numbers_derived_by_hand():
    """Ratios 3 and -1 against a baseline of 1, β = ½: logits 1 and -1. σ(1) = 0.731059, -logσ(1) = 0.313262.

    KTO: good at 3 and bad at -1 both 1 - σ(1) = 0.268941, the other way 0.731059. BCO: 0.313262, and 1.313262 the other
    way. With weights 2 for good and 3 for bad the four are twice and thrice that.
    """
    ratio, good, z = numbers(3, -1, 3, -1), numbers(1, 0, 0, 1), numbers(1, 1, 1, 1)
    weighted = {"beta": 0.5, "desirable_weight": 2.0, "undesirable_weight": 3.0}
    kto = unpaired.kto(ratio, good, z, **weighted)
    assert kto.tolist() == pytest.approx([2 * 0.268941, 3 * 0.268941, 3 * 0.731059, 2 * 0.731059], abs=1e-5)
    bco = unpaired.bco(ratio, good, z, **weighted)
    assert bco.tolist() == pytest.approx([2 * 0.313262, 3 * 0.313262, 3 * 1.313262, 2 * 1.313262], abs=1e-5)


@law
@given(seed=seeds, beta=st.floats(0.01, 2))
def test_each_loss_is_its_formula_and_mixes_both_kinds_by_how_desirable_a_reply_is(seed, beta):
    ratio, good, z = drawn(6, seed=seed), drawn(6, seed=seed + 1).sigmoid(), drawn(1, seed=seed + 2).abs().expand(6)
    x, d = beta * (ratio - z).numpy(), good.numpy()
    sigma = 1 / (1 + np.exp(-x))
    kto = 1.5 * d * (1 - sigma) + 0.7 * (1 - d) * sigma
    bco = -1.5 * d * np.log(sigma) - 0.7 * (1 - d) * np.log(1 - sigma)
    for loss, formula in ((unpaired.kto, kto), (unpaired.bco, bco)):
        got = loss(ratio, good, z, beta=beta, desirable_weight=1.5, undesirable_weight=0.7)
        np.testing.assert_allclose(got.numpy(), formula, rtol=1e-9)


@either
def test_the_gradient_is_that_of_finite_differences(loss):
    good, z = torch.tensor([1.0, 0.0, 0.3, 1.0], dtype=torch.float64), torch.full((4,), 0.4, dtype=torch.float64)
    ratio = drawn(4).requires_grad_()
    assert torch.autograd.gradcheck(lambda r: loss(r, good, z, beta=0.7, undesirable_weight=2.0), ratio)


@either
def test_nothing_is_differentiated_through_the_baseline(loss):
    z, ratio = torch.zeros(3, requires_grad=True), torch.ones(3, requires_grad=True)
    loss(ratio, torch.tensor([1.0, 0.0, 1.0]), z, beta=0.1).sum().backward()
    assert z.grad is None
    assert (ratio.grad != 0).all()


@either
def test_labels_may_be_truth_values(loss):
    ratio, z = drawn(3), torch.zeros(3)
    labels = torch.tensor([True, False, True])
    assert loss(ratio, labels, z, beta=0.1).equal(loss(ratio, labels.double(), z, beta=0.1))


@law
@given(seed=seeds)
def test_a_reply_as_desirable_as_not_has_no_gradient_in_kto_and_goes_to_the_baseline_in_bco(seed):
    ratio, z = drawn(4, seed=seed).requires_grad_(), torch.full((4,), 0.2, dtype=torch.float64)
    half = torch.full((4,), 0.5, dtype=torch.float64)
    (still,) = torch.autograd.grad(unpaired.kto(ratio, half, z, beta=0.5).sum(), ratio)
    assert still.abs().max() < 1e-12
    (pull,) = torch.autograd.grad(unpaired.bco(ratio, half, z, beta=0.5).sum(), ratio)
    assert (pull.sign() == (ratio - z).sign()).all()


def test_kto_lets_go_of_what_is_far_from_its_baseline_on_either_side_and_bco_of_what_is_right_alone():
    ratio = numbers(-200, 0, 200).requires_grad_()
    for loss, left in ((unpaired.kto, [0, 0.25, 0]), (unpaired.bco, [1, 0.5, 0])):
        (pull,) = torch.autograd.grad(loss(ratio, torch.ones(3), torch.zeros(3), beta=1.0).sum(), ratio)
        assert pull.tolist() == pytest.approx([-each for each in left], abs=1e-12)


@either
@pytest.mark.parametrize("ratio", [1e6, -1e6])
def test_far_out_both_stay_finite(loss, ratio):
    got = loss(torch.tensor([ratio]), torch.tensor([1.0]), torch.zeros(1), beta=0.1).item()
    assert math.isfinite(got)
