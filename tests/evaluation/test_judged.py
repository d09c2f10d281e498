"""What a reward model said of held-out comparisons: calibration, agreement of its members, what it leans to."""

import json
import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from preferent.config import UsageError
from preferent.evaluation import judged
from preferent.evaluation.judged import Judged

FINITE = st.floats(-20, 20)
ROWS = st.lists(
    st.builds(
        Judged,
        st.integers(0, 5),
        st.sampled_from([0.5, 2 / 3, 1.0]),
        st.lists(FINITE, min_size=3, max_size=3).map(tuple),
        st.fixed_dictionaries({"words": st.integers(-9, 9).map(float)}),
        st.tuples(st.text(max_size=5), st.text(max_size=5)),
    ),
    min_size=1,
    max_size=40,
)


def pair(margin, choice=1.0, *, words=0.0, prompt=0, openings=("a", "a")):
    margins = margin if isinstance(margin, tuple) else (margin,)
    return Judged(prompt, choice, margins, {"words": words}, openings)


def crowd(n=4000, *, sharp=1.0, bias=0.0, seed=0):
    """Choices drawn from a model's own probabilities, from margins that the model then multiplies and bends to length.

    The annotators do not care about words; the model's margin has ``bias`` for each word more.
    """
    draw = random.Random(seed)
    rows = []
    for i in range(n):
        true, words = draw.gauss(0, 1.5), float(draw.randint(-5, 5))
        first = draw.random() < 1 / (1 + math.exp(-true))
        sign = 1 if first else -1
        rows.append(pair(sign * (true * sharp + bias * words), words=sign * words, prompt=i))
    return rows


# --- rows -------------------------------------------------------------------------------------------


@given(rows=ROWS)
def test_what_is_written_is_read_again(rows, tmp_path_factory):
    path = tmp_path_factory.mktemp("judged") / "judged.jsonl"
    path.write_text(judged.written(rows), encoding="utf-8")
    assert judged.read(path) == rows


@pytest.mark.parametrize(
    "line", ["{", "[]", "{}", '{"prompt": 0, "choice": 2, "margins": [1], "differences": {}, "openings": ["", ""]}']
)
def test_a_damaged_row_is_named(line, tmp_path):
    path = tmp_path / "judged.jsonl"
    path.write_text(judged.written([pair(1.0)]) + line + "\n")
    with pytest.raises(UsageError, match=r"judged\.jsonl: line 2 is damaged"):
        judged.read(path)


def test_a_pair_is_described_by_what_can_be_seen_of_it_and_not_by_its_text():
    row = judged.judged(3, 1.0, [0.5], "Sure! **Two** things:\n- one\n- two", "why? 42")
    assert row.differences == {
        "words": 5.0,
        "lines": 2.0,
        "list items, headings, bold, code": 4.0,
        "exclamation marks": 1.0,
        "question marks": -1.0,
        "digits": -2.0,
    }
    assert row.openings == ("sure", "why")
    assert "things" not in json.dumps(judged.written([row]))


@pytest.mark.parametrize(("text", "word"), [("", ""), ("…", ""), ("“Don't go”", "don't"), ("Ünder way", "ünder")])
def test_an_opening_is_the_first_word_without_signs(text, word):
    assert judged.opening(text) == word


# --- accuracy and calibration ------------------------------------------------------------------------


def test_accuracy_is_averaged_within_a_prompt_and_leaves_ties_out():
    """Prompt 0: right and wrong, ½. Prompt 1: right, 1. The tie says nothing. Mean ¾ of two prompts."""
    rows = [pair(1.0), pair(-1.0), pair(2.0, prompt=1), pair(-9.0, 0.5, prompt=2)]
    rate = judged.accuracy(rows)
    assert (rate.value, rate.n) == (0.75, 2)


def test_a_member_is_asked_alone():
    rows = [pair((1.0, -1.0, 3.0))]
    assert [judged.accuracy(rows, member).value for member in range(3)] == [1.0, 0.0, 1.0]
    assert judged.accuracy(rows).value == 1.0


