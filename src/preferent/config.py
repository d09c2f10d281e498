"""Options from dataclasses: flags, YAML keys and Python arguments are one and the same words.

A command's options are a frozen, keyword-only dataclass. A field is a word of its own, or a group: another such
dataclass, whose fields are words too. Words are flat, whatever group they stand in:

    class OptimiserOptions:
        lr: Annotated[float, "step size of AdamW", Gt(0)] = 1e-5      # --lr 1e-5, or the YAML line ``lr: 1e-5``

    class Options:
        optimiser: OptimiserOptions = group(OptimiserOptions, lr=5e-7)  # this command's own default

    options = build(Options, {"lr": 1e-6})                              # what --lr 1e-6 does

A word's type is bool, int, float, str, Path, a Literal of strings, ``X | None`` or ``tuple[X, ...]`` of these.
Left out on purpose: nested keys, inheritance between files and dotted overrides, since one flat list of words can be
learned in an afternoon.
"""

from __future__ import annotations

import json
import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, field, fields, is_dataclass
from difflib import SequenceMatcher
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints

if TYPE_CHECKING:
    from pydantic import TypeAdapter
    from pydantic_core import ErrorDetails

Options = TypeVar("Options")

REQUIRED: Any = MISSING  # the default of a word that has none
ONE = {bool: "true or false", int: "a whole number", float: "a number", str: "text", Path: "a path"}


class UsageError(ValueError):
    """Something the user can mend: the command line prints it as one clear message, without a traceback."""


class Waiting(UsageError):
    """People have to answer first, and then the same command goes on."""


@dataclass(frozen=True)
class Word:
    """One option: its flag is ``--max-length``, its YAML key and Python argument ``max_length``."""

    name: str
    hint: Any  # the annotation as written
    kind: Any  # bool, int, float, str, Path or a Literal: the type of one value
    many: bool  # tuple[kind, ...]
    optional: bool  # kind | None
    default: Any  # REQUIRED when there is none
    help: str
    group: str  # the field of Options that holds it; "" where Options itself does
    title: str  # of that group; "" likewise

    @property
    def required(self) -> bool:
        return self.default is REQUIRED

    @property
    def flag(self) -> str:
        return "--" + self.name.replace("_", "-")

    @property
    def choices(self) -> tuple[str, ...]:
        return get_args(self.kind) if get_origin(self.kind) is Literal else ()

    @property
    def expected(self) -> str:
        """What a value has to be, in words."""
        one = f"one of {', '.join(self.choices)}" if self.choices else ONE[self.kind]
        return one + (" (one or several)" if self.many else "") + (", or none" if self.optional else "")


def group(cls: type[Options], **defaults: Any) -> Options:
    """A field for a group whose defaults differ in this command.

    ``run: RunOptions = group(RunOptions, epochs=3)`` in a keyword-only class. Words of the group without any default
    stay required. Raises TypeError for a name the group does not have.
    """
    known = {f.name: f for f in fields(cast(Any, cls))}
    if strangers := defaults.keys() - known.keys():
        raise TypeError(f"{cls.__name__} has no {', '.join(sorted(strangers))}; it has {', '.join(known)}")
    if any(_default(f) is REQUIRED for name, f in known.items() if name not in defaults):
        return cast(Options, field(metadata={"defaults": defaults}))
    return field(default_factory=lambda: cls(**defaults))


def words(cls: type) -> tuple[Word, ...]:
    """The words of a command, in the order of their fields. Raises TypeError where the class is not as agreed."""
    found: list[Word] = []
    for f, hint in _fields(cls):
        if is_dataclass(hint):
            defaults = _defaults(f, cast(type, hint))
            title = (hint.__doc__ or f.name).strip().splitlines()[0].rstrip(".")
            found += [_word(g, h, defaults[g.name], f.name, title) for g, h in _fields(cast(type, hint))]
        else:
            found.append(_word(f, hint, _default(f), "", ""))
    names = [word.name for word in found]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise TypeError(f"{cls.__module__}.{cls.__name__}: {', '.join(twice)} stands in more than one group")
    return tuple(found)


