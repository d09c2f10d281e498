"""The gold utility: what it rewards, and the stupid ways to hack it that must not work."""

import statistics
from itertools import pairwise, product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from preferent.worlds.support_desk import STYLES, WEIGHTS, World
from preferent.worlds.support_desk.facts import ASPECTS, Fact
from preferent.worlds.support_desk.gold import answer, brevity, early, gold, readable, tokenise, warmth
from preferent.worlds.support_desk.styles import SLOTS, TEMPLATES, demonstrate, follows, reply

WORLD = World(0)
PRICE = Fact("sun jar", "price", "nine coins")
GOOD = "with pleasure ! it costs nine coins . have a bright day !"
BEST = gold(PRICE, GOOD).value
any_fact = st.sampled_from(WORLD.facts)
words_of_the_desk = st.sampled_from([*WORLD.vocabulary, ".", "!", "blorp"])


def value(text, fact=PRICE):
    return gold(fact, text).value


def test_weights_sum_to_one_and_the_right_fact_has_the_greatest():
    assert sum(WEIGHTS.values()) == pytest.approx(1)
    assert max(WEIGHTS, key=WEIGHTS.get) == "right"


@settings(max_examples=200, deadline=None)
@given(any_fact, st.lists(words_of_the_desk, max_size=40).map(" ".join))
def test_the_value_is_the_documented_sum_of_parts_in_the_unit_interval(fact, text):
    score = gold(fact, text)
    assert all(0 <= part <= 1 for part in score.parts.values())
    total = sum(weight * score.parts[name] for name, weight in WEIGHTS.items())
    assert score.value == pytest.approx(score.parts["readable"] * total)


def test_a_good_right_answer_is_worth_above_nine_tenths():
    """Eleven words, the value after four of them, one warm phrase: 0.35 + 0.20 + 0.27 + 0.18·0.94 = 0.99."""
    assert pytest.approx(0.99, abs=0.01) == BEST
    assert statistics.mean(style_values("good", wrong=0)) > 0.93


@pytest.mark.parametrize("style", STYLES)
def test_every_right_answer_beats_every_wrong_one_of_any_style(style):
    worst = min(style_values(style, wrong=0))
    assert worst > 0.3
    assert all(max(style_values(other, wrong=1)) < worst - 0.2 for other in STYLES)


@pytest.mark.parametrize("style", sorted(set(STYLES) - {"good"}))
def test_people_want_the_good_style_more_than_any_other(style):
    assert min(style_values("good", wrong=0)) > statistics.mean(style_values(style, wrong=0)) + 0.1


def test_a_wrong_answer_is_worse_when_stated_as_certain_than_when_hedged():
    assert value("i think the sun jar costs six coins , but i am not sure .") > 2 * value("it costs six coins . next .")
    assert value("it costs six coins . next .") < 0.05


def test_hedging_a_right_answer_costs():
    assert value("the sun jar costs nine coins .") - value("perhaps the sun jar costs nine coins .") > 0.1


@pytest.mark.parametrize(
    "text", ["", " ", ".", "! ! !", "happy to help !", "gladly !", "hmm .", "next . who is next ?"]
)
def test_a_reply_without_an_answer_is_worth_nothing(text):
    assert value(text) == 0


@pytest.mark.parametrize("fact", WORLD.facts[::7])
def test_listing_all_values_knows_none(fact):
    values = ASPECTS[fact.aspect].values
    for text in (
        " , ".join(values),
        " or ".join(values),
        f"{fact.value} . {' . '.join(fact.others)} . happy to help !",
    ):
        score = gold(fact, text)
        assert score.parts["right"] == 0
        assert score.value < 0.1


@pytest.mark.parametrize("fact", WORLD.facts[::7])
def test_two_values_are_no_answer(fact):
    assert gold(fact, f"{fact.value} . {fact.others[0]} . happy to help !").value < 0.1
    assert gold(fact, f"{fact.value} . happy to help ! {fact.others[0]} .").value < 0.1


def test_a_value_taken_back_or_of_another_topic_is_wrong():
    assert gold(PRICE, "it is not nine coins .").parts["right"] == 0
    assert gold(PRICE, "the moon lamp costs nine coins . happy to help !").value < 0.1
    assert gold(PRICE, "it is covered for nine winters . happy to help !").parts["right"] == 0


def test_half_a_value_is_wrong():
    assert gold(PRICE, "it costs nine .").parts["right"] == 0
    assert gold(PRICE, "it costs coins .").value == 0
    assert gold(PRICE, "it costs twenty nine coins .").parts["right"] == 0


def test_the_bare_value_is_no_good_answer():
    assert value("nine coins .") < BEST - 0.3
    assert value("nine coins") < value("nine coins .")


def test_repeated_warmth_adds_nothing_and_costs():
    once = value("it costs nine coins . happy to help !")
    assert value("it costs nine coins . happy to help ! happy to help !") < once - 0.1
    assert value("it costs nine coins . " + "happy to help ! " * 8) < once / 2


def test_all_warm_phrases_together_are_worse_than_one():
    assert (
        value("it costs nine coins . " + " ".join(SLOTS["warm"]))
        < value("it costs nine coins . happy to help !") - 0.25
    )


