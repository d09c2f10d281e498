"""Models compared on held-out prompts, and reward models on held-out comparisons."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from annotated_types import Gt

from preferent.config import UsageError, group
from preferent.stages.online import RewardOptions
from preferent.stages.options import PromptOptions, SamplingOptions, UseOptions

if TYPE_CHECKING:
    from preferent.models.policy import LanguagePolicy
    from preferent.stages.speaking import Speaker
    from preferent.types import Episode, Prompt, Reward

TOGETHER = 16  # prompts that the baseline reads at a time


@dataclass(frozen=True, kw_only=True)
class Options:
    """Compare models on held-out prompts: the first one is the baseline of the others.

    Every model gives one reply to each prompt, drawn with the same noise. With --reward there are rewards and win
    rates (ties ½, 95 % interval); with --preferences, the reward's own accuracy on held-out comparisons, which needs no
    models. The KL to the baseline is estimated from the replies, so it needs the same tokenizer and full support.

    Examples:
        preferent evaluate runs/sft runs/ppo --prompts heldout.jsonl --reward runs/rm --out eval.json
        preferent evaluate --reward runs/rm --preferences held.jsonl
    """

    positional: ClassVar[str] = "models"
    models: Annotated[tuple[str, ...], "folders, run folders or Hub names; the first is the baseline"] = ()
    preferences: Annotated[tuple[str, ...], "held-out comparisons, on which --reward is tried"] = ()
    best_of: Annotated[int | None, "add the baseline's best of so many replies, chosen by --reward", Gt(1)] = None
    out: Annotated[Path | None, "JSON file that is written; none: only the table is shown"] = None
    force: Annotated[bool, "write over a file that exists"] = False
    prompts: PromptOptions = group(PromptOptions, prompts=())
    reward: RewardOptions = group(RewardOptions, reward=(), end_penalty=0.0)
    sampling: SamplingOptions = SamplingOptions()
    use: UseOptions = UseOptions()


@dataclass
class Findings:
    """What was measured, as the JSON file holds it."""

    models: list[dict[str, Any]] = field(default_factory=list)  # a row each: name, n, and its numbers
    reward: list[dict[str, Any]] = field(default_factory=list)  # a row for the reward, and for each member
    missing: list[str] = field(default_factory=list)  # what is not there, and why


def run(options: Options) -> None:
    """Measure, show the table, and write it down."""
    from preferent.runtime import files
    from preferent.stages import speaking, tables

    refuse_nonsense(options)
    if options.out is not None:
        speaking.make_room(options.out, force=options.force)
    findings = Findings()
    if options.models:
        compare(options, findings)
    if options.preferences:
        findings.reward = reward_tried(options)
    tables.show(findings.models, findings.reward, findings.missing)
    if options.out is not None:
        with files.replaced(options.out) as partial:
            partial.write_text(json.dumps(asdict(findings), indent=2, ensure_ascii=False), encoding="utf-8")


def refuse_nonsense(options: Options) -> None:
    if not options.models and not options.preferences:
        raise UsageError("There is nothing to evaluate: name models, or --preferences with a --reward.")
    if options.models and not options.prompts.prompts:
        raise UsageError("--prompts is missing: the held-out prompts that the models are to answer.")
    for name, given in (("--best-of", options.best_of), ("--preferences", options.preferences)):
        if given and not options.reward.reward:
            raise UsageError(f"{name} needs a --reward.")
    if options.best_of and options.sampling.temperature == 0:
        raise UsageError("--best-of needs replies that differ: at --temperature 0 they are all the same.")


# --- models ----------------------------------------------------------------------------------------


@dataclass
class Answers:
    """A model's reply to each prompt, and the marks that they got."""

    name: str
    episodes: list[Episode]
    marks: list[float] | None
    kl: float | None = None  # nats a reply to the baseline
    bound: float | None = None  # of the KL, where it is not estimated


def compare(options: Options, findings: Findings) -> None:
    """A row for each model. One model beside the baseline is in memory at a time."""
    from preferent.models.load import found_policy
    from preferent.rewards.load import same_text
    from preferent.stages import online

    def rewarded(tokenizer: Any) -> Reward | None:
        if not options.reward.reward:
            return None
        return online.reward_of(options.reward, tokenizer, device=options.use.device)[0]

    for name in options.models:  # before anything is drawn
        found_policy(name, trust_remote_code=options.use.trust_remote_code)
    first = speaker_of(options, options.models[0])
    prompts = prompts_of(options, first)
    reward = rewarded(first.policy.tokenizer)
    baseline, best = asked_first(options, first, prompts, reward)
    rows = [baseline, *([best] if best else [])]
    estimated, why = can_estimate_kl(options.sampling)
    if not estimated and len(options.models) > 1:
        findings.missing.append(why)
    for name in options.models[1:]:
        other = speaker_of(options, name)
        same = same_text(first.policy.tokenizer, other.policy.tokenizer)
        own = prompts if same else prompts_of(options, other)
        if len(own) != len(prompts):
            raise UsageError(
                f"{name} can take {len(own)} of the prompts and {options.models[0]} {len(prompts)}: their tokenizers "
                "or contexts differ. A lower --max-new-tokens makes room, or leave the longest prompts out."
            )
        answers = asked(other, own, reward if same else rewarded(other.policy.tokenizer), name)
        if estimated and same:
            answers.kl = kl_between(answers.episodes, first.policy)
        elif estimated:
            findings.missing.append(f"KL of {name}: its tokenizer is not that of {options.models[0]}.")
        rows.append(answers)
    if reward is None:
        findings.missing.append("Reward and win rate: they need a --reward.")
    findings.models = [described(row, baseline) for row in rows]


