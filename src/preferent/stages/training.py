"""What the training commands have in common: from options to a policy, rows and a learner, and a run looked after."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from preferent.config import UsageError, flatten
from preferent.stages.options import DataOptions, ModelOptions, OptimiserOptions, RunOptions, watched

if TYPE_CHECKING:
    from torch import nn

    from preferent.data.batches import Batches
    from preferent.data.columns import Kind
    from preferent.data.load import Loaded, Reading, Report
    from preferent.data.mixture import Mixture
    from preferent.data.stream import StreamBatches
    from preferent.data.template import Template
    from preferent.models.policy import LanguagePolicy
    from preferent.models.scorer import ScoringModel
    from preferent.runtime.learner import LocalLearner
    from preferent.runtime.run import Run
    from preferent.types import Algorithm, Metrics, Stateful

    N = TypeVar("N", bound=nn.Module)
    Load = Callable[..., Loaded[Any]]  # such as ``load_demonstrations``

log = logging.getLogger(__name__)
Save = Callable[[Path], None]  # writes a model into an empty folder


def opened(options: Any, *, reads: Iterable[str] = ()) -> Run:
    """The run folder of a command's options, locked; ``reads`` are further files and folders that it depends on."""
    import torch

    from preferent.models.load import chosen_device
    from preferent.runtime.run import Run

    if options.run.threads:
        torch.set_num_threads(options.run.threads)
    device = str(chosen_device(options.model.device))
    data: DataOptions | None = getattr(options, "data", None)
    files = [unweighted(name) for name in (*data.data, *data.eval_data)] if data else []
    return Run(
        # A dry run writes nothing where it is told to write: it looks at the data from a folder that is gone after it.
        tempfile.mkdtemp(prefix="preferent-") if options.run.dry_run else options.run.out,
        flatten(options),
        resume=options.run.resume,
        inputs=[options.model.model, *files, *reads],
        seed=options.run.seed,
        device=device,
    )


def policy_of(options: ModelOptions, *, temperature: float = 1.0) -> LanguagePolicy:
    """The policy that ``--model`` names, with the adapter that ``--lora`` asks for."""
    from preferent.models.load import load_policy

    return load_policy(
        options.model,
        device=options.device,
        temperature=temperature,
        lora=options.lora,
        lora_alpha=alpha(options),
        trust_remote_code=options.trust_remote_code,
    )


def scorer_of(options: ModelOptions, *, seed: int) -> ScoringModel:
    """A reward model with a new head on the trunk of ``--model``."""
    from preferent.models.load import load_scorer

    return load_scorer(
        options.model,
        seed=seed,
        device=options.device,
        lora=options.lora,
        lora_alpha=alpha(options),
        trust_remote_code=options.trust_remote_code,
    )


def alpha(options: ModelOptions) -> float:
    return options.lora_alpha if options.lora_alpha is not None else 2.0 * options.lora


def template_of(tokenizer: Any, options: DataOptions, *, max_length: int | None = None) -> Template:
    from preferent.data.template import Template

    return Template(
        tokenizer,
        system=options.system,
        learn=options.learn,
        max_length=max_length or options.max_length,
        truncation=options.truncation,
    )


def loaded(load: Load, options: DataOptions, template: Template, run: Run) -> Loaded[Any] | Mixture[Any]:
    """The rows to train on, in memory; what was left out is said, and listed in the run's folder."""
    from preferent.data.mixture import mixed

    rows = mixed(options.data, lambda name: load(name, template, reading(options, run)))
    reported(rows.report)
    return rows


def held_out(load: Load, options: DataOptions, template: Template, run: Run) -> Loaded[Any] | None:
    """The rows of ``--eval-data``, or None."""
    if not options.eval_data:
        return None
    rows = load(options.eval_data, template, reading(options, run))
    reported(rows.report)
    return rows


