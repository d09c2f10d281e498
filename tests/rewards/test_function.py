"""Rewards that are functions of the user's: what they are given, what they may give back, and what is refused."""

import asyncio
import math

import pytest
import torch

from preferent.config import UsageError
from preferent.rewards.function import FunctionReward, load_function
from preferent.testing import check_reward
from preferent.types import Episode, Prompt, Score


def episode(text, **info):
    return Episode(Prompt((3, 4), info), (5, 1), (True, True), (-1.0, -2.0), "end", 0, text)


EPISODES = [
    episode("Paris", answer="Paris", difficulty=1),
    episode("Rome, perhaps.", answer="Paris", difficulty=3),
    episode("", answer="Oslo", difficulty=2),
]


def brief(episodes):
    return [-len(e.text) for e in episodes]


def right(episodes, answer):
    return [float(a in e.text) for e, a in zip(episodes, answer, strict=True)]


async def slow(episodes, difficulty):
    async def one(e, d):
        await asyncio.sleep(0)
        return Score(len(e.text) * d, {"length": len(e.text)})

    return await asyncio.gather(*(one(e, d) for e, d in zip(episodes, difficulty, strict=True)))


def reward(function):
    return FunctionReward(function, f"mine.py:{function.__name__}")


@pytest.mark.parametrize(
    ("function", "values"), [(brief, [-5, -14, 0]), (right, [1, 0, 0]), (slow, [5, 42, 0])], ids=lambda v: str(v)[:12]
)
def test_a_function_marks_every_episode_plain_or_async_with_the_columns_that_it_names(function, values):
    check_reward(reward(function), EPISODES)
    assert [score.value for score in reward(function)(EPISODES)] == values


def test_parts_of_a_score_are_kept():
    assert reward(slow)(EPISODES)[1] == Score(42.0, {"length": 14})


def test_a_verifiable_reward_gives_the_gold_answer_full_marks():
    gold = [episode(e.prompt.info["answer"], **e.prompt.info) for e in EPISODES]
    assert [score.value for score in reward(right)(gold)] == [1, 1, 1]


def test_numbers_of_other_libraries_are_numbers():
    def mixed(episodes):
        return [torch.tensor(0.5), True, torch.tensor([2])]

    assert [score.value for score in reward(mixed)(EPISODES)] == [0.5, 1, 2]

    def at_once(episodes):
        return torch.arange(3.0)

    assert [score.value for score in reward(at_once)(EPISODES)] == [0, 1, 2]


def test_a_parameter_with_a_default_need_not_be_a_column_and_double_star_takes_all():
    seen = {}

    def takes(episodes, answer, scale=2.0, *, difficulty=None, **rest):
        seen.update(answer=answer, scale=scale, difficulty=difficulty, rest=rest)
        return [0] * len(episodes)

    extra = [episode(e.text, **e.prompt.info, topic="capitals") for e in EPISODES]
    reward(takes)(extra)
    assert seen == {
        "answer": ["Paris", "Paris", "Oslo"],
        "scale": 2.0,
        "difficulty": [1, 3, 2],
        "rest": {"topic": ["capitals"] * 3},
    }


def test_no_episodes_have_no_marks():
    assert reward(right)([]) == []


def test_a_column_that_some_row_lacks_is_an_error_that_lists_the_others():
    with pytest.raises(UsageError, match=r"mine\.py:right wants the column 'answer'.*Columns: difficulty\."):
        reward(right)([EPISODES[0], episode("x", difficulty=1)])


def given(marks):
    def function(episodes):
        return marks

    return reward(function)


@pytest.mark.parametrize(
    ("marks", "sentence"),
    [
        ([1.0, 2.0], "gave 2 marks for 3 episodes"),
        ([1.0] * 4, "gave 4 marks for 3 episodes"),
        ([1.0, None, 2.0], "gave None as a mark"),
        ([1.0, "0.5", 2.0], "gave '0.5' as a mark"),
        ([1.0, [0.5], 2.0], r"gave \[0\.5\] as a mark"),
        ([1.0, torch.zeros(2), 2.0], "as a mark; expected a number"),
        ([1.0, Score(None), 2.0], "as a mark; expected a number"),
        (None, "gave None; expected a list"),
        (1.0, r"gave 1\.0; expected a list"),
        ("abc", "gave 'abc'; expected a list"),
    ],
)
def test_what_is_no_list_of_numbers_is_an_error_and_never_a_zero(marks, sentence):
    with pytest.raises(UsageError, match=sentence):
        given(marks)(EPISODES)


def test_nan_is_passed_on_for_the_learner_to_refuse():
    assert math.isnan(given([1.0, math.nan, 2.0])(EPISODES)[1].value)


@pytest.mark.parametrize("kind", ["plain", "async"])
def test_an_error_in_the_function_is_never_a_silent_zero(kind):
    def plain(episodes):
        raise ZeroDivisionError("mine")

    async def asynchronous(episodes):
        raise ZeroDivisionError("mine")

    with pytest.raises(ZeroDivisionError, match="mine"):
        reward(plain if kind == "plain" else asynchronous)(EPISODES)


def test_a_function_may_use_what_its_file_defines(tmp_path):
    path = tmp_path / "some_rewards.py"
    path.write_text(
        "from __future__ import annotations\n"
        "from dataclasses import dataclass\n"
        "@dataclass\n"
        "class Rule:\n"
        "    least: int\n"
        "RULE = Rule(3)\n"
        "def long(episodes):\n"
        "    return [len(e.text) >= RULE.least for e in episodes]\n"
    )
    loaded = load_function(f"{path}:long")
    assert loaded.name == f"{path}:long"
    assert [score.value for score in loaded(EPISODES)] == [1, 1, 0]


@pytest.mark.parametrize(
    ("spec", "sentence"),
    [
        ("nowhere.py:f", r"there is no file nowhere\.py\. Expected file\.py:function"),
        ("{file}:lang", "has no function 'lang'; it has: long"),
        ("{file}:RULE", "has no function 'RULE'; it has: long"),
    ],
)
def test_a_function_that_is_not_there_is_said(tmp_path, spec, sentence):
    path = tmp_path / "rewards_of_mine.py"
    path.write_text("RULE = 3\ndef long(episodes):\n    return [0]\ndef _hidden():\n    pass\n")
    with pytest.raises(UsageError, match=sentence):
        load_function(spec.format(file=path))
