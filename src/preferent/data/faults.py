"""Rows left out: counted by fault, and listed in a file of their own so that somebody can mend them."""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from preferent.data.rows import SUFFIXES, BadRow


@dataclass
class BadRows:
    """What could not be used of one source. ``write`` puts it into ``<label>.bad.jsonl``."""

    label: str
    found: list[BadRow] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.found)

    @property
    def by_fault(self) -> Mapping[str, int]:
        """Commonest first."""
        return dict(Counter(bad.fault for bad in self.found).most_common())

    def write(self, folder: str | Path) -> Path:
        """Line, reason and raw text of each, in a file of this folder: whole or not at all."""
        target = Path(folder) / f"{self.label}.bad.jsonl"
        lines = [json.dumps({"source": b.source, b.unit: b.line, "reason": b.reason, "raw": b.raw}) for b in self.found]
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_name(f".{target.name}.partial")
        with partial.open("w", encoding="utf-8") as file:
            file.writelines(line + "\n" for line in lines)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(target)
        return target


def plain_name(source: str) -> str:
    """``data/prefs.jsonl.gz`` → ``prefs``, ``owner/name:split`` → ``name-split``."""
    name = source.rstrip("/").split("/")[-1].removesuffix(".gz")
    for suffix in SUFFIXES:
        name = name.removesuffix(suffix)
    return re.sub(r"[^\w.-]+", "-", name) or "rows"
