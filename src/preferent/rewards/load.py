"""Rewards by name: a reward model, an ensemble, a Hub name, ``file.py:function``, or several with weights.

A model with several heads is named with what each is worth: ``runs/rm:helpfulness=0.7,verbosity=-0.2``.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from preferent.config import UsageError
from preferent.data.template import Template
from preferent.losses.reward import Combination
from preferent.models.load import found, is_scorer, load_scorer
from preferent.models.scorer import ScoringModel
from preferent.rewards.combined import Weighted
from preferent.rewards.function import load_function
from preferent.rewards.learned import LearnedReward, Scale
from preferent.types import Reward

SCORE = "score.json"  # beside a reward model: mean and standard deviation of its scores, or of each head's
ONLY = ""  # the name of a head that has no other beside it
HEADS = re.compile(r"(?P<model>.+):(?P<heads>[^:/]+)")  # behind a model's name


def load_reward(
    specs: Sequence[str], tokenizer: Any, *, how: Combination = "mean", caution: float = 0.0, device: str = "auto"
) -> Reward:
    """What ``--reward`` names. ``tokenizer`` is the policy's: a model with another one is fed re-rendered text."""
    parts: dict[str, tuple[Reward, float]] = {}
    for spec in specs:
        name, weight = weighted(spec)
        if name in parts:
            raise UsageError(
                f"--reward {name} is named twice; give it one weight instead: {name}=2, or name its heads together."
            )
        reward: Reward = (
            load_function(name)
            if is_function(name)
            else load_learned(name, tokenizer, how, caution, device, heads=heads_in(spec))
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
    """``rm=0.7`` is the reward rm with weight 0.7; without one, 1. Heads have weights of their own."""
    if found := with_heads(spec):
        return found["model"], 1.0
    name, _, said = spec.rpartition("=")
    return (name, number(said, spec, name)) if name else (spec, 1.0)


def with_heads(spec: str) -> re.Match[str] | None:
    """``rm:helpful=0.7,brief=0.3`` taken apart; None where no heads are named."""
    found = HEADS.fullmatch(spec)
    return None if found is None or is_function(found["model"]) else found


def heads_in(spec: str) -> dict[str, float]:
    """What each head is worth, by name; 1 where no number is given. Empty where no heads are named."""
    found = with_heads(spec)
    parts = [each.partition("=") for each in found["heads"].split(",")] if found else []
    return {name: number(said, spec, name) if equals else 1.0 for name, equals, said in parts}


def number(said: str, spec: str, name: str) -> float:
    try:
        weight = float(said)
    except ValueError:
        weight = math.nan
    if not math.isfinite(weight):
        raise UsageError(f"--reward {spec}: expected a number behind =, such as {name}=0.5; got {said!r}.")
    return weight


def is_function(name: str) -> bool:
    return ".py:" in name or name.endswith(".py")  # the second lacks its function, as will be said


def members_in(name: str) -> list[str]:
    """The folders of an ensemble, or the one folder or Hub name."""
    for folder in (Path(name) / "model", Path(name)):
        if members := sorted(folder.glob("member-*"), key=lambda path: int(path.name.rpartition("-")[2])):
            return [str(path) for path in members]
    return [found(name)]


def load_learned(
    name: str, tokenizer: Any, how: Combination, caution: float, device: str, *, heads: Mapping[str, float]
) -> LearnedReward:
    """``heads`` says what each of a model's named heads is worth; it has to, where there are any, and else must not."""
    folders = members_in(name)
    for folder in folders:
        if not is_scorer(folder):
            raise UsageError(
                f"{name} is a language model, not a reward model: {folder} has no scoring head. "
                "`preferent reward` trains one."
            )
    known = [scales_in(folder) for folder in folders]
    for folder, scales in zip(folders, known, strict=True):
        refuse_unnamed(name, folder, [each for each in scales if each], heads)
    members = [load_scorer(folder, device=device).requires_grad_(False) for folder in folders]
    if heads:
        for member, scales in zip(members, known, strict=True):
            weigh(member, scales, heads)
    same = same_text(members[0].tokenizer, tokenizer)
    return LearnedReward(
        members,
        [Scale() if heads else scales[ONLY] for scales in known],
        how=how,
        caution=caution,
        template=None if same else Template(members[0].tokenizer),
        heads=list(known[0]) if heads else (),
    )


def refuse_unnamed(name: str, folder: str, has: Sequence[str], heads: Mapping[str, float]) -> None:
    """Raise UsageError where weights and heads do not belong together."""
    if has and not heads:
        example = f"{name}:{has[0]}=1" + "".join(f",{other}=0.5" for other in has[1:2])
        raise UsageError(f"{name} has several heads: {', '.join(has)}. Say what they are worth, as in {example}.")
    if unknown := [head for head in heads if head not in has]:
        here = f"it has {', '.join(has)}" if has else "its one score has no name"
        raise UsageError(f"--reward {name}: {folder} has no head {unknown[0]!r}; {here}.")


@torch.no_grad()
def weigh(scorer: ScoringModel, scales: Mapping[str, Scale], weights: Mapping[str, float]) -> None:
    """Put the weighted sum of the heads before them, all on their scales: it is as linear as they are.

    So the sum is the model's first head, for ensembles and critics alike, and one forward pass gives all.
    """
    old = scorer.base.score
    std = old.weight.new_tensor([scale.std for scale in scales.values()])
    mean = old.weight.new_tensor([scale.mean for scale in scales.values()])
    weight = old.weight / std.unsqueeze(-1)
    bias = ((0 if old.bias is None else old.bias) - mean) / std
    worth = weight.new_tensor([[weights.get(name, 0.0) for name in scales]])
    new = torch.nn.Linear(old.in_features, 1 + len(scales), device=weight.device, dtype=weight.dtype)
    new.weight.copy_(torch.cat([worth @ weight, weight]))
    new.bias.copy_(torch.cat([worth @ bias, bias]))
    scorer.base.score = new.requires_grad_(old.weight.requires_grad)


def same_text(a: Any, b: Any) -> bool:
    """Whether two tokenizers, with their chat templates, turn every conversation into the same tokens."""
    if a is b:
        return True
    return bool(a.get_vocab() == b.get_vocab() and a.chat_template == b.chat_template and merges(a) == merges(b))


def merges(tokenizer: Any) -> Any:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    return json.loads(backend.to_str())["model"].get("merges") if backend is not None else None


def scales_in(folder: str | Path) -> dict[str, Scale]:
    """The scale of each head by its name, or of the ``ONLY`` one: what ``preferent reward`` wrote, or 1."""
    path = Path(folder) / SCORE
    said = json.loads(path.read_text()) if path.is_file() else asdict(Scale())
    return {name: Scale(**each) for name, each in said["heads"].items()} if "heads" in said else {ONLY: Scale(**said)}


def write_scales(folder: str | Path, scales: Mapping[str, Scale]) -> None:
    """What ``scales_in`` reads."""
    said = {name: asdict(scale) for name, scale in scales.items()}
    (Path(folder) / SCORE).write_text(json.dumps(said.get(ONLY) or {"heads": said}))
