"""The shared groups fit together, and no best checkpoint is kept in the wrong direction."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Annotated

import pytest

from preferent.config import UsageError, build, group, words
from preferent.stages import options as shared

GROUPS = (shared.ModelOptions, shared.DataOptions, shared.OptimiserOptions, shared.RunOptions, shared.SamplingOptions)


@dataclass(frozen=True, kw_only=True)
class All:
    """A command that takes every group."""

    beta: Annotated[float, "a number of its own"] = 0.1
    model: shared.ModelOptions
    data: shared.DataOptions
    optimiser: shared.OptimiserOptions = group(shared.OptimiserOptions)
    run: shared.RunOptions = group(shared.RunOptions)
    sampling: shared.SamplingOptions = group(shared.SamplingOptions)


def test_a_command_may_take_all_groups_and_needs_three_words():
    assert [word.name for word in words(All) if word.required] == ["model", "data", "out"]
    built = build(All, {"model": "m", "data": ["a.jsonl", "b.jsonl=0.3"], "out": "runs/x"})
    assert built.data.data == ("a.jsonl", "b.jsonl=0.3")


@pytest.mark.parametrize("cls", GROUPS)
def test_a_group_stays_small(cls):
    assert len(fields(cls)) <= 15


@pytest.mark.parametrize(
    ("said", "metric", "direction"),
    [
        ("eval/loss", "eval/loss", "min"),
        ("nll", "nll", "min"),
        ("eval/accuracy", "eval/accuracy", "max"),
        ("eval/win_rate", "eval/win_rate", "max"),
        ("max:eval/loss", "eval/loss", "max"),
        ("min:eval/length", "eval/length", "min"),
    ],
)
def test_a_watched_metric_has_a_direction(said, metric, direction):
    assert shared.watched(said) == (metric, direction)


@pytest.mark.parametrize("said", ["eval/length", "lowest:eval/loss_of_sorts", "min:", ""])
def test_a_metric_whose_direction_nobody_knows_is_refused(said):
    with pytest.raises(UsageError, match="--keep-best: expected a metric"):
        shared.watched(said)
