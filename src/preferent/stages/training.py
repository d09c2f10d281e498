"""What the training commands have in common: from options to a policy, rows and a learner, and a run looked after."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, TypeVar

from preferent.config import UsageError, flatten
from preferent.stages.options import DataOptions, ModelOptions, OptimiserOptions, RunOptions, watched

if TYPE_CHECKING:
    from torch import nn

    from preferent.data.batches import Batches
    from preferent.data.columns import Kind
    from preferent.data.load import Loaded
    from preferent.data.mixture import Mixture
    from preferent.data.reading import Reading, Report
    from preferent.data.stream import StreamBatches
    from preferent.data.template import Template
    from preferent.models.forward import Backbone
    from preferent.models.policy import LanguagePolicy
    from preferent.models.scorer import ScoringModel
    from preferent.runtime.learner import LocalLearner
    from preferent.runtime.reference import Remembered
    from preferent.runtime.run import Run
    from preferent.types import Algorithm, Metrics, Replies, Stateful

    N = TypeVar("N", bound=nn.Module)
    Load = Callable[..., Loaded[Any]]  # such as ``load_demonstrations``

log = logging.getLogger(__name__)
Save = Callable[[Path], None]  # writes a model into an empty folder
WHOLE = (
    "for this run, and what it ran out of cannot be cut smaller",
    "--dry-run shows what the run needs, part by part. Weights, gradients and moments shrink with --lora and with it "
    "--load-4bit, or --optimizer adamw8bit; the rest with --token-budget and --checkpoint-activations.",
)


@contextmanager
def opened(options: Any, *, reads: Iterable[str] = ()) -> Iterator[Run]:
    """The run folder of a command's options, locked; ``reads`` are further files and folders that it depends on.

    A dry run writes nothing where it is told to write: its folder is gone after it.
    """
    import torch

    from preferent.models.device import chosen_device
    from preferent.models.load import found
    from preferent.models.room import suffices
    from preferent.runtime.run import Run

    refuse_vain_watching(options.run, options.data)
    if options.run.threads:
        torch.set_num_threads(options.run.threads)
    data: DataOptions = options.data
    dry = options.run.dry_run
    inputs = [found(options.model.model), *map(unweighted, (*data.data, *data.eval_data)), *reads]
    with (
        TemporaryDirectory(prefix="preferent-") if dry else nullcontext(options.run.out) as folder,
        Run(
            folder,
            flatten(options),
            resume=options.run.resume and not dry,
            inputs=() if dry else inputs,
            command=type(options).__module__.rpartition(".")[2].replace("_", "-"),
            seed=options.run.seed,
            device=str(chosen_device(options.model.device)),
        ) as run,
        suffices(*WHOLE),
    ):
        yield run


def refuse_vain_watching(run: RunOptions, data: DataOptions) -> None:
    """Raise UsageError where ``--keep-best`` or ``--patience`` would wait for what never comes."""
    if run.patience and not run.keep_best:
        raise UsageError(
            "--patience counts evaluations without a better --keep-best, so it needs one, such as eval/loss."
        )
    if run.keep_best and watched(run.keep_best)[0].startswith("eval/") and not data.eval_data:
        raise UsageError(f"--keep-best {run.keep_best} is measured on held-out rows, so it needs --eval-data.")


def policy_of(options: ModelOptions, *, seed: int, temperature: float = 1.0) -> LanguagePolicy:
    """The policy that ``--model`` names, with the adapter that ``--lora`` asks for."""
    from preferent.models.load import load_policy

    return load_policy(
        options.model,
        device=options.device,
        temperature=temperature,
        seed=seed,
        lora=options.lora,
        lora_alpha=alpha(options),
        four_bits=options.dtype if options.load_4bit else None,
        trust_remote_code=options.trust_remote_code,
    )


def scorer_of(options: ModelOptions, *, seed: int, heads: int | None = None) -> ScoringModel:
    """A reward model with new heads, or one, on the trunk of ``--model``."""
    from preferent.models.load import load_scorer

    return load_scorer(
        options.model,
        heads=heads,
        seed=seed,
        device=options.device,
        lora=options.lora,
        lora_alpha=alpha(options),
        four_bits=options.dtype if options.load_4bit else None,
        trust_remote_code=options.trust_remote_code,
    )


def alpha(options: ModelOptions) -> float:
    return options.lora_alpha if options.lora_alpha is not None else 2.0 * options.lora


def template_of(model: Backbone, tokenizer: Any, options: DataOptions, *, reply: int = 0) -> Template:
    """The template of a run; with ``reply``, prompts leave room for that many tokens.

    Raises UsageError where a row as long as ``--max-length`` would not fit into the model's context.
    """
    from preferent.data.template import Template

    context = getattr(model.text_config, "max_position_embeddings", None)
    if context and options.max_length > context:
        raise UsageError(
            f"--max-length {options.max_length} is more than the model can read: its context is {context} tokens.\n"
            f"Give --max-length {context} or less; --truncation says what becomes of longer rows."
        )
    if reply >= options.max_length:
        raise UsageError(
            f"--max-length {options.max_length} leaves no room for a prompt before --max-new-tokens {reply}: "
            "raise the one or lower the other."
        )
    made = f" {options.max_length} less --max-new-tokens {reply}" if reply else ""
    cut = "; --truncation left cuts prompts" if options.truncation != "left" else ""
    return Template(
        tokenizer,
        remedy=f"{options.max_length - reply} is --max-length{made}{cut}.",
        system=options.system,
        learn=options.learn,
        max_length=options.max_length - reply,
        truncation=options.truncation,
    )


def loaded(load: Load, options: Any, template: Template) -> Loaded[Any] | Mixture[Any]:
    """The rows to train on; what was left out is said, and listed in the run's folder."""
    from preferent.data.mixture import mixed

    rows = mixed(options.data.data, lambda name: load(name, template, reading(options)), seed=options.run.seed)
    reported(rows.report)
    return rows


