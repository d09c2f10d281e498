"""What goes wrong with a database is told in a sentence, without its password; an erased name is in no file."""

import sqlite3
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from threading import Barrier
from uuid import uuid4

import pytest
from sqlalchemy import text

from preferent.config import UsageError
from preferent.feedback.records import Choice, Judgement, item
from preferent.feedback.store import open_engine, reading, writing
from preferent.feedback.store.engine import Crossed, is_postgresql, repeated, shown
from preferent.feedback.store.queue import claim
from preferent.feedback.store.store import (
    add_annotator,
    add_campaign,
    add_items,
    add_judgements,
    annotators_named,
    erase,
    judged_by,
    read_judgements,
)


def people(engine, n=2):
    for i in range(n):
        add_annotator(engine, f"p{i}", name=f"name {i}")


def exchange(engine, met, first, second, tries):
    """Write to one row and then another, when somebody else has begun the other way round."""
    with writing(engine) as connection:
        for at, id in enumerate((first, second)):
            connection.execute(text("UPDATE identities SET contact = 'new' WHERE annotator = :id"), {"id": id})
            if at == 0:
                tries.append(first)
                if tries.count(first) == 1:
                    met.wait(10)


def outcome(work, *given):
    try:
        return work(*given)
    except Crossed as error:
        return error


def test_who_waits_for_one_another_is_told_so_or_tried_again(postgresql):
    engine = open_engine(postgresql(f"crossed_{uuid4().hex[:8]}"))
    people(engine)
    for work, told in ((exchange, 1), (repeated(exchange), 0)):
        met, tries = Barrier(2), []
        with ThreadPoolExecutor(2) as pool:
            ends = [pool.submit(outcome, work, engine, met, *ids, tries) for ids in (("p0", "p1"), ("p1", "p0"))]
            said = [str(end.result()) for end in ends if end.result()]
        assert len(said) == told
        assert all("waited for each other. Nothing of this was written: try again" in each for each in said)
    engine.dispose()


def test_a_connection_that_died_is_made_again_and_one_that_dies_is_told(postgresql):
    where = postgresql(f"lost_{uuid4().hex[:8]}")
    engine, other = open_engine(where), open_engine(where)
    people(engine)
    add_campaign(engine, "c")
    end = text(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
        "WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )
    with writing(other) as connection:
        connection.execute(end)
    assert claim(engine, "c", "p0") is None
    with pytest.raises(UsageError, match=r"does not answer: .* What was acknowledged is kept"):
        die_within(engine, other, end)
    assert claim(engine, "c", "p0") is None
    engine.dispose()
    other.dispose()


def die_within(engine, other, end):
    with writing(engine) as mine:
        with writing(other) as connection:
            connection.execute(end)
        mine.execute(text("SELECT 1"))


def test_a_table_that_is_gone_is_damage(engine):
    people(engine)
    add_campaign(engine, "c")
    with writing(engine) as connection:
        connection.execute(text("DROP TABLE leases"))
        connection.execute(text("DROP TABLE tasks"))
        connection.execute(text("DROP TABLE judgements"))
    for use in (lambda: claim(engine, "c", "p0"), lambda: list(read_judgements(engine))):
        with pytest.raises(UsageError, match=r"is damaged: .* Restore it from a copy"):
            use()


def test_pages_that_were_overwritten_are_damage(tmp_path):
    path = tmp_path / "store.db"
    engine = open_engine(path)
    people(engine)
    of = [item(({"role": "user", "content": f"question {i}" * 50},), kind="demonstration")[0] for i in range(200)]
    add_items(engine, of)
    engine.dispose()
    with closing(sqlite3.connect(path)) as file:
        file.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        root, size = (
            file.execute(question).fetchone()[0]
            for question in ("SELECT rootpage FROM sqlite_master WHERE name = 'items'", "PRAGMA page_size")
        )
    data = bytearray(path.read_bytes())
    data[(root - 1) * size : root * size] = b"\xa5" * size
    path.write_bytes(data)
    engine = open_engine(path, make=False)
    for use in (
        lambda: add_judgements(engine, [Judgement(of[0].id, "p0", Choice((1.0, 0.0)))]),
        lambda: add_items(engine, of),
    ):
        with pytest.raises(UsageError, match=r"store\.db is damaged: database disk image is malformed"):
            use()
    engine.dispose()


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ("judgements.db", "judgements.db"),
        (Path("a@b:c.db"), "a@b:c.db"),
        ("sqlite:///judgements.db", "sqlite:///judgements.db"),
        ("postgresql://host/db", "postgresql://host/db"),
        ("postgresql://bob@host:5432/db", "postgresql://bob@host:5432/db"),
        ("postgresql://bob:hunter2@host:5432/db", "postgresql://bob:***@host:5432/db"),
        ("postgresql://bob:hun@ter/2@host/db", "postgresql://bob:***@host/db"),
        ("postgresql:///db?user=bob&password=hunter2&host=h", "postgresql:///db?user=bob&password=***&host=h"),
        ("postgresql://bob:hunter2@host:port/db", "postgresql://bob:***@host:port/db"),
    ],
)
def test_a_store_is_shown_without_its_password(where, expected):
    assert shown(where) == expected


