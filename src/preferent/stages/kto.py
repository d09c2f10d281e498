"""Learning from single judgements on the command line."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, Literal

from annotated_types import Ge, Gt, Lt

from preferent.config import UsageError, group
from preferent.stages.options import DataOptions, ModelOptions, OptimiserOptions, RunOptions, refuse_idle

if TYPE_CHECKING:
    from preferent.algorithms.kto import Held, Objective
    from preferent.data.batches import Batches
    from preferent.data.rated import Judged
    from preferent.data.stream import StreamBatches

log = logging.getLogger(__name__)
BALANCED = (1.0, 4 / 3)  # desirable to undesirable, weight times number: Ethayarajh et al. 2024
UNEVEN = (
    "%s of the judgements are desirable, so weighted they are %.2f to 1, and 1 to 1.33 is advised. Give %s, or else %s."
)


@dataclass(frozen=True, kw_only=True)
class KTOOptions:
    """Objective."""

    objective: Annotated[
        Literal["kto", "bco", "apo-zero"],
        "kto: bounded, held against replies to other prompts; bco: a classifier, held against its running mean; "
        "apo-zero: kto held against the reference alone",
    ] = "kto"
    beta: Annotated[float, "how much leaving the reference costs; lower goes further", Gt(0)] = 0.1
    desirable_weight: Annotated[float, "weight of a good reply's loss; raise it where good ones are few", Gt(0)] = 1.0
    undesirable_weight: Annotated[float, "weight of a bad reply's loss; raise it where bad ones are few", Gt(0)] = 1.0
    shift_decay: Annotated[
        float, "bco: how much of its running mean is left after a step; higher is slower", Ge(0), Lt(1)
    ] = 0.9


@dataclass(frozen=True, kw_only=True)
class Options:
    """Learn from replies that were judged one by one, thumbs up or down, without pairs and without a reward model.

    Rows have a prompt, a completion and a label, true where it is good. Pairs and rankings do, too: a reply is as
    desirable as its share of wins, ½ in a tie, and 0 where both are bad. The reference is the model as it starts, asked
    once, before the first step. For kto each prompt is also read with the replies to the next prompt of the file.

    Examples:
        preferent kto --model runs/sft --data thumbs.jsonl --eval-data held.jsonl --out runs/kto
        preferent kto --model runs/sft --data thumbs.jsonl --undesirable-weight 4 --lora 16 --lr 1e-5 --out runs/kto
        preferent kto --model runs/sft --data prefs.jsonl --objective bco --out runs/bco
    """

    model: ModelOptions
    data: DataOptions
    kto: KTOOptions = KTOOptions()
    optimiser: OptimiserOptions = group(OptimiserOptions, lr=1e-6)
    run: RunOptions


def run(options: Options, *, title: str = "") -> None:
    """Train, and write a Hugging Face folder."""
    from preferent.algorithms import kto as algorithm
    from preferent.data.rated import Rated, load_rated
    from preferent.models.load import save
    from preferent.stages import plan, training

    said, objective, title = options.kto, objective_of(options.kto), title or options.kto.objective.upper()
    refuse_idle(said, "shift_decay", needs="--objective bco", given=said.objective == "bco")
    load = partial(load_rated, others=said.objective == "kto")
    with training.opened(options) as run:
        policy = training.policy_of(options.model, seed=options.run.seed)
        template = training.template_of(policy, policy.tokenizer, options.data)
        held_out = training.held_out(load, options, template)
        batches = batches_of(training.batched(load, "rated", options, template), options)
        learner = training.learner_of(policy, options, updates=len(batches))
        reference = training.reference_of(policy, batches)
        if options.run.dry_run:
            held = {"policy": policy, "reference": reference}
            plan.show(plan.Plan(options, held, [policy], [policy], batches, updates=len(batches)))
            return
        watched = training.asked(
            reference, run, policy, learner, batches, held_out, title=title, about=lambda batch: batch.asked
        )
        shift = algorithm.Shift(said.shift_decay) if said.objective == "bco" else None

        def against(batch: Rated) -> Held:
            z = shift.value if shift else algorithm.drift(learner, watched, batch)
            return algorithm.held(learner, watched, batch, z)

        def measure(_: int) -> dict[str, float]:
            assert held_out is not None  # noqa: S101  (asked only where it is given)
            rated = training.in_order(held_out, options.optimiser.batch)
            return dict(learner.measure(map(against, rated), objective))

        steps = (
            algorithm.bco(learner, reference, batches, shift=shift, objective=objective)
            if shift
            else algorithm.kto(learner, reference, batches, objective=objective)
        )
        training.trained(
            run,
            steps,
            options.run,
            {"learner": learner, "data": batches} | ({"shift": shift} if shift else {}),
            title=title,
            total=len(batches),
            numbers=("loss", "accuracy", "margin"),
            measure=measure if held_out else None,
            save=lambda folder: save(policy, folder),
        )


def objective_of(options: KTOOptions) -> Objective:
    """The loss with its options."""
    from preferent.algorithms.kto import BCO, KTO
    from preferent.losses import unpaired

    start, loss = (BCO, unpaired.bco) if options.objective == "bco" else (KTO, unpaired.kto)
    good, bad = options.desirable_weight, options.undesirable_weight
    return replace(start, loss=partial(loss, beta=options.beta, desirable_weight=good, undesirable_weight=bad))


def batches_of(
    batches: Batches[Any, Any] | StreamBatches[Any], options: Options
) -> Batches[Any, Any] | StreamBatches[Any]:
    """The same batches, with a word where good and bad are uneven; of a stream, made of judgements as they come."""
    from preferent.data.rated import Streamed
    from preferent.data.stream import StreamBatches

    if not isinstance(batches, StreamBatches):
        rows = getattr(batches.rows, "mixture", batches.rows)  # a mixture has rows without end
        advise((rows[i] for i in range(len(rows))), options.kto)
        return batches
    strange = options.kto.objective == "kto"
    if strange and batches.size < 2:
        raise UsageError(
            "--objective kto measures what is expected of a reply on replies to other prompts of the step: "
            "with --streaming, --batch must be 2 or more."
        )
    batches.stream.collate = Streamed(options.data.max_length, strange)
    return batches


def advise(rows: Iterable[Judged], options: KTOOptions) -> None:
    """Warn where weighted desirable and undesirable judgements are further apart than the paper's rule allows."""
    from preferent.data.rated import rated

    marks = [(desirable * n, (1 - desirable) * n) for row in rows for _, desirable, n in rated(row.own)]
    good, bad = (sum(each) for each in zip(*marks, strict=True))
    if not good or not bad:
        kind = "desirable" if good else "undesirable"
        log.warning("All judgements are %s: what the other kind looks like cannot be learned from them.", kind)
        return
    low, high = BALANCED
    ours = options.desirable_weight * good / (options.undesirable_weight * bad)
    if low <= round(ours, 2) <= round(high, 2):
        return
    fair = options.undesirable_weight * bad / good
    other = options.desirable_weight * good / bad
    told = (
        f"--desirable-weight {fair:.3g} (up to {fair * high:.3g})",
        f"--undesirable-weight {other:.3g} (down to {other / high:.3g})",
    )
    log.warning(UNEVEN, f"{good / (good + bad):.0%}", ours, *(told if ours < low else told[::-1]))
