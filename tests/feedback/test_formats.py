"""What is true of all formats: what was written is read again, and what cannot be read is named."""

import json
from contextlib import suppress

import pytest
from exchanged import KINDS, judged
from hypothesis import given, settings
from hypothesis import strategies as st

from preferent.config import UsageError
from preferent.feedback import summary
from preferent.feedback.formats import FORMATS, format_of
from preferent.feedback.formats.cells import sound
from preferent.feedback.records import Choice, Judgement, Ranks, Ratings, Steps, Written, item

SAID = {  # what a format has words for: kinds, and how many options at most
    "trl": (KINDS, None),
    "openai": (("comparison", "trajectories", "edit", "demonstration"), 2),
    "argilla": ([kind for kind in KINDS if kind != "steps"], None),
    "label-studio": ([kind for kind in KINDS if kind != "steps"], None),
}
ASK = ({"role": "user", "content": "how much is the sun jar?"},)
NINE, SIX, AGAIN = (({"role": "assistant", "content": text},) for text in ("nine coins.", "six coins.", "ask again."))


def by(who, answer, of, **more):
    return Judgement(of.id, who, answer, id=f"by-{who}", at="2026-01-01T00:00:00", **more)


@pytest.mark.parametrize("name", FORMATS)
@given(st.data())
@settings(max_examples=40, deadline=None)
def test_reading_what_was_written_gives_the_same_judgements(name, data):
    kinds, most = SAID[name]
    of, judgements = data.draw(judged(kinds, most))
    crowd = {judgements[0].annotator: "crowd"}
    rows = json.loads(json.dumps(list(FORMATS[name].write(of, judgements, crowd))))
    assert {format_of(row) for row in rows} <= {name, "trl"}
    found = [each for row in rows for each in FORMATS[name].read(row, {})]
    assert {each.item.id for each in found} == {of.id}
    assert all(each.item == of and not each.named for each in found)
    read = [one for each in found for one in each.judgements]
    in_any_order = {one.id: one for one in judgements}
    assert len(read) == len(judgements)
    assert {one.id: one for one in read} == in_any_order
    if of.kind not in ("edit", "demonstration"):
        assert read == judgements
    assert [dict(each.kinds) for each in found if each.kinds][:1] == [crowd]


@pytest.mark.parametrize("name", FORMATS)
@given(st.data())
@settings(max_examples=40, deadline=None)
def test_a_plain_row_names_nobody(name, data):
    kinds, most = SAID[name]
    of, judgements = data.draw(judged(kinds, most))
    rows = [FORMATS[name].plain(row) for row in FORMATS[name].write(of, judgements, {})]
    said = {"annotators", "judgements", "said", "meta"}
    assert not any(said & row.keys() for row in rows)


def one_hot(n):
    return st.integers(0, n - 1).map(lambda place: tuple(float(each == place) for each in range(n)))


@st.composite
def native(draw):
    """An item and an answer that Argilla and Label Studio have words for."""
    kind = draw(st.sampled_from(["comparison", "ranking", "rating", "edit", "demonstration"]))
    n = {"edit": 1, "demonstration": 0}.get(kind) if kind in ("edit", "demonstration") else draw(st.integers(2, 4))
    of, _ = item(ASK, [({"role": "assistant", "content": f"reply {i}"},) for i in range(n)], kind=kind)
    if kind == "ranking":
        return of, Ranks(tuple(draw(st.permutations(range(n)))))
    if kind == "rating":
        rated = st.tuples(*[st.integers(1, 5).map(float)] * n)
        return of, Ratings(draw(rated), draw(st.dictionaries(st.sampled_from(["tone", "facts"]), rated)))
    if kind in ("edit", "demonstration"):
        return of, Written(NINE, of=0 if kind == "edit" else None)
    even = (1 / n,) * n
    choice = draw(one_hot(n) | st.just(even))
    strength, bad = draw(st.none() | st.sampled_from([0.0, 1.0, 3.0])), choice == even and draw(st.booleans())
    return of, Choice(choice, strength, bad, draw(st.dictionaries(st.sampled_from(["tone", "facts"]), one_hot(n))))


@pytest.mark.parametrize("name", ["argilla", "label-studio"])
@given(native())
@settings(max_examples=60, deadline=None)
def test_what_their_own_words_say_is_read_without_ours(name, drawn):
    of, answer = drawn
    (row,) = FORMATS[name].write(of, [by("ann", answer, of, note="so")], {})
    (found,) = FORMATS[name].read(json.loads(json.dumps(FORMATS[name].plain(row))), {})
    assert found.item.id == of.id
    assert [(each.answer, each.note) for each in found.judgements] == [(answer, "so")]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inside: st.lists(inside, max_size=3) | st.dictionaries(st.text(max_size=8), inside, max_size=3),
    max_leaves=8,
)
COLUMNS = [
    "prompt",
    "chosen",
    "rejected",
    "completion",
    "completions",
    "ranks",
    "labels",
    "label",
    "messages",
    "choice",
    "said",
    "input",
    "preferred_output",
    "non_preferred_output",
    "fields",
    "responses",
    "metadata",
    "data",
    "annotations",
    "meta",
    "kind",
    "judgements",
    "sources",
    "info",
]


