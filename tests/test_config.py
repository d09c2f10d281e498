"""Words are flat, defaults are a command's own, and what a user writes is read back as it was or refused clearly."""

from __future__ import annotations

import string
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from annotated_types import Gt, Le
from hypothesis import given
from hypothesis import strategies as st

from preferent.config import UsageError, build, did_you_mean, flatten, group, near, read_yaml, words, write_yaml


@dataclass(frozen=True, kw_only=True)
class Speed:
    """Speed."""

    lr: Annotated[float, "learning rate", Gt(0)] = 1e-5
    warmup_steps: Annotated[int, "steps in which it rises"] = 0


@dataclass(frozen=True, kw_only=True)
class Place:
    """Place."""

    out: Annotated[Path, "folder that is written"]
    epochs: Annotated[float, "passes over the data"] = 1.0


@dataclass(frozen=True, kw_only=True)
class Everything:
    """Every type that a word can have."""

    name: Annotated[str, "a text"] = "x"
    resume: Annotated[bool, "a switch"] = False
    how: Annotated[Literal["drop", "left"], "a choice"] = "drop"
    system: Annotated[str | None, "a text or none"] = None
    save_every: Annotated[int | None, "a number or none", Gt(0)] = None
    data: Annotated[tuple[str, ...], "texts"] = ()
    betas: Annotated[tuple[float, ...], "numbers"] = (0.9,)
    speed: Speed = Speed(lr=5e-7)
    place: Place = group(Place, epochs=3.0)


TEXT = st.text(max_size=12)
NUMBERS = st.floats(allow_nan=False, allow_infinity=False)
EVERYTHING = st.builds(
    Everything,
    name=TEXT,
    resume=st.booleans(),
    how=st.sampled_from(["drop", "left"]),
    system=st.none() | TEXT,
    save_every=st.none() | st.integers(1, 10**12),
    data=st.lists(TEXT, max_size=3).map(tuple),
    betas=st.lists(NUMBERS, max_size=3).map(tuple),
    speed=st.builds(Speed, lr=st.floats(1e-300, 1e300), warmup_steps=st.integers()),
    place=st.builds(Place, out=st.text(string.printable, min_size=1).map(Path), epochs=NUMBERS),
)
SMALL = {"out": "runs/x"}


def refusal(values: dict[str, Any], cls: type = Everything) -> str:
    with pytest.raises(UsageError) as refused:
        build(cls, values)
    return str(refused.value)


@given(EVERYTHING)
def test_what_is_flattened_is_built_again(options):
    assert build(Everything, flatten(options)) == options


@given(EVERYTHING)
def test_what_is_written_to_yaml_is_read_again(tmp_path_factory, options):
    path = tmp_path_factory.mktemp("yaml") / "run.yaml"
    write_yaml(path, flatten(options))
    assert build(Everything, read_yaml(path)) == options


@given(st.dictionaries(st.sampled_from([word.name for word in words(Everything)]), TEXT | st.integers() | st.none()))
def test_whatever_is_said_it_is_either_built_or_refused_as_the_users_mistake(values):
    try:
        built = build(Everything, values)
    except UsageError:
        return
    assert build(Everything, flatten(built)) == built


@given(TEXT)
def test_what_is_suggested_is_known_and_a_known_name_is_nearest_to_itself(name):
    known = {word.name: word.help for word in words(Everything)}
    assert set(near(name, known)) <= known.keys()
    assert [near(each, known)[0] for each in known] == list(known)


def test_words_stand_in_the_order_of_their_fields_whatever_group_they_are_in():
    assert [word.name for word in words(Everything)] == [
        *("name", "resume", "how", "system", "save_every", "data", "betas"),
        *("lr", "warmup_steps", "out", "epochs"),
    ]
    assert [word.title for word in words(Everything)][-3:] == ["Speed", "Place", "Place"]


def test_a_command_has_defaults_of_its_own_by_an_instance_or_by_group():
    built = build(Everything, SMALL)
    assert (built.speed.lr, built.speed.warmup_steps) == (5e-7, 0)
    assert (built.place.epochs, built.place.out) == (3.0, Path("runs/x"))


def test_group_gives_python_the_same_defaults_where_nothing_is_required():
    assert Quick().speed == build(Quick, {}).speed == Speed(lr=0.5)


def test_group_refuses_a_default_for_a_word_that_the_group_does_not_have():
    with pytest.raises(TypeError, match="Speed has no rate; it has lr, warmup_steps"):
        group(Speed, rate=3)


def test_a_word_that_stands_in_two_groups_is_an_error_of_the_command():
    with pytest.raises(TypeError, match="lr stands in more than one group"):
        words(Twice)


def test_a_word_without_help_or_of_an_odd_type_is_an_error_of_the_command():
    with pytest.raises(TypeError, match="lr: needs its help text"):
        words(Silent)
    with pytest.raises(TypeError, match=r"table: .* is not a type that an option can have"):
        words(Odd)


