"""The shared groups fit together, and no best checkpoint is kept in the wrong direction."""

from __future__ import annotations

from dataclasses import dataclass, fields
from importlib import import_module
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


@pytest.mark.parametrize(
    ("command", "words", "needs"),
    [
        ("dpo", {"uncertainty_temperature": 2.0}, "--uncertainty-temperature needs --uncertainty"),
        ("kto", {"objective": "apo-zero", "shift_decay": 0.5}, "--shift-decay needs --objective bco"),
        ("ppo", {"ptx_batch": 3}, "--ptx-batch needs --ptx-data"),
        ("ppo", {"ptx_weight": 0.5}, "--ptx-weight needs --ptx-data"),
        ("ppo", {"kl_horizon": 5}, "--kl-horizon needs --kl-target"),
        ("grpo", {"cost_limit": -1.0}, "--cost-limit needs --cost"),
        ("grpo", {"correction_cap": 3.0}, "--correction-cap needs --correction truncated or masked"),
        ("raft", {"caution": 0.5}, "--caution needs --combine uncertain"),
        ("rso", {"caution": 0.5}, "--caution needs --combine uncertain"),
    ],
)
def test_a_word_that_qualifies_nothing_is_refused_before_anything_is_read(command, words, needs, tmp_path):
    module = import_module(f"preferent.stages.{command}")
    given = {"model": "nowhere/at-all", "data": ("none.jsonl",), "out": tmp_path / "run"}
    given |= {"reward": ("rm",)} if command not in ("dpo", "kto") else {}
    with pytest.raises(UsageError, match=needs):
        module.run(build(module.Options, given | words))
