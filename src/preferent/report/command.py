"""``preferent report``: one page about runs."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

from preferent.config import UsageError

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Options:
    """Write one page that tells of runs and compares them.

    One HTML file that needs nothing else: what was run, replies before and after, win rates, reward and truth against
    √KL, the reward model's calibration and what it over-values, the crowd, the cost, and the commands to run it again.
    A folder of runs stands for the runs in it; evaluations (`preferent evaluate --out`) may be named as well.

    Examples:
        preferent report runs/*
        preferent report runs/ppo runs/grpo evaluation.json --out compared.html
    """

    positional: ClassVar[str] = "runs"
    runs: Annotated[tuple[str, ...], "run folders, folders of runs, and JSON files of evaluations"]
    out: Annotated[Path | None, "HTML file that is written; none: report.html in the folder that holds the runs"] = None
    title: Annotated[str, "heading of the page; none given: the names of the runs"] = ""
    force: Annotated[bool, "write over a file that is no report"] = False


def run(options: Options) -> None:
    """Read everything, then write the page."""
    from preferent.report.page import page
    from preferent.report.reading import found
    from preferent.runtime import files

    paths = [Path(name).expanduser() for name in options.runs]
    out = options.out or default_out(paths)
    refuse_overwriting(out, force=options.force)
    all_ = found(paths)
    for _, why in all_.damaged:
        log.warning("Left out as damaged: %s", why)
    files.make_folder(out.parent)
    with files.replaced(out) as partial:
        partial.write_bytes(page(all_, title=options.title).encode("utf-8", errors="replace"))
    log.info("%d run%s. The page is %s.", len(all_.runs), "s" * (len(all_.runs) != 1), out)


def default_out(paths: list[Path]) -> Path:
    """``report.html`` in the one folder that was named, or in the one that holds all that was."""
    if len(paths) == 1 and paths[0].is_dir():
        return paths[0] / "report.html"
    return Path(os.path.commonpath([path.resolve().parent for path in paths])) / "report.html"


def refuse_overwriting(out: Path, *, force: bool) -> None:
    """A report may be written over by its successor; anything else only with --force."""
    from preferent.report.page import GENERATOR

    if out.is_dir():
        raise UsageError(f"{out} is a folder; expected an HTML file to write: --out {out / 'report.html'}.")
    if force or not out.exists():
        return
    if f'content="{GENERATOR}' not in out.read_text(encoding="utf-8", errors="replace")[:2000]:
        raise UsageError(f"{out} exists and is no report: choose another --out, or write over it with --force.")
