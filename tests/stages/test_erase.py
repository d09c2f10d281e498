"""`preferent data erase`, as a person types it."""

from uuid import uuid4

import pytest
from tiny_runs import PREFS, run, written

from preferent.feedback.store import open_engine
from preferent.feedback.store.log import verify
from preferent.feedback.store.store import add_annotator, annotators_named, judged_by


@pytest.fixture
def store(tmp_path):
    """A store of judgements by Ada and Bob."""
    rows = [{**row, "annotator": ("Ada Lovelace", "Bob")[i % 2]} for i, row in enumerate(PREFS)]
    path = tmp_path / "judgements.db"
    assert run("data", "import", written(tmp_path / "given.jsonl", rows), "--store", path) == 0
    return path


def told(store, name):
    engine = open_engine(store)
    named, found = annotators_named(engine, name), verify(engine)
    engine.dispose()
    assert found.faults == ()
    return named, found.judgements


def test_a_person_is_erased_by_name_and_the_judgements_stay(store, capsys):
    [[ada], judgements] = told(store, "Ada Lovelace")
    capsys.readouterr()
    assert run("data", "erase", store, "--name", "Ada Lovelace") == 0
    said = capsys.readouterr().out
    assert said == (
        f"{store}: annotator {ada}: name and contact erased; {judgements // 2} judgements stay, under this pseudonym\n"
    )
    assert told(store, "Ada Lovelace") == ([], judgements)
    assert len(told(store, "Bob")[0]) == 1
    assert not any(b"Lovelace" in path.read_bytes() for path in store.parent.glob("judgements.db*"))
    assert run("data", "erase", store, "--annotator", ada) == 0
    assert "no name was known" in capsys.readouterr().out


def test_who_cannot_be_told_apart_is_not_erased(store, capsys):
    engine = open_engine(store)
    add_annotator(engine, "another", name="Bob")
    assert judged_by(engine, "another") == 0
    engine.dispose()
    for words, why in [
        (["--name", "Bob"], "is the name of 2 annotators"),
        (["--name", "bob"], 'no annotator of the name "bob"'),
        (["--annotator", "nobody"], 'no annotator "nobody"'),
        ([], "Expected --name NAME or --annotator ID"),
        (["--name", "Bob", "--annotator", "another"], "one of them"),
    ]:
        assert run("data", "erase", store, *words) == 2
        assert why in capsys.readouterr().err
    assert len(told(store, "Bob")[0]) == 2
    assert run("data", "erase", store, "--annotator", "another") == 0
    assert len(told(store, "Bob")[0]) == 1


def test_no_command_shows_the_password_of_a_store(postgresql, tmp_path, capsys):
    where = postgresql(f"secret_{uuid4().hex[:8]}") + "&password=hunter2"
    given = written(tmp_path / "given.jsonl", [{**row, "annotator": "Ada"} for row in PREFS])
    for words in (
        ["import", given, "--store", where],
        ["verify", where],
        ["export", "--store", where, "--to", tmp_path / "out.jsonl"],
        ["erase", where, "--name", "Ada"],
    ):
        assert run("data", *words) == 0
        said = capsys.readouterr().out
        assert ("password=***" in said, "hunter2" in said) == (True, False)
    assert run("data", "export", "--store", where, "--to", tmp_path / "out.jsonl", "--campaign", "autumn") == 2
    said = capsys.readouterr().err
    assert ("password=***" in said, "hunter2" in said) == (True, False)
