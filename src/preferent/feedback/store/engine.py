"""Opening a store: a SQLite file, or a PostgreSQL database by its URL; its tables are made or brought up to date.

SQLite writes ahead (WAL), flushes each commit to the disk, and takes the write lock when a transaction begins, so that
many writers wait for one another instead of failing half-way.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import wraps
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from sqlalchemy import URL, Connection, Engine, create_engine, event, inspect, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, DatabaseError, DataError, DBAPIError, InterfaceError, OperationalError

from preferent.config import UsageError

P = ParamSpec("P")
T = TypeVar("T")

HEAD = "0001"  # the newest migration; a test compares
PATIENCE = 60  # seconds to wait for another writer
DRIVERS = {"sqlite": "sqlite", "postgresql": "postgresql+psycopg"}
AGAIN = 3  # times that a transaction is tried which the database ends for the sake of another

FULL = (
    "The disk of the store is full ({said}): nothing of this was written, and all that was acknowledged before is "
    "kept. Make room and try again."
)
BUSY = (
    "Another program has been writing to the store for {patience} seconds, an import perhaps. Nothing of this was "
    "written: try again when it is done, or use PostgreSQL, where writers do not wait for imports."
)
CROSSED = (
    "This and another program wrote to the store {store} what the other had begun to write, and waited for each other. "
    "Nothing of this was written: try again."
)
DAMAGED = "The store {store} is damaged: {said}. Restore it from a copy."
FAILED = (
    "The disk of the store {store} failed ({said}): nothing of this was written. Look whether it is full or broken, "
    "and try again; if the error stays, restore the store from a copy."
)
CLOSED = "The store {store} cannot be written: {said}."
LOST = "The store {store} does not answer: {said}. What was acknowledged is kept; try again when it can be reached."
UNFIT = "The store {store} cannot hold such a value: {said}."
SENTENCES = {  # by the databases' own codes
    "SQLITE_FULL": FULL,
    "53100": FULL,
    "SQLITE_BUSY": BUSY,  # "database is locked"
    "40P01": CROSSED,  # a deadlock
    "SQLITE_READONLY": CLOSED,
    "SQLITE_CORRUPT": DAMAGED,
    "SQLITE_NOTADB": DAMAGED,
    "SQLITE_IOERR": FAILED,
    "42P01": DAMAGED,  # a table is missing
    "42703": DAMAGED,  # a column is missing
    "42P07": DAMAGED,  # a table is there that should not be
    "58030": FAILED,
    "58P01": DAMAGED,  # a file is missing
    "XX001": DAMAGED,
    "XX002": DAMAGED,
}


class Crossed(UsageError):
    """The database ended this transaction, since it and another waited for each other; nothing of it was written."""


def open_engine(where: str | Path, *, make: bool = True) -> Engine:
    """A store by path or URL. Raises UsageError where it cannot be opened, is missing, or is of a newer version."""
    url, sqlite = url_of(where)
    if sqlite and not make and not Path(url.database or "").is_file():
        raise UsageError(
            f"There is no store at {shown(where)}. Expected a SQLite file, or a URL such as postgresql://host/db."
        )
    # A connection that waited may have died meanwhile; asking first is cheap, and a file does not die.
    engine = create_engine(url, connect_args={"timeout": PATIENCE} if sqlite else {}, pool_pre_ping=not sqlite)
    if sqlite:
        event.listen(engine, "connect", prepared)
        event.listen(engine, "begin", begun)
    with ExitStack() as undone:
        undone.callback(engine.dispose)
        try:
            migrate(engine, shown(where), make=make)
        except OperationalError as error:
            raise UsageError(f"The store {shown(where)} cannot be opened: {error.orig}") from error
        except DatabaseError as error:
            raise UsageError(
                f"{shown(where)} is no store, or a damaged one: {error.orig}. Restore it from a copy."
            ) from error
        undone.pop_all()
    return engine


def url_of(where: str | Path) -> tuple[URL, bool]:
    """Where the database is, and whether that is a SQLite file. Raises UsageError for another kind of database."""
    if "://" not in str(where):
        return URL.create("sqlite", database=str(where)), True
    try:
        url = make_url(str(where))
        driver = DRIVERS[url.get_backend_name()]
    except (ArgumentError, ValueError, KeyError) as error:
        raise UsageError(
            f"{shown(where)} is no store: expected the path of a SQLite file, or a URL: sqlite:///path, or "
            "postgresql://user:password@host:port/database."
        ) from error
    return url.set(drivername=driver), driver == "sqlite"


def shown(where: str | Path | URL) -> str:
    """A store's path or URL as it may stand on a screen: without its password."""
    if isinstance(where, URL):
        if where.get_backend_name() == "sqlite":
            return where.database or ""
        where = where.set(drivername=where.get_backend_name()).render_as_string(hide_password=False)
    if "://" not in str(where):
        return str(where)
    # By pattern, for it may be no URL at all, and up to the last @, which may stand in a password.
    hidden = re.sub(r"(://[^:/@]*:).*@", r"\1***@", str(where))
    return re.sub(r"(password=)[^&]*", r"\1***", hidden)


