"""The command line: one literal table of commands, each resolved when it is asked for.

A command is a module with a frozen dataclass ``Options`` and ``run(options)``, which returns nothing or an exit code.
Flags, help and errors are made from the dataclass; flags win over ``--config``, which wins over defaults. Importing
this module imports no command, so ``preferent --help`` is quick.

Exit codes: 0 done, 1 a bug (with its traceback), 2 something the user can mend, 3 people have to answer before the
same command, with --resume, can go on (loop; online-dpo, xpo and nash-md with --annotator), 130 interrupted.
"""

from __future__ import annotations

import errno
import importlib
import inspect
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import click

from preferent import __version__
from preferent.config import UsageError, Waiting, Word, build, did_you_mean, flatten, read_yaml, words

COMMANDS: Mapping[str, tuple[str, str, str]] = {  # name → module, one line, section
    "demo": ("preferent.worlds.support_desk.demo", "Watch a small model learn what people want.", "Start"),
    "doctor": ("preferent.stages.doctor", "Show what this machine has, and what will be used.", "Start"),
    "methods": ("preferent.stages.methods", "List every method: what it needs, its paper, its command.", "Start"),
    "init": ("preferent.stages.init", "Make a small model and tokenizer from scratch, out of text.", "Start"),
    "data check": ("preferent.stages.check", "Check data files: columns, lengths, duplicates, templates.", "Start"),
    "data dedupe": ("preferent.stages.dedupe", "Leave out near-duplicates, and what an evaluation holds.", "Start"),
    "data split": ("preferent.stages.split", "Split a data set by prompts, nearly the same ones together.", "Start"),
    "data mix": ("preferent.stages.mix", "Mix data sets in proportion, or repeat rare classes.", "Start"),
    "data import": ("preferent.stages.importing", "Put the judgements of a file into a store.", "Start"),
    "data export": ("preferent.stages.exporting", "Write the judgements of a store into a file.", "Start"),
    "data verify": ("preferent.stages.verify", "Show that nothing in a store of judgements was changed.", "Start"),
    "data erase": ("preferent.stages.erase", "Erase who an annotator is; the judgements stay.", "Start"),
    "sft": ("preferent.stages.sft", "Supervised fine-tuning on demonstrations.", "Train"),
    "reward": ("preferent.stages.reward", "Train a reward model on comparisons.", "Train"),
    "ppo": ("preferent.stages.ppo", "Reinforcement learning with a critic, against a reward.", "Train"),
    "grpo": ("preferent.stages.grpo", "Reinforcement learning on groups of replies, without a critic.", "Train"),
    "dpo": ("preferent.stages.dpo", "Learn from comparisons directly, without a reward model.", "Train"),
    "kto": ("preferent.stages.kto", "Learn from replies judged good or bad one by one.", "Train"),
    "loop": ("preferent.stages.loop", "Ask, train a reward model and a policy, evaluate; and again.", "Train"),
    "online-dpo": ("preferent.stages.online_dpo", "Have the policy's own replies compared, and learn.", "Train"),
    "raft": ("preferent.stages.raft", "Imitate the best of the policy's own replies.", "Train"),
    "rso": ("preferent.stages.rso", "Learn from pairs that the best policy would draw.", "Train"),
    "xpo": ("preferent.stages.xpo", "Online DPO that looks where the reference does not.", "Train"),
    "nash-md": ("preferent.stages.nash_md", "Learn to be preferred, where no reward explains who is.", "Train"),
    "spin": ("preferent.stages.spin", "Play against oneself on demonstrations alone.", "Train"),
    "distill": ("preferent.stages.distill", "Learn from a better model, token by token.", "Train"),
    "sample": ("preferent.stages.sample", "Write a model's replies to prompts into a file.", "Use"),
    "chat": ("preferent.stages.chat", "Talk to a model.", "Use"),
    "evaluate": ("preferent.stages.evaluate", "Compare models on held-out prompts.", "Use"),
    "report": ("preferent.report.command", "Write one page that tells of runs and compares them.", "Use"),
    "watch": ("preferent.stages.watch", "Follow runs while they train.", "Use"),
    "provenance": ("preferent.stages.provenance", "Show what made a model: runs, data, judgements.", "Use"),
    "merge": ("preferent.stages.merge", "Merge an adapter into its model, or average models.", "Use"),
}
ABOUT = "Learning from human feedback: from a comparison to an aligned model, and round again."
METAVAR = {int: "N", float: "NUMBER", str: "TEXT", Path: "PATH"}
EVERYWHERE = {
    "--config FILE": "YAML file of options, or a run folder that holds one; flags win over it",
    "--no-SWITCH": "turn off a switch that is on by default, or that the file turned on",
    "--help": "show this page and stop",
}
NOT_FED_BACK = {"resume", "dry_run", "config"}  # of a run folder's config: how that run was started, not what it is
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
BARRED = (errno.ENAMETOOLONG, errno.EACCES, errno.EPERM, errno.EROFS, errno.ELOOP)  # a path that the system refuses
COLUMN = 24  # characters for flags in the help
SETTINGS = {"help_option_names": ["-h", "--help"], "max_content_width": 110}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit code. Everything the user can mend is one message on stderr, without a traceback."""
    with _log_shown():
        return _run(arguments)


def program() -> click.Group:
    """The whole command line as a click group."""
    group = Commands("preferent", help=ABOUT, context_settings=SETTINGS)
    return click.version_option(__version__, message="%(prog)s %(version)s", help="Show the version and stop.")(group)


class Commands(click.Group):
    """The table, or the part of it under a prefix such as "data ". Loads a command's module only to run it."""

    def __init__(self, name: str, *, prefix: str = "", **settings: Any) -> None:
        super().__init__(name, **settings)
        self.prefix = prefix
        self.mine = {key.removeprefix(prefix): row for key, row in COMMANDS.items() if key.startswith(prefix)}

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(dict.fromkeys(name.split()[0] for name in self.mine))

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        name = self.prefix + cmd_name
        if cmd_name in self.mine:
            module, line, _ = self.mine[cmd_name]
            return Command(name, importlib.import_module(module), line)
        if cmd_name in self.list_commands(ctx):
            return Commands(cmd_name, prefix=f"{name} ", help=f"What to do with {cmd_name}.")
        return None

    def collect_usage_pieces(self, ctx: click.Context) -> list[str]:
        return ["COMMAND", "[OPTIONS]"]

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        width = max(map(len, self.mine))
        for section in dict.fromkeys(section for _, _, section in self.mine.values()):
            with formatter.section(section):
                rows = [(f"{name:<{width}}", line) for name, (_, line, its) in self.mine.items() if its == section]
                formatter.write_dl(rows)
        version = "; --version shows the version" if not self.prefix else ""
        formatter.write_paragraph()
        formatter.write_text(f"{ctx.command_path} COMMAND --help shows a command's options and examples{version}.")


