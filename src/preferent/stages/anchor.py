"""What KL and log-ratios are to: the policy as it starts, another model, or a reference that follows the policy."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated

from annotated_types import Gt, Le

from preferent.config import UsageError

if TYPE_CHECKING:
    from preferent.models.policy import Follower, LanguagePolicy
    from preferent.stages.options import ModelOptions
    from preferent.types import Policy


@dataclass(frozen=True, kw_only=True)
class AnchorOptions:
    """Reference model."""

    reference: Annotated[
        str | None,
        "what KL and log-ratios are to: a folder or Hub name, of the same tokenizer; none: --model as it starts",
    ] = None

    @property
    def reads(self) -> list[str]:
        """The further model that a run depends on."""
        from preferent.models.load import found

        return [] if self.reference is None else [found(self.reference)]

    def model(self, how: ModelOptions, policy: LanguagePolicy) -> LanguagePolicy | None:
        """The other model, where one is named."""
        return None if self.reference is None else another(self.reference, "--reference", how, policy)

    def frozen(self, how: ModelOptions, policy: LanguagePolicy) -> Policy:
        """A reference that is only asked."""
        other = self.model(how, policy)
        return policy.frozen() if other is None else other

    def speaking(self, how: ModelOptions, policy: LanguagePolicy) -> Follower:
        """A reference that can be drawn from, too."""
        from preferent.models.policy import Follower

        other = self.model(how, policy)
        return Follower(policy if other is None else other)


@dataclass(frozen=True, kw_only=True)
class ReferenceOptions:
    """Reference."""

    follow: Annotated[
        float | None,
        "the reference goes this share of the way to the policy (TR-DPO; the paper's: 0.6 after each step, or 1 after "
        "every 512); a copy of what is trained stays in memory; none: the reference stays as it is",
        Gt(0),
        Le(1),
    ] = None
    follow_every: Annotated[int | None, "with --follow: after every so many steps; none: after each", Gt(0)] = None


def refuse_reference(follow: ReferenceOptions, anchor: AnchorOptions, *, referred: bool) -> None:
    """Raise UsageError for a reference that is moved or named and never asked, and for a pace of what stays."""
    if follow.follow is None and follow.follow_every is not None:
        raise UsageError("--follow-every says how often, and without --follow the reference stays.\nGive --follow 0.6.")
    if follow.follow is not None and not referred:
        raise UsageError("--follow moves the reference, and this objective asks none.\nLeave --follow away.")
    if anchor.reference is not None and not referred:
        raise UsageError("--reference is what log-ratios are to, and this objective has none.\nLeave --reference away.")
    if anchor.reference is not None and follow.follow is not None:
        raise UsageError("--follow moves a reference that begins at --model: leave --reference out.")


def another(name: str, flag: str, how: ModelOptions, beside: LanguagePolicy) -> LanguagePolicy:
    """A model of its own, that nobody trains, at the policy's temperature; in four bits where the policy is.

    Raises UsageError where it makes other tokens of a text than the policy beside it.
    """
    from preferent.rewards.load import same_text
    from preferent.stages import training

    plain = replace(how, model=name, lora=how.lora if how.load_4bit else 0)  # a new adapter says nothing yet
    other = training.policy_of(plain, seed=0, temperature=beside.temperature).requires_grad_(False).eval()
    if not same_text(other.tokenizer, beside.tokenizer):
        raise UsageError(
            f"{flag} {name} makes other tokens of the same text than --model {how.model}, so it cannot mark the "
            "policy's tokens one by one. Take models of one family."
        )
    return other
