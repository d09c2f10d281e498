"""What tests ask for by name: models, stores to test on, the real data sets."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from preferent.feedback.store import open_engine
from preferent.testing.postgresql import postgresql_programs, postgresql_server
from tiny_models import tiny

os.environ["PREFERENT_CACHE"] = "off"  # the cache of whoever runs the tests is theirs
os.environ.pop("PREFERENT_WORKERS", None)


@pytest.fixture
def tiny_model() -> Callable[..., Any]:
    return tiny


@pytest.fixture
def real_data() -> Path:
    folder = os.environ.get("PREFERENT_TEST_DATA")
    if not folder:
        pytest.skip("PREFERENT_TEST_DATA names no folder with the real data sets")
    return Path(folder)


@pytest.fixture(scope="session")
def postgresql():
    """Makes an empty database on a server that runs as long as the tests."""
    programs = postgresql_programs()
    if programs is None:
        pytest.skip("PostgreSQL is not installed (Debian: apt-get install postgresql)")
    with postgresql_server(programs) as made:
        yield made


@pytest.fixture(params=["sqlite", "postgresql"])
def where(request, tmp_path):
    """Where a new store can be made: a path, or a URL."""
    if request.param == "sqlite":
        return str(tmp_path / "store.db")
    return request.getfixturevalue("postgresql")(f"store_{uuid4().hex[:12]}")


@pytest.fixture
def engine(where):
    """A new, empty store."""
    opened = open_engine(where)
    yield opened
    opened.dispose()
