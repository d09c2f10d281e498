"""Reward models from the command line."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain, islice
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from annotated_types import Ge, Gt, Lt

from preferent.config import UsageError, group
from preferent.stages.options import DataOptions, ModelOptions, OptimiserOptions, RunOptions

if TYPE_CHECKING:
    from torch import Tensor

    from preferent.data.comparisons import Opinion
    from preferent.models.scorer import ScoringModel
    from preferent.runtime.learner import LocalLearner
    from preferent.stages.scoring import Told
    from preferent.types import Pairs, Prompt

FOLDS = 5  # a member leaves out one fold of the prompts


@dataclass(frozen=True, kw_only=True)
class RewardOptions:
    """Reward model."""

    objective: Annotated[
        Literal["bradley-terry", "thurstone", "plackett-luce", "pick-best", "regression", "cost"],
        "what is learned: who wins a pair, as a logistic or as a normal chance; a whole ranking, or the best of it; "
        "ratings; harm and its zero",
    ] = "bradley-terry"
    heads: Annotated[
        tuple[str, ...],
        "a head for each of these: with regression, columns of ratings; with pairs, names in the column aspects",
    ] = ()
    members: Annotated[int, "models of an ensemble, each with a seed and a split of its own", Gt(0)] = 1
    bases: Annotated[
        tuple[str, ...], "more models to start from: members take --model and these in turn; one tokenizer for all"
    ] = ()
    centring: Annotated[float, "weight of (r_w + r_l)², which keeps scores near zero", Ge(0)] = 0.0
    smoothing: Annotated[float, "chance that a label on a pair is wrong, below ½", Ge(0), Lt(0.5)] = 0.0
    margins: Annotated[
        tuple[float, ...], "margin for each strength of preference from 0 up, such as 0 1 2 3; none given: no margins"
    ] = ()


@dataclass(frozen=True, kw_only=True)
class Options:
    """Train a reward model, or an ensemble of them, on comparisons, rankings, ratings or labels of harm.

    Rows hold ``prompt``, ``chosen`` and ``rejected``, or ``prompt``, ``completions`` and ``ranks``; ``choice`` (soft
    labels) and ``strength`` are honoured. Accuracy is on decided comparisons; give --eval-data to see it held out.
    With regression, rows hold ``prompt``, ``completion`` and a column for each of the --heads, null where nobody rated.
    With cost, ``chosen`` is the safer one, and ``chosen_safe`` and ``rejected_safe`` say whether each is safe.

    Examples:
        preferent reward --model runs/sft --data prefs.jsonl --eval-data held.jsonl --out runs/rm
        preferent reward --model runs/sft --data prefs.jsonl --members 3 --out runs/rm
        preferent reward --model runs/sft --data r.jsonl --objective regression --heads helpful --heads brief --out rm
    """

    model: ModelOptions
    data: DataOptions
    reward: RewardOptions = RewardOptions()
    optimiser: OptimiserOptions = group(OptimiserOptions, lr=1e-5, schedule="cosine")
    run: RunOptions


def run(options: Options, *, title: str = "Reward model") -> None:
    """Train the members side by side, and write a Hugging Face folder for each."""
    from preferent.algorithms.reward_model import ensemble, reward_model
    from preferent.data import batches as order
    from preferent.models.load import found
    from preferent.stages import plan, training
    from preferent.stages.scoring import recipe

    if options.data.streaming:
        raise UsageError("Reward models hold their comparisons in memory, to split them among members: no --streaming.")
    how = recipe(options.reward)
    with training.opened(options, reads=map(found, options.reward.bases)) as run:
        each = range(options.reward.members)
        scorers = members_of(options)
        template = training.template_of(scorers[0], scorers[0].tokenizer, options.data)
        loaded = training.loaded(how.load, options, template)
        held_out = training.held_out(how.load, options, template)
        groups = how.grouped(loaded)
        told = how.told(groups)
        splits = [split(groups, i, options.reward.members) for i in each]
        epochs, size = options.run.epochs, options.optimiser.batch
        updates = options.run.steps or order.steps_in(epochs, min(map(len, splits)), size)
        batches = [order.Batches(splits[i], size, told.collate, seed=options.run.seed + i, steps=updates) for i in each]
        learners = [
            training.learner_of(scorer, options, updates=updates, member=f"member-{i}")
            for i, scorer in enumerate(scorers)
        ]
        if options.run.dry_run:
            held = {f"member {i}": scorer for i, scorer in enumerate(scorers)}
            plan.show(plan.Plan(options, held, scorers, scorers[:1], batches[0], updates=updates, scored=True))
            return
        steps = ensemble(
            [reward_model(*member, objective=told.objective) for member in zip(learners, batches, strict=True)]
        )

        def measure(_: int) -> dict[str, float]:
            assert held_out is not None  # noqa: S101  (asked only where it is given)
            return measured(learners, told, list(order.in_order(how.grouped(held_out), size, list)))

        def save(folder: Path) -> None:
            save_members(scorers, told, splits, folder)
            if held_out and told.sign:
                parts = order.in_order(how.grouped(held_out), size, list)
                write_judged(learners, told.sign, list(parts), run.folder)

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


def members_of(options: Options) -> list[ScoringModel]:
    """Each with a seed of its own, and the bases in turn."""
    from preferent.rewards.load import same_text
    from preferent.stages import training

    bases = [options.model.model, *options.reward.bases]
    if len(bases) > options.reward.members:
        raise UsageError(
            f"--bases: with --model they are {len(bases)} models to start from, so --members is {len(bases)} at least; "
            f"got {options.reward.members}."
        )
    scorers = [
        training.scorer_of(
            replace(options.model, model=bases[i % len(bases)]),
            seed=options.run.seed + i,
            heads=len(options.reward.heads) or None,
        )
        for i in range(options.reward.members)
    ]
    for name, scorer in zip(bases, scorers, strict=False):
        if not same_text(scorers[0].tokenizer, scorer.tokenizer):
            raise UsageError(f"--bases {name}: its tokenizer or chat template is not that of {bases[0]}.")
    return scorers


def prompt_of(group: list[Any]) -> Prompt:
    """The prompt that all rows of a group are about."""
    from preferent.data.arrow import parts

    return parts(group[0])[0]


def split(groups: Sequence[list[Any]], member: int, members: int) -> Sequence[list[Any]]:
    """The member's prompts: all of them for one model, else all but one fold, another for each member."""
    from preferent.data.batches import Chosen, keyed

    if members == 1:
        return groups
    folds = max(FOLDS, members)
    kept = [i for i, group in enumerate(groups) if keyed("fold", prompt_of(group).tokens) % folds != member]
    return Chosen(groups, kept) if kept else groups