def build(cls: type[Options], values: Mapping[str, Any], *, called: Callable[[str], str] = '"{}"'.format) -> Options:
    """Options from flat words; ``called`` says what the user knows a word by (``--lr``, ``run.yaml: "lr"``).

    Raises UsageError with a line for each word that is unknown, missing, or has a value of the wrong kind.
    """
    known = {word.name: word for word in words(cls)}
    complaints, read = [_unknown(name, known.values(), called) for name in values if name not in known], {}
    for name, word in known.items():
        try:
            read[name] = _read(word, values[name]) if name in values else word.default
        except UsageError as error:
            complaints.append(f"{called(name)}: {error}.")
    missing = [w for w in known.values() if w.required and read.get(w.name, "wrong") in (REQUIRED, ())]
    complaints += [f"{called(word.name)} is missing: {word.help}." for word in missing]
    if complaints:
        raise UsageError("\n".join(complaints))
    of: dict[str, dict[str, Any]] = {}
    for name, word in known.items():
        of.setdefault(word.group, {})[name] = read[name]
    hints = get_type_hints(cls)
    return cls(**of.pop("", {}), **{name: hints[name](**inside) for name, inside in of.items()})


def flatten(options: Any) -> dict[str, Any]:
    """Every word with its value, as YAML and JSON can hold it; ``build`` makes the same options of it."""
    holders = {word.name: getattr(options, word.group) if word.group else options for word in words(type(options))}
    return {name: _plain(getattr(holder, name)) for name, holder in holders.items()}


def near(name: str, known: Mapping[str, str], most: int = 3) -> list[str]:
    """The names in ``known`` (name → help) that ``name`` may have meant, best first; none when nothing is like it."""
    asked = name.strip("-").lower().replace("-", "_")
    scored = {each: _likeness(asked, each.strip("-").replace("-", "_"), help_) for each, help_ in known.items()}
    return sorted((each for each in scored if scored[each] >= 0.6), key=lambda each: -scored[each])[:most]


def did_you_mean(name: str, known: Mapping[str, str], quote: str = "{}") -> str:
    """Either nothing, or " (did you mean lr or lora?)", the nearest first."""
    *others, last = [quote.format(each) for each in near(name, known)] or [""]
    return f" (did you mean {', '.join(others)}{' or ' if others else ''}{last}?)" if last else ""


def read_yaml(path: Path) -> dict[str, Any]:
    """A flat YAML file of words. Raises UsageError when it is missing, not YAML, not a mapping or says a key twice."""
    import yaml

    class Loader(yaml.SafeLoader):
        def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
            """Names the line of a value that is not what it looks like, as 2026-13-45: PyYAML lets it through."""
            try:
                return super().construct_object(node, deep)
            except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
                what = f"{str(node.value)[:40]!r} is no {node.tag.rpartition(':')[2]}"
                raise yaml.constructor.ConstructorError(None, None, what, node.start_mark) from error

    try:
        loader = Loader(path.read_text(encoding="utf-8"))
        node = loader.get_single_node()
        if node is None:
            return {}
        if not isinstance(node, yaml.MappingNode) or node.tag != Loader.DEFAULT_MAPPING_TAG:
            others: dict[type[yaml.Node], str] = {yaml.SequenceNode: "a list", yaml.MappingNode: "a tagged mapping"}
            came = others.get(type(node), "a single value")
            raise UsageError(f"{path}: expected lines of the form `word: value`; got {came}.")
        _refuse_twice(path, [(str(key.value), key.start_mark.line + 1) for key, _ in node.value])
        return {str(key): value for key, value in loader.construct_document(node).items()}
    except OSError as error:
        raise UsageError(
            f"{path}: cannot be read ({error.strerror}).\n"
            "Expected a YAML file of options, such as the config.yaml that every run folder holds."
        ) from error
    except yaml.MarkedYAMLError as error:
        line = f"line {error.problem_mark.line + 1}: " if error.problem_mark else ""
        raise UsageError(f"{path}: {line}is not YAML: {error.problem}.") from error
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise UsageError(f"{path}: is not YAML: {error}") from error


def write_yaml(path: Path, values: Mapping[str, Any]) -> None:
    """Words as ``read_yaml`` reads them, in the order given."""
    import yaml

    class Dumper(yaml.SafeDumper):
        pass

    def quoted(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
        """Odd characters stand in double quotes: bare, YAML reads next-line and its like as a space."""
        return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=None if text.isprintable() else '"')

    Dumper.add_representer(str, quoted)
    text = yaml.dump(dict(values), Dumper=Dumper, sort_keys=False, allow_unicode=True, width=120)
    path.write_text(text, encoding="utf-8", newline="\n")


# --- what a class says -----------------------------------------------------------------------------


def _fields(cls: type) -> list[tuple[Field[Any], Any]]:
    hints = get_type_hints(cls, include_extras=True)
    return [(f, hints[f.name]) for f in fields(cls)]


def _default(f: Field[Any]) -> Any:
    return f.default if f.default_factory is MISSING else f.default_factory()