def test_the_calibration_error_is_what_the_definition_says():
    """Confidence σ(±ln 3) = ¾ in all four; three annotators of four agree with the model, so 0; two of four, so ¼."""
    sure = math.log(3)
    right = [pair(sure), pair(sure), pair(sure), pair(-sure)]
    assert judged.calibration_error(judged.reliability(right, bins=1)) == pytest.approx(0)
    worse = [pair(sure), pair(sure), pair(-sure), pair(-sure)]
    assert judged.calibration_error(judged.reliability(worse, bins=1)) == pytest.approx(0.25)


@given(ROWS, st.integers(1, 10))
def test_every_pair_is_in_one_bin_and_confidence_is_at_least_a_half(rows, bins):
    kept = judged.reliability(rows, bins)
    assert sum(each.observed.n for each in kept) == len(rows)
    assert all(0.5 <= each.predicted <= 1 for each in kept)
    assert [each.predicted for each in kept] == sorted(each.predicted for each in kept)


@pytest.mark.parametrize("sharp", [0.5, 1.0, 2.0])
def test_the_sharpness_of_a_model_is_found(sharp):
    """Margins twice too large fit best when halved. The standard error at n = 4000 is about 0.03."""
    assert judged.sharpness(crowd(sharp=sharp)) == pytest.approx(1 / sharp, rel=0.1)


def test_a_model_that_is_always_right_cannot_be_too_sure():
    assert judged.sharpness([pair(0.1), pair(3.0)]) == pytest.approx(judged.SHARPEST)


def test_a_calibrated_model_has_a_small_error_and_an_overconfident_one_a_large_one():
    calm, loud = (judged.calibration_error(judged.reliability(crowd(sharp=sharp))) for sharp in (1.0, 4.0))
    assert calm < 0.03
    assert loud > 0.1


def test_members_that_agree_are_counted():
    rows = [pair((1.0, 1.0, 1.0)), pair((2.0, 2.0, -1.0)), pair((-1.0, -1.0, 0.5)), pair((1.0, 1.0, 1.0), 0.5)]
    assert [(each.members, each.accuracy.value, each.accuracy.n) for each in judged.by_agreement(rows)] == [
        (3, 1.0, 1),
        (2, 0.5, 2),
    ]


# --- leanings ---------------------------------------------------------------------------------------


def test_a_model_that_likes_length_more_than_annotators_is_found_out():
    [words] = judged.leanings(crowd(bias=0.5))
    assert words.annotators.low < 0.5 < words.annotators.high
    assert words.excess.low > 0.05
    assert words.correlation > 0.3


def test_a_model_that_is_merely_too_sure_leans_to_nothing():
    [words] = judged.leanings(crowd(sharp=4.0))
    assert words.excess.low <= 0 <= words.excess.high


def test_the_order_in_which_a_pair_is_written_does_not_matter():
    """A tie with its replies exchanged says the same, with every sign turned round."""
    rows = [pair(m, 0.5, words=w, prompt=i) for i, (m, w) in enumerate([(1.0, 2.0), (-0.5, 1.0), (0.2, -3.0)] * 10)]
    turned = [pair(-row.margins[0], 0.5, words=-row.differences["words"], prompt=row.prompt) for row in rows]
    [a], [b] = judged.leanings(rows), judged.leanings(turned)
    assert a.model == pytest.approx(b.model)
    assert a.correlation == pytest.approx(b.correlation)


def test_first_words_are_compared_where_only_one_reply_begins_so():
    """Of 30 pairs that differ in “oh”, annotators prefer the other every time; pairs of two “oh” are left out."""
    rows = [pair(-1.0, openings=("the", "oh"), prompt=i) for i in range(30)]
    rows += [pair(1.0, openings=("oh", "oh"), prompt=i) for i in range(30)]
    found = {each.name: each for each in judged.opening_leanings(rows)}
    assert found["oh"].pairs == 30
    assert found["oh"].annotators.value == 0.0
    assert found["oh"].model.value >= 0.5 - 1e-6
    assert found["the"].annotators.value == 1.0


def test_a_handful_of_pairs_says_nothing():
    assert judged.leanings([pair(1.0, words=1.0)] * (judged.FEWEST - 1)) == []
    assert judged.leanings([]) == []
