"""SPIN from the command line."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil
from typing import TYPE_CHECKING, Annotated, Any

from annotated_types import Gt

from preferent.config import UsageError, group
from preferent.stages.objective import PairOptions, objective_of, refuse_margins
from preferent.stages.options import DataOptions, ModelOptions, OptimiserOptions, RunOptions, SamplingOptions

if TYPE_CHECKING:
    from preferent.types import Metrics


@dataclass(frozen=True, kw_only=True)
class OpponentOptions:
    """Opponent."""

    move_every: Annotated[
        int | None, "steps after which the opponent becomes the policy as it is then; none: once an epoch", Gt(0)
    ] = None


@dataclass(frozen=True, kw_only=True)
class Options:
    """Play against oneself on demonstrations alone: what people wrote is better than what the policy says (SPIN).

    The opponent, which is the reference too, is the policy of an iteration ago. Rows are as for ``preferent sft``; of
    conversations with several turns the last is played for, and prompt and reply together have to leave room for
    --max-new-tokens within --max-length.

    Examples:
        preferent spin --model runs/sft --data demos.jsonl --epochs 3 --out runs/spin
    """

    model: ModelOptions
    data: DataOptions = group(DataOptions, learn="last")
    opponent: OpponentOptions = OpponentOptions()
    loss: PairOptions = PairOptions()
    sampling: SamplingOptions = SamplingOptions()
    optimiser: OptimiserOptions = group(OptimiserOptions, lr=1e-6, schedule="constant", batch=32)
    run: RunOptions


def run(options: Options, *, title: str = "SPIN") -> None:
    """Train, and write the policy as a Hugging Face folder."""
    from preferent.algorithms.sft import SFT
    from preferent.algorithms.spin import spin
    from preferent.algorithms.tr_dpo import following
    from preferent.data.collate import demonstrations
    from preferent.models.policy import Follower
    from preferent.stages import drawn, training

    refuse_margins(options.loss)
    objective = objective_of(options.loss)
    with drawn.opened(options, None, kind="demonstrations") as parts:
        reference = Follower(parts.policy)
        if parts.shown(2, {"reference": reference}):
            return
        learner, sampler = parts.learner, parts.sampler(reference.policy)
        steps = spin(learner, reference, sampler, parts.batches, objective=objective)
        every = options.opponent.move_every or an_epoch(parts.batches, options.optimiser.batch)

        def measure(_: int) -> Metrics:
            rows: Any = training.in_order(parts.held_out, options.optimiser.batch)  # type: ignore[arg-type]
            return learner.measure(map(demonstrations, rows), SFT)

        parts.trained(
            following(steps, learner, reference, every=every), sampler, reference, title=title,
            numbers=("loss", "accuracy", "margin", "nll"), states={"reference": reference}, measure=measure,
        )  # fmt: skip


def an_epoch(batches: Any, size: int) -> int:
    """Steps in it. Raises UsageError where rows are streamed, which nobody has counted."""
    rows = getattr(batches, "rows", None)
    if rows is None:
        raise UsageError("--streaming does not know where an epoch ends, so say when the opponent moves: --move-every.")
    return ceil(len(getattr(rows, "mixture", rows)) / size)
