"""Who compares what a policy says: a reward, people who answer in a store, or the policy itself."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

from annotated_types import Gt

from preferent.config import UsageError, Waiting, did_you_mean
from preferent.stages.online import RewardOptions
from preferent.stages.rounds import PEOPLE, write_asked

if TYPE_CHECKING:
    from preferent.rewards.annotating import Rewarded
    from preferent.rewards.people import People
    from preferent.runtime.run import Run
    from preferent.types import Reward

NOBODY = "Somebody has to compare the replies: --reward, or people who answer in a store, --annotator people."


@dataclass(frozen=True, kw_only=True)
class JudgeOptions(RewardOptions):
    """Who compares the replies."""

    reward: Annotated[
        tuple[str, ...],
        "a reward model's folder or Hub name, or file.py:function, which judges; where people do, it is only watched",
    ] = ()
    annotator: Annotated[str | None, "people: they judge, through a store; none: the reward does"] = None
    store: Annotated[
        str | None,
        "with --annotator people: SQLite file or postgresql://host/db of judgements; none: judgements.db in --out",
    ] = None
    campaign: Annotated[str | None, "what the questions are filed under in the store; none: the name of --out"] = None
    overlap: Annotated[int, "with --annotator people: opinions on each pair", Gt(0)] = 1
    labels: Annotated[
        Literal["hard", "soft"], "a reward's answers: the higher score wins, or σ of the difference of the scores"
    ] = "hard"


def refuse_nobody(judge: JudgeOptions) -> None:
    """Raise UsageError where nobody compares, or where words speak of people and none are asked."""
    from preferent.feedback.store.engine import shown

    if judge.annotator not in (None, PEOPLE):
        raise UsageError(
            f'--annotator {shown(judge.annotator)}: expected "{PEOPLE}"'
            f"{did_you_mean(judge.annotator, {PEOPLE: ''})}. The store that they answer in is --store; a reward model "
            "or a function judges as --reward."
        )
    if judge.annotator is None and (judge.store or judge.campaign):
        word = "--store" if judge.store else "--campaign"
        raise UsageError(f"{word} says where people answer: it needs --annotator {PEOPLE}.")
    if not judge.reward and judge.annotator is None:
        raise UsageError(NOBODY)


def store_of(judge: JudgeOptions, run: Run) -> str:
    """Where people answer."""
    return judge.store or str(run.folder / "judgements.db")


def campaign_of(judge: JudgeOptions, run: Run) -> str:
    """What their questions are filed under."""
    return judge.campaign or run.folder.resolve().name


def annotator_of(judge: JudgeOptions, reward: Reward | None, run: Run) -> Rewarded | People:
    """Who compares: people where they are named, whose judgements the run notes, else the reward."""
    from preferent.feedback.asking import Campaign
    from preferent.feedback.store import open_engine
    from preferent.rewards.annotating import Rewarded, hard, soft
    from preferent.rewards.people import People

    if judge.annotator is not None:
        campaign = Campaign(open_engine(store_of(judge, run)), campaign_of(judge, run), overlap=judge.overlap)
        return People(campaign, run.note)
    if reward is None:
        raise UsageError(NOBODY)
    return Rewarded(reward, soft if judge.labels == "soft" else hard, ", ".join(judge.reward) or "itself")


@contextmanager
def waiting(judge: JudgeOptions, run: Run) -> Iterator[None]:
    """Raise Waiting where people have not answered: what is missing, and how to go on. The run's folder has the rest.

    That is ``asked.jsonl``, what the step asks.
    """
    from preferent.feedback.asking import Unanswered
    from preferent.feedback.store.engine import shown

    try:
        yield
    except Unanswered as error:
        asked = run.folder / "asked.jsonl"
        write_asked(asked, error.items)
        raise Waiting(
            f"{error.asked - error.missing} of {error.asked} questions of this step are answered in the campaign "
            f'"{campaign_of(judge, run)}" in {shown(store_of(judge, run))}; {error.missing} wait. They are listed in '
            f"{asked}; `preferent data import` takes answers that were given elsewhere.\n"
            "The same command with --resume goes on when all are there."
        ) from error