class Command(click.Command):
    """One stage: flags from its ``Options``, then its ``run``."""

    def __init__(self, name: str, module: ModuleType, line: str) -> None:
        self.module, self.words, self.line = module, words(module.Options), line
        self.positional = next((w for w in self.words if w.name == getattr(module.Options, "positional", None)), None)
        taken = {"--config", "--help"} & {word.flag for word in self.words}
        if taken:
            raise TypeError(f"{module.__name__}.Options: {', '.join(taken)} belongs to every command already")
        flags: list[click.Parameter] = [_option(word) for word in self.words]
        if self.positional:
            flags.append(click.Argument(["positional"], nargs=-1, required=False))
        flags.append(click.Option(["--config"], type=click.Path(path_type=Path)))
        super().__init__(name, params=flags, context_settings={**SETTINGS, "allow_extra_args": True})

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        said = list(args)
        try:
            super().parse_args(ctx, args)
        except click.UsageError as error:
            raise UsageError(f"{self._reworded(error)}\n{_where_to_look(ctx)}") from error
        single = self.positional and not self.positional.many
        extra = [*(ctx.params["positional"] or ())[1:], *ctx.args] if single else ctx.args
        if extra and not ctx.resilient_parsing:
            raise UsageError(f'"{extra[0]}" belongs to no flag.{self._repeat(said, extra[0])}\n{_where_to_look(ctx)}')
        return ctx.args

    def invoke(self, ctx: click.Context) -> Any:
        options = self.options(ctx)
        try:
            return self.module.run(options)
        except KeyboardInterrupt:
            click.echo(f"\nStopped.{_way_back(options)}", err=True)
            return 130
        except ModuleNotFoundError as error:
            raise _missing_extra(error) from error

    def options(self, ctx: click.Context) -> Any:
        """Flags over the file over defaults. Raises UsageError, naming each word as the user wrote it."""
        given = {word.name: _spoken(word, ctx.params[word.name]) for word in self.words if _given(ctx, word.name)}
        if self.positional and (first := ctx.params["positional"]):
            given[self.positional.name] = first if self.positional.many else first[0]
        # A command with sections has its file as its argument, and reads what is nested in it itself.
        sections: tuple[str, ...] = getattr(self.module.Options, "sections", ())
        path: Path | None = Path(ctx.params["positional"][0]) if sections and ctx.params["positional"] else None
        path = path or ctx.params["config"]
        if sections and path and (path / "manifest.json").is_file():
            _refuse_other_run(path, str(self.name))
        path = path / "config.yaml" if path and path.is_dir() else path
        filed = read_yaml(path) if path else {}
        if path and path.with_name("manifest.json").exists():
            filed = {name: value for name, value in filed.items() if name not in NOT_FED_BACK}
        nested = {name for name, value in filed.items() if name in sections or (sections and isinstance(value, dict))}
        filed = {name: value for name, value in filed.items() if name not in nested}
        flags = {word.name: _name(word, self.positional) for word in self.words}

        def called(name: str) -> str:
            return f'{path}: "{name}"' if name in filed and name not in given else flags[name]

        try:
            return build(self.module.Options, {**filed, **given}, called=called)
        except UsageError as error:
            raise UsageError(f"{error}\n{_where_to_look(ctx)}") from error

    def _reworded(self, error: click.UsageError) -> str:
        if isinstance(error, click.NoSuchOption):
            flags = {word.flag: word.help for word in self.words} | {"--config": "", "--help": ""}
            return f"{error.option_name} is not known here{did_you_mean(error.option_name, flags)}."
        if isinstance(error, click.BadOptionUsage):
            word = next((word for word in self.words if word.flag == error.option_name), None)
            if word and word.kind is bool:
                return f"{word.flag} stands alone: it takes no value, and --no-{word.flag[2:]} is its opposite."
            return f"{error.option_name}: expected {word.expected if word else 'a path'}; got nothing."
        return error.format_message()

    def _repeat(self, said: Sequence[str], extra: str) -> str:
        """How to give several values, when that is what somebody tried: ``--data a b``."""
        before = [arg.partition("=")[0] for arg in said[: said.index(extra)] if arg.startswith("--")]
        flag = before[-1] if before else ""
        several = any(word.many and word.flag == flag for word in self.words)
        return f" For several values, repeat the flag: {flag} A {flag} B." if several else ""

    # --- the help page -----------------------------------------------------------------------------

    def format_usage(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        needed = [_synopsis(word) for word in self.words if word.required and word is not self.positional]
        first = [_metavar(self.positional, self.positional)] if self.positional else []
        formatter.write_usage(ctx.command_path, " ".join([*first, *needed, "[OPTIONS]"]))

    def format_help_text(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for paragraph in (_description(self.module)[0] or self.line).split("\n\n"):
            formatter.write_paragraph()
            formatter.write_text(paragraph)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        formatter.current_indent = 0
        if self.positional:
            with formatter.section("Argument"):
                formatter.write_dl([(_metavar(self.positional, self.positional), _explained(self.positional))])
        hidden = getattr(self.module.Options, "hidden", ())  # words of a shared group that this command has no use for
        flags = [word for word in self.words if word is not self.positional and word.name not in hidden]
        width = min(COLUMN, max((len(_synopsis(word)) for word in flags), default=0))
        for title in dict.fromkeys(word.title for word in flags):
            with formatter.section(title or "Options"):
                mine = [word for word in flags if word.title == title]
                formatter.write_dl([(f"{_synopsis(word):<{width}}", _explained(word)) for word in mine], COLUMN)
        with formatter.section("Every command"):
            formatter.write_dl([(f"{flag:<{width}}", line) for flag, line in EVERYWHERE.items()], COLUMN)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        formatter.write_paragraph()
        several = "Where ... stands, repeat the flag for several values. " if any(w.many for w in self.words) else ""
        formatter.write_text(f"{several}A YAML key is the flag without its dashes: --max-length is max_length.")
        if examples := _description(self.module)[1]:
            formatter.write_paragraph()
            formatter.write(examples + "\n")


# --- a word as a flag ------------------------------------------------------------------------------


def _option(word: Word) -> click.Option:
    if word.kind is bool:
        return click.Option([f"{word.flag}/--no-{word.flag[2:]}", word.name], default=None)
    return click.Option([word.flag, word.name], type=click.UNPROCESSED, multiple=word.many, default=None)


def _given(ctx: click.Context, name: str) -> bool:
    return ctx.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE


def _spoken(word: Word, value: Any) -> Any:
    """On the command line, nothing is said by ``none``."""
    return None if word.optional and value == "none" else value


def _refuse_other_run(folder: Path, name: str) -> None:
    """Raise UsageError where a folder that stands for a command's file is the run of another command."""
    from preferent.runtime.manifest import read

    if (command := read(folder / "manifest.json").get("command", name)) != name:
        raise UsageError(f"{folder} is a run of `preferent {command}`; expected a file or a run of `preferent {name}`.")


def _name(word: Word, positional: Word | None) -> str:
    return word.name.upper() if word is positional else word.flag


def _metavar(word: Word, positional: Word | None = None) -> str:
    one = word.name.upper() if word is positional else "|".join(word.choices) or METAVAR[word.kind]
    return f"{one}..." if word.many else one


def _synopsis(word: Word) -> str:
    return word.flag if word.kind is bool else f"{word.flag} {_metavar(word)}"


def _explained(word: Word) -> str:
    if word.required:
        return f"{word.help} (required)"
    if word.default is False or word.default in ((), ""):
        return word.help
    default = "none" if word.default is None else "on" if word.default is True else word.default
    said = " ".join(map(str, default)) if isinstance(default, tuple) else default
    return f"{word.help} (default: {said})"


def _description(module: ModuleType) -> tuple[str, str]:
    """What a command does, and its examples: the docstring of Options, or else of its module, cut at "Examples:"."""
    own = module.Options.__doc__ or ""
    text = inspect.cleandoc(module.__doc__ or "" if own.startswith("Options(") else own).replace("``", "`")
    before, found, after = text.partition("Examples:")
    return before.strip(), f"{found}{after}".strip() if found else ""


# --- messages and errors -----------------------------------------------------------------------------


@contextmanager
def _log_shown() -> Iterator[None]:
    """What the package has to say while a command runs, as plain lines on stderr, above a live line if there is one."""
    handler, log = _Lines(), logging.getLogger("preferent")
    before = log.level
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    try:
        yield
    finally:
        log.setLevel(before)
        log.removeHandler(handler)


class _Lines(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        click.echo(self.format(record), err=True)


def _run(arguments: Sequence[str] | None) -> int:
    try:
        code = program().main(args=arguments, prog_name="preferent", standalone_mode=False)
        return code if isinstance(code, int) else 0
    except click.exceptions.NoArgsIsHelpError as shown:
        click.echo(shown.format_message())
        return 0
    except Waiting as waiting:
        click.echo(str(waiting), err=True)
        return 3
    except UsageError as error:
        return _refused(str(error))
    except click.UsageError as error:
        return _refused(_in_our_words(error))
    except OSError as error:
        if error.errno in BARRED and error.filename:
            return _refused(f"{error.filename}: cannot be used ({error.strerror}). Choose another path.")
        if error.errno not in FULL:
            raise
        return _refused(_full(error))
    except click.Abort:
        click.echo("Stopped.", err=True)
        return 130


def _refused(message: str) -> int:
    click.echo(message, err=True)
    return 2


def _full(error: OSError) -> str:
    where = f"{error.filename}: " if error.filename else ""
    return (
        f"{where}no room left on the disk ({error.strerror}). What was saved before is whole. "
        "Make room, then repeat the command; a training goes on from its last checkpoint with --resume."
    )


def _where_to_look(ctx: click.Context) -> str:
    return f"Nothing was written. `{ctx.command_path} --help` lists every option."


def _in_our_words(error: click.UsageError) -> str:
    """An error before any command was found."""
    group = error.ctx.command if error.ctx else None
    if not isinstance(group, Commands) or error.ctx is None:
        return error.format_message()
    help_ = f"`{error.ctx.command_path} --help` says what they do."
    lines = {name: line for name, (_, line, _) in group.mine.items()}
    if isinstance(error, click.exceptions.NoSuchCommand):
        meant = did_you_mean(error.command_name, lines)
        return f'"{error.command_name}" is not a command{meant}.\nCommands: {", ".join(lines)}. {help_}'
    if isinstance(error, click.NoSuchOption):
        known = f"Commands: {', '.join(lines)}. {help_}"
        return f"{error.option_name} is not known here; options stand after the command.\n{known}"
    return error.format_message()


def _missing_extra(error: ModuleNotFoundError) -> Exception:
    """A package that an extra brings, by the extra's name; any other missing module is a bug and stays as it is."""
    from preferent.stages.doctor import EXTRAS

    for extra in EXTRAS:
        if extra.package == (error.name or "").partition(".")[0]:
            install = f"pip install 'preferent[{extra.name}]'"
            return UsageError(
                f"{extra.package} is not installed; it is needed for {extra.purpose}.\n{install} brings it."
            )
    return error


def _way_back(options: Any) -> str:
    said = flatten(options)
    saved = "resume" in said and any(
        step for each in ("checkpoints/step-*", "round-*") for step in Path(said["out"]).glob(each)
    )
    return " The same command with --resume goes on from the last checkpoint." if saved else ""
