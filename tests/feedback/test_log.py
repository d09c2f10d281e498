"""What was written is sealed as one goes, and verifying a store names what is wrong with it, whatever that is."""

import re
import sqlite3
import threading
from contextlib import closing

import pytest
from sqlalchemy import func, select

from preferent.cli import main
from preferent.feedback.records import Choice, Judgement, item
from preferent.feedback.store import open_engine
from preferent.feedback.store.engine import alone, writing
from preferent.feedback.store.log import OPEN, SEALING, chain, happened, seal, seal_when, verify
from preferent.feedback.store.store import (
    add_annotator,
    add_campaign,
    add_items,
    add_judgements,
    erase,
)
from preferent.feedback.store.tables import seals


def said(text):
    return ({"role": "assistant", "content": text},)


ITEMS = [item(({"role": "user", "content": f"question {i}"},), [said("a"), said("b")])[0] for i in range(3)]


def fill(engine):
    """3 items, 3 judgements, an annotator and a campaign: 8 events."""
    add_annotator(engine, "p1", name="Ada")
    add_campaign(engine, "c", overlap=2, lease=900, guideline="Prefer the true one.")
    add_items(engine, ITEMS)
    add_judgements(engine, [Judgement(each.id, "p1", Choice((1.0, 0.0)), (1, 0), 2, id=each.id) for each in ITEMS])


@pytest.fixture
def store(tmp_path):
    """A filled SQLite store, closed."""
    engine = open_engine(tmp_path / "store.db")
    fill(engine)
    engine.dispose()
    return tmp_path / "store.db"


def change(store, *statements):
    """As somebody would with the program sqlite3."""
    with closing(sqlite3.connect(store)) as connection, connection:
        for statement in statements:
            connection.execute(statement)


def write(connection, n):
    happened(connection, "test", [(f"{i}", "f00") for i in range(n)])


