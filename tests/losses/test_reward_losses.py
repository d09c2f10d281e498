from itertools import permutations
from math import exp, log

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from preferent.losses import preference, reward

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


# --- rankings ------------------------------------------------------------------------------------


def sigmoid(x):
    return 1 / (1 + exp(-x))


def long(*rows):
    return torch.tensor(rows)


def double(*rows):
    return torch.tensor(rows, dtype=torch.float64)


def test_kwise_is_the_mean_over_a_prompts_pairs():
    """Scores 2, 1, 0 in that order: (−logσ(1) − logσ(2) − logσ(1)) / 3; of one reply nothing; −logσ(−½)."""
    scores = torch.tensor([1.0, 2.0, 0.0, 7.0, 3.5, 3.0], dtype=torch.float64)
    ranks, prompt_of = torch.tensor([1, 0, 2, 0, 1, 0]), torch.tensor([0, 0, 0, 1, 2, 2])
    each = reward.kwise(scores, ranks, prompt_of)
    first = (-2 * log(sigmoid(1)) - log(sigmoid(2))) / 3
    assert each.tolist() == pytest.approx([first, 0.0, -log(sigmoid(-0.5))])


def test_kwise_takes_equal_ranks_for_half_a_pair_each_way():
    each = reward.kwise(torch.tensor([0.7, 0.2], dtype=torch.float64), torch.tensor([0, 0]), torch.tensor([0, 0]))
    assert each.item() == pytest.approx(-log(sigmoid(0.5)) / 2 - log(sigmoid(-0.5)) / 2)


def test_plackett_luce_takes_one_after_another():
    """Scores log 3, log 2, log 1, ranked so: 3/6 · 2/3 · 1; the other way round 1/6 · 2/5."""
    scores = double([log(3), log(2), 0.0], [log(3), log(2), 0.0])
    each = reward.plackett_luce(scores, long([0, 1, 2], [2, 1, 0]))
    assert each.tolist() == pytest.approx([-log(1 / 3), -log(1 / 15)])


def test_the_chances_of_all_rankings_sum_to_one():
    scores = numbers(4, seed=3)
    every = torch.tensor(list(permutations(range(4))))
    chances = (-reward.plackett_luce(scores.expand(len(every), 4), every)).exp()
    assert chances.sum().item() == pytest.approx(1)


def test_a_list_that_is_filled_up_is_the_list():
    """And what stands in the filling, even NaN, changes neither loss nor gradient."""
    short = double([0.3, -1.0, 0.9]).requires_grad_()
    filled = double([0.3, -1.0, 0.9, float("nan")]).requires_grad_()
    a = reward.plackett_luce(short, long([1, 0, 2]))
    b = reward.plackett_luce(filled, long([1, 0, 2, -1]))
    torch.testing.assert_close(a, b)
    a.sum().backward(), b.sum().backward()
    torch.testing.assert_close(short.grad, filled.grad[:, :3])
    assert filled.grad[0, 3] == 0


@law
@given(seed=seeds, ranks=st.sampled_from([[0, 1], [1, 0], [0, 0]]))
def test_of_two_every_loss_on_lists_is_bradley_terry(seed, ranks):
    scores = numbers(1, 2, seed=seed)
    flip = {(0, 1): 0.0, (1, 0): 1.0, (0, 0): 0.5}[tuple(ranks)]
    pair = preference.bradley_terry(scores[:, 0], scores[:, 1], flip=flip)
    torch.testing.assert_close(reward.plackett_luce(scores, long(ranks)), pair)
    torch.testing.assert_close(reward.pick_best(scores, double([1 - flip, flip])), pair)
    torch.testing.assert_close(reward.kwise(scores[0], long(*ranks), torch.tensor([0, 0])), pair)


def test_equals_are_each_taken_while_all_are_there():
    """Two first before one: both from among three, so 3/6 · 2/6 with scores log 3, log 2, log 1."""
    scores = double([log(3), log(2), 0.0])
    assert reward.plackett_luce(scores, long([0, 0, 1])).item() == pytest.approx(-log(1 / 6))
    assert reward.choices(long([0, 0, 1], [0, 1, 1], [0, 0, 0])).tolist() == [
        pytest.approx(row) for row in ([1, 1, 0], [1, 0.5, 0.5], [2 / 3] * 3)
    ]


def test_pick_best_is_the_cross_entropy_of_the_softmax():
    """Scores log 3, log 1, log 4 and no fourth: the second is the best with chance 1/8."""
    each = reward.pick_best(double([log(3), 0.0, log(4), 9.0]), double([0.0, 1.0, 0.0, -1.0]))
    assert each.item() == pytest.approx(log(8))
    soft = reward.pick_best(double([log(3), 0.0]), double([0.75, 0.25]))
    assert soft.item() == pytest.approx(-0.75 * log(0.75) - 0.25 * log(0.25))


def test_lists_are_filled_up_prompt_by_prompt():
    rows = reward.listed(torch.tensor([5.0, 6.0, 7.0]), torch.tensor([0, 1, 1]), -1.0)
    assert rows.tolist() == [[5, -1], [6, 7]]


