"""People as annotators of what a policy says: asked through the store, in a campaign that anybody may answer."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from preferent.config import UsageError
from preferent.feedback.asking import Campaign, item_of
from preferent.types import Comparison, Episode, Preference, Prompt

Asked = Comparison[Prompt, Episode]


@dataclass(frozen=True, slots=True)
class People:
    """Asks what was not asked yet, and gives what was answered. Raises ``Unanswered``, with all asked, while some wait.

    What is asked is addressed by its text, so a run that draws the same replies again finds the answers. Replies whose
    tokens differ and whose texts do not are not compared.
    """

    campaign: Campaign
    note: Callable[[Iterable[str]], None] = lambda ids: None  # told which judgements are about to be given

    def __call__(self, comparisons: Sequence[Asked], /) -> list[Preference[Prompt, Episode]]:
        asked: dict[str, list[tuple[Asked, tuple[int, ...]]]] = {}  # several may read alike
        shown: dict[str, Comparison[Any, Any]] = {}
        for comparison in comparisons:
            texts = tuple(option.text for option in comparison.options)
            if len(set(texts)) == len(texts):
                said = Comparison(messages_of(comparison.context), texts)
                item, places = item_of(said)
                asked.setdefault(item.id, []).append((comparison, places))
                shown[item.id] = said
        found: list[Preference[Prompt, Episode]] = []
        for answer in self.campaign(list(shown.values())) if shown else ():
            for comparison, places in asked[item_of(answer.comparison)[0].id]:
                options = tuple(comparison.options[place] for place in places)
                found.append(
                    Preference(
                        Comparison(comparison.context, options), answer.choice, answer.annotator, answer.strength,
                        answer.both_bad, answer.judgements,
                    )
                )  # fmt: skip
        self.note(dict.fromkeys(id for preference in found for id in preference.judgements))
        return found


def messages_of(prompt: Prompt) -> Any:
    """What people are shown. Raises UsageError for a prompt of which only tokens are known."""
    if "messages" not in prompt.info:
        raise UsageError("People are shown text, and a prompt has none: expected prompts from files, or conversations.")
    return prompt.info["messages"]
