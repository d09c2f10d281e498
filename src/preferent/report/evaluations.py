"""What `preferent evaluate` and the demo found out about policies, read from their files."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from preferent.config import UsageError


@dataclass(frozen=True)
class Standing:
    """A policy among others, on held-out prompts."""

    name: str
    n: int | None = None  # prompts
    mean: float | None = None  # of gold or of the reward
    error: float | None = None  # standard error of the mean
    spread: float | None = None  # standard deviation among replies, where that is all that is known
    wins: tuple[float, float, float] | None = None  # against the baseline: share, and its interval
    kl: float | None = None  # nats a reply, to the baseline
    text: Mapping[str, float] = field(default_factory=dict)  # length, ended, distinct_1, distinct_2
    parts: Mapping[str, float] = field(default_factory=dict)  # of gold
    seconds: float | None = None  # that training it took


@dataclass(frozen=True)
class Evaluation:
    """Policies compared; the first is the baseline of the others."""

    source: str
    of: str = field(default="", kw_only=True)  # what tells its pictures from those of other evaluations on the page
    truth: str  # what ``mean`` is: "gold utility" or "reward"
    standings: Sequence[Standing] = ()
    examples: Sequence[tuple[str, Mapping[str, str]]] = ()  # a prompt, and the reply of each policy
    crowd: Mapping[str, Any] = field(default_factory=dict)  # alpha, ceiling, ties, pairs


def evaluation_of(said: Mapping[str, Any], path: Path) -> Evaluation | None:
    """What ``preferent evaluate`` or the demo found; None for any other file. Raises UsageError where it is damaged."""
    try:
        if isinstance(said.get("policies"), dict):
            return of_the_demo(said, str(path))
        if isinstance(said.get("models"), list) and said["models"]:
            return Evaluation(str(path), "reward", [standing(row) for row in said["models"]])
    except (ValueError, TypeError, KeyError, AttributeError, IndexError) as error:
        raise UsageError(f"{path}: is damaged: it is not the evaluation that it looks like ({error!r}).") from error
    return None


def standing(row: Mapping[str, Any]) -> Standing:
    reward, wins = row.get("reward") or {}, row.get("win_rate")
    return Standing(
        name=str(row["name"]),
        n=int(row["n"]),
        mean=optional(reward.get("mean")),
        error=optional(reward.get("standard_error")),
        wins=(real(wins["value"]), real(wins["low"]), real(wins["high"])) if wins else None,
        kl=optional(row.get("kl")),
        text=text_of(row),
    )


def of_the_demo(said: Mapping[str, Any], source: str) -> Evaluation:
    n = said.get("n")
    standings = []
    for i, (name, policy) in enumerate(said["policies"].items()):
        spread = real(policy["gold_sd"])
        low, high = (real(end) for end in policy["wins"][1:3])
        standings.append(
            Standing(
                name=str(name),
                n=n,
                mean=real(policy["gold"]),
                error=spread / n**0.5 if n else None,
                spread=spread,
                wins=(real(policy["wins"][0]), low, high) if i else None,
                kl=real(policy["kl"]),
                text=text_of(policy),
                parts={str(part): real(value) for part, value in policy["parts"].items()},
                seconds=optional(policy.get("seconds")),
            )
        )
    replies = said.get("replies", {})
    examples = [
        (str(prompt), {str(name): str(each[i]) for name, each in replies.items()})
        for i, prompt in enumerate(said.get("examples", ()))
    ]
    return Evaluation(source, "gold utility", standings, examples, dict(said.get("crowd", {})))


def text_of(row: Mapping[str, Any]) -> dict[str, float]:
    return {name: real(row[name]) for name in ("length", "ended", "distinct_1", "distinct_2") if name in row}


def optional(value: Any) -> float | None:
    return None if value is None else real(value)


def real(value: Any) -> float:
    if not math.isfinite(number := float(value)):
        raise ValueError(f"{value} is no number to compare by")
    return number


def apart(evaluations: Sequence[Evaluation]) -> list[Evaluation]:
    """Where there are several, their pictures are called after their files."""
    if len(evaluations) < 2:
        return list(evaluations)
    names = [Path(each.source).stem for each in evaluations]
    called = [name if names.count(name) == 1 else each.source for name, each in zip(names, evaluations, strict=True)]
    return [replace(each, of=f" ({name})") for name, each in zip(called, evaluations, strict=True)]


def mapping(path: Path) -> dict[str, Any]:
    try:
        said = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UsageError(f"{path} is missing: the run cannot be told of without it.") from error
    except ValueError as error:
        raise UsageError(f"{path}: is damaged: it is not JSON ({error}).") from error
    if not isinstance(said, dict):
        raise UsageError(f"{path}: is damaged: expected one JSON object.")
    return said
