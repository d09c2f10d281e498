"""Opening a store: a SQLite file, or a PostgreSQL database by its URL; its tables are made or brought up to date.

SQLite writes ahead (WAL), flushes each commit to the disk, and takes the write lock when a transaction begins, so that
many writers wait for one another instead of failing half-way.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event, inspect, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, DatabaseError, OperationalError

from preferent.config import UsageError

HEAD = "0001"  # the newest migration; a test compares
PATIENCE = 60  # seconds to wait for another writer


def open_engine(where: str | Path, *, make: bool = True) -> Engine:
    """A store by path or URL. Raises UsageError where it cannot be opened, is missing, or is of a newer version."""
    url = str(where)
    if "://" not in url:
        if not make and not Path(url).is_file():
            raise UsageError(
                f"There is no store at {url}. Expected a SQLite file, or a URL such as postgresql://host/db."
            )
        url = f"sqlite:///{url}"
    url = url.replace("postgresql://", "postgresql+psycopg://", 1)
    try:
        sqlite = make_url(url).get_backend_name() == "sqlite"
        engine = create_engine(url, connect_args={"timeout": PATIENCE} if sqlite else {})
    except ArgumentError as error:
        raise UsageError(f"{where} is no store: expected a file, or a URL such as postgresql://host/db.") from error
    if sqlite:
        event.listen(engine, "connect", prepared)
        event.listen(engine, "begin", begun)
    with ExitStack() as undone:
        undone.callback(engine.dispose)
        try:
            migrate(engine, str(where), make=make)
        except OperationalError as error:
            raise UsageError(f"The store {where} cannot be opened: {error.orig}") from error
        except DatabaseError as error:
            raise UsageError(f"{where} is no store, or a damaged one: {error.orig}. Restore it from a copy.") from error
        undone.pop_all()
    return engine


def prepared(connection: Any, _: Any) -> None:
    connection.isolation_level = None  # BEGIN is ours to say
    for pragma in ("journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON"):
        connection.execute(f"PRAGMA {pragma}")


def begun(connection: Connection) -> None:
    reads = connection.get_execution_options().get("reads", False)
    connection.exec_driver_sql("BEGIN" if reads else "BEGIN IMMEDIATE")


@contextmanager
def reading(engine: Engine) -> Iterator[Connection]:
    """A transaction that only reads, and sees one moment of the store throughout; rows come in batches."""
    settings = {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True} if is_postgresql(engine) else {}
    with engine.connect().execution_options(reads=True, yield_per=5000, **settings) as connection, connection.begin():
        yield connection


@contextmanager
def writing(engine: Engine) -> Iterator[Connection]:
    """A transaction that writes: all of it, or nothing. Raises UsageError where the disk is full, or it can't begin."""
    try:
        with engine.begin() as connection:
            yield connection
    except OperationalError as error:
        if "full" in str(error.orig) or "No space left" in str(error.orig):
            raise UsageError(
                f"The disk of the store is full ({error.orig}): nothing of this was written, and all that was "
                "acknowledged before is kept. Make room and try again."
            ) from error
        if "locked" in str(error.orig):
            raise UsageError(
                f"Another program has been writing to the store for {PATIENCE} seconds, an import perhaps. Nothing of "
                "this was written: try again when it is done, or use PostgreSQL, where writers do not wait for imports."
            ) from error
        raise


def is_postgresql(engine: Engine) -> bool:
    return engine.dialect.name == "postgresql"


def alone(connection: Connection, doing: str) -> None:
    """Let only one transaction at a time do this. SQLite has one writer anyway."""
    if is_postgresql(connection.engine):
        connection.execute(text("SELECT pg_advisory_xact_lock(hashtext(:doing))"), {"doing": doing})


def migrate(engine: Engine, where: str, *, make: bool) -> None:
    """Make the tables, or bring them up to this version's.

    Raises UsageError where the store is of a newer version, and where there is none yet and none is to be made.
    """
    with engine.connect().execution_options(reads=True) as connection, connection.begin():
        found = version(connection)
    if found == HEAD:
        return
    if found is None and not make:
        raise UsageError(f"{where} is a database, and holds no store of judgements. Nothing was touched.")
    if found is not None and found > HEAD:
        raise UsageError(
            f"The store {where} is of a newer version ({found}; this program knows up to {HEAD}). Nothing was touched. "
            "Bring the program up to date: pip install --upgrade preferent"
        )
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", "preferent.feedback.store:migrations")
    with writing(engine) as connection:
        alone(connection, "preferent store")
        if version(connection) != HEAD:  # somebody else may have been quicker
            config.attributes["connection"] = connection
            command.upgrade(config, HEAD)


def version(connection: Connection) -> str | None:
    """The last migration that the store has seen; None for an empty one."""
    if not inspect(connection).has_table("alembic_version"):
        return None
    return connection.execute(text("SELECT version_num FROM alembic_version")).scalar()
