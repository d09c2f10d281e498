"""Reward models from the command line."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, islice
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from annotated_types import Ge, Gt

from preferent.config import UsageError, group
from preferent.stages.options import DataOptions, Margins, ModelOptions, OptimiserOptions, RunOptions

if TYPE_CHECKING:
    from torch import Tensor

    from preferent.data.collate import Opinion
    from preferent.models.scorer import ScoringModel
    from preferent.runtime.learner import LocalLearner
    from preferent.types import Pairs

FOLDS = 5  # a member leaves out one fold of the prompts


@dataclass(frozen=True, kw_only=True)
class RewardOptions:
    """Reward model."""

    members: Annotated[int, "models of an ensemble, each with a seed and a split of its own", Gt(0)] = 1
    centring: Annotated[float, "weight of (r_w + r_l)², which keeps scores near zero", Ge(0)] = 0.0
    margins: Annotated[
        tuple[float, ...], "margin for each strength of preference from 0 up, such as 0 1 2 3; none given: no margins"
    ] = ()


@dataclass(frozen=True, kw_only=True)
class Options:
    """Train a reward model, or an ensemble of them, on comparisons.

    Rows hold ``prompt``, ``chosen`` and ``rejected``, or ``prompt``, ``completions`` and ``ranks``; ``choice`` (soft
    labels) and ``strength`` are honoured. Accuracy is on decided comparisons; give --eval-data to see it held out.

    Examples:
        preferent reward --model runs/sft --data prefs.jsonl --eval-data held.jsonl --out runs/rm
        preferent reward --model runs/sft --data prefs.jsonl --members 3 --out runs/rm
    """

    model: ModelOptions
    data: DataOptions
    reward: RewardOptions = RewardOptions()
    optimiser: OptimiserOptions = group(OptimiserOptions, lr=1e-5, schedule="cosine")
    run: RunOptions


def run(options: Options, *, title: str = "Reward model") -> None:
    """Train the members side by side, and write a Hugging Face folder for each."""
    from functools import partial

    from preferent.algorithms.reward_model import BradleyTerry, ensemble, reward_model
    from preferent.data import batches as order
    from preferent.data import collate
    from preferent.data.load import load_preferences
    from preferent.stages import plan, training

    if options.data.streaming:
        raise UsageError("Reward models hold their comparisons in memory, to split them among members: no --streaming.")
    with training.opened(options) as run:
        each = range(options.reward.members)
        scorers = [training.scorer_of(options.model, seed=options.run.seed + i) for i in each]
        template = training.template_of(scorers[0], scorers[0].tokenizer, options.data)
        loaded = training.loaded(load_preferences, options, template)
        held_out = training.held_out(load_preferences, options, template)
        pairs = partial(collate.grouped_pairs, margins=Margins(options.reward.margins))
        groups = loaded.by_prompt()
        splits = [split(groups, i, options.reward.members) for i in each]
        epochs, size = options.run.epochs, options.optimiser.batch
        updates = options.run.steps or order.steps_in(epochs, min(map(len, splits)), size)
        batches = [order.Batches(splits[i], size, pairs, seed=options.run.seed + i, steps=updates) for i in each]
        learners = [
            training.learner_of(scorer, options, updates=updates, member=f"member-{i}")
            for i, scorer in enumerate(scorers)
        ]
        if options.run.dry_run:
            held = {f"member {i}": scorer for i, scorer in enumerate(scorers)}
            plan.show(plan.Plan(options, held, scorers, scorers[:1], batches[0], updates=updates, scored=True))
            return
        objective = BradleyTerry(centring=options.reward.centring)
        steps = ensemble([reward_model(*member, objective=objective) for member in zip(learners, batches, strict=True)])

        def measure(_: int) -> dict[str, float]:
            assert held_out is not None  # noqa: S101  (asked only where it is given)
            return measured(learners, list(order.in_order(held_out.by_prompt(), size, pairs)), objective)

        def save(folder: Path) -> None:
            save_members(scorers, splits, folder)
            if held_out:
                write_judged(learners, list(order.in_order(held_out.by_prompt(), size, list)), run.folder)

        training.trained(
            run,
            steps,
            options.run,
            {f"member-{i}": learners[i] for i in each} | {f"data-{i}": batches[i] for i in each},
            title=title,
            total=updates,
            numbers=("loss", "accuracy", "ensemble_accuracy"),
            measure=measure if held_out else None,
            save=save,
        )
        write_cards(run.folder, run.model_folder, options.reward.members)


def split(groups: Sequence[list[Opinion]], member: int, members: int) -> Sequence[list[Opinion]]:
    """The member's prompts: all of them for one model, else all but one fold, another for each member."""
    from preferent.data.batches import Chosen, keyed

    if members == 1:
        return groups
    folds = max(FOLDS, members)
    kept = [i for i, g in enumerate(groups) if keyed("fold", g[0].comparison.context.tokens) % folds != member]
    return Chosen(groups, kept) if kept else groups


