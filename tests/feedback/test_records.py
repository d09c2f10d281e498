"""Items and answers: what fits, what is refused, and what stays the same."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from preferent.config import UsageError
from preferent.feedback.records import (
    Choice,
    Judgement,
    Ranks,
    Ratings,
    Skipped,
    Steps,
    Written,
    canonical,
    checked,
    item,
    plain,
    read_answer,
)

ASK = ({"role": "user", "content": "how much is the sun jar?"},)
REPLIES = tuple(({"role": "assistant", "content": text},) for text in ("nine coins.", "six coins.", "ask again."))


@given(st.permutations(range(3)))
def test_the_same_options_in_any_order_are_the_same_item(order):
    one, places = item(ASK, [REPLIES[i] for i in order], kind="ranking", sources=[f"model {i}" for i in order])
    other, _ = item(ASK, REPLIES, kind="ranking", sources=["model 0", "model 1", "model 2"])
    assert one == other
    assert one.id == other.id
    assert [REPLIES[order[place]] for place in places] == list(one.options)


def test_who_wrote_a_reply_does_not_change_what_is_asked():
    assert item(ASK, REPLIES[:2], sources=["a", "b"])[0].id == item(ASK, REPLIES[:2])[0].id


@pytest.mark.parametrize(
    ("kind", "options", "said"),
    [
        ("comparison", 1, "of 2 … 9 options; got 1"),
        ("steps", 2, "of 1 options; got 2"),
        ("demonstration", 1, "of 0 options; got 1"),
    ],
)
def test_an_item_has_as_many_options_as_its_kind_needs(kind, options, said):
    with pytest.raises(UsageError, match=said):
        item(ASK, REPLIES[:options], kind=kind)


def test_two_options_that_say_the_same_are_nothing_to_choose_from():
    with pytest.raises(UsageError, match="say the same"):
        item(ASK, [REPLIES[0], REPLIES[0]])


@pytest.mark.parametrize(
    ("answer", "kind", "said"),
    [
        (Ranks((0, 1)), "comparison", "answered by Choice or Skipped; got Ranks"),
        (Choice((0.7, 0.7)), "comparison", "choice: expected 2 shares that sum to 1"),
        (Choice((1.0, 0.0, 0.0)), "comparison", "choice: expected 2 shares"),
        (Choice((1.0, 0.0), aspects={"warm": (1.0,)}), "comparison", "warm: expected 2 shares"),
        (Choice((1.0, 0.0), strength=4.0), "comparison", "strength: expected 0 .* 3"),
        (Ranks((0,)), "ranking", "ranks: expected 2 ranks"),
        (Ratings((1.0, float("nan"))), "rating", "ratings: expected 2 numbers"),
    ],
)
def test_an_answer_that_does_not_fit_its_item_is_refused_by_its_field(answer, kind, said):
    with pytest.raises(UsageError, match=said):
        checked(item(ASK, REPLIES[:2], kind=kind)[0], answer)


def test_an_edit_says_something_and_of_an_option_that_there_is():
    edit, _ = item(ASK, REPLIES[:1], kind="edit")
    for wrong, said in [
        (Written(({"role": "assistant", "content": " "},)), "got nothing"),
        (Written(ASK, of=1), "of: "),
    ]:
        with pytest.raises(UsageError, match=said):
            checked(edit, wrong)
    assert checked(edit, Written(ASK, of=0)).of == 0


def test_anything_may_be_skipped():
    assert checked(item(ASK, kind="demonstration")[0], Skipped("not my language")).reason == "not my language"


SHARES = st.sampled_from([(1.0, 0.0), (0.5, 0.5), (0.25, 0.75)])
ANSWERS = st.one_of(
    st.builds(
        Choice,
        SHARES,
        st.none() | st.floats(0, 3),
        st.booleans(),
        st.dictionaries(st.text(min_size=1), SHARES, max_size=2),
    ),
    st.builds(Ranks, st.tuples(st.integers(0, 3), st.integers(0, 3))),
    st.builds(Ratings, st.tuples(st.floats(-5, 5), st.floats(-5, 5))),
    st.builds(Steps, st.lists(st.sampled_from([-1, 0, 1])).map(tuple)),
    st.builds(lambda text: Written(({"role": "assistant", "content": text},), 0), st.text()),
    st.builds(Skipped, st.text()),
)


@given(ANSWERS)
def test_an_answer_comes_back_from_json_as_it_was(answer):
    assert read_answer(json.loads(canonical(plain(answer)))) == answer


@pytest.mark.parametrize(
    ("said", "where"),
    [
        ({"choice": [1, 0]}, "answer, said: unable to extract tag"),
        ({"said": "choice", "choice": ["much", 0]}, "answer, choice.0: .*got 'much'"),
        ({"said": "steps", "labels": [2]}, "answer, labels.0"),
        ("left", "answer, said"),
    ],
)
def test_json_that_is_no_answer_is_refused_by_its_field(said, where):
    with pytest.raises(UsageError, match=where):
        read_answer(said)


def test_judgements_get_ids_of_their_own():
    assert Judgement("i", "a", Skipped("")).id != Judgement("i", "a", Skipped("")).id
