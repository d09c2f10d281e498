"""Rewards by name: a reward model, an ensemble, a Hub name, ``file.py:function``, or several with weights."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from preferent.config import UsageError
from preferent.data.template import Template
from preferent.losses.reward import Combination
from preferent.models.load import found, is_scorer, load_scorer
from preferent.rewards.combined import Weighted
from preferent.rewards.function import load_function
from preferent.rewards.learned import LearnedReward, Scale
from preferent.types import Reward


def load_reward(
    specs: Sequence[str], tokenizer: Any, *, how: Combination = "mean", caution: float = 0.0, device: str = "auto"
) -> Reward:
    """What ``--reward`` names. ``tokenizer`` is the policy's: a model with another one is fed re-rendered text."""
    parts: dict[str, tuple[Reward, float]] = {}
    for spec in specs:
        name, weight = weighted(spec)
        if name in parts:
            raise UsageError(f"--reward {name} is named twice; give it one weight instead: {name}=2.")
        reward: Reward = (
            load_function(name) if is_function(name) else load_learned(name, tokenizer, how, caution, device)
        )
        parts[name] = (reward, weight)
    if not parts:
        raise UsageError("--reward is missing: a reward model's folder, or file.py:function.")
    if len(parts) == 1:
        ((reward, weight),) = parts.values()
        if weight == 1:
            return reward
    return Weighted(dict(zip(called(list(parts)), parts.values(), strict=True)))


def called(names: Sequence[str]) -> Sequence[str]:
    """What metrics call rewards: the last part of a path, or all of it where two would be called the same."""
    short = [Path(name).name for name in names]
    return short if len(set(short)) == len(short) else names


def weighted(spec: str) -> tuple[str, float]:
    """``rm=0.7`` is the reward rm with weight 0.7; without one, 1."""
    name, _, said = spec.rpartition("=")
    if not name:
        return spec, 1.0
    try:
        weight = float(said)
    except ValueError:
        weight = math.nan
    if not math.isfinite(weight):
        raise UsageError(f"--reward {spec}: expected a number behind =, such as {name}=0.5; got {said!r}.")
    return name, weight


def is_function(name: str) -> bool:
    return ".py:" in name or name.endswith(".py")  # the second lacks its function, as will be said


def members_in(name: str) -> list[str]:
    """The folders of an ensemble, or the one folder or Hub name."""
    for folder in (Path(name) / "model", Path(name)):
        if members := sorted(folder.glob("member-*"), key=lambda path: int(path.name.rpartition("-")[2])):
            return [str(path) for path in members]
    return [found(name)]


def load_learned(name: str, tokenizer: Any, how: Combination, caution: float, device: str) -> LearnedReward:
    folders = members_in(name)
    for folder in folders:
        if not is_scorer(folder):
            raise UsageError(
                f"{name} is a language model, not a reward model: {folder} has no scoring head. "
                "`preferent reward` trains one."
            )
    members = [load_scorer(folder, device=device).requires_grad_(False) for folder in folders]
    same = same_text(members[0].tokenizer, tokenizer)
    return LearnedReward(
        members,
        [scale_in(folder) for folder in folders],
        how=how,
        caution=caution,
        template=None if same else Template(members[0].tokenizer),
    )


def same_text(a: Any, b: Any) -> bool:
    """Whether two tokenizers, with their chat templates, turn every conversation into the same tokens."""
    if a is b:
        return True
    return bool(a.get_vocab() == b.get_vocab() and a.chat_template == b.chat_template and merges(a) == merges(b))


def merges(tokenizer: Any) -> Any:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    return json.loads(backend.to_str())["model"].get("merges") if backend is not None else None


def scale_in(folder: str) -> Scale:
    """The scale that ``preferent reward`` wrote beside the model, or 1."""
    path = Path(folder) / "score.json"
    return Scale(**json.loads(path.read_text())) if path.is_file() else Scale()