def seen_by_all(splits: Sequence[Sequence[list[Opinion]]]) -> Sequence[list[Opinion]]:
    """The prompts that every member learned from; where each was left out by somebody, those of the first member."""
    from preferent.data.batches import Chosen, keyed

    if len(splits) == 1:
        return splits[0]
    seen = [[keyed(group[0].comparison.context.tokens) for group in mine] for mine in splits]
    shared = set[int].intersection(*map(set, seen))
    return Chosen(splits[0], [i for i, prompt in enumerate(seen[0]) if prompt in shared]) or splits[0]


def measured(learners: Sequence[LocalLearner[Any]], batches: Sequence[Pairs], objective: Any) -> dict[str, float]:
    """Each member on the held-out comparisons, and the ensemble's own accuracy: that of the mean of the scores."""
    from preferent.losses.preference import accuracy

    said = [learner.measure(batches, objective) for learner in learners]
    mean = {name: sum(one[name] for one in said) / len(said) for name in said[0]}
    if len(learners) == 1:
        return mean
    right = decided = 0.0
    for x in batches:
        score = scores_of(learners, x)
        hit = accuracy(score.mean(0)[x.better], score.mean(0)[x.worse], x.weight, x.choice)
        right, decided = right + hit.total.item(), decided + hit.count.item()
    return {**mean, "ensemble_accuracy": right / max(decided, 1e-9)}


def scores_of(learners: Sequence[LocalLearner[Any]], x: Pairs) -> Tensor:
    """[m, r]: what each member says of the batch's replies."""
    import torch

    return torch.stack([learner.map(x.replies, lambda m, cut: m.scores(cut)[:, 0]).cpu() for learner in learners])


def write_judged(learners: Sequence[LocalLearner[Any]], batches: Sequence[list[list[Opinion]]], folder: Path) -> None:
    """``judged.jsonl`` in the run's folder: each held-out pair with the margins of the model that is being saved.

    A pair on which a member has no number to say is left out.
    """
    from preferent.data.collate import compared, grouped_pairs
    from preferent.evaluation.judged import judged, written
    from preferent.runtime import files

    rows, prompts = [], 0
    for batch in batches:
        x = grouped_pairs(batch)
        scores = scores_of(learners, x)
        margins = iter((scores[:, x.better] - scores[:, x.worse]).T.tolist())
        for prompt, opinions in enumerate(batch, prompts):
            for better, worse, choice, _, _ in (pair for opinion in opinions for pair in compared(opinion, {})):
                said = next(margins)
                if all(map(isfinite, said)):
                    rows.append(judged(prompt, choice, said, better.text, worse.text))
        prompts += len(batch)
    with files.replaced(folder / "judged.jsonl") as partial:
        partial.write_text(written(rows), encoding="utf-8")


def write_cards(run: Path, model: Path, members: int) -> None:
    """The run's card into each member's folder, at the end: with --keep-best the members were saved on the way."""
    from preferent.runtime import files
    from preferent.runtime.card import card

    for i in range(members) if members > 1 else ():
        with files.replaced(model / f"member-{i}" / "README.md") as partial:
            partial.write_text(card(run, member=i), encoding="utf-8")


def save_members(scorers: Sequence[ScoringModel], splits: Sequence[Sequence[list[Opinion]]], folder: Path) -> None:
    """A folder for one model, ``member-i`` for several; ``score.json`` holds the scale of the scores."""
    from preferent.models.load import save
    from preferent.rewards.learned import scale_of

    shared = seen_by_all(splits)
    for i, scorer in enumerate(scorers):
        place = folder / f"member-{i}" if len(scorers) > 1 else folder
        save(scorer, place)
        scale = scale_of(scorer, list(islice(chain.from_iterable(shared), 1000)))
        (place / "score.json").write_text(json.dumps({"mean": scale.mean, "std": scale.std}))
