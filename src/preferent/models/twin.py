"""A policy of its own for a sampler that draws while the learner updates: what is trained is copied, not the rest."""

from __future__ import annotations

import copy
from typing import Any

from torch import nn

from preferent.models.policy import LanguagePolicy
from preferent.models.room import suffices

HELPS = "Take --max-staleness 0, which draws from the policy itself, or train less of it with --lora."


def twin(policy: LanguagePolicy) -> LanguagePolicy:
    """A copy that says what the policy says now, and goes on saying it.

    Frozen weights share their memory, not their parameters: while the twin draws, an adapter may be added to them in
    its own (``merged``), which the policy must not see. Raises UsageError where memory does not suffice.
    """
    shared: dict[int, Any] = {id(p): sharing(p) for p in policy.parameters() if not p.requires_grad}
    with suffices("for a copy of the weights that are trained, from which replies are drawn meanwhile", HELPS):
        return copy.deepcopy(policy, shared).requires_grad_(False).eval()


def sharing(parameter: nn.Parameter) -> nn.Parameter:
    """Another parameter on the same numbers; one of four bits, to which nothing is ever added, is itself."""
    if type(parameter) is not nn.Parameter:
        return parameter
    return nn.Parameter(parameter.detach(), requires_grad=False)
