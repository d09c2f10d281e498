"""The store keeps what it acknowledged, shows what was changed behind its back, and refuses what it cannot read."""

import os
import re
import signal
import sqlite3
import subprocess
import sys
import textwrap
from contextlib import closing

import pytest
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import text

from preferent.config import UsageError
from preferent.feedback.records import Choice, Judgement, Skipped, item
from preferent.feedback.store import open_engine
from preferent.feedback.store.engine import HEAD, writing
from preferent.feedback.store.log import seal, verify
from preferent.feedback.store.store import (
    add_annotator,
    add_campaign,
    add_items,
    add_judgements,
    erase,
    read_judgements,
)
from preferent.feedback.store.tables import METADATA


def said(text):
    return ({"role": "assistant", "content": text},)


ITEMS = [item(({"role": "user", "content": f"question {i}"},), [said("a"), said("b")])[0] for i in range(5)]


def filled(engine, judgements=5):
    add_annotator(engine, "p1", name="Ada", contact="ada@example.org")
    add_items(engine, ITEMS)
    made = [Judgement(ITEMS[i % 5].id, "p1", Choice((1.0, 0.0)), (1, 0), 2.25) for i in range(judgements)]
    add_judgements(engine, made)
    return made


def change(engine, statement):
    with writing(engine) as connection:
        connection.execute(text(statement))


def test_what_is_written_is_read_as_it_was(engine):
    made = filled(engine)
    found = list(read_judgements(engine))
    assert sorted((each for each, _ in found), key=lambda each: each.id) == sorted(ITEMS, key=lambda each: each.id)
    assert {each.id: each for _, group in found for each in group} == {each.id: each for each in made}


def test_a_whole_store_is_verified_and_its_seals_grow(engine):
    filled(engine)
    assert verify(engine).unsealed == 11  # five items, five judgements, one annotator
    assert seal(engine) == 11
    first = verify(engine)
    assert (first.judgements, first.items, first.sealed, first.unsealed, first.faults) == (5, 5, 11, 0, ())
    assert seal(engine) == 0
    add_judgements(engine, [Judgement(ITEMS[0].id, "p1", Skipped("again"))])
    seal(engine, most=4)
    second = verify(engine)
    assert second.head != first.head
    assert second.faults == ()


@pytest.mark.parametrize(
    ("statement", "fault"),
    [
        ("UPDATE judgements SET seconds = 9 WHERE number = 3", "judgement .* was changed after it was written"),
        ("UPDATE items SET kind = 'ranking' WHERE kind = 'comparison'", "item .* was changed"),
        ("DELETE FROM judgements WHERE number = 3", "judgement .* is gone"),
        ("DELETE FROM events WHERE number = 3", "seal 1 is broken: of 11 events, 10 are there"),
        ("UPDATE events SET of = 'other' WHERE what = 'annotator'", "seal 1 is broken"),
        ("UPDATE seals SET digest = 'f00'", "seal 1 is broken"),
        ("UPDATE judgements SET id = 'mine' WHERE number = 3", "judgement mine is not in the log"),
    ],
)
def test_what_is_changed_behind_the_stores_back_is_found(tmp_path, statement, fault):
    engine = open_engine(tmp_path / "store.db")
    filled(engine)
    seal(engine)
    change(engine, statement)
    faults = verify(engine).faults
    assert faults
    assert any(re.search(fault, each) for each in faults), faults
    engine.dispose()


def test_a_correction_supersedes_and_nothing_is_overwritten(engine):
    first = filled(engine, 1)[0]
    second = Judgement(first.item, "p1", Choice((0.5, 0.5)), supersedes=first.id)
    add_judgements(engine, [second])
    [[_, [now]]] = read_judgements(engine)
    assert now == second
    assert verify(engine).judgements == 2
    for supersedes, of, why in (
        (first.id, first.item, "superseded already"),
        (second.id, ITEMS[1].id, f"no judgement {second.id} of item {ITEMS[1].id}"),
        ("nowhere", first.item, "no judgement nowhere"),
    ):
        with pytest.raises(UsageError, match=why):
            add_judgements(engine, [Judgement(of, "p1", Choice((0.0, 1.0)), supersedes=supersedes)])


