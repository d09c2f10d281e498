"""Stores to test on: a SQLite file, and a PostgreSQL server of the tests' own, on a socket in a temporary folder."""

import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from uuid import uuid4

import pytest
from sqlalchemy import create_engine, text

from preferent.feedback.store import open_engine


def postgresql_programs():
    """The folder of initdb and pg_ctl; None where PostgreSQL is not installed."""
    found = shutil.which("initdb")
    debian = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    return Path(found).parent if found else debian[-1].parent if debian else None


@pytest.fixture(scope="session")
def postgresql():
    """The URL of a server, without the database's name; it is stopped and removed at the end."""
    programs = postgresql_programs()
    if programs is None:
        pytest.skip("PostgreSQL is not installed (Debian: apt-get install postgresql)")
    folder = Path(tempfile.mkdtemp(prefix="preferent-pg-"))
    user = "postgres" if os.getuid() == 0 else None  # the server refuses to be root's
    if user:
        shutil.chown(folder, user)

    def run(program, *words):
        subprocess.run([programs / program, *words], user=user, cwd=folder, check=True, stdout=subprocess.DEVNULL)

    run("initdb", "--pgdata", folder / "data", "--username", "preferent", "--auth", "trust", "--encoding", "UTF8")
    settings = f"-c listen_addresses='' -c unix_socket_directories='{folder}' -c max_connections=60"
    run("pg_ctl", "--pgdata", folder / "data", "--wait", "--log", folder / "log", "--options", settings, "start")
    yield f"postgresql:///{{}}?host={folder}&user=preferent"
    run("pg_ctl", "--pgdata", folder / "data", "--wait", "--mode", "immediate", "stop")
    shutil.rmtree(folder)


@pytest.fixture(params=["sqlite", "postgresql"])
def where(request, tmp_path):
    """Where a new store can be made: a path, or a URL."""
    if request.param == "sqlite":
        return str(tmp_path / "store.db")
    server, name = request.getfixturevalue("postgresql"), f"store_{uuid4().hex[:12]}"
    admin = create_engine(server.format("postgres").replace("postgresql:", "postgresql+psycopg:"))
    with admin.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text(f"CREATE DATABASE {name}"))
    admin.dispose()
    return server.format(name)


@pytest.fixture
def engine(where):
    """A new, empty store."""
    opened = open_engine(where)
    yield opened
    opened.dispose()