@pytest.mark.parametrize("name", FORMATS)
@given(st.dictionaries(st.sampled_from(COLUMNS), JSON, max_size=6))
@settings(max_examples=60, deadline=None)
def test_any_row_at_all_is_read_or_refused_in_a_sentence(name, row):
    read_or_refused(name, row)


@pytest.mark.parametrize("name", FORMATS)
@given(st.data())
@settings(max_examples=60, deadline=None)
def test_a_row_of_ours_with_one_thing_spoilt_is_read_or_refused_in_a_sentence(name, data):
    kinds, most = SAID[name]
    rows = list(FORMATS[name].write(*data.draw(judged(kinds, most)), {}))
    row = json.loads(json.dumps(rows[0]))
    inside = row
    while isinstance(inside, dict | list) and inside:
        key = data.draw(st.sampled_from(list(inside) if isinstance(inside, dict) else range(len(inside))))
        if not isinstance(inside[key], dict | list) or not inside[key] or data.draw(st.booleans()):
            inside[key] = data.draw(JSON)
            break
        inside = inside[key]
    read_or_refused(name, row)


def read_or_refused(name, row):
    """Nothing but a UsageError comes out."""
    with suppress(UsageError):
        sound(row)
        list(FORMATS[name].read(row, {}))


# --- what several people said, as one row --------------------------------------------------------
def test_a_row_is_the_mean_of_what_people_chose():
    """Shares of nine coins: 1, 1, 0, ½, of which the mean is 2.5 / 4 = .625. Strengths: (3 + 1 − 2) / 3 = ⅔; the tie
    gave none. One of four says that both are bad."""
    of, order = item(ASK, [NINE, SIX])
    nine = order.index(0)
    towards = {
        True: tuple(float(place == nine) for place in (0, 1)),
        False: tuple(float(place != nine) for place in (0, 1)),
    }
    said = [
        by("a", Choice(towards[True], 3.0), of),
        by("b", Choice(towards[True], 1.0), of),
        by("c", Choice(towards[False], 2.0), of),
        by("d", Choice((0.5, 0.5), both_bad=True), of),
    ]
    (row,) = FORMATS["trl"].write(of, said, {})
    assert row["chosen"] == list(NINE)
    assert row["choice"] == 0.625
    assert row["strength"] == pytest.approx(2 / 3)
    assert row["both_bad"] is False
    assert row["annotators"] == ["a", "b", "c", "d"]
    assert row["judgements"] == ["by-a", "by-b", "by-c", "by-d"]


def test_ranks_are_by_mean_rank_and_ties_share_one():
    """Mean ranks: (0 + 1) / 2, (1 + 0) / 2, (2 + 2) / 2, so the first two share rank 0 and the last has rank 1."""
    of, _ = item(ASK, [NINE, SIX, AGAIN], kind="ranking")
    assert summary.ranks([by("a", Ranks((0, 1, 2)), of), by("b", Ranks((1, 0, 2)), of)]) == (0, 0, 1)


def test_a_tie_is_no_row_of_a_plain_file():
    of, _ = item(ASK, [NINE, SIX])
    for name in ("trl", "openai"):
        (row,) = FORMATS[name].write(of, [by("a", Choice((0.5, 0.5)), of)], {})
        assert FORMATS[name].plain(row) == {}


def test_an_empty_reply_without_steps_is_one_step():
    of, _ = item(ASK, [({"role": "assistant", "content": ""},)], kind="steps")
    (row,) = FORMATS["trl"].write(of, [by("a", Steps(()), of)], {})
    assert row["completions"] == [list(of.options[0])]
    assert FORMATS["trl"].plain(row) == {}


def test_an_edit_is_better_than_what_it_mends():
    of, _ = item(ASK, [SIX], kind="edit")
    (row,) = FORMATS["trl"].write(of, [by("a", Written(NINE, of=0), of)], {})
    assert (row["chosen"], row["rejected"], row["choice"]) == (list(NINE), list(SIX), 1.0)


def test_what_no_format_of_openai_says_is_no_row():
    of, _ = item(ASK, [NINE, SIX, AGAIN], kind="ranking")
    assert list(FORMATS["openai"].write(of, [by("a", Ranks((0, 1, 2)), of)], {})) == []


def test_ids_that_contradict_the_judgements_are_refused():
    of, _ = item(ASK, [NINE, SIX])
    (row,) = FORMATS["trl"].write(of, [by("a", Choice((1.0, 0.0)), of)], {})
    with pytest.raises(UsageError, match=r"judgements: expected the ids in said"):
        list(FORMATS["trl"].read({**row, "judgements": ["another"]}, {}))
