"""Where judgements are kept: a SQLite file or a PostgreSQL database, append-only, with a queue and a sealed log."""

from preferent.feedback.store.engine import open_engine, reading, writing

__all__ = ["open_engine", "reading", "writing"]