def prepared(connection: Any, _: Any) -> None:
    connection.isolation_level = None  # BEGIN is ours to say
    for pragma in ("synchronous = FULL", "foreign_keys = ON", "secure_delete = ON"):  # none of them writes to the file
        connection.execute(f"PRAGMA {pragma}")


def begun(connection: Connection) -> None:
    options = connection.get_execution_options()
    if not options.get("outside", False):
        connection.exec_driver_sql("BEGIN" if options.get("reads", False) else "BEGIN IMMEDIATE")


@contextmanager
def reading(engine: Engine) -> Iterator[Connection]:
    """A transaction that only reads, and sees one moment of the store throughout; rows come in batches."""
    settings: dict[str, Any] = {"reads": True, "yield_per": 5000}
    if is_postgresql(engine):
        settings |= {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True}
    with translated(engine), engine.connect().execution_options(**settings) as connection, connection.begin():
        yield connection


@contextmanager
def writing(engine: Engine) -> Iterator[Connection]:
    """A transaction that writes: all of it, or nothing. Raises UsageError where the disk is full, or it can't begin."""
    with translated(engine), engine.begin() as connection:
        yield connection


@contextmanager
def translated(engine: Engine) -> Iterator[None]:
    """The database's errors that somebody can mend become UsageErrors; others stay as they are."""
    try:
        yield
    except DBAPIError as error:
        sentence = told(engine, error)
        if sentence is None:
            raise
        raise sentence from error


def told(engine: Engine, error: DBAPIError) -> UsageError | None:
    """What the database says, in a sentence; None where only a programmer can mend it."""
    said, place = str(error.orig).partition("\n")[0].rstrip("."), shown(engine.url)
    sqlite, postgresql = getattr(error.orig, "sqlite_errorname", ""), getattr(error.orig, "sqlstate", None) or ""
    code = postgresql or "_".join(sqlite.split("_")[:2])  # SQLITE_CORRUPT_INDEX is a kind of SQLITE_CORRUPT
    lost = error.connection_invalidated or (
        is_postgresql(engine) and isinstance(error, OperationalError | InterfaceError)
    )
    missing = re.match("no such (table|column|index)|table .* already exists|malformed|Could not decode", said)
    other = LOST if lost else UNFIT if isinstance(error, DataError) else DAMAGED if missing else None
    sentence = SENTENCES.get(code, other)
    if sentence is None:
        return None
    made = Crossed if sentence is CROSSED else UsageError
    return made(sentence.format(store=place, said=said, patience=PATIENCE))


def repeated(work: Callable[P, T]) -> Callable[P, T]:
    """Do it again where it crossed another. An argument must not be an iterator, which would be empty then."""

    @wraps(work)
    def tried(*args: P.args, **kwargs: P.kwargs) -> T:
        for _ in range(AGAIN - 1):
            try:
                return work(*args, **kwargs)
            except Crossed:
                continue
        return work(*args, **kwargs)

    return tried


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
    if not is_postgresql(engine):
        pragma(engine, "journal_mode = WAL")  # the file keeps it
    with writing(engine) as connection:
        alone(connection, "preferent store")
        if version(connection) != HEAD:  # somebody else may have been quicker
            config.attributes["connection"] = connection
            command.upgrade(config, HEAD)


def pragma(engine: Engine, statement: str) -> Any:
    """The first row of what SQLite answers, outside of any transaction."""
    with translated(engine), engine.connect().execution_options(outside=True) as connection:
        return connection.exec_driver_sql(f"PRAGMA {statement}").first()


def version(connection: Connection) -> str | None:
    """The last migration that the store has seen; None for an empty one."""
    if not inspect(connection).has_table("alembic_version"):
        return None
    return connection.execute(text("SELECT version_num FROM alembic_version")).scalar()