def test_a_correction_stays_in_its_campaign_and_may_come_with_what_it_corrects(engine):
    add_annotator(engine, "p1")
    add_items(engine, ITEMS)
    first = Judgement(ITEMS[0].id, "p1", Choice((1.0, 0.0)), campaign="c")
    second = Judgement(ITEMS[0].id, "p1", Choice((0.5, 0.5)), supersedes=first.id)
    third = Judgement(ITEMS[0].id, "p1", Choice((0.0, 1.0)), supersedes=second.id)
    add_judgements(engine, [first, second, third])
    [[_, [now]]] = read_judgements(engine, campaign="c")
    assert (now.id, now.answer, now.campaign) == (third.id, third.answer, "c")
    fourth = Judgement(ITEMS[0].id, "p1", Choice((1.0, 0.0)), supersedes=third.id)
    add_judgements(engine, [fourth])
    [[_, [now]]] = read_judgements(engine, campaign="c")
    assert now.id == fourth.id
    assert verify(engine).faults == ()


def test_nobody_corrects_what_another_said(engine):
    first = filled(engine, 1)[0]
    add_annotator(engine, "p2")
    with pytest.raises(UsageError, match="annotator p1's, who alone can supersede it; got p2"):
        add_judgements(engine, [Judgement(first.item, "p2", Choice((0.0, 1.0)), supersedes=first.id)])


@pytest.mark.parametrize(
    ("keep", "why"),
    [
        (lambda engine: add_annotator(engine, "p" * 65), "annotators, id: expected at most 64 characters; got 65"),
        (lambda engine: add_annotator(engine, ""), "can be printed; got ''"),
        (lambda engine: add_annotator(engine, "p2", kind="k" * 17), "annotators, kind: expected at most 16"),
        (lambda engine: add_annotator(engine, "p2", name="A\0da"), "identities, name: expected text without NUL"),
        (lambda engine: add_campaign(engine, "c" * 65), "campaigns, id: expected at most 64"),
        (lambda engine: add_campaign(engine, ""), "Expected a campaign's name"),
        (lambda engine: add_campaign(engine, "c\0"), "campaigns, id: expected text without NUL"),
        (lambda engine: add_campaign(engine, "c", guideline="\ud800"), "guidelines, text: expected text without"),
        (lambda engine: add_judgements(engine, [noted("a\0b")]), "judgements, note: expected text without NUL"),
        (
            lambda engine: add_judgements(engine, [noted("", campaign="c" * 65)]),
            "judgements, campaign: expected at most",
        ),
        (lambda engine: add_judgements(engine, [noted("", id="i" * 65)]), "judgements, id: expected at most 64"),
        (lambda engine: add_judgements(engine, [noted("", seconds=float("nan"))]), "seconds: expected a finite"),
    ],
)
def test_what_one_database_would_not_hold_both_refuse_with_the_same_sentence(engine, keep, why):
    filled(engine)
    with pytest.raises(UsageError, match=re.escape(why)):
        keep(engine)
    found = verify(engine)
    assert (found.judgements, found.unsealed, found.faults) == (5, 11, ())


def noted(note, **settings):
    return Judgement(ITEMS[0].id, "p1", Skipped("x"), note=note, **settings)


def test_judgements_are_kept_all_or_none(engine):
    filled(engine, 1)
    good = Judgement(ITEMS[0].id, "p1", Skipped("x"))
    for bad, why in [
        (Judgement(ITEMS[1].id, "p1", Choice((1.0,))), "expected 2 shares"),
        (Judgement("nowhere", "p1", Skipped("x")), "no item nowhere"),
        (Judgement(ITEMS[1].id, "nobody", Skipped("x")), "its annotator"),
        (Judgement(ITEMS[1].id, "p1", Skipped("x"), id=good.id), "its id is taken"),
    ]:
        with pytest.raises(UsageError, match=why):
            add_judgements(engine, [good, bad])
    assert verify(engine).judgements == 1


def test_a_person_can_be_erased_and_the_judgements_stay(engine):
    filled(engine)
    erase(engine, "p1")
    with writing(engine) as connection:
        assert connection.execute(text("SELECT count(*) FROM identities")).scalar() == 0
    found = verify(engine)
    assert (found.judgements, found.faults) == (5, ())
    with pytest.raises(UsageError, match='no annotator "p2"'):
        erase(engine, "p2")


def test_a_campaign_keeps_its_settings(engine):
    add_campaign(engine, "c", overlap=3, guideline="Prefer the true one.")
    add_campaign(engine, "c", overlap=3, guideline="Prefer the true one.")
    with pytest.raises(UsageError, match='"c" exists'):
        add_campaign(engine, "c", overlap=2, guideline="Prefer the true one.")


def test_migrations_end_at_the_tables_that_the_code_knows(engine):
    config = Config()
    config.set_main_option("script_location", "preferent.feedback.store:migrations")
    assert ScriptDirectory.from_config(config).get_current_head() == HEAD
    with engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), METADATA) == []


