"""A PostgreSQL server for the time of some tests."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


def postgresql_programs() -> Path | None:
    """The folder of ``initdb`` and ``pg_ctl``, which Debian keeps out of the path; None where there is none."""
    found = shutil.which("initdb")
    versions = Path("/usr/lib/postgresql").glob("*/bin/initdb")
    newest = sorted(versions, key=lambda path: int(path.parts[-3]))[-1:]
    return Path(found).parent if found else newest[0].parent if newest else None


@contextmanager
def postgresql_server(programs: Path) -> Iterator[Callable[[str], str]]:
    """Start a server of one's own; gives a function that makes an empty database of a name and tells its URL.

    Its files and its only socket are in a new temporary folder, which is removed with it: no port is opened. The server
    refuses to be root's, so root starts it as the user "postgres".
    """
    from sqlalchemy import create_engine, text

    folder = Path(tempfile.mkdtemp(prefix="preferent-pg-"))
    user = "postgres" if os.getuid() == 0 else None
    if user:
        shutil.chown(folder, user)
    server = f"postgresql:///{{}}?host={folder}&user=preferent"

    def call(program: str, *words: str | Path) -> None:
        command = [programs / program, "--pgdata", folder / "data", *words]
        subprocess.run(command, user=user, cwd=folder, check=True, stdout=subprocess.DEVNULL)  # noqa: S603  (no shell)

    def made(name: str) -> str:
        admin = create_engine(server.format("postgres").replace(":", "+psycopg:", 1), isolation_level="AUTOCOMMIT")
        with admin.connect() as connection:
            connection.execute(text(f"CREATE DATABASE {name}"))
        admin.dispose()
        return server.format(name)

    try:
        call("initdb", "--username", "preferent", "--auth", "trust", "--encoding", "UTF8")
        settings = f"-c listen_addresses='' -c unix_socket_directories='{folder}'"
        call("pg_ctl", "--wait", "--log", folder / "log", "--options", settings, "start")
        try:
            yield made
        finally:
            call("pg_ctl", "--wait", "--mode", "immediate", "stop")
    finally:
        shutil.rmtree(folder)
