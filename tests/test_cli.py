"""The command line as a person meets it: help, what wins over what, errors that say what to do, exit codes."""

from __future__ import annotations

import logging
import pkgutil
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import click
import pytest
from annotated_types import Gt
from hypothesis import given
from hypothesis import strategies as st

import preferent
from preferent import cli
from preferent.config import UsageError, build, flatten, group, words, write_yaml

SEEN: list[Any] = []
HEAVY = ("torch", "transformers", "datasets", "pydantic", "yaml", "rich")


@dataclass(frozen=True, kw_only=True)
class Pace:
    """Pace."""

    lr: Annotated[float, "learning rate", Gt(0)] = 1e-5
    save_every: Annotated[int | None, "steps between checkpoints; none: never"] = 10


@dataclass(frozen=True, kw_only=True)
class Options:
    """Train something, in a sentence.

    Examples:
      preferent train --out runs/x --data a.jsonl

    """

    out: Annotated[Path, "folder that is written"]
    data: Annotated[tuple[str, ...], "files"] = ()
    how: Annotated[Literal["drop", "left"], "what happens to long rows"] = "drop"
    system: Annotated[str, "a text"] = "be brief"
    resume: Annotated[bool, "go on"] = False
    fail: Annotated[str, "a way to fail"] = ""
    pace: Pace = group(Pace, lr=5e-7)


@dataclass(frozen=True, kw_only=True)
class Compared:
    """Compare."""

    positional: ClassVar[str] = "runs"
    runs: Annotated[tuple[str, ...], "run folders; the first is the baseline"]


@dataclass(frozen=True, kw_only=True)
class Chatted:
    """Chat."""

    positional: ClassVar[str] = "model"
    model: Annotated[str, "a model"]


@dataclass(frozen=True, kw_only=True)
class Greedy:
    """Greedy."""

    config: Annotated[str, "a text"] = ""


class Stage:
    """What a command's module holds, for a test: options and a run that writes down what it got."""

    __doc__ = ""

    def __init__(self, options: type) -> None:
        self.Options, self.__name__ = options, options.__name__

    def run(self, options: Any) -> int | None:
        SEEN.append(options)
        match getattr(options, "fail", ""):
            case "usage":
                raise UsageError("prefs.jsonl: line 3: nothing in it.")
            case "interrupt":
                raise KeyboardInterrupt
            case "extra":
                raise ModuleNotFoundError("No module named 'peft'", name="peft.tuners")
            case "bug":
                raise ModuleNotFoundError("No module named 'misspelt'", name="misspelt")
            case "log":
                logging.getLogger("preferent.data").info("3 rows of prefs.jsonl were left out.")
            case "three":
                return 3
        return None


@pytest.fixture(autouse=True)
def _commands(monkeypatch):
    """Three commands of this file in place of the table's."""
    stages = {"train": Options, "data compare": Compared, "chat": Chatted}
    for name, options in stages.items():
        monkeypatch.setitem(sys.modules, f"stage_of_{name}", Stage(options))
    table = {name: (f"stage_of_{name}", f"{name}, in a line.", "Try") for name in stages}
    monkeypatch.setattr(cli, "COMMANDS", table)
    SEEN.clear()


def ran(*arguments: str) -> Any:
    assert cli.main(arguments) == 0
    return SEEN.pop()


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> list[str]:
    assert cli.main(arguments) == 2
    assert not SEEN
    said = capsys.readouterr()
    assert said.out == ""
    return said.err.splitlines()


# --- from words to options -------------------------------------------------------------------------


def flags(options: Options) -> list[str]:
    """The command line that says ``options``."""
    said = []
    for word in words(type(options)):
        value = flatten(options)[word.name]
        if word.kind is bool:
            said.append(word.flag if value else f"--no-{word.flag[2:]}")
        else:
            said += [f"{word.flag}={'none' if each is None else each}" for each in (value if word.many else [value])]
    return said


TEXT = st.text(max_size=8)
OPTIONS = st.builds(
    Options,
    out=TEXT.map(Path),
    data=st.lists(TEXT, max_size=3).map(tuple),
    how=st.sampled_from(["drop", "left"]),
    system=TEXT,
    resume=st.booleans(),
    pace=st.builds(Pace, lr=st.floats(1e-300, 1e300), save_every=st.none() | st.integers()),
)


@given(OPTIONS)
def test_what_is_written_as_flags_is_parsed_again(options):
    command = cli.Command("train", Stage(Options), "")
    with command.make_context("train", flags(options)) as ctx:
        assert command.options(ctx) == options