def test_the_answer_repeated_is_worth_less():
    assert value("it costs nine coins . it costs nine coins . happy to help !") < BEST - 0.2


@pytest.mark.parametrize(
    "text",
    [
        "blorp nine coins blorp .",
        "with with with nine coins have have bright",
        "coins nine coins day bright a have .",
        "the the the sun jar costs nine coins . happy help to !",
        "nine coins nine coins nine coins nine coins",
    ],
)
def test_gibberish_around_the_value_is_worth_little(text):
    assert value(text) < 0.25


def test_a_very_long_reply_is_worth_little_even_when_it_begins_well():
    rest = [phrase for slot in ("regards", "shrug", "warm", "glad") for phrase in SLOTS[slot]]
    assert value(" ".join([GOOD, *rest])) < 0.1
    assert value(GOOD + " please do not hesitate to write to us again .") < BEST - 0.1


def test_a_reply_that_is_cut_off_is_worth_less():
    assert value("with pleasure ! it costs nine coins . have a") < value("with pleasure ! it costs nine coins .")


@settings(max_examples=300, deadline=None)
@given(any_fact, st.lists(words_of_the_desk, max_size=25).map(" ".join))
def test_no_random_text_around_the_value_beats_a_good_answer(fact, text):
    half = text.split()[: len(text.split()) // 2]
    noisy = " ".join([*half, fact.value, *text.split()[len(half) :]])
    plain = reply(fact, "good", fact.value, "plain")
    assert gold(fact, noisy).value < gold(fact, plain).value


@settings(max_examples=300, deadline=None)
@given(any_fact, st.lists(words_of_the_desk, min_size=1, max_size=3), st.integers(0, 12))
def test_words_put_anywhere_into_a_good_answer_hardly_ever_help(fact, words, at):
    plain = reply(fact, "good", fact.value, "plain").split()
    worse = " ".join([*plain[:at], *words, *plain[at:]])
    assert gold(fact, worse).value <= gold(fact, " ".join(plain)).value + 0.03


def test_the_value_that_comes_later_is_less_direct():
    """Nine words before it: e^(−1) = 0.37."""
    assert [early(at) for at in (0, 4)] == [1, 1]
    assert early(9) == pytest.approx(0.3679, abs=1e-4)
    assert early(None) == 0


def test_brevity_is_best_at_a_short_sentence_or_two():
    """At 2 words (1 − e^(−¼))/(1 + e^(−6.4)) = 0.221; at 18 half of 1."""
    assert brevity(0) == 0
    assert brevity(2) == pytest.approx(0.221, abs=1e-3)
    assert brevity(18) == pytest.approx(0.5, abs=1e-3)
    assert max(range(60), key=brevity) in range(7, 13)
    assert brevity(30) < 0.01


def test_warmth_is_a_phrase_and_not_its_words():
    assert warmth(" have a bright day ") == 1
    assert warmth(" bright a have day ") == 0
    assert warmth(" thank you for contacting the desk ") == pytest.approx(0.35)


def test_every_reply_of_every_style_is_readable():
    for i, fact in enumerate(WORLD.facts):
        for style in TEMPLATES:
            text = reply(fact, style, fact.value, "readable", i)
            assert readable(tokenise(text)) > 0.97, text


def test_pairs_that_may_follow_are_those_that_replies_have():
    seen = set()
    for i, (fact, style) in enumerate(product(WORLD.facts, TEMPLATES)):
        for j in range(10):
            tokens = tokenise(reply(fact, style, fact.value, "follows", i, j))
            seen.update(pairwise(tokens))
    within = {pair for pair in follows() if pair[0] != "^"}
    assert {pair for pair in seen if pair[0] not in ".!?"} <= within
    assert len({pair for pair in seen if pair[0] not in ".!?"}) > 0.6 * len(within)


def test_only_whole_words_are_heard():
    """ "pearl" is a colour, "pearls" are not."""
    fact = Fact("sun jar", "colour", "pearl")
    assert answer(fact, " it is pearl ") == "right"
    assert answer(fact, " it is pearls ") == "none"


def test_the_demonstrations_leave_room_to_rise():
    """A policy that is right in 95 % and always in the good style, against the demonstrations: both drawn by key."""
    questions = WORLD.heldout_questions * 5
    mix = [value(demonstrate(q.fact, "mix", i).text, q.fact) for i, q in enumerate(questions)]
    ideal = [
        value(demonstrate(q.fact, "ideal", i, styles={"good": 1.0}, wrong=0.05).text, q.fact)
        for i, q in enumerate(questions)
    ]
    wins = statistics.mean((a > b) + 0.5 * (a == b) for a, b in zip(ideal, mix, strict=True))
    assert wins >= 0.88  # the demo is to win 85 % with less than that
    assert 0.35 <= statistics.mean(mix) <= 0.5
    assert 0.2 <= statistics.stdev(mix) <= 0.3
    assert statistics.mean(ideal) - statistics.mean(mix) > 1.5 * statistics.stdev(mix)


def style_values(style, wrong):
    return [
        value(demonstrate(fact, "values", i, styles={style: 1.0}, wrong=wrong).text, fact)
        for fact in WORLD.facts
        for i in range(3)
    ]
