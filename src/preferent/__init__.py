"""Learning from human feedback, the whole loop: demonstrations, comparisons, rewards, policies, evaluation.

    from preferent import dpo, load_policy, load_preferences, local_learner, logged

Names are found when they are asked for, so that ``import preferent`` is quick and imports no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

NAMES = {
    "best_of_n": "preferent.algorithms.best_of_n",
    "dpo": "preferent.algorithms.dpo",
    "kto": "preferent.algorithms.kto",
    "grpo": "preferent.algorithms.grpo",
    "ppo": "preferent.algorithms.ppo",
    "online_dpo": "preferent.algorithms.online_dpo",
    "xpo": "preferent.algorithms.xpo",
    "nash_md": "preferent.algorithms.nash_md",
    "spin": "preferent.algorithms.spin",
    "raft": "preferent.algorithms.raft",
    "rso": "preferent.algorithms.rso",
    "distill": "preferent.algorithms.distill",
    "reward_model": "preferent.algorithms.reward_model",
    "sft": "preferent.algorithms.sft",
    "load_policy": "preferent.models.load",
    "load_scorer": "preferent.models.load",
    "load_demonstrations": "preferent.data.load",
    "load_preferences": "preferent.data.load",
    "load_prompts": "preferent.data.load",
    "load_rated": "preferent.data.rated",
    "local_learner": "preferent.runtime.learner",
    "checkpointed": "preferent.runtime.drive",
    "evaluated": "preferent.runtime.drive",
    "logged": "preferent.runtime.drive",
    "shown": "preferent.runtime.show",
    "UsageError": "preferent.config",
}


def __getattr__(name: str) -> Any:
    if name not in NAMES:
        raise AttributeError(f"preferent has no {name}; it has {', '.join(sorted(NAMES))}")
    return getattr(import_module(NAMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *NAMES])