def batched(
    load: Load, kind: Kind, options: DataOptions, template: Template, run: Run, length: RunOptions, *, size: int
) -> tuple[Sequence[Any], Batches[Any, Any] | StreamBatches[Any]]:
    """Rows and their batches; with ``--streaming``, batches alone, for which ``--steps`` says how many."""
    from preferent.data.stream import stream

    if not options.streaming:
        rows = loaded(load, options, template, run)
        return rows, rows.batches(size, seed=length.seed, epochs=length.epochs, steps=length.steps)
    if length.steps is None:
        raise UsageError("--streaming reads no file to its end beforehand, so say how long to train: --steps.")
    if any(unweighted(name) != name for name in options.data):
        raise UsageError("--streaming goes through its files in turn; weights need them in memory.")
    streamed = stream(options.data, template, kind, reading(options, run), seed=length.seed)
    return (), streamed.batches(size, steps=length.steps)


def in_order(rows: Loaded[Any], size: int) -> Iterator[Any]:
    """Batches for evaluation."""
    from preferent.data.batches import in_order

    return in_order(rows, size, rows.collate)


def reading(options: DataOptions, run: Run) -> Reading:
    from preferent.data.columns import mapping
    from preferent.data.load import Reading

    return Reading(mapping(options.columns), options.skip_bad_rows, run.folder)


def reported(reports: Sequence[Report]) -> None:
    for report in reports:
        log.info("%s", report)


def unweighted(name: str) -> str:
    """``file.jsonl`` of ``file.jsonl=0.3``."""
    from preferent.data.mixture import weighed

    return weighed(name)[0]


def readable(rewards: Sequence[str]) -> list[str]:
    """The files and folders behind ``--reward``, without weights and function names."""
    names = [unweighted(name) for name in rewards]
    return [name.rpartition(":")[0] if ".py:" in name else name for name in names]


def learner_of(
    model: N, options: OptimiserOptions, run: RunOptions, model_options: ModelOptions, *, updates: int, **rates: Any
) -> LocalLearner[N]:
    """The learner on the model's device, its schedule stretched over ``updates``."""
    from preferent.models.load import chosen_device, fast_bf16
    from preferent.runtime.learner import Schedule, local_learner

    return local_learner(
        model,
        lr=options.lr,
        betas=(options.adam_beta1, options.adam_beta2),
        weight_decay=options.weight_decay,
        schedule=Schedule(options.schedule, total=updates, warmup=options.warmup),
        token_budget=options.token_budget,
        max_grad_norm=options.max_grad_norm if options.max_grad_norm is not None else float("inf"),
        bf16=fast_bf16(chosen_device(model_options.device), model_options.dtype),
        bad_batches=run.out / "bad_batches",
        **rates,
    )


def trained(
    run: Run,
    steps: Algorithm,
    options: RunOptions,
    parts: Mapping[str, Stateful],
    *,
    title: str,
    total: int,
    numbers: Sequence[str],
    measure: Callable[[int], Metrics] | None,
    save: Save,
) -> None:
    """Run an algorithm to its end: evaluated, logged, checkpointed, shown; then write the model.

    ``save`` writes the model as it is when called: the last step's, or with ``--keep-best`` each best one's.
    """
    from preferent.runtime import files
    from preferent.runtime.drive import Best, best_kept, checkpointed, evaluated, limited, logged, stopped_early
    from preferent.runtime.show import shown

    if options.patience and not options.keep_best:
        raise UsageError(
            "--patience counts evaluations without a better --keep-best, so it needs one, such as eval/loss."
        )
    chosen = {name: Best(*watched(options.keep_best)) for name in ("best", "lately")} if options.keep_best else {}
    every = {**parts, **chosen}
    start = run.restore(every)
    best_folder = run.folder / "best"

    def keep(step: int) -> None:
        with files.whole(best_folder) as folder:
            save(folder)

    steps = limited(steps, total, start=start)
    if measure is not None:
        steps = evaluated(steps, options.eval_every or None, measure, start=start, last=total)
    if chosen:
        steps = best_kept(steps, chosen["best"], keep, start=start)
        if options.patience:
            steps = stopped_early(steps, chosen["lately"], options.patience, start=start)
    steps = logged(steps, *run.writers(start), start=start)
    steps = checkpointed(steps, options.save_every, every, run.checkpoints, start=start)
    for _ in shown(steps, title=title, total=total, start=start, numbers=numbers):
        pass
    if chosen and best_folder.exists():
        log.info("The model is that of step %d, best by %s.", chosen["best"].step, chosen["best"].metric)
        files.rename(best_folder, run.model_folder)
    elif not chosen or not run.model_folder.exists():
        with files.whole(run.model_folder) as folder:
            save(folder)
