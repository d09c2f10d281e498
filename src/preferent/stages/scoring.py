"""What ``preferent reward`` learns from, by the name of its objective: rows, batches of them, a loss, and a scale."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from preferent.algorithms.attributes import ByAspect, Regression, by_aspect, rated, spread
from preferent.algorithms.listwise import Listwise, best_only, in_order, lists
from preferent.algorithms.reward_model import BradleyTerry, Link
from preferent.algorithms.safe_rlhf import CostModel, by_harm
from preferent.config import UsageError, did_you_mean
from preferent.data import comparisons
from preferent.data.load import load_demonstrations, load_preferences
from preferent.losses import preference
from preferent.rewards.learned import Scale, scale_of, scales_of
from preferent.rewards.load import ONLY
from preferent.stages.options import Margins

if TYPE_CHECKING:
    from preferent.models.scorer import ScoringModel
    from preferent.stages.reward import RewardOptions
    from preferent.types import Demonstration

log = logging.getLogger(__name__)
Groups = Sequence[list[Any]]  # rows about one prompt
Scales = Callable[["ScoringModel", list[Any]], Mapping[str, Scale]]  # of a trained member, on rows it learned from


@dataclass(frozen=True)
class Told:
    """How rows become a batch, what is learned from it, and on which scales the heads speak."""

    collate: Callable[[list[Any]], Any]
    objective: Any
    scales: Scales
    sign: int = 0  # of the score by which the better of two is known; 0 where no one score says


@dataclass(frozen=True)
class Recipe:
    """``told`` of the groups to train on: ratings are measured in their own deviations."""

    load: Any
    grouped: Callable[[Any], Groups]
    told: Callable[[Groups], Told]


def recipe(how: RewardOptions) -> Recipe:
    """Raises UsageError for options that do not go together."""
    refuse_nonsense(how)
    comparing: Mapping[str, Callable[[Groups], Told]] = {
        "bradley-terry": partial(paired, how, preference.bradley_terry),
        "thurstone": partial(paired, how, preference.thurstone),
        "plackett-luce": lambda _: Told(partial(lists, told=in_order), Listwise(), own_scale, 1),
        "pick-best": lambda _: Told(partial(lists, told=best_only), Listwise(), own_scale, 1),
        "cost": costing,
    }
    if how.objective in comparing:
        return Recipe(load_preferences, lambda rows: rows.by_prompt(), comparing[how.objective])
    return Recipe(load_demonstrations, one_by_one, partial(regressed, how))


def refuse_nonsense(how: RewardOptions) -> None:
    pairs = how.objective in ("bradley-terry", "thurstone")
    plain = pairs and not how.heads
    for name, given, fits, where in (
        ("--heads", how.heads, pairs or how.objective == "regression", "with bradley-terry, thurstone or regression"),
        ("--smoothing", how.smoothing, pairs, "on pairs: with bradley-terry or thurstone"),
        ("--centring", how.centring, plain, "on pairs with one head: with bradley-terry or thurstone"),
        ("--margins", how.margins, plain, "on pairs with one head: with bradley-terry or thurstone"),
    ):
        if given and not fits:
            raise UsageError(f"{name} has a meaning {where} only, not with --objective {how.objective}.")
    if len(set(how.heads)) < len(how.heads) or any(set(head) & set(":,=/") or not head for head in how.heads):
        raise UsageError(f"--heads: expected different names without : , = and /; got {', '.join(how.heads)}.")
    if how.objective == "regression" and not how.heads:
        raise UsageError("--objective regression needs --heads: the columns that hold ratings, such as helpfulness.")


def paired(how: RewardOptions, link: Link, groups: Groups) -> Told:
    """Pairs, as a whole or by aspect."""
    if not how.heads:
        if how.margins and not any(getattr(row, "strength", None) for row in rows_in(groups)):
            log.warning("--margins: no row has a strength above 0, so each pair has the first margin or none.")
        objective = BradleyTerry(centring=how.centring, smoothing=how.smoothing, link=link)
        return Told(partial(comparisons.grouped_pairs, margins=Margins(how.margins)), objective, own_scale, 1)
    for head in how.heads:
        if not any(head in (row.comparison.context.info.get("aspects") or {}) for group in groups for row in group):
            raise UsageError(f"--heads {head}: no row names it in a column aspects, such as {{{head!r}: 0.8}}.")
    objective_by = ByAspect(how.heads, smoothing=how.smoothing, link=link)
    return Told(partial(faultless, partial(by_aspect, heads=how.heads)), objective_by, partial(own_scales, how.heads))


def costing(groups: Groups) -> Told:
    """Harm and its zero, which nobody can learn where no row says what is harmful."""
    said = ("chosen_safe", "rejected_safe")
    if all(row.comparison.context.info.get(column) is None for row in rows_in(groups) for column in said):
        raise UsageError(
            "--objective cost learns what is harmful from the columns chosen_safe and rejected_safe, true or false; no "
            "row has a value in them. Name them with --columns, or take --objective bradley-terry for pairs alone."
        )
    return Told(partial(faultless, by_harm), CostModel(), as_it_is, -1)


def rows_in(groups: Groups) -> Iterator[Any]:
    """Each once: a mixture goes on behind its length."""
    return (row for i in range(len(groups)) for row in groups[i])


def regressed(how: RewardOptions, groups: Groups) -> Told:
    """Ratings: each head says what the rating would be, in the rating's own units."""
    rows = [row for group in groups for row in group]
    try:
        heads = {head: spread(rows, head) for head in how.heads}
    except ValueError as error:
        columns = numbers_in(rows)
        near = "".join(did_you_mean(head, dict.fromkeys(columns, "")) for head in how.heads if head not in columns)
        raise UsageError(f"--heads: {error}{near}. Columns of numbers here: {', '.join(columns) or 'none'}.") from error
    scales = {head: Scale(-of.mean / of.std, 1 / of.std) for head, of in heads.items()}
    return Told(partial(faultless, partial(rated, heads=heads)), Regression(how.heads), lambda *_: scales)


def faultless(collated: Callable[[list[Any]], Any], groups: list[Any]) -> Any:
    """Raises UsageError for what a row should not hold."""
    try:
        return collated(groups)
    except ValueError as error:
        raise UsageError(f"{error}.") from error


def numbers_in(rows: Sequence[Demonstration]) -> list[str]:
    """The columns that could be ratings: those that hold a number in some row."""
    numbers = (name for row in rows for name, said in row.prompt.info.items() if isinstance(said, int | float))
    return list(dict.fromkeys(numbers))


def one_by_one(rows: Sequence[Any]) -> Groups:
    """Every row a group of its own; a mixture goes on behind its length."""
    return [[rows[i]] for i in range(len(rows))]


def as_it_is(scorer: ScoringModel, rows: list[Any]) -> dict[str, Scale]:
    """Of a cost, whose zero is where harm begins."""
    return {ONLY: Scale()}


def own_scale(scorer: ScoringModel, rows: list[Any]) -> dict[str, Scale]:
    return {ONLY: scale_of(scorer, rows)}


def own_scales(heads: Sequence[str], scorer: ScoringModel, rows: list[Any]) -> dict[str, Scale]:
    return dict(zip(heads, scales_of(scorer, rows), strict=True))
