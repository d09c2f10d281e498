"""Rewards that are functions in a file of the user's: ``rewards.py:brevity``."""

from __future__ import annotations

import asyncio
import importlib.util
import inspect
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from preferent.config import UsageError
from preferent.types import Episode, Score


@dataclass(frozen=True, slots=True)
class FunctionReward:
    """``f(episodes, column, …)``, plain or async, gives a number or a ``Score`` for each episode.

    Beside ``episodes`` it takes by name any columns of the data set it wants, each a list with one value an episode.
    """

    function: Callable[..., Any]
    name: str

    def __call__(self, episodes: Sequence[Episode], /) -> list[Score]:
        wanted = [p.name for p in inspect.signature(self.function).parameters.values()][1:]
        columns = {name: [self.value(episode, name) for episode in episodes] for name in wanted}
        said = self.function(list(episodes), **columns)
        if inspect.isawaitable(said):
            said = asyncio.run(awaited(said))
        marks = list(said)
        if len(marks) != len(episodes):
            raise UsageError(
                f"{self.name} gave {len(marks)} marks for {len(episodes)} episodes; expected one for each."
            )
        return [self.score(mark) for mark in marks]

    def value(self, episode: Episode, name: str) -> Any:
        if name not in episode.prompt.info:
            known = ", ".join(sorted(episode.prompt.info)) or "none"
            raise UsageError(f"{self.name} wants the column {name!r}, which the data does not have. Columns: {known}.")
        return episode.prompt.info[name]

    def score(self, mark: Any) -> Score:
        if isinstance(mark, Score):
            return mark
        try:
            return Score(float(mark))
        except (TypeError, ValueError) as refused:
            raise UsageError(f"{self.name} gave {mark!r} as a mark; expected a number or a Score.") from refused


async def awaited(said: Any) -> Any:
    return await said


def load_function(spec: str) -> FunctionReward:
    """From ``path/to/file.py:function``."""
    path, _, name = spec.rpartition(":")
    if not Path(path).is_file():
        raise UsageError(f"{spec}: there is no file {path}. Expected file.py:function.")
    module_spec = importlib.util.spec_from_file_location(Path(path).stem, path)
    if module_spec is None or module_spec.loader is None:
        raise UsageError(f"{spec}: {path} is no Python file. Expected file.py:function.")
    module = importlib.util.module_from_spec(module_spec)
    sys.modules.setdefault(module_spec.name, module)
    module_spec.loader.exec_module(module)
    function = getattr(module, name, None)
    if not callable(function):
        names = [n for n, f in vars(module).items() if inspect.isfunction(f) and not n.startswith("_")]
        raise UsageError(f"{path} has no function {name!r}; it has: {', '.join(names) or 'none'}.")
    return FunctionReward(function, spec)