def test_flags_win_over_the_file_and_the_file_over_defaults(tmp_path):
    file = tmp_path / "run.yaml"
    write_yaml(file, {"out": "runs/filed", "lr": 0.5, "data": ["a", "b"], "resume": True})
    options = ran("train", "--config", str(file), "--out", "runs/said", "--data", "c", "--no-resume")
    assert (options.out, options.data, options.resume) == (Path("runs/said"), ("c",), False)
    assert (options.pace.lr, options.how) == (0.5, "drop")


def test_a_run_folder_feeds_its_config_back(tmp_path):
    options = ran("train", "--out", "runs/x", "--lr", "3e-6")
    write_yaml(tmp_path / "config.yaml", flatten(options))
    assert ran("train", "--config", str(tmp_path)) == options


def test_none_on_the_command_line_is_nothing():
    assert ran("train", "--out", "x", "--save-every", "none").pace.save_every is None


def test_a_word_may_be_said_by_its_place_or_by_its_flag():
    assert ran("data", "compare", "runs/a", "runs/b").runs == ("runs/a", "runs/b")
    assert ran("data", "compare", "--runs", "runs/a", "--runs", "runs/b").runs == ("runs/a", "runs/b")
    assert ran("chat", "runs/a").model == ran("chat", "--model", "runs/a").model == "runs/a"


def test_a_command_that_takes_config_for_itself_is_refused():
    with pytest.raises(TypeError, match="--config belongs to every command already"):
        cli.Command("greedy", Stage(Greedy), "")


# --- errors and exit codes -------------------------------------------------------------------------

LOOK = "Nothing was written. `preferent train --help` lists every option."


def test_an_unknown_flag_is_refused_with_the_nearest(capsys):
    assert refused(capsys, "train", "--learning-rate", "3") == [
        "--learning-rate is not known here (did you mean --lr?).",
        LOOK,
    ]


def test_every_mistake_is_told_where_it_was_made(capsys, tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text("save_evry: 3\nhow: right\n")
    assert refused(capsys, "train", "--lr", "fast", "--config", str(file)) == [
        f'{file}: "save_evry" is not known here (did you mean "save_every"?).',
        f'{file}: "how": expected one of drop, left; got "right".',
        '--lr: expected a number; got "fast".',
        "--out is missing: folder that is written.",
        LOOK,
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--lr"], "--lr: expected a number; got nothing."),
        (["--resume=3"], "--resume stands alone: it takes no value, and --no-resume is its opposite."),
        (["--config"], "--config: expected a path; got nothing."),
        (["--data", "a", "b"], '"b" belongs to no flag. For several values, repeat the flag: --data A --data B.'),
        (["--data=a", "--lr", "1", "b"], '"b" belongs to no flag.'),
    ],
)
def test_a_malformed_line_is_refused_in_our_words(capsys, arguments, message):
    assert refused(capsys, "train", *arguments) == [message, LOOK]


def test_a_second_value_where_one_belongs_is_refused(capsys):
    assert refused(capsys, "chat", "runs/a", "runs/b")[0] == '"runs/b" belongs to no flag.'


def test_an_unknown_command_is_refused_with_the_nearest(capsys):
    assert refused(capsys, "trian") == [
        '"trian" is not a command (did you mean train?).',
        "Commands: train, data compare, chat. `preferent --help` says what they do.",
    ]
    assert refused(capsys, "data", "compar")[0] == '"compar" is not a command (did you mean compare?).'
    assert refused(capsys, "--lr", "3")[0] == "--lr is not known here; options stand after the command."


def test_what_a_command_refuses_is_one_message_without_a_traceback(capsys):
    assert cli.main(["train", "--out", "x", "--fail", "usage"]) == 2
    assert capsys.readouterr().err == "prefs.jsonl: line 3: nothing in it.\n"


def test_a_missing_extra_is_named_with_the_command_that_brings_it(capsys):
    assert cli.main(["train", "--out", "x", "--fail", "extra"]) == 2
    assert capsys.readouterr().err.splitlines() == [
        "peft is not installed; it is needed for low-rank adapters (--lora).",
        "pip install 'preferent[lora]' brings it.",
    ]


def test_a_bug_keeps_its_traceback():
    with pytest.raises(ModuleNotFoundError, match="misspelt"):
        cli.main(["train", "--out", "x", "--fail", "bug"])


def test_an_interrupt_is_130_and_says_how_to_go_on_where_that_is_possible(capsys, tmp_path):
    assert cli.main(["train", "--out", str(tmp_path), "--fail", "interrupt"]) == 130
    assert capsys.readouterr().err.strip() == "Stopped."
    (tmp_path / "checkpoints" / "step-20").mkdir(parents=True)
    assert cli.main(["train", "--out", str(tmp_path), "--fail", "interrupt"]) == 130
    assert "The same command with --resume goes on from the last checkpoint." in capsys.readouterr().err


