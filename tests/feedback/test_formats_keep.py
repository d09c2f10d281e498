"""Importing into a store: all or nothing, once, by pseudonym."""

import sys

import pytest
from exchanged import judged
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import select

from preferent.config import UsageError
from preferent.feedback.formats import FORMATS, keep
from preferent.feedback.records import Choice, Judgement, item
from preferent.feedback.store import open_engine, reading
from preferent.feedback.store.log import verify
from preferent.feedback.store.store import add_judgements, read_judgements
from preferent.feedback.store.tables import annotators, identities

ROW = {"prompt": "p", "chosen": "a", "rejected": "b", "annotator": "ann"}


def corrections(*links, of=("p",), who=("ann",)):
    """Rows of ours, one for each (id, what it corrects): of these prompts and people, in turn."""
    rows = []
    for i, (id, supersedes) in enumerate(links):
        prompt, annotator = of[i % len(of)], who[i % len(who)]
        said = {"id": id, "annotator": annotator, "at": "2026-01-31T12:00:00Z", "supersedes": supersedes}
        said["answer"] = {"said": "choice", "choice": [1.0, 0.0]}
        rows.append({"kind": "comparison", "prompt": prompt, "chosen": "a", "rejected": "b", "said": [said]})
    return rows


def found(*rows, name="trl"):
    return [each for row in rows for each in FORMATS[name].read(row, {})]


def exported(engine, name="trl"):
    """The rows of a store, with the kinds of its annotators."""
    with reading(engine) as connection:
        kinds = {row.id: row.kind for row in connection.execute(select(annotators)) if row.kind != "person"}
    return [row for of, said in read_judgements(engine) for row in FORMATS[name].write(of, said, kinds)]


def told(engine):
    return [each for _, said in read_judgements(engine) for each in said]


