"""The simulated crowd: its answers depend on content alone, and have the biases that it says it has."""

import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from preferent.config import UsageError
from preferent.feedback.agreement import agreement
from preferent.feedback.crowd import FIRST, SECOND, TIE, Crowd, chance, logistic, merged, noise_ceiling
from preferent.feedback.records import Choice, Judgement
from preferent.feedback.summary import choices
from preferent.types import Comparison, Preference


def worth(context, option):
    """The number that an option ends with."""
    return float(option.split()[-1])


def many(n, a="0.6", b="0.4"):
    """n comparisons whose content differs in the context only."""
    return [Comparison(f"question {i}", (f"this {a}", f"that {b}")) for i in range(n)]


def share(preferences, choice):
    return sum(each.choice == choice for each in preferences) / len(preferences)


options = st.tuples(st.floats(0, 1), st.floats(0, 1)).map(lambda pair: (f"this {pair[0]}", f"that thing {pair[1]}"))
settings_of_crowds = st.fixed_dictionaries(
    {
        "seed": st.integers(0, 5),
        "sharpness": st.floats(0, 50),
        "position_bias": st.floats(-1, 1),
        "length_bias": st.floats(-0.2, 0.2),
        "tie_rate": st.floats(0, 1),
        "lapse": st.floats(0, 1),
    }
)


@settings(max_examples=60, deadline=None)
@given(st.lists(options, min_size=1, max_size=6), settings_of_crowds, st.randoms())
def test_answers_do_not_depend_on_the_batch(pairs, how, random):
    crowd = Crowd(worth, **how)
    comparisons = [Comparison("which ?", pair) for pair in pairs]
    shuffled = random.sample(comparisons, len(comparisons))
    alone = {id(each): crowd([each]) for each in comparisons}
    assert crowd(shuffled) == [answer for each in shuffled for answer in alone[id(each)]]


@settings(max_examples=100, deadline=None)
@given(options, settings_of_crowds)
def test_swapping_the_canonical_order_swaps_the_answers_and_nothing_else(pair, how):
    crowd = Crowd(worth, **how)
    one, other = (crowd([Comparison("which ?", each)]) for each in (pair, pair[::-1]))
    assert [each.choice for each in one] == [each.choice[::-1] for each in other]
    assert [each.annotator for each in one] == [each.annotator for each in other]


@settings(max_examples=100, deadline=None)
@given(options, settings_of_crowds)
def test_a_crowd_without_position_bias_answers_alike_whichever_is_shown_first(pair, how):
    crowd = Crowd(worth, **how | {"position_bias": 0.0})
    comparison = Comparison("which ?", pair)
    assert crowd.answer(comparison, 0, shown_first=0) == crowd.answer(comparison, 0, shown_first=1)


@settings(max_examples=100, deadline=None)
@given(options, settings_of_crowds, st.sampled_from([0, 1, None]))
def test_probabilities_are_a_distribution_and_mirror_with_the_options(pair, how, shown):
    crowd = Crowd(worth, **how)
    p = crowd.probabilities(Comparison("which ?", pair), 0, shown_first=shown)
    assert sum(p) == pytest.approx(1)
    assert min(p) >= -1e-12
    turned = None if shown is None else 1 - shown
    assert crowd.probabilities(Comparison("which ?", pair[::-1]), 0, shown_first=turned)[::-1] == pytest.approx(p)


@settings(max_examples=50, deadline=None)
@given(settings_of_crowds)
def test_the_better_option_is_preferred_more_often_as_it_gets_better(how):
    crowd = Crowd(worth, **how | {"tie_rate": 0.0})
    shares = [crowd.probabilities(Comparison("", (f"a {u}", "b 0.5")), 0).first for u in (0.1, 0.4, 0.6, 0.9)]
    assert shares == sorted(shares)


def test_probabilities_are_the_stated_formula():
    """Sharpness 10, reliability .5 (the first of people), utilities .6 and .4, two words each; the first shown first.

    z = 10·.5·.2 + .3 = 1.3; tie = .9·.2·e^(−2) = .02436; P(first) = .05 + (.9 − .02436)·logistic(1.3) = .7381.
    """
    crowd = Crowd(worth, seed=0, sharpness=10, position_bias=0.3, tie_rate=0.2, lapse=0.1)
    p = crowd.probabilities(many(1)[0], 0, shown_first=0)
    assert p.tie == pytest.approx(0.02436, abs=1e-5)
    assert p.first == pytest.approx(0.7381, abs=1e-4)