def held_out(load: Load, options: Any, template: Template) -> Loaded[Any] | None:
    """The rows of ``--eval-data``, or None."""
    if not options.data.eval_data:
        return None
    rows = load(options.data.eval_data, template, reading(options))
    reported(rows.report)
    return rows


def batched(load: Load, kind: Kind, options: Any, template: Template) -> Batches[Any, Any] | StreamBatches[Any]:
    """The steps' batches: of rows that are all there, or with ``--streaming``, of as many steps as ``--steps`` says."""
    from preferent.data.stream import stream

    data, length, size = options.data, options.run, options.optimiser.batch
    if not data.streaming:
        rows = loaded(load, options, template)
        return rows.batches(size, seed=length.seed, epochs=length.epochs, steps=length.steps)
    if length.steps is None:
        raise UsageError("--streaming reads no file to its end beforehand, so say how long to train: --steps.")
    if any(unweighted(name) != name for name in data.data):
        raise UsageError("--streaming goes through its files in turn; weights need them in memory.")
    streamed = stream(data.data, template, kind, reading(options), seed=length.seed)
    return streamed.batches(size, steps=length.steps)


def in_order(rows: Loaded[Any], size: int) -> Iterator[Any]:
    """Batches for evaluation."""
    from preferent.data.batches import in_order

    return in_order(rows, size, rows.collate)


def reading(options: Any) -> Reading:
    """How a command's files are read; bad rows are listed in its folder."""
    from preferent.data.columns import mapping
    from preferent.data.reading import Reading

    folder = None if options.run.dry_run else options.run.out
    return Reading(mapping(options.data.columns), options.data.skip_bad_rows, folder)


def reported(reports: Sequence[Report]) -> None:
    for report in reports:
        log.info("%s", report)


def unweighted(name: str) -> str:
    """``file.jsonl`` of ``file.jsonl=0.3``."""
    from preferent.data.mixture import weighed

    return weighed(name)[0]


def readable(rewards: Sequence[str]) -> list[str]:
    """The files and folders behind ``--reward``, without weights, heads and function names."""
    from preferent.rewards.function import file_of
    from preferent.rewards.load import is_function, members_in, weighted

    files: list[str] = []
    for name, _ in map(weighted, rewards):
        files += [file_of(name)] if is_function(name) else members_in(name)
    return files


def learner_of(
    model: N, options: Any, *, updates: int, critic_lr: float | None = None, member: str = ""
) -> LocalLearner[N]:
    """The learner on the model's device, its schedule stretched over ``updates``."""
    from preferent.models.device import chosen_device, fast_bf16
    from preferent.models.recompute import recompute_layers
    from preferent.runtime.learner import LocalLearner, Schedule
    from preferent.runtime.optimizer import adamw

    how: OptimiserOptions = options.optimiser
    if options.model.checkpoint_activations:
        recompute_layers(model)
    betas = (how.adam_beta1, how.adam_beta2)
    return LocalLearner(
        model,
        adamw(model, how.optimizer, lr=how.lr, critic_lr=critic_lr, betas=betas, weight_decay=how.weight_decay),
        schedule=Schedule(how.schedule, total=updates, warmup=how.warmup),
        token_budget=how.token_budget,
        max_grad_norm=how.max_grad_norm if how.max_grad_norm is not None else float("inf"),
        bf16=fast_bf16(chosen_device(options.model.device), options.model.dtype),
        bad_batches=options.run.out / "bad_batches" / member,
    )


def reference_of(
    policy: LanguagePolicy, batches: Batches[Any, Any] | StreamBatches[Any], other: LanguagePolicy | None = None
) -> Remembered:
    """The policy as it starts, or another, for a method that sees replies again; ``asked`` is to follow before a step.

    It needs no copy of the weights: asked for everything before they change, it is the policy itself. What a stream
    will bring is not known then, so there a copy goes on answering.
    """
    from preferent.data.batches import Batches
    from preferent.runtime.reference import Remembered

    if other is not None:
        return Remembered(other)
    itself = isinstance(batches, Batches) and not policy.has_adapter
    return Remembered(policy if itself else policy.frozen())


