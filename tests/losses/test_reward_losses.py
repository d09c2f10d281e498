import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from preferent.losses import reward

law = settings(deadline=None, max_examples=30)
seeds = st.integers(0, 2**16)
every_way = pytest.mark.parametrize("how", ["mean", "worst", "uncertain"])


def numbers(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_members_are_combined_by_mean_by_the_worst_or_by_what_they_agree_on():
    """Scores 1 and 3: mean 2, worst 1, population variance 1, so with caution ½ 2 - ½ = 1.5."""
    scores = torch.tensor([[1.0], [3.0]])
    assert reward.combine(scores, "mean").item() == 2
    assert reward.combine(scores, "worst").item() == 1
    assert reward.combine(scores, "uncertain", caution=0.5).item() == 1.5


@every_way
@law
@given(seed=seeds)
def test_the_order_of_the_members_does_not_matter(how, seed):
    scores = numbers(4, 3, seed=seed)
    here, there = reward.combine(scores, how, caution=0.5), reward.combine(scores.flip(0), how, caution=0.5)
    torch.testing.assert_close(there, here)


@every_way
@law
@given(seed=seeds, members=st.integers(1, 4))
def test_members_that_agree_are_one_member(how, seed, members):
    scores = numbers(1, 5, seed=seed)
    torch.testing.assert_close(reward.combine(scores.expand(members, 5), how, caution=0.7), scores[0])


@law
@given(seed=seeds, caution=st.floats(0, 3))
def test_caution_never_raises_a_score(seed, caution):
    scores = numbers(3, 5, seed=seed)
    assert (reward.combine(scores, "uncertain", caution=caution) <= reward.combine(scores, "mean") + 1e-12).all()


def test_a_way_to_combine_that_is_not_known_is_an_error_that_names_the_known_ones():
    with pytest.raises(ValueError, match="mean, worst, uncertain, not 'median'"):
        reward.combine(torch.zeros(2, 2), "median")


def test_centring_is_the_square_of_the_pairs_sum():
    """Scores 2 and -1: 1² = 1; 1 and -1 cost nothing."""
    got = reward.centring(torch.tensor([2.0, 1.0]), torch.tensor([-1.0, -1.0]))
    torch.testing.assert_close(got, torch.tensor([1.0, 0.0]))