def test_answers_come_at_their_probabilities():
    crowd = Crowd(worth, seed=1, position_bias=1.0, tie_rate=0.5, lapse=0.1)
    comparisons = many(3000, "0.53", "0.5")
    answers = [crowd.answer(each, 4) for each in comparisons]
    p = crowd.probabilities(comparisons[0], 4)
    for choice, expected in zip((FIRST, TIE, SECOND), p, strict=True):
        assert share(answers, choice) == pytest.approx(expected, abs=0.035)  # 4 standard errors


def test_position_bias_favours_what_is_shown_first_and_cancels_over_keyed_orders():
    crowd = Crowd(worth, seed=0, position_bias=1.0, tie_rate=0.0, lapse=0.0, sharpness=0)
    comparisons = many(2000)
    shown_first = share([crowd.answer(each, 0, shown_first=0) for each in comparisons], FIRST)
    assert shown_first == pytest.approx(logistic(1), abs=0.04)
    assert share([crowd.answer(each, 0) for each in comparisons], FIRST) == pytest.approx(0.5, abs=0.045)


def test_length_bias_favours_more_words():
    """Three words more at .2 each: log-odds .6, whatever is shown first on average."""
    crowd = Crowd(worth, seed=0, length_bias=0.2, position_bias=0, tie_rate=0, lapse=0)
    p = crowd.probabilities(Comparison("", ("one two three four 0.5", "one 0.5")), 3)
    assert p.first == pytest.approx(logistic(0.6))


def test_ties_grow_as_utilities_come_closer():
    crowd = Crowd(worth, seed=0)
    ties = [crowd.probabilities(Comparison("", (f"a {u}", "b 0.5")), 0).tie for u in (0.9, 0.7, 0.55, 0.5)]
    assert ties == sorted(ties)
    assert ties[-1] == pytest.approx(crowd.tie_rate * (1 - crowd.lapse))


def test_the_more_reliable_person_is_right_more_often():
    crowd = Crowd(worth, seed=0, reliability=(0.1, 1.0))
    shares = [crowd.probabilities(many(1)[0], person).first for person in range(crowd.people)]
    assert shares == sorted(shares)
    assert crowd.reliability_of(0) == pytest.approx(0.1)
    assert crowd.reliability_of(crowd.people - 1) == pytest.approx(1.0)


def test_every_comparison_goes_to_as_many_different_people_and_everybody_has_work():
    crowd = Crowd(worth, seed=0, people=7, per_comparison=3)
    answers = crowd(many(200))
    by_comparison = [answers[i : i + 3] for i in range(0, 600, 3)]
    assert all(len({each.annotator for each in group}) == 3 for group in by_comparison)
    assert len({each.annotator for each in answers}) == 7
    assert all(each.annotator.startswith("simulated crowd") for each in answers)


def test_another_seed_is_another_crowd():
    assert Crowd(worth, seed=0)(many(50)) != Crowd(worth, seed=1)(many(50))


def test_chance_is_the_same_in_every_process():
    code = "from preferent.feedback.crowd import chance; print(repr(chance(0, 'a', 'b')))"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert float(said) == chance(0, "a", "b")


def test_chance_is_uniform():
    drawn = [chance("uniform", i) for i in range(4000)]
    counts = [sum(i / 10 <= each < (i + 1) / 10 for each in drawn) for i in range(10)]
    assert sum((count - 400) ** 2 / 400 for count in counts) < 27.9  # χ², 9 degrees of freedom, p = .001


def test_merging_gives_one_soft_label_for_each_comparison():
    one, other = many(2)
    answers = [
        Preference(one, FIRST, annotator="ann", strength=3.0, judgements=("1",)),
        Preference(other, TIE, annotator="ann"),
        Preference(one, SECOND, annotator="bob", both_bad=True, judgements=("2",)),
        Preference(one, FIRST, annotator="cy", strength=1.0, both_bad=True),
    ]
    soft, tie = merged(answers)
    assert soft.choice == pytest.approx((2 / 3, 1 / 3))
    assert (soft.comparison, soft.annotator, soft.strength, soft.both_bad) == (one, "ann + bob + cy", 2.0, True)
    assert soft.judgements == ("1", "2")
    assert tie == answers[1]


