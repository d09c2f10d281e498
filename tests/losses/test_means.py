import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from preferent.losses import means

AVERAGES = {
    "tokens": means.over_tokens,
    "sequences": means.over_sequences,
    "budget": means.over_budget(length=7),
    "replies": means.over_replies,
}
every_average = pytest.mark.parametrize("average", AVERAGES.values(), ids=AVERAGES.keys())
law = settings(deadline=None, max_examples=30)
seeds = st.integers(0, 2**16)
sizes = st.tuples(st.integers(1, 5), st.integers(1, 6))


def numbers(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@every_average
@law
@given(size=sizes, seed=seeds)
def test_what_is_masked_cannot_matter_even_if_it_is_not_a_number(average, size, seed):
    x, mask = numbers(*size, seed=seed), numbers(*size, seed=seed + 1) > 0
    clean, poisoned = x.clone().requires_grad_(), x.where(mask, math.nan).requires_grad_()
    here, there = average(clean, mask).total, average(poisoned, mask).total
    assert here.equal(there)
    torch.testing.assert_close(torch.autograd.grad(there, poisoned), torch.autograd.grad(here, clean))


@every_average
@law
@given(size=sizes, seed=seeds, cut=st.integers(0, 5))
def test_the_mean_of_a_batch_is_the_sum_of_its_parts(average, size, seed, cut):
    x, mask = numbers(*size, seed=seed), numbers(*size, seed=seed + 1) > 0
    parts = average(x[:cut], mask[:cut]) + average(x[cut:], mask[cut:])
    whole = average(x, mask)
    torch.testing.assert_close(parts.total, whole.total)
    assert parts.count == whole.count


@every_average
@law
@given(size=sizes, seed=seeds)
def test_the_count_is_known_from_the_mask_alone(average, size, seed):
    mask = numbers(*size, seed=seed) > 0
    assert average.count(mask) == average(numbers(*size, seed=seed + 1), mask).count


@every_average
@law
@given(size=sizes, seed=seeds, padding=st.integers(0, 3), rows=st.integers(0, 2))
def test_padding_and_replies_with_nothing_to_learn_are_not_there(average, size, seed, padding, rows):
    x, mask = numbers(*size, seed=seed), numbers(*size, seed=seed + 1) > 0
    wide = torch.nn.functional.pad(x, (0, padding, 0, rows), value=3.0)
    there = average(wide, torch.nn.functional.pad(mask, (0, padding, 0, rows)))
    torch.testing.assert_close(there.total, average(x, mask).total)
    assert there.count == average(x, mask).count


def test_a_long_and_a_short_reply_weigh_by_tokens_by_replies_or_by_a_constant():
    """Tokens 1, 2, 3 and 4. Over tokens 10/4; over sequences (6/3 + 4/1)/2 = 3; by a length of 5, 10/(2·5) = 1."""
    x = torch.tensor([[1.0, 2.0, 3.0], [4.0, 9.0, 9.0]])
    mask = torch.tensor([[True, True, True], [True, False, False]])
    assert means.over_tokens(x, mask).value == 2.5
    assert means.over_sequences(x, mask).value == 3
    assert means.over_budget(length=5)(x, mask).value == 1


def test_rows_are_averaged_with_or_without_weights():
    """Rows 1, 2, 6: (1 + 2 + 6)/3 = 3; with weights ½, ½, 1: (½ + 1 + 6)/2 = 3.75."""
    x = torch.tensor([1.0, 2.0, 6.0])
    assert means.over_rows(x).value == 3
    assert means.over_rows(x, torch.tensor([0.5, 0.5, 1.0])).value == 3.75


@every_average
def test_averaging_changes_none_of_its_arguments(average):
    x, mask = numbers(2, 3), numbers(2, 3, seed=1) > 0
    kept = x.clone(), mask.clone()
    average(x, mask)
    assert x.equal(kept[0])
    assert mask.equal(kept[1])