def asked(
    reference: Remembered,
    run: Run,
    policy: LanguagePolicy,
    learner: LocalLearner[LanguagePolicy],
    batches: Batches[Any, Any] | StreamBatches[Any],
    held_out: Loaded[Any] | None,
    *,
    title: str,
    about: Callable[[Any], list[Replies]] = lambda batch: [batch.replies],
) -> Remembered:
    """Have the reference say what there is to say of the run's rows, and keep it; its memory of held-out rows.

    That is another memory, since watching must change nothing: the last bits of what is said of a reply in both would
    depend on where it was met first. ``about`` a batch it is asked one thing or several, of each as many.
    """
    from preferent.data.batches import Batches
    from preferent.runtime.reference import Remembered, mark_of
    from preferent.runtime.show import shown

    watched = Remembered(reference.source)
    if held_out is None and not isinstance(batches, Batches):
        return watched
    mark, total = mark_of(policy, bf16=learner.bf16), 0
    asking: list[Algorithm] = []
    if isinstance(batches, Batches):
        steps = batches.with_news()
        total += len(steps) * len(about(batches.at(steps[0])))
        replies = chain.from_iterable(about(batches.at(step)) for step in steps)
        asking.append(reference.asked(learner, replies, run.reference_folder, mark=mark))
    if held_out is not None:
        total += math.ceil(len(held_out) / batches.size) * len(about(next(in_order(held_out, batches.size))))
        replies = chain.from_iterable(map(about, in_order(held_out, batches.size)))
        asking.append(watched.asked(learner, replies, run.reference_folder / "held_out", mark=mark))
    for _ in shown(chain(*asking), title=f"{title} reference", total=total):
        pass
    watched.let_go()
    if isinstance(batches, Batches):
        reference.let_go()
    return watched


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
    from preferent.runtime.card import card
    from preferent.runtime.drive import Best, best_kept, checkpointed, evaluated, limited, logged, stopped_early
    from preferent.runtime.show import shown

    chosen = {name: Best(*watched(options.keep_best)) for name in ("best", "lately")} if options.keep_best else {}
    every = {**parts, **chosen}
    start = run.restore(every)
    best_folder = run.folder / "best"

    def keep(step: int) -> None:
        with files.whole(best_folder) as folder:
            save(folder)

    steps = limited(steps, total, start=start)
    if measure is not None:
        measure = aloud(measure, numbers)
        steps = evaluated(steps, options.eval_every or None, measure, start=start, last=total)
    if chosen:
        steps = best_kept(steps, chosen["best"], keep, start=start)
        if options.patience:
            steps = stopped_early(steps, chosen["lately"], options.patience, start=start)
    steps = logged(steps, *run.writers(start), start=start)
    steps = checkpointed(steps, options.save_every, every, run.checkpoints, start=start)
    for _ in shown(steps, title=title, total=total, start=start, numbers=numbers):
        pass
    own_up(parts, best=bool(chosen) and (best_folder.exists() or run.model_folder.exists()))
    if chosen and best_folder.exists():
        log.info("The model is that of step %d, best by %s.", chosen["best"].step, chosen["best"].metric)
        if run.model_folder.exists():  # of the run before it went on
            files.remove(run.model_folder)
        files.write(best_folder / "README.md", card(run.folder).encode())
        files.sync(best_folder / "README.md")
        files.rename(best_folder, run.model_folder)
    elif not chosen or not run.model_folder.exists():
        with files.whole(run.model_folder) as folder:
            save(folder)
            files.write(folder / "README.md", card(run.folder).encode())
    log.info("The model is in %s.", run.model_folder)


def aloud(measure: Callable[[int], Metrics], numbers: Sequence[str]) -> Callable[[int], Metrics]:
    """The same measuring; those of its numbers that matter are said."""
    from preferent.runtime.show import label, number

    def measured(step: int) -> Metrics:
        found = measure(step)
        said = [f"{label(name)} {number(found[name])}" for name in numbers if name in found]
        log.info("held out  step %d  %s", step, "  ".join(said))
        return found

    return measured


def own_up(parts: Mapping[str, Stateful], *, best: bool) -> None:
    """Say how many updates were skipped. Raises UsageError where the last one was, unless a best model is kept."""
    from preferent.runtime.learner import LocalLearner, NotFinite

    learners = [part for part in parts.values() if isinstance(part, LocalLearner)]
    skipped, updates = sum(each.bad for each in learners), sum(each.version for each in learners)
    if not skipped:
        return
    said = f"{skipped} of {updates} updates {'was' if skipped == 1 else 'were'} skipped: no finite loss or gradient."
    if not best and any(each.stuck for each in learners):
        raise NotFinite(
            f"{said} The last one was among them, so no model is written. "
            "A lower --lr, --dtype float32, or a look at the rewards usually helps; begin again with another --out."
        )
    log.warning("%s", said)
