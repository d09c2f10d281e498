"""Who compares what a policy says: a reward, people who answer in a store, or the policy itself."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

from annotated_types import Gt

from preferent.config import UsageError, Waiting
from preferent.stages.online import RewardOptions

if TYPE_CHECKING:
    from preferent.rewards.annotating import Rewarded
    from preferent.rewards.people import People
    from preferent.runtime.run import Run
    from preferent.types import Reward

NOBODY = "Somebody has to compare the replies: --reward, or people who answer in a store, --annotator."


@dataclass(frozen=True, kw_only=True)
class JudgeOptions(RewardOptions):
    """Who compares the replies."""

    reward: Annotated[
        tuple[str, ...],
        "a reward model's folder or Hub name, or file.py:function, which judges; with --annotator it is only watched",
    ] = ()
    annotator: Annotated[
        str | None, "people who judge through a store: its SQLite file, or a URL such as postgresql://host/db"
    ] = None
    campaign: Annotated[str | None, "what the questions are filed under in the store; none: the name of --out"] = None
    overlap: Annotated[int, "with --annotator: opinions on each pair", Gt(0)] = 1
    labels: Annotated[
        Literal["hard", "soft"], "a reward's answers: the higher score wins, or σ of the difference of the scores"
    ] = "hard"


def refuse_nobody(judge: JudgeOptions) -> None:
    """Raise UsageError where nobody compares."""
    if not judge.reward and judge.annotator is None:
        raise UsageError(NOBODY)


def annotator_of(judge: JudgeOptions, reward: Reward | None, run: Run) -> Rewarded | People:
    """Who compares: people where a store is named, whose judgements the run notes, else the reward."""
    from preferent.feedback.asking import Campaign
    from preferent.feedback.store import open_engine
    from preferent.rewards.annotating import Rewarded, hard, soft
    from preferent.rewards.people import People

    if judge.annotator is not None:
        engine, campaign = open_engine(judge.annotator), judge.campaign or run.folder.resolve().name
        return People(Campaign(engine, campaign, overlap=judge.overlap), run.note)
    if reward is None:
        raise UsageError(NOBODY)
    return Rewarded(reward, soft if judge.labels == "soft" else hard, ", ".join(judge.reward) or "itself")


@contextmanager
def waiting(judge: JudgeOptions) -> Iterator[None]:
    """Raise Waiting where people have not answered: what is missing, and how to go on."""
    from preferent.feedback.asking import Unanswered

    try:
        yield
    except Unanswered as error:
        raise Waiting(
            f"{error.asked - error.missing} of {error.asked} questions of this step are answered in "
            f"{judge.annotator}; {error.missing} wait. The same command with --resume goes on once they are."
        ) from error