def _defaults(f: Field[Any], cls: type) -> dict[str, Any]:
    instance = _default(f)
    own = {g.name: _default(g) if instance is REQUIRED else getattr(instance, g.name) for g in fields(cls)}
    changed: Mapping[str, Any] = f.metadata.get("defaults", {})
    return {**own, **changed}


def _word(f: Field[Any], hint: Any, default: Any, of: str, title: str) -> Word:
    notes = hint.__metadata__ if get_origin(hint) is Annotated else ()
    help_ = next((note for note in notes if isinstance(note, str)), "")
    bare = _bare(hint)
    inside = [each for each in get_args(bare) if each is not type(None)]
    optional = get_origin(bare) in (Union, types.UnionType) and len(inside) == 1 and len(get_args(bare)) == 2
    many = get_origin(bare) is tuple and len(inside) == 2 and inside[1] is Ellipsis
    kind = _bare(inside[0]) if optional or many else bare
    if not help_:
        raise TypeError(f"{f.name}: needs its help text, Annotated[…, 'what it is, with its unit']")
    if kind not in ONE and not (get_origin(kind) is Literal and all(isinstance(c, str) for c in get_args(kind))):
        raise TypeError(f"{f.name}: {hint} is not a type that an option can have; see preferent.config")
    return Word(f.name, hint, kind, many, optional, default, help_, of, title)


def _bare(hint: Any) -> Any:
    return get_args(hint)[0] if get_origin(hint) is Annotated else hint


# --- what a user says ------------------------------------------------------------------------------


@cache
def _adapter(hint: Any) -> TypeAdapter[Any]:
    from pydantic import ConfigDict, TypeAdapter

    return TypeAdapter(hint, config=ConfigDict(allow_inf_nan=False))


def _read(word: Word, raw: Any) -> Any:
    """A value as its type; "3" is 3 and one value is a list of one, but true is not 1. Raises UsageError."""
    from pydantic import ValidationError

    if word.many and (isinstance(raw, str) or not isinstance(raw, Sequence)) and raw is not None:
        raw = [raw]
    for each in raw if word.many and raw is not None else [raw]:
        if isinstance(each, bool) and word.kind is not bool:
            raise UsageError(_wrong(word, word.expected, each))
    try:
        return _adapter(word.hint).validate_python(raw)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise UsageError(_wrong(word, _expected(word, first), first["input"])) from error


def _expected(word: Word, problem: ErrorDetails) -> str:
    if problem["type"] == "too_short":
        return "at least one value"
    if problem["type"].startswith(("greater_than", "less_than", "multiple_of")):
        limit = problem["msg"].removeprefix("Input should be ")
        return word.expected.replace(ONE[word.kind], f"{ONE[word.kind]} {limit}", 1)
    return word.expected


def _wrong(word: Word, expected: str, got: Any) -> str:
    came = "nothing" if got is None else _said(got)
    text = word.kind in (str, Path) or word.choices
    quotes = " (in YAML, put it into quotes)" if text and not isinstance(got, str | list | tuple | dict | None) else ""
    return f"expected {expected}; got {came}{quotes}"


def _said(got: Any) -> str:
    """A value as JSON would write it; of what JSON has no words for (a list that holds itself), the type."""
    try:
        return json.dumps(got, ensure_ascii=False, default=str)
    except (TypeError, ValueError, RecursionError):
        return f"a value of type {type(got).__name__}"


def _unknown(name: str, known: Iterable[Word], called: Callable[[str], str]) -> str:
    meant = did_you_mean(name, {word.name: word.help for word in known}, quote='"{}"')
    return f"{called(name)} is not known here{meant}."


def _likeness(asked: str, name: str, help_: str) -> float:
    """0…1: by letters, by the words that two names share, by a help text that begins so (learning_rate)."""
    ours, theirs = asked.split("_"), name.split("_")
    shared = sum(any(_akin(a, b) for a in ours) for b in theirs) / max(1, min(len(ours), len(theirs)))
    spelt_out = 0.95 if len(asked) > 3 and help_.lower().startswith(asked.replace("_", " ")) else 0.0
    return max(SequenceMatcher(None, asked, name).ratio(), 0.4 + 0.5 * min(shared, 1.0) if shared else 0.0, spelt_out)


def _akin(a: str, b: str) -> bool:
    return min(len(a), len(b)) >= 3 and (a.startswith(b) or b.startswith(a))


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_plain(each) for each in value]
    return str(value) if isinstance(value, Path) else value


def _refuse_twice(path: Path, keys: Iterable[tuple[str, int]]) -> None:
    first: dict[str, int] = {}
    for key, line in keys:
        if key in first:
            raise UsageError(f'{path}: line {line}: "{key}" stands here again (first in line {first[key]}). Keep one.')
        first[key] = line