def test_numbers_may_come_as_text_as_yaml_and_flags_bring_them():
    """YAML 1.1 reads 1e-6, without a dot, as text."""
    built = build(Everything, SMALL | {"lr": "1e-6", "save_every": "20", "resume": "true"})
    assert (built.speed.lr, built.save_every, built.resume) == (1e-6, 20, True)


def test_one_value_is_a_list_of_one():
    assert build(Everything, SMALL | {"data": "a.jsonl"}).data == ("a.jsonl",)


@pytest.mark.parametrize(
    ("word", "value", "message"),
    [
        ("lr", "abc", '"lr": expected a number; got "abc".'),
        ("lr", 0, '"lr": expected a number greater than 0; got 0.'),
        ("lr", float("nan"), '"lr": expected a number; got NaN.'),
        ("lr", True, '"lr": expected a number; got true.'),
        ("lr", None, '"lr": expected a number; got nothing.'),
        ("lr", [1.0], '"lr": expected a number; got [1.0].'),
        ("save_every", 2.5, '"save_every": expected a whole number, or none; got 2.5.'),
        ("how", "right", '"how": expected one of drop, left; got "right".'),
        ("name", 7, '"name": expected text; got 7 (in YAML, put it into quotes).'),
        ("out", None, '"out": expected a path; got nothing.'),
        ("betas", [0.9, "b"], '"betas": expected a number (one or several); got "b".'),
        ("betas", None, '"betas": expected a number (one or several); got nothing.'),
        ("resume", "maybe", '"resume": expected true or false; got "maybe".'),
    ],
)
def test_a_wrong_value_is_refused_with_what_was_expected_and_what_came(word, value, message):
    assert refusal(SMALL | {word: value}) == message


def test_all_mistakes_are_told_at_once_and_in_the_users_words():
    with pytest.raises(UsageError) as refused:
        build(Everything, {"learning_rate": 1, "epochs": "x"}, called=lambda name: f"run.yaml: {name}")
    assert str(refused.value).splitlines() == [
        'run.yaml: learning_rate is not known here (did you mean "lr"?).',
        'run.yaml: epochs: expected a number; got "x".',
        "run.yaml: out is missing: folder that is written.",
    ]


def test_a_required_list_may_not_be_empty():
    assert refusal({"runs": []}, Needy) == '"runs" is missing: run folders.'


@pytest.mark.parametrize(
    ("asked", "meant"),
    [
        ("learning_rate", "lr"),
        ("num_train_epochs", "epochs"),
        ("save_steps", "save_every"),
        ("output_dir", "out"),
        ("--Warmup-Steps", "warmup_steps"),
        ("beta", "betas"),
    ],
)
def test_words_of_other_libraries_and_slips_lead_to_the_word_here(asked, meant):
    assert near(asked, {word.name: word.help for word in words(Everything)})[0] == meant


def test_nothing_is_suggested_where_nothing_is_near():
    assert did_you_mean("zzz", {"lr": "", "out": ""}) == ""


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("lr: 1\nout: x\nlr: 2\n", 'line 3: "lr" stands here again (first in line 1). Keep one.'),
        ("- a\n- b\n", "expected lines of the form `word: value`; got a list."),
        ("lr\n", "expected lines of the form `word: value`; got a single value."),
        ("lr: [1\n", "line 2: is not YAML: "),
        ("lr: !!python/object:os.system {}\n", "line 1: is not YAML: could not determine a constructor"),
    ],
)
def test_a_file_that_cannot_be_meant_is_refused_with_its_line(tmp_path, text, message):
    path = tmp_path / "run.yaml"
    path.write_text(text)
    with pytest.raises(UsageError) as refused:
        read_yaml(path)
    assert str(refused.value).startswith(f"{path}: {message}")


def test_an_empty_file_says_nothing_and_a_missing_one_is_refused(tmp_path):
    (tmp_path / "empty.yaml").write_text("# nothing yet\n")
    assert read_yaml(tmp_path / "empty.yaml") == {}
    with pytest.raises(UsageError, match="cannot be read"):
        read_yaml(tmp_path / "missing.yaml")


@dataclass(frozen=True, kw_only=True)
class Quick:
    """All of it has defaults."""

    speed: Speed = group(Speed, lr=0.5)


@dataclass(frozen=True, kw_only=True)
class Needy:
    """Needs something."""

    runs: Annotated[tuple[str, ...], "run folders"]


@dataclass(frozen=True, kw_only=True)
class Twice:
    """A word in two groups."""

    lr: Annotated[float, "another", Le(1)] = 1.0
    speed: Speed = Speed()


@dataclass(frozen=True, kw_only=True)
class Silent:
    """No help."""

    lr: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Odd:
    """A mapping."""

    table: Annotated[dict[str, str] | None, "a mapping"] = None