@pytest.mark.parametrize("name", FORMATS)
@given(st.lists(judged(("comparison", "edit", "demonstration"), 2), min_size=1, max_size=3))
@settings(max_examples=5, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_export_import_export_is_the_identity(name, tmp_path_factory, drawn):
    folder = tmp_path_factory.mktemp("stores")
    first, second = open_engine(folder / "a.db"), open_engine(folder / "b.db")
    rows = [row for of, said in drawn for row in FORMATS[name].write(of, said, {said[0].annotator: "crowd"})]
    keep(first, found(*rows, name=name))
    keep(second, found(*exported(first, name), name=name))
    assert exported(second, name) == exported(first, name)
    assert exported(first, name)
    assert told(second) == told(first)
    for engine in (first, second):
        assert verify(engine).faults == ()
        engine.dispose()


def test_importing_twice_adds_nothing(engine):
    kept = keep(engine, found(ROW, {**ROW, "annotator": "bob"}))
    assert (kept.new, kept.known) == (2, 0)
    again = keep(engine, found(ROW, {**ROW, "annotator": "bob"}))
    assert (again.new, again.known) == (0, 2)
    assert len(told(engine)) == 2


def test_a_row_of_somebody_that_stands_twice_is_one_judgement(engine):
    kept = keep(engine, found(ROW, ROW))
    assert (kept.new, kept.known) == (1, 1)


def test_equal_rows_without_a_name_are_different_peoples(engine):
    row = {name: value for name, value in ROW.items() if name != "annotator"}
    assert (keep(engine, found(row, row, row)).new, keep(engine, found(row, row, row)).new) == (3, 0)
    assert keep(engine, found(row, row, row, row)).new == 1


def test_names_are_kept_apart_and_the_same_name_is_the_same_person(engine):
    keep(engine, found(ROW, {**ROW, "prompt": "another"}))
    keep(engine, found({**ROW, "prompt": "a third"}))
    people = {each.annotator for each in told(engine)}
    assert len(people) == 1
    assert "ann" not in people
    with reading(engine) as connection:
        assert connection.execute(select(identities.c.annotator, identities.c.name)).all() == [(*people, "ann")]


def test_nothing_is_kept_where_a_later_row_is_bad(engine):
    def rows():
        yield from found(*({**ROW, "prompt": str(i)} for i in range(700)))
        raise UsageError("line 701: choice: expected 0 … 1")

    with pytest.raises(UsageError, match="line 701"):
        keep(engine, rows())
    assert told(engine) == []
    with reading(engine) as connection:
        assert connection.execute(select(annotators)).all() == []


def test_another_judgement_under_the_same_id_is_refused(engine):
    keep(engine, found({**ROW, "judgements": ["j"]}))
    with pytest.raises(UsageError, match="judgement j is in the store already, with another answer"):
        keep(engine, found({**ROW, "judgements": ["j"], "chosen": "b", "rejected": "a"}))
    with pytest.raises(UsageError, match="judgement k is in the store already, with another item"):
        keep(engine, found({**ROW, "judgements": ["k"]}, {**ROW, "judgements": ["k"], "prompt": "q"}))


def test_a_campaign_that_is_named_is_that_of_all(engine):
    keep(engine, found(ROW), campaign="spring")
    assert [each.campaign for each in told(engine)] == ["spring"]


def test_a_correction_corrects_wherever_its_judgement_is_or_comes_to(tmp_path):
    one, two, three = (open_engine(tmp_path / f"{name}.db") for name in "abc")
    keep(one, found(ROW))
    keep(two, found(*exported(one)))
    ((of, (first,)),) = read_judgements(one)
    better = Judgement(of.id, first.annotator, Choice((0.5, 0.5)), supersedes=first.id)
    add_judgements(one, [better])
    before = exported(two)
    for store in (two, three):
        kept = keep(store, found(*exported(one)))
        assert kept.new == 1
        assert [(each.id, each.supersedes) for each in told(store)] == [(better.id, first.id)]
        assert keep(store, found(*exported(one))).new == 0
    assert keep(three, found(*before)).new == 1
    assert [each.id for each in told(three)] == [better.id]
    other = Judgement(of.id, first.annotator, Choice((1.0, 0.0)), supersedes=first.id)
    (row,) = FORMATS["trl"].write(item(of.context, of.options)[0], [other], {})
    with pytest.raises(UsageError, match="corrects already"):
        keep(two, found(row))
    for store in (one, two, three):
        store.dispose()


CHAINS = {
    "itself": ([("j", "j")], {}, "corrects itself"),
    "a circle": ([("j", "k"), ("k", "l"), ("l", "j")], {}, "corrects itself, or what corrects it"),
    "another item": ([("j", None), ("k", "j")], {"of": ("p", "q")}, "k corrects j, which is of another item"),
    "another annotator": ([("j", None), ("k", "j")], {"who": ("ann", "bob")}, "which is of another annotator"),
    "another item, first": ([("k", "j"), ("j", None)], {"of": ("p", "q")}, "k corrects j, which is of another item"),
}


@pytest.mark.parametrize("name", CHAINS)
@pytest.mark.parametrize("batch", [500, 1])
def test_a_correction_that_could_not_hold_is_refused(engine, monkeypatch, name, batch):
    """In one batch; and one after another, where the store has the others already."""
    monkeypatch.setattr(sys.modules["preferent.feedback.formats.keep"], "BATCH", batch)
    links, more, said = CHAINS[name]
    with pytest.raises(UsageError, match=said):
        keep(engine, found(*corrections(*links, **more)))
    assert told(engine) == []


@pytest.mark.parametrize("name", CHAINS)
def test_a_correction_that_could_not_hold_is_refused_in_files_of_its_own(engine, name):
    links, more, said = CHAINS[name]
    *before, last = found(*corrections(*links, **more))
    keep(engine, before)
    with pytest.raises(UsageError, match=said):
        keep(engine, [last])
    assert len([*exported(engine)]) <= len(before)


def test_a_chain_of_corrections_in_any_order_leaves_the_last_one(engine, monkeypatch):
    monkeypatch.setattr(sys.modules["preferent.feedback.formats.keep"], "BATCH", 2)
    keep(engine, found(*corrections(("c", "b"), ("a", None), ("e", "d"), ("d", "c"), ("b", "a"))))
    assert [each.id for each in told(engine)] == ["e"]


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("at", "yesterday", "said, 1, at: expected a date and time as 2026-01-31T12:00:00Z; got"),
        ("at", "2026-02-31T12:00:00Z", "said, 1, at: expected a date and time"),
        ("seconds", -4, "said, 1, seconds: expected seconds, 0 or more; got -4"),
    ],
)
def test_a_time_that_there_is_not_is_refused(name, value, said):
    (row,) = corrections(("j", None))
    row["said"][0][name] = value
    with pytest.raises(UsageError, match=said):
        found(row)


def test_moments_are_kept_as_the_store_writes_its_own(engine):
    (row,) = corrections(("j", None))
    row["said"][0]["at"] = "2026-01-31T14:30:00+02:00"
    keep(engine, found(row))
    assert told(engine)[0].at == "2026-01-31T12:30:00.000000+00:00"


def test_an_annotation_of_label_studio_took_no_time_below_zero():
    task = {"data": {"prompt": "p", "answer1": "a", "answer2": "b"}, "annotations": [{"lead_time": -1, "result": []}]}
    with pytest.raises(UsageError, match="annotations, 1, lead_time: expected seconds, 0 or more; got -1"):
        found(task, name="label-studio")