# --- seals ---------------------------------------------------------------------------------------
def test_events_are_sealed_as_one_goes(engine):
    for _ in range(25):
        with writing(engine) as connection:
            write(connection, OPEN // 10)
    found = verify(engine)
    assert (found.sealed, found.unsealed) == (2 * OPEN, OPEN // 2)
    assert [fault for fault in found.faults if "seal" in fault] == []
    assert len(chain(engine)) == 2
    assert found.head == chain(engine)[-1]


def test_a_seal_that_was_not_committed_leaves_its_events_open(engine):
    with engine.connect() as connection:  # closed without a commit
        write(connection, OPEN)
        assert connection.execute(select(func.count()).select_from(seals)).scalar() == 1
    assert chain(engine) == []
    with writing(engine) as connection:
        write(connection, OPEN)
    assert verify(engine).sealed == OPEN


def test_who_writes_does_not_wait_for_who_seals(where, engine):
    """On SQLite there is one writer anyway; on PostgreSQL the one who comes second leaves the sealing to the first."""
    if "postgresql" not in where:
        pytest.skip("SQLite has one writer")
    with writing(engine) as first:
        alone(first, SEALING)
        other = threading.Thread(target=lambda: filled_up(engine))
        other.start()
        other.join(timeout=20)
        assert not other.is_alive()
    assert verify(engine).unsealed == OPEN
    with writing(engine) as connection:
        seal_when(connection)
    assert verify(engine).unsealed == 0


def filled_up(engine):
    with writing(engine) as connection:
        write(connection, OPEN)


def test_events_under_a_seal_that_is_gone_are_missed(store):
    engine = open_engine(store)
    seal(engine)
    change(store, "DELETE FROM seals")
    assert verify(engine).faults == ("8 events are under a seal that is gone.",)
    engine.dispose()


# --- what is wrong -------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("statement", "fault"),
    [
        ("UPDATE judgements SET answer = 'garbage' WHERE number = 2", "judgement .* is damaged"),
        ("UPDATE judgements SET answer = '{\"a\": NaN}' WHERE number = 2", "judgement .* is damaged"),
        ("UPDATE judgements SET answer = replace(hex(zeroblob(50000)), '0', '[')", "judgement .* is damaged"),
        ("UPDATE judgements SET seconds = 9e999 WHERE number = 2", "judgement .* is damaged"),
        ("UPDATE judgements SET note = x'ff' WHERE number = 2", "judgement .* is damaged"),
        ("UPDATE judgements SET note = cast(x'ff' AS TEXT) WHERE number = 2", "judgement .* is damaged"),
        ("UPDATE judgements SET answer = cast(x'ff' AS TEXT) WHERE number = 2", "judgement .* is damaged"),
        ("UPDATE events SET of = cast(x'ff' AS TEXT) WHERE number = 8", "judgement .* is not in the log"),
        ("UPDATE items SET context = '' WHERE kind = 'comparison'", "item .* is damaged"),
        ("UPDATE judgements SET seconds = 'long' WHERE number = 2", "judgement .* was changed"),
        ("UPDATE annotators SET kind = 'gold'", "annotator p1 was changed"),
        ("UPDATE campaigns SET overlap = 9", "campaign c was changed"),
        ("UPDATE guidelines SET text = 'x'", "guideline .* was changed"),
        ("UPDATE guidelines SET text = x'ff'", "guideline .* was changed"),
        ("DELETE FROM guidelines", "guideline .* of campaign c is gone"),
        ("DELETE FROM campaigns", "campaign c is gone"),
        ("DELETE FROM annotators", "annotator p1 is gone"),
        ("INSERT INTO annotators VALUES ('p2', 'person', '')", "annotator p2 is not in the log"),
    ],
)
def test_what_is_wrong_is_named_and_nothing_is_sealed_over_it(store, statement, fault, capsys):
    change(store, statement)
    assert main(["data", "verify", str(store)]) == 1
    printed = capsys.readouterr().out
    assert re.search(f"FAULT +{fault}", printed), printed
    assert "last seal   none yet" in printed


@pytest.mark.parametrize("table", ["judgements", "events", "seals", "guidelines", None])
def test_a_store_that_cannot_be_read_at_all_is_called_damaged(store, table, capsys):
    if table:
        change(store, f"DROP TABLE {table}")
    else:
        content = store.read_bytes()
        store.write_bytes(content[:8192] + b"\xa5" * (len(content) - 8192))
    assert main(["data", "verify", str(store)]) == 2
    assert re.search(r"damaged.* Restore it from a copy", capsys.readouterr().err)


def test_an_erasure_explains_a_missing_name_and_no_more(store):
    engine = open_engine(store)
    erase(engine, "p1")
    assert verify(engine).faults == ()
    change(store, "DELETE FROM annotators")
    assert verify(engine).faults == ("annotator p1 is gone.",)
    engine.dispose()


def test_a_number_that_was_given_whole_comes_back_from_the_database_as_it_was(engine):
    fill(engine)
    assert verify(engine).faults == ()


# --- the command ---------------------------------------------------------------------------------
def test_what_was_not_under_seal_is_not_vouched_for(store, capsys):
    """A judgement taken out together with its event leaves no trace while the event is open; afterwards it does."""
    change(store, "DELETE FROM judgements WHERE number = 2", "DELETE FROM events WHERE number = 7")
    assert main(["data", "verify", str(store)]) == 0
    printed = capsys.readouterr().out
    assert "0 events under seal, 7 open until now" in printed
    assert "whether there were others before, nobody can say" in printed
    assert main(["data", "verify", str(store)]) == 0
    assert "7 events under seal, 0 open until now" in (printed := capsys.readouterr().out)
    assert "Nothing was changed since it was written." in printed
    change(store, "DELETE FROM judgements WHERE number = 3", "DELETE FROM events WHERE number = 8")
    assert main(["data", "verify", str(store)]) == 1
    assert "seal 1 is broken: of 7 events, 6 are there" in capsys.readouterr().out


def test_a_seal_that_was_written_down_shows_that_the_whole_log_was_written_anew(store, capsys):
    assert main(["data", "verify", str(store)]) == 0
    written_down = re.search("last seal +([0-9a-f]{64})", capsys.readouterr().out).group(1)
    assert main(["data", "verify", str(store), "--seal", written_down]) == 0
    assert "asked for   seal 1 of 1, found" in capsys.readouterr().out
    change(store, "UPDATE events SET seal = NULL", "DELETE FROM seals")
    change(store, "DELETE FROM judgements WHERE number = 2", "DELETE FROM events WHERE number = 7")
    assert main(["data", "verify", str(store)]) == 0
    capsys.readouterr()
    assert main(["data", "verify", str(store), "--seal", written_down]) == 1
    assert f"{written_down} is not in the chain" in capsys.readouterr().out
