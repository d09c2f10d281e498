"""A causal language model as a policy, its references, and an actor with a critic beside it."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from preferent.models.forward import Backbone
from preferent.models.head import Logits, head_of, token_logprobs
from preferent.models.plan import Plan
from preferent.models.scorer import ScoringModel
from preferent.types import Policy, Reading, Replies

M = TypeVar("M", bound=nn.Module)


class LanguagePolicy(Backbone):
    """``AutoModelForCausalLM`` that reads replies. Temperature is the policy's: sampling and scoring both obey it."""

    def __init__(
        self, model: nn.Module, tokenizer: Any = None, *, sharing: bool, own_head: bool = True, temperature: float = 1.0
    ) -> None:
        super().__init__(model, sharing=sharing)
        self.tokenizer = tokenizer
        self.own_head = own_head  # apply the head by hand, to reply tokens only; else take the model's logits
        self.temperature = temperature

    def read(self, x: Replies, *, entropy: bool = False, plan: Plan | None = None) -> Reading:
        """Log-probabilities [r, t] in fp32, zero off ``learn``; entropy in nats where asked for."""
        plan = plan or self.plan(x)
        states = plan.states[:, :-1][x.learn]
        head: Logits = nn.Identity()
        if self.own_head:
            hidden, head = self.hidden(plan)[states], head_of(self.base)
        else:
            hidden = self.base(**self.inputs(plan)).logits.flatten(0, 1)[states]
        vocabulary = self.text_config.vocab_size
        logp, spread = token_logprobs(
            head, hidden, x.tokens[x.learn], vocabulary=vocabulary, temperature=self.temperature, entropy=entropy
        )
        return Reading(scattered(logp, x.learn), None if spread is None else scattered(spread, x.learn))

    def frozen(self) -> Policy:
        """A reference: what this policy says now, for good. With an adapter, the same weights without it."""
        return Adapterless(self) if self.has_adapter else Frozen(self)


class Frozen:
    """A copy that nobody updates."""

    def __init__(self, policy: LanguagePolicy) -> None:
        self.policy = twin(policy)

    @torch.no_grad()
    def read(self, x: Replies, *, entropy: bool = False) -> Reading:
        return self.policy.read(x, entropy=entropy)


class Follower(Frozen):
    """A copy that nobody trains, from which replies may be drawn, and that may follow the policy."""

    def __init__(self, policy: LanguagePolicy) -> None:
        super().__init__(policy)
        trained = {name for name, p in policy.named_parameters() if p.requires_grad}
        self.moving = {name: p for name, p in self.policy.named_parameters() if name in trained}

    @torch.no_grad()
    def follow(self, weights: Mapping[str, Tensor], share: float) -> None:
        """Go this share of the way to the policy's weights."""
        for name, mine in self.moving.items():
            mine.copy_(weights[name]) if share == 1 else mine.lerp_(weights[name], share)

    def weights(self) -> Mapping[str, Tensor]:
        """For a sampler that draws from it."""
        return {name: p.detach() for name, p in self.moving.items()}

    def state_dict(self) -> dict[str, Any]:
        return {"weights": self.weights()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.follow(state["weights"], 1.0)


class Adapterless:
    """The policy with its adapter switched off: a reference that costs no memory."""

    def __init__(self, policy: LanguagePolicy) -> None:
        self.policy = policy

    @torch.no_grad()
    def read(self, x: Replies, *, entropy: bool = False) -> Reading:
        with self.policy.model.disable_adapter():  # type: ignore[operator]
            return self.policy.read(x, entropy=entropy)


class LanguageActorCritic(nn.Module):
    """A policy, and a critic with a trunk of its own that starts as the reward model (Stiennon et al. 2020)."""

    def __init__(self, policy: LanguagePolicy, critic: ScoringModel) -> None:
        super().__init__()
        self.policy = policy
        self.critic = critic

    def read(self, x: Replies, *, entropy: bool = False) -> Reading:
        return self.policy.read(x, entropy=entropy)

    def values(self, x: Replies) -> Tensor:
        return self.critic.values(x)

    def read_with_values(self, x: Replies, *, entropy: bool = False) -> tuple[Reading, Tensor]:
        plan = self.policy.plan(x)
        same = self.policy.branching and self.critic.branching  # one row, whoever reads it
        return self.policy.read(x, entropy=entropy, plan=plan), self.critic.values(x, plan=plan if same else None)

    def frozen(self) -> Policy:
        return self.policy.frozen()


def twin(policy: M) -> M:
    """A copy that says what the policy says now, and goes on saying it; what is frozen takes no memory again.

    Frozen weights share their memory, not their parameters: while the twin draws, an adapter may be added to them in
    its own (``merged``), which the policy must not see.
    """
    shared: dict[int, Any] = {id(p): sharing(p) for p in policy.parameters() if not p.requires_grad}
    return copy.deepcopy(policy, shared).requires_grad_(False).eval()


def sharing(parameter: nn.Parameter) -> nn.Parameter:
    """Another parameter on the same numbers; one of four bits, to which nothing is ever added, is itself."""
    if type(parameter) is not nn.Parameter:
        return parameter
    return nn.Parameter(parameter.detach(), requires_grad=False)


def scattered(values: Tensor, mask: Tensor) -> Tensor:
    """Values of the marked places back at their places, zero elsewhere."""
    return torch.zeros(mask.shape, dtype=values.dtype, device=values.device).masked_scatter(mask, values)
