"""The page: sections in the order in which a reader asks, and the template around them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

import jinja2

from preferent import __version__
from preferent.pictures import STYLE
from preferent.report import costs, crowd, curves, judgement, outcomes
from preferent.report.reading import Found, Run
from preferent.report.section import Places, Section

GENERATOR = "preferent report"  # in the page's head: what may be written over
BUILDERS: Sequence[Callable[[Found, Places], Section]] = (
    outcomes.what_was_run,
    outcomes.before_and_after,
    outcomes.how_good,
    curves.against_distance,
    curves.what_replies_look_like,
    curves.how_training_went,
    judgement.reward_models,
    crowd.crowd,
    costs.cost,
    costs.again,
)


def page(all_: Found, *, title: str = "", now: datetime | None = None) -> str:
    """The whole page as HTML that needs nothing else: no network, no script, no font."""
    places = coloured(all_.runs)
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    written = (now or datetime.now(UTC)).strftime("%Y-%m-%d %H:%M UTC")
    return environment.get_template("page.html").render(
        title=title or heading(all_.runs),
        generator=GENERATOR,
        version=__version__,
        written=written,
        style=STYLE,
        figures=[*outcomes.in_short(all_), *judgement.in_short(all_), *costs.in_short(all_)],
        sections=[build(all_, places) for build in BUILDERS],
        damaged=[why for _, why in all_.damaged],
    )


def coloured(runs: Sequence[Run]) -> dict[str, int]:
    """The place of each run's colour, the same in every picture: policies first, which most pictures compare."""
    return {run.name: place for place, run in enumerate(sorted(runs, key=lambda run: run.kind == "reward"))}


def heading(runs: Sequence[Run]) -> str:
    """The runs by name, as far as a heading holds them."""
    names = [run.name for run in runs]
    if not names:
        return "Evaluation"
    within = {run.folder.resolve().parent.name for run in runs}
    where = f"{within.pop()}: " if len(within) == 1 and len(names) > 1 else ""
    return where + (", ".join(names) if len(names) <= 6 else f"{', '.join(names[:5])} and {len(names) - 5} more")
