"""What ``--dry-run`` shows."""

from __future__ import annotations

from typing import Any


def show(options: Any, models: Any, rows: Any, *, updates: int) -> None:
    """Resolved plan."""
