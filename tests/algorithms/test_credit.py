"""From scores to the advantage of each token, by hand."""

import pytest
import torch

from preferent.algorithms.credit import Decoupled, InGroup, InStep, Step, from_greedy, whitened_to_go
from preferent.losses.advantage import centred, leave_one_out

MASK = torch.tensor([[True, True, True], [True, False, False], [True, True, False], [True, True, True]])
SCORES = torch.tensor([4.0, 2.0, 1.0, 3.0])  # two prompts, two replies each


def step(n=2, price=0.0, parts=None, greedy=None, scores=SCORES):
    return Step(n, scores, torch.full(MASK.shape, price).where(MASK, 0), MASK, parts or {}, greedy)


def each(gain):
    """One number a reply, which is the same at all its places."""
    assert gain.shape == MASK.shape
    assert (gain == gain[:, :1]).all()
    return gain[:, 0].tolist()


def test_in_its_group_a_reply_is_compared_with_its_siblings():
    assert each(InGroup(centred)(step())) == [1, -1, -1, 1]


def test_in_the_step_it_is_compared_with_all():
    """Against the mean of the three others: 4 - 2, 2 - 8/3, 1 - 3, 3 - 7/3."""
    assert each(InStep(leave_one_out)(step(n=1))) == pytest.approx([2, -2 / 3, -2, 2 / 3])


def test_what_is_paid_for_the_kl_comes_off_the_reply_before_it_is_compared():
    """At .5 a token: 4 - 1.5, 2 - .5, 1 - 1, 3 - 1.5 = 2.5, 1.5, 0, 1.5."""
    assert each(InGroup(centred)(step(price=0.5))) == [0.5, -0.5, -0.75, 0.75]


def test_remaxs_baseline_is_its_prompts_likeliest_reply():
    assert each(from_greedy(step(greedy=torch.tensor([3.0, 5.0])))) == [1, -1, -4, -2]


def test_reinforce_plus_pays_token_by_token_and_whitens_what_is_to_come():
    """At .5 a token, to go: (2.5, 3, 3.5), (1.5), (0, .5), (1.5, 2, 2.5): nine numbers of mean 17/9."""
    gain = whitened_to_go(step(price=0.5))
    to_go = torch.tensor([[2.5, 3, 3.5], [1.5, 0, 0], [0, 0.5, 0], [1.5, 2, 2.5]])
    drawn = to_go[MASK]
    expected = (to_go - drawn.mean()) / drawn.std(correction=0)
    torch.testing.assert_close(gain, expected.where(MASK, 0))


def test_apart_each_reward_is_standardised_before_they_are_added():
    """Loud: (100, 0 | 0, 0), quiet: (0, 1 | 0, 1). In their groups ±.7071 or 0: (.7071 - .7071, … | -.7071, .7071).

    So the first prompt's replies are even, as the two rewards are when each counts once, and the second's are not.
    The whole has mean 0 and deviation √(.25): ±1.4142. With weights 2 and 1 the first reply is the better.
    """
    parts = {"loud": torch.tensor([100.0, 0, 0, 0]).double(), "quiet": torch.tensor([0.0, 1, 0, 1]).double()}
    even = each(Decoupled({"loud": 1.0, "quiet": 1.0})(step(parts=parts)))
    assert even == pytest.approx([0, 0, -(2**0.5), 2**0.5], abs=1e-3)
    loud = each(Decoupled({"loud": 2.0, "quiet": 1.0})(step(parts=parts)))
    assert loud[0] == pytest.approx(loud[3], abs=1e-3)


def test_a_score_that_is_no_number_is_no_advantage_either():
    parts = {"a": torch.tensor([float("nan"), 0, 0, 1]).double(), "b": torch.ones(4).double()}
    assert Decoupled({"a": 1.0, "b": 1.0})(step(parts=parts)).isnan().all()


@pytest.mark.parametrize(
    ("weights", "price", "why"),
    [
        ({"a": 1.0}, 0.0, "asked for \\['a'\\]"),
        ({"a": 1.0, "c": 1.0}, 0.0, "given \\['a', 'b'\\]"),
        ({"a": 1.0, "b": 1.0}, 0.1, "kl_reward 0"),
    ],
)
def test_what_cannot_be_normalised_apart_is_refused(weights, price, why):
    parts = {"a": SCORES.double(), "b": SCORES.double()}
    with pytest.raises(ValueError, match=why):
        Decoupled(weights)(step(price=price, parts=parts))