@pytest.mark.parametrize("ranks", [[[0, 1, 2, -1], [1, 0, 1, 0]], [[0, 0, 0, 0], [0, -1, -1, -1]]])
def test_losses_on_rankings_have_the_gradients_of_what_they_say(ranks):
    scores, ranks = numbers(2, 4, seed=1).requires_grad_(), torch.tensor(ranks)
    prompt_of = torch.tensor([0, 0, 0, 0, 1, 1, 1, 1])
    assert torch.autograd.gradcheck(lambda s: reward.plackett_luce(s, ranks), scores)
    assert torch.autograd.gradcheck(lambda s: reward.pick_best(s, (ranks == 0).double().where(ranks >= 0, -1)), scores)
    assert torch.autograd.gradcheck(lambda s: reward.kwise(s.reshape(-1), ranks.reshape(-1), prompt_of), scores)


# --- what else people say ------------------------------------------------------------------------


def test_a_missing_rating_costs_nothing_and_moves_nothing():
    scores = double([1.0, 2.0], [0.0, 3.0]).requires_grad_()
    each = reward.regression(scores, double([3.0, float("nan")], [0.5, 3.0]))
    assert each.tolist() == [[4, 0], [0.25, 0]]
    each.sum().backward()
    assert scores.grad.tolist() == [[-4, 0], [-1, 0]]


def test_a_cost_is_compared_and_has_a_sign():
    """Costs −1 (safe) and 2 (harmful): −logσ(3) − logσ(1) − logσ(2); with nothing said of the first, one term less."""
    safer, worse = double(-1.0), double(2.0)
    both = reward.cost(safer, worse, double(-1.0), double(1.0))
    assert both.item() == pytest.approx(-log(sigmoid(3)) - log(sigmoid(1)) - log(sigmoid(2)))
    one = reward.cost(safer, worse, double(0.0), double(1.0))
    assert one.item() == pytest.approx(-log(sigmoid(3)) - log(sigmoid(2)))


def test_segments_are_compared_by_their_sums_with_some_noise():
    """Sums 3 and 1: .9·σ(2) + .05; a tie costs half of each."""
    first, second = double([1.0, 2.0]), double([0.5, 0.5])
    p = reward.segment_preference(first, second)
    assert p.item() == pytest.approx(0.9 * sigmoid(2) + 0.05)
    assert reward.segments(first, second, double(0.5)).item() == pytest.approx(
        -log(p.item()) / 2 - log(1 - p.item()) / 2
    )
    assert reward.segments(100 * first, 100 * second, double(0.0)).item() == pytest.approx(-log(0.05))


def test_thurstone_is_a_normal_chance():
    """Φ(1.5) = 0.9331928: scores 2 and 0, margin ½, and a label wrong with chance .1."""
    each = preference.thurstone(double(2.0), double(0.0), margin=0.5, flip=0.1)
    assert each.item() == pytest.approx(-0.9 * log(0.9331927987) - 0.1 * log(1 - 0.9331927987))


def test_thurstone_agrees_with_torchs_own_normal_and_stays_finite_far_out():
    d = numbers(9, seed=4)
    cdf = torch.distributions.Normal(double(0.0), double(1.0)).cdf(d)
    torch.testing.assert_close(preference.thurstone(d, torch.zeros_like(d)), -cdf.log())
    far = torch.tensor([-60.0, -200.0, 1000.0], requires_grad=True)
    lost = preference.thurstone(far, torch.zeros(3))
    lost.sum().backward()
    assert lost.tolist() == pytest.approx(
        [x**2 / 2 + log(x * (2 * torch.pi) ** 0.5) for x in (60, 200)] + [0], rel=1e-3
    )
    assert far.grad.tolist() == pytest.approx([-60, -200, 0], rel=1e-2)


def test_what_else_people_say_has_the_gradients_of_the_losses():
    a, b = numbers(3, 4, seed=1).requires_grad_(), numbers(3, 4, seed=2).requires_grad_()
    signs = torch.tensor([1.0, -1.0, 0.0, 1.0], dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x, y: preference.thurstone(x, y, margin=0.3, flip=0.2), (a, b))
    assert torch.autograd.gradcheck(lambda x, y: reward.cost(x, y, signs, -signs), (a, b))
    assert torch.autograd.gradcheck(lambda x: reward.regression(x, b.detach()), (a,))
    assert torch.autograd.gradcheck(lambda x, y: reward.segments(x, y, torch.full((3,), 0.7).double()), (a, b))


# --- disagreement --------------------------------------------------------------------------------


def test_certainty_falls_with_the_deviation_between_members():
    """Margins 1 and 3 deviate by 1 from their mean: e^(−1/τ). What all members say alike is certain, good or bad."""
    margins = double([1.0, -2.0], [3.0, -2.0])
    assert reward.certainty(margins).tolist() == pytest.approx([exp(-1), 1])
    assert reward.certainty(margins, temperature=2).tolist() == pytest.approx([exp(-0.5), 1])
    with pytest.raises(ValueError, match="above 0"):
        reward.certainty(margins, temperature=0)