def speaker_of(options: Options, name: str) -> Speaker:
    from preferent.stages import speaking

    about = options.prompts
    return speaking.speaker(name, options.sampling, options.use, max_length=about.max_length, system=about.system)


def prompts_of(options: Options, speaker: Speaker) -> Sequence[Prompt]:
    from preferent.stages import speaking

    place = options.out.parent if options.out is not None else None
    return speaking.prompts_for(speaker.template, options.prompts, bad_rows=place)


def asked(speaker: Speaker, prompts: Sequence[Prompt], reward: Reward | None, name: str) -> Answers:
    from preferent.stages import speaking

    groups = speaker.draw(prompts, 1, title=Path(name).name)
    marks = speaking.marked(reward, groups) if reward is not None else None
    return Answers(name, [group[0] for group in groups], [each[0] for each in marks] if marks is not None else None)


def asked_first(
    options: Options, speaker: Speaker, prompts: Sequence[Prompt], reward: Reward | None
) -> tuple[Answers, Answers | None]:
    """The baseline, and its best of n: of n further replies, so that a reply does not compete with itself."""
    from preferent.evaluation.best_of_n import kl_bound
    from preferent.stages import speaking

    name = options.models[0]
    if options.best_of is None or reward is None:
        return asked(speaker, prompts, reward, name), None
    groups = speaker.draw(prompts, options.best_of + 1, title=Path(name).name)
    marks = speaking.marked(reward, groups)
    places = [max(range(1, len(each)), key=each.__getitem__) for each in marks]
    best = Answers(
        f"best of {options.best_of}",
        [group[i] for group, i in zip(groups, places, strict=True)],
        [each[i] for each, i in zip(marks, places, strict=True)],
        bound=kl_bound(options.best_of),
    )
    return Answers(name, [group[0] for group in groups], [each[0] for each in marks]), best


def can_estimate_kl(sampling: SamplingOptions) -> tuple[bool, str]:
    """Whether replies come from the distribution whose KL is wanted."""
    if sampling.temperature == 0 or sampling.top_k or sampling.top_p < 1 or sampling.min_p:
        return False, "KL: it is estimated from replies drawn with full support, not with temperature 0, top-p and kin."
    return True, ""


def kl_between(episodes: Sequence[Episode], baseline: LanguagePolicy) -> float:
    """Nats a reply: the mean of log π(y) - log π₀(y) over replies y drawn from π; noisy, and without bias."""
    import torch

    from preferent.data.batches import in_order
    from preferent.data.collate import episodes as collate
    from preferent.data.collate import logprobs, moved

    total = 0.0
    groups = [[episode] for episode in episodes]
    with torch.no_grad():
        for part in in_order(groups, TOGETHER, list):
            said = baseline.read(moved(collate(part), baseline.base.device)).logprobs.cpu()
            total += (logprobs(part) - said).sum().item()
    return total / len(episodes)


def described(row: Answers, baseline: Answers) -> dict[str, Any]:
    """A model's numbers, as JSON holds them."""
    from preferent.evaluation import text
    from preferent.evaluation.winrate import outcomes, win_rate

    found: dict[str, Any] = {"name": row.name, "n": len(row.episodes)}
    if row.marks is not None and baseline.marks is not None:
        found["reward"] = {"mean": mean(row.marks), "standard_error": standard_error(row.marks)}
        if row is not baseline:
            found["win_rate"] = asdict(win_rate(outcomes(row.marks, baseline.marks)))
    if row.kl is not None:
        found["kl"] = row.kl
    if row.bound is not None:
        found["kl_bound"] = row.bound
    return found | text.described(row.episodes)


def mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def standard_error(values: Sequence[float]) -> float | None:
    """Of the mean; None for a single value."""
    n, centre = len(values), mean(values)
    return (sum((x - centre) ** 2 for x in values) / (n - 1) / n) ** 0.5 if n > 1 else None


# --- the reward itself ---------------------------------------------------------------------------


def reward_tried(options: Options) -> list[dict[str, Any]]:
    """How often the reward, and each member of it, prefers the reply that the annotators did."""
    from preferent.data.columns import mapping
    from preferent.data.load import load_preferences
    from preferent.data.reading import Reading
    from preferent.data.template import Template
    from preferent.rewards.learned import LearnedReward
    from preferent.stages import online, trial
    from preferent.stages.training import reported

    tokenizer = tokenizer_for(options)
    whole, _ = online.reward_of(options.reward, tokenizer, device=options.use.device)
    about = options.prompts
    template = Template(tokenizer, system=about.system, max_length=about.max_length)
    reading = Reading(mapping(about.columns), about.skip_bad_rows, options.out.parent if options.out else None)
    rows = load_preferences(options.preferences, template, reading)
    reported(rows.report)
    comparisons = [list(trial.replied(row)) for row in rows]
    scored = {", ".join(options.reward.reward): whole}
    if isinstance(whole, LearnedReward) and len(whole.members) > 1:
        each = zip(whole.members, whole.scales, strict=True)
        scored |= {
            f"member {i}": LearnedReward([member], [scale], template=whole.template)
            for i, (member, scale) in enumerate(each)
        }
    return [trial.accuracy(name, rows, comparisons, reward) for name, reward in scored.items()]


def tokenizer_for(options: Options) -> Any:
    """The first model's, or else the first reward model's."""
    from preferent.models.load import load_tokenizer
    from preferent.rewards.load import is_function, members_in, weighted

    learned = [name for name, _ in map(weighted, options.reward.reward) if not is_function(name)]
    if not options.models and not learned:
        raise UsageError("Name a model: a reward that is a function is given tokens, and somebody has to make them.")
    name = options.models[0] if options.models else members_in(learned[0])[0]
    return load_tokenizer(name, trust_remote_code=options.use.trust_remote_code)