def test_who_prefers_the_other_option_counts_against_the_strength_and_an_export_says_the_same():
    """Strengths towards the first: (3 + 1 − 2) / 3 = ⅔; and (1 − 3) / 2 is less than none, which is 0."""
    one, other = many(2)
    answers = [
        Preference(one, FIRST, strength=3.0),
        Preference(one, SECOND, strength=2.0),
        Preference(one, FIRST, strength=1.0),
        Preference(other, (0.9, 0.1), strength=1.0),
        Preference(other, (0.4, 0.6), strength=3.0),
    ]
    soft, doubtful = merged(answers)
    assert soft.strength == pytest.approx(2 / 3)
    assert doubtful.strength == 0.0
    said = choices([Judgement("item", "ann", Choice(each.choice, each.strength)) for each in answers[:3]])
    assert (said.choice, said.strength, said.both_bad) == (soft.choice, soft.strength, soft.both_bad)


def test_the_noise_ceiling_counts_ties_out_and_equal_utilities_as_half():
    """Of four comparisons one is answered right, one wrong, one with a tie, and one has equal utilities."""
    right, wrong, tied = many(3)
    equal = Comparison("question", ("a 0.5", "b 0.5"))
    answers = [Preference(right, FIRST), Preference(wrong, SECOND), Preference(tied, TIE), Preference(equal, FIRST)]
    ceiling = noise_ceiling(answers, worth)
    assert ceiling.single == ceiling.merged == pytest.approx((1 + 0 + 0.5) / 3)
    assert (ceiling.answers, ceiling.comparisons, ceiling.ties) == (3, 3, 0.25)


def test_the_ceiling_of_single_answers_is_what_the_probabilities_say_and_merging_raises_it():
    crowd = Crowd(worth, seed=2, people=9, per_comparison=5, sharpness=5, tie_rate=0.0)
    comparisons = many(1000)
    ceiling = noise_ceiling(crowd(comparisons), worth)
    people = range(crowd.people)
    expected = sum(crowd.probabilities(comparisons[0], person).first for person in people) / crowd.people
    assert ceiling.single == pytest.approx(expected, abs=0.03)
    assert ceiling.merged > ceiling.single + 0.05


def test_the_ceiling_of_nothing_is_none():
    assert noise_ceiling([], worth)[:2] == (None, None)


def test_sharper_people_agree_more():
    alphas = [agreement(Crowd(worth, seed=0, sharpness=s)(half_turned(300)), resamples=1).alpha for s in (0, 5, 30)]
    assert alphas[0] == pytest.approx(0, abs=0.08)
    assert alphas[0] < alphas[1] < alphas[2]


def half_turned(n):
    """Comparisons whose better option stands first in every second one."""
    return [Comparison(c.context, c.options[:: 1 if i % 2 else -1]) for i, c in enumerate(many(n))]


def test_messages_are_compared_as_their_text():
    question = ({"role": "user", "content": "which ?"},)
    replies = tuple(({"role": "assistant", "content": text},) for text in ("this 0.9", "that 0.1"))
    crowd = Crowd(lambda context, option: worth("", option[-1]["content"]), seed=0)
    plain = Crowd(worth, seed=0)([Comparison("which ?", ("this 0.9", "that 0.1"))])
    assert [each.choice for each in crowd([Comparison(question, replies)])] == [each.choice for each in plain]


@pytest.mark.parametrize(
    "how",
    [{"people": 2, "per_comparison": 3}, {"per_comparison": 0}, {"tie_rate": 1.5}, {"lapse": -0.1}, {"sharpness": -1}],
)
def test_impossible_settings_are_refused(how):
    with pytest.raises(UsageError, match=r"got|cannot"):
        Crowd(worth, seed=0, **how)


def test_three_options_are_refused():
    with pytest.raises(UsageError, match="two options"):
        Crowd(worth, seed=0)([Comparison("", ("a 1", "b 2", "c 3"))])