def test_no_error_tells_a_password():
    for where in (
        "postgresql://bob:hunter2@127.0.0.1:1/db",
        "postgresql://bob:hunter2@host:port/db",
        "mysql://bob:hunter2@host/db",
    ):
        with pytest.raises(UsageError, match=r"bob:\*\*\*@") as refused:
            open_engine(where)
        assert "hunter2" not in str(refused.value)


def test_the_engine_of_a_store_is_shown_as_it_was_said(where):
    engine = open_engine(where)
    assert shown(engine.url).startswith("postgresql:///store_" if is_postgresql(engine) else "/")
    assert shown(engine.url) == (where if not is_postgresql(engine) else shown(engine.url))
    engine.dispose()


def test_a_store_writes_ahead_whoever_opens_it(tmp_path):
    with ThreadPoolExecutor(8) as pool:
        engines = list(pool.map(open_engine, [tmp_path / "store.db"] * 8))
    for engine in (*engines, open_engine(tmp_path / "store.db", make=False)):
        with reading(engine) as connection:
            assert connection.execute(text("PRAGMA journal_mode")).scalar() == "wal"
        engine.dispose()


def names_in(folder):
    """Which of the names stand in any file of a store."""
    data = b"".join(path.read_bytes() for path in folder.iterdir())
    return {i for i in range(80) if f"Zarathustra{i:03}".encode() in data}


def test_who_is_erased_stands_in_no_file_and_the_others_stay(tmp_path):
    """Names of many lengths, erased in an order that makes SQLite join pages."""
    engine = open_engine(tmp_path / "store.db")
    for i in range(80):
        add_annotator(
            engine, f"{i * 37 % 80:03}", name=f"Zarathustra{i:03}" + "x" * 10 * i, contact=f"Zarathustra{i:03}"
        )
    left = set(range(80))
    assert names_in(tmp_path) == left
    for i in sorted(left, key=lambda i: i * 29 % 80)[:60]:
        [id] = annotators_named(engine, f"Zarathustra{i:03}" + "x" * 10 * i)
        assert erase(engine, id)
        left.remove(i)
        assert names_in(tmp_path) == left
    assert not erase(engine, id)
    engine.dispose()


def test_a_reader_who_keeps_a_name_in_the_log_is_told_of(tmp_path, monkeypatch):
    monkeypatch.setattr("preferent.feedback.store.engine.PATIENCE", 0.1)
    engine, other = open_engine(tmp_path / "store.db"), open_engine(tmp_path / "store.db")
    add_annotator(engine, "p1", name="Zarathustra001")
    with reading(other) as connection:
        assert connection.execute(text("SELECT count(*) FROM identities")).scalar() == 1
        with pytest.raises(UsageError, match=r"another program has been reading .* erase this annotator once more"):
            erase(engine, "p1")
    assert judged_by(engine, "p1") == 0
    assert not erase(engine, "p1")
    assert names_in(tmp_path) == set()
    engine.dispose()
    other.dispose()