def test_a_store_of_a_newer_version_is_refused_with_what_helps(where):
    engine = open_engine(where)
    change(engine, "UPDATE alembic_version SET version_num = '9999'")
    engine.dispose()
    with pytest.raises(UsageError, match=r"newer version .* pip install --upgrade preferent"):
        open_engine(where)


def test_what_is_no_store_is_said_to_be_none(tmp_path):
    (tmp_path / "notes.txt").write_text("not a database, but long enough to be looked at " * 40)
    for where, why in [
        (tmp_path / "notes.txt", "no store, or a damaged one"),
        (tmp_path / "nowhere" / "store.db", "cannot be opened"),
        ("mysterious://x", "is no store"),
        ("mysql://a/b", "expected the path of a SQLite file, or a URL: sqlite:///path, or postgresql://"),
        ("postgresql://a:nowhere/b", "expected the path of a SQLite file"),
    ]:
        with pytest.raises(UsageError, match=why):
            open_engine(where)
    for missing in (tmp_path / "missing.db", f"sqlite:///{tmp_path}/missing.db"):
        with pytest.raises(UsageError, match="There is no store at"):
            open_engine(missing, make=False)
    assert not (tmp_path / "missing.db").exists()


def test_a_full_disk_stops_with_a_sentence_and_loses_nothing_acknowledged(tmp_path):
    """``max_page_count`` makes SQLite's file as full as a disk."""
    engine = open_engine(tmp_path / "store.db")
    made = filled(engine)
    with engine.connect() as connection:
        pages = connection.execute(text("PRAGMA page_count")).scalar()
    engine.dispose()
    engine = open_engine(tmp_path / "store.db")
    with writing(engine) as connection:
        connection.execute(text(f"PRAGMA max_page_count = {pages + 3}"))
    big = [Judgement(ITEMS[0].id, "p1", Skipped("x" * 1000)) for _ in range(50)]
    with pytest.raises(UsageError, match=r"full .* nothing of this was written"):
        add_judgements(engine, big)
    kept = verify(engine)
    assert (kept.judgements, kept.faults) == (len(made), ())
    engine.dispose()


def test_what_was_acknowledged_outlives_a_kill(tmp_path):
    """A process that says each judgement's id once it is kept is killed in the middle of its work."""
    program = """
        import sys
        from preferent.feedback.records import Judgement, Skipped, item
        from preferent.feedback.store import open_engine
        from preferent.feedback.store.store import add_annotator, add_items, add_judgements
        engine = open_engine(sys.argv[1])
        of, _ = item(({"role": "user", "content": "q"},), kind="demonstration")
        add_annotator(engine, "p1")
        add_items(engine, [of])
        while True:
            each = Judgement(of.id, "p1", Skipped("x"))
            add_judgements(engine, [each])
            print(each.id, flush=True)
    """
    where = tmp_path / "store.db"
    child = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(program), where], stdout=subprocess.PIPE, text=True, env=dict(os.environ)
    )
    acknowledged = [child.stdout.readline().strip() for _ in range(40)]
    child.send_signal(signal.SIGKILL)
    child.wait()
    acknowledged += [line for line in child.stdout.read().splitlines() if len(line) == 32]
    child.stdout.close()
    engine = open_engine(where)
    kept = {each.id for _, group in read_judgements(engine) for each in group}
    assert set(acknowledged) <= kept
    assert verify(engine).faults == ()
    engine.dispose()


def test_a_database_of_something_else_is_left_alone_unless_a_store_is_to_be_made(tmp_path):
    with closing(sqlite3.connect(tmp_path / "mine.db")) as mine, mine:
        mine.execute("CREATE TABLE thesis (words TEXT)")
    before = (tmp_path / "mine.db").read_bytes()
    with pytest.raises(UsageError, match="holds no store of judgements"):
        open_engine(tmp_path / "mine.db", make=False)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.db"]
    assert (tmp_path / "mine.db").read_bytes() == before


def test_a_writer_who_waits_in_vain_for_another_is_told_so(tmp_path, monkeypatch):
    monkeypatch.setattr("preferent.feedback.store.engine.PATIENCE", 0.1)
    one, other = open_engine(tmp_path / "store.db"), open_engine(tmp_path / "store.db")
    with writing(one), pytest.raises(UsageError, match="Another program has been writing"):
        add_annotator(other, "p1")
    add_annotator(other, "p1")
    one.dispose()
    other.dispose()