def test_a_command_may_say_its_exit_code():
    assert cli.main(["train", "--out", "x", "--fail", "three"]) == 3


def test_what_the_package_logs_is_a_plain_line_on_stderr_once_however_often_a_command_runs(capsys):
    for _ in range(2):
        assert cli.main(["train", "--out", "x", "--fail", "log"]) == 0
        assert capsys.readouterr().err == "3 rows of prefs.jsonl were left out.\n"
    logging.getLogger("preferent.data").info("Nobody asked.")
    assert capsys.readouterr().err == ""


# --- help ------------------------------------------------------------------------------------------


def helped(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert cli.main(arguments) == 0
    return capsys.readouterr().out


def test_the_help_of_a_command_has_its_sections_defaults_and_examples(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    text = helped(capsys, "train", "--help")
    assert text.startswith(
        "Usage: preferent train --out PATH [OPTIONS]\n\nTrain something, in a sentence.\n\nOptions:\n"
    )
    assert "--out PATH       folder that is written (required)" in text
    assert "--how drop|left  what happens to long rows (default: drop)" in text
    assert "Pace:\n  --lr NUMBER      learning rate (default: 5e-07)" in text
    assert "--resume         go on\n" in text
    assert text.endswith("Examples:\n  preferent train --out runs/x --data a.jsonl\n")


def test_the_help_of_a_command_names_what_is_said_by_its_place(capsys):
    text = helped(capsys, "data", "compare", "--help")
    assert text.startswith("Usage: preferent data compare RUNS... [OPTIONS]")
    assert "RUNS...  run folders; the first is the baseline (required)" in text


def test_no_arguments_are_a_question_for_help(capsys):
    assert helped(capsys) == helped(capsys, "--help")
    assert helped(capsys, "data") == helped(capsys, "data", "--help")


def test_help_imports_no_command_and_no_heavy_library():
    code = f"""
import sys
from preferent.cli import main
assert main(["--help"]) == 0
print(*(name for name in sys.modules if name in {HEAVY!r} or name.startswith("preferent.stages.")), file=sys.stderr)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == ""
    assert all(section in done.stdout for section in ("Start:", "Train:", "Use:", "  data check  "))


def test_the_program_runs_as_a_module_and_tells_its_version():
    done = subprocess.run([sys.executable, "-m", "preferent", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == f"preferent {preferent.__version__}\n"


# --- the real table --------------------------------------------------------------------------------

TABLE = dict(cli.COMMANDS)


@pytest.mark.parametrize("name", TABLE)
def test_every_command_of_the_table_is_there_with_words_help_and_defaults_that_it_would_accept(name, monkeypatch):
    monkeypatch.setattr(cli, "COMMANDS", TABLE)
    command: click.Command = cli.program()
    ctx = click.Context(command, info_name="preferent")
    for part in name.split():
        assert isinstance(command, click.Group)
        found = command.get_command(ctx, part)
        assert found
        command, ctx = found, click.Context(found, parent=ctx, info_name=part)
    assert isinstance(command, cli.Command)
    assert command.get_help(ctx)
    needed = {word.name: word.choices[0] if word.choices else "1" for word in command.words if word.required}
    options = build(command.module.Options, needed)
    assert build(command.module.Options, flatten(options)) == options
    assert callable(command.module.run)


# --- names of the package --------------------------------------------------------------------------


@pytest.mark.parametrize("name", preferent.NAMES)
def test_every_lazy_name_leads_to_the_thing_of_that_name(name):
    thing = getattr(preferent, name)
    assert (thing.__name__, thing.__module__) == (name, preferent.NAMES[name])


def test_no_lazy_name_is_that_of_a_submodule():
    assert not preferent.NAMES.keys() & {module.name for module in pkgutil.iter_modules(preferent.__path__)}


def test_an_unknown_name_is_an_attribute_error_that_lists_the_known():
    with pytest.raises(AttributeError, match=r"preferent has no dpoo; it has .*dpo, "):
        preferent.dpoo  # noqa: B018


def test_the_version_is_that_of_the_project():
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
    assert preferent.__version__ == project["version"]


def test_help_leaves_out_what_a_command_has_no_use_for_and_says_how_any_switch_is_turned_off(capsys, monkeypatch):
    monkeypatch.setattr(cli, "COMMANDS", TABLE)
    monkeypatch.setenv("COLUMNS", "200")
    sft, ppo = (helped(capsys, name, "--help") for name in ("sft", "ppo"))
    assert "--learn " in sft
    assert "--learn " not in ppo
    assert "turn off a switch that is on by default, or that the file turned on" in ppo