def seen_by_all(splits: Sequence[Sequence[list[Any]]]) -> Sequence[list[Any]]:
    """The prompts that every member learned from; where each was left out by somebody, those of the first member."""
    from preferent.data.batches import Chosen, keyed

    if len(splits) == 1:
        return splits[0]
    seen = [[keyed(prompt_of(group).tokens) for group in mine] for mine in splits]
    shared = set[int].intersection(*map(set, seen))
    return Chosen(splits[0], [i for i, prompt in enumerate(seen[0]) if prompt in shared]) or splits[0]


def measured(learners: Sequence[LocalLearner[Any]], told: Told, parts: Sequence[list[list[Any]]]) -> dict[str, float]:
    """Each member on the held-out rows, and for an ensemble how often the mean of its scores is right about pairs.

    ``disagreement`` is the share of the pairs of which the members do not all say the same.
    """
    from preferent.data.comparisons import grouped_pairs
    from preferent.losses.preference import accuracy

    batches = [told.collate(part) for part in parts]
    said = [learner.measure(batches, told.objective) for learner in learners]
    mean = {name: sum(one[name] for one in said) / len(said) for name in said[0]}
    if len(learners) == 1 or not told.sign:
        return mean
    right = decided = split = pairs = 0.0
    for part in parts:
        x = grouped_pairs(part)
        score = scores_of(learners, x) * told.sign
        hit = accuracy(score.mean(0)[x.better], score.mean(0)[x.worse], x.weight, x.choice)
        right, decided = right + hit.total.item(), decided + hit.count.item()
        liked = score[:, x.better] > score[:, x.worse]
        split += (x.weight * (liked != liked[0]).any(0)).sum().item()
        pairs += x.weight.sum().item()
    return {**mean, "ensemble_accuracy": right / max(decided, 1e-9), "disagreement": split / max(pairs, 1e-9)}


def scores_of(learners: Sequence[LocalLearner[Any]], x: Pairs) -> Tensor:
    """[m, r]: what each member says of the batch's replies."""
    import torch

    return torch.stack([learner.map(x.replies, lambda m, cut: m.scores(cut)[:, 0]).cpu() for learner in learners])


def write_judged(
    learners: Sequence[LocalLearner[Any]], sign: int, batches: Sequence[list[list[Opinion]]], folder: Path
) -> None:
    """``judged.jsonl`` in the run's folder: each held-out pair with the margins of the model that is being saved.

    A pair on which a member has no number to say is left out.
    """
    from preferent.data.comparisons import compared, grouped_pairs
    from preferent.evaluation.judged import judged, written
    from preferent.runtime import files

    rows, prompts = [], 0
    for batch in batches:
        x = grouped_pairs(batch)
        scores = scores_of(learners, x) * sign
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


def save_members(
    scorers: Sequence[ScoringModel], told: Told, splits: Sequence[Sequence[list[Any]]], folder: Path
) -> None:
    """A folder for one model, ``member-i`` for several; ``score.json`` holds the scale of the scores."""
    from preferent.models.load import save
    from preferent.rewards.load import write_scales

    shared = seen_by_all(splits)
    for i, scorer in enumerate(scorers):
        place = folder / f"member-{i}" if len(scorers) > 1 else folder
        save(scorer, place)
        write_scales(place, told.scales(scorer, list(islice(chain.from_iterable(shared), 1000))))
