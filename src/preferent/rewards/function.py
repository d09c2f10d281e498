"""Rewards that are functions in a file of the user's: ``rewards.py:brevity``."""

from __future__ import annotations

import ast
import asyncio
import importlib.util
import inspect
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from preferent.config import UsageError
from preferent.types import Episode, Score


@dataclass(frozen=True, slots=True)
class FunctionReward:
    """``f(episodes, column, …)``, plain or async, gives a number or a ``Score`` for each episode.

    Beside ``episodes`` it takes by name any columns of the data set it wants, each a list with one value an episode;
    ``**columns`` takes all that every episode has. A parameter with a default need not be a column.
    """

    function: Callable[..., Any]
    name: str

    def __call__(self, episodes: Sequence[Episode], /) -> list[Score]:
        if not episodes:
            return []
        said = self.function(list(episodes), **self.columns(episodes))
        if inspect.isawaitable(said):
            said = asyncio.run(awaited(said))
        if not isinstance(said, Iterable) or isinstance(said, str):
            raise UsageError(f"{self.name} gave {said!r}; expected a list with one number for each episode.")
        marks = list(said)
        if len(marks) != len(episodes):
            raise UsageError(
                f"{self.name} gave {len(marks)} marks for {len(episodes)} episodes; expected one for each."
            )
        return [self.score(mark) for mark in marks]

    def columns(self, episodes: Sequence[Episode]) -> dict[str, list[Any]]:
        """What the function wants of the data, by the names of its parameters."""
        rows = [episode.prompt.info for episode in episodes]
        held = [name for name in rows[0] if all(name in row for row in rows)]
        wanted: list[str] = []
        for parameter in [*inspect.signature(self.function).parameters.values()][1:]:
            if parameter.kind is parameter.VAR_KEYWORD:
                wanted += [name for name in held if name not in wanted]
            elif parameter.name in held:
                wanted.append(parameter.name)
            elif parameter.default is parameter.empty and parameter.kind is not parameter.VAR_POSITIONAL:
                known = ", ".join(sorted(held)) or "none"
                raise UsageError(
                    f"{self.name} wants the column {parameter.name!r}, which the data does not have in every row. "
                    f"Columns: {known}."
                )
        return {name: [row[name] for row in rows] for name in wanted}

    def score(self, mark: Any) -> Score:
        value, parts = (mark.value, mark.parts) if isinstance(mark, Score) else (mark, {})
        try:
            if isinstance(value, str):
                raise TypeError("text")
            return Score(float(value), parts)
        except (TypeError, ValueError, RuntimeError) as refused:  # the last from a tensor of several numbers
            raise UsageError(f"{self.name} gave {mark!r} as a mark; expected a number or a Score.") from refused


async def awaited(said: Any) -> Any:
    return await said


def load_function(spec: str) -> FunctionReward:
    """From ``path/to/file.py:function``. Raises UsageError where there is none, or the file is no Python."""
    path = file_of(spec)
    name = spec.removeprefix(f"{path}:")
    module_spec = importlib.util.spec_from_file_location(Path(path).stem, path)
    if module_spec is None or module_spec.loader is None:
        raise UsageError(f"{spec}: {path} is no Python file. Expected file.py:function.")
    module = importlib.util.module_from_spec(module_spec)
    sys.modules.setdefault(module_spec.name, module)
    try:
        module_spec.loader.exec_module(module)
    except SyntaxError as error:
        raise not_python(path, error) from error
    function = getattr(module, name, None)
    if not callable(function):
        names = [n for n, f in vars(module).items() if inspect.isfunction(f) and not n.startswith("_")]
        raise UsageError(f"{path} has no function {name!r}; it has: {', '.join(names) or 'none'}.")
    return FunctionReward(function, spec)


def file_of(spec: str) -> str:
    """``path/to/file.py`` of ``path/to/file.py:function``. Raises UsageError where either is missing."""
    path, _, name = spec.rpartition(":") if ".py:" in spec else (spec.removesuffix(":"), "", "")
    if not Path(path).is_file():
        raise UsageError(f"{spec}: there is no file {path}. Expected file.py:function.")
    if not name:
        names = functions_in(path)
        example = names[0] if names else "function"
        raise UsageError(f"{spec}: name a function: {path}:{example}; it has {', '.join(names) or 'none'}.")
    return path


def functions_in(path: str) -> list[str]:
    """The functions that a file defines, without running it."""
    try:
        tree = ast.parse(Path(path).read_bytes(), filename=path)
    except SyntaxError as error:
        raise not_python(path, error) from error
    defined = [node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    return [name for name in defined if not name.startswith("_")]


def not_python(path: str, error: SyntaxError) -> UsageError:
    """A message with the place; the error may be in a file that this one imports."""
    return UsageError(f"{error.filename or path}, line {error.lineno}: {error.msg}.")
