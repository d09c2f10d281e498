"""The table of methods is complete and true: each row's command can be typed, and no objective is missing."""

import importlib
import json
import shlex
from typing import get_args, get_type_hints

import pytest

from preferent.cli import COMMANDS, main
from preferent.config import build, words
from preferent.stages.methods import METHODS, Family
from preferent.stages.objective import OBJECTIVES, PairOptions, objective_of

WHERE = {"model": "runs/sft", "data": ("rows.jsonl",), "out": "runs/x", "reward": ("runs/rm",), "prompts": ("p.jsonl",)}
WHERE |= {"file": "loop.yaml", "held_out": ("h.jsonl",), "annotator": "people"}
WHERE |= {"teacher": "runs/larger"}


def asked(command):
    """The module of a row's command, and its options with what every run needs besides."""
    name, *rest = shlex.split(command)
    module = importlib.import_module(COMMANDS[name][0])
    known = {word.flag: word for word in words(module.Options)}
    given = {word.name: WHERE[word.name] for word in known.values() if word.required and word.name in WHERE}
    while rest:
        word = known[rest.pop(0)]
        if word.kind is bool:
            given[word.name] = True
        else:
            value = rest.pop(0)
            given[word.name] = (*given.get(word.name, ()), value) if word.many else value
    return module, build(module.Options, given)


@pytest.mark.parametrize("row", METHODS, ids=lambda row: row.name)
def test_every_command_of_the_table_can_be_typed(row):
    _, options = asked(row.command)
    for value in vars(options).values():
        if isinstance(value, PairOptions):
            objective_of(value)
    assert row.family in get_args(Family)
    assert row.paper
    assert row.needs


def test_no_method_stands_there_twice():
    assert len({row.name for row in METHODS}) == len(METHODS) == len({row.command for row in METHODS})


def test_no_objective_is_missing():
    told = {row.command for row in METHODS}
    first = {
        "dpo": "dpo",
        "grpo": "grpo",
        "reward": "bradley-terry",
        "kto": "kto",
        "sft": "sft",
    }  # the objective of a command without a word
    for command in sorted({row.command.split()[0] for row in METHODS}):
        for name in objectives(importlib.import_module(COMMANDS[command][0]).Options):
            asked_so = f"{command} --objective {name} "
            assert name == first.get(command) or any(f"{row} ".startswith(asked_so) for row in told), (command, name)


def objectives(options):
    """The names that a command's --objective takes."""
    word = next((word for word in words(options) if word.name == "objective"), None)
    if word is None:
        return ()
    return word.choices or (OBJECTIVES if "dpo" in get_type_hints(options) else ())


def test_the_list_can_be_narrowed(capsys):
    assert main(["methods", "simpo"]) == 0
    assert "SimPO" in (said := capsys.readouterr().out)
    assert "IPO " not in said
    assert main(["methods", "--family", "policy gradient", "--json"]) == 0
    assert {row["family"] for row in json.loads(capsys.readouterr().out)} == {"policy gradient"}
    assert main(["methods", "--family", "pair"]) == 2
    assert "did you mean pairs?" in capsys.readouterr().err
    assert main(["methods", "nothing-like-it"]) == 2
    assert "lists them all" in capsys.readouterr().err
