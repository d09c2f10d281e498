"""A model's replies to prompts, written into a file."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import click
from annotated_types import Gt

from preferent.config import UsageError, group
from preferent.stages.online import RewardOptions
from preferent.stages.options import PromptOptions, SamplingOptions, UseOptions

if TYPE_CHECKING:
    from preferent.types import Episode, Reward


@dataclass(frozen=True, kw_only=True)
class Options:
    """Write a model's replies to prompts into a JSONL file.

    A row holds prompt, the row's other columns, and completion, logprob (its sum over the reply, in nats) and stop;
    with --n 2 or more these are lists: completions, logprobs, stops. With --reward there are rewards, and ranks, 0 the
    best, so that `preferent reward` and `preferent dpo` read the file as comparisons. With --best-of only the best of
    so many replies is written, and `preferent sft` reads the file as demonstrations. With --adversarial, pairs that
    people should judge next: where an ensemble marks a reply high and its members disagree, beside one they trust.

    Examples:
        preferent sample runs/sft --prompts prompts.jsonl --n 4 --out replies.jsonl
        preferent sample runs/sft --prompts prompts.jsonl --reward runs/rm --best-of 16 --out best.jsonl
        preferent sample runs/ppo --prompts prompts.jsonl --reward runs/rm --n 8 --adversarial 50 --out ask.jsonl
    """

    positional: ClassVar[str] = "model"
    model: Annotated[str, "a Hugging Face folder, a Hub name, or a run folder"]
    out: Annotated[Path, "JSONL file that is written"]
    n: Annotated[int, "replies to each prompt", Gt(0)] = 1
    best_of: Annotated[int | None, "draw this many, write the one that --reward likes most", Gt(1)] = None
    adversarial: Annotated[
        int | None,
        "write the likeliest exploits of the --reward, an ensemble: at most so many pairs, to be judged",
        Gt(0),
    ] = None
    force: Annotated[bool, "write over a file that exists"] = False
    prompts: PromptOptions
    reward: RewardOptions = group(RewardOptions, reward=(), end_penalty=0.0)
    sampling: SamplingOptions = SamplingOptions()
    use: UseOptions = UseOptions()


def run(options: Options) -> None:
    """Draw, score where a reward is given, and write the file as a whole."""
    from preferent.stages import online, speaking

    n = options.best_of or options.n
    refuse_nonsense(options, n)
    speaking.make_room(options.out, force=options.force)
    speaker = speaking.speaker(
        options.model,
        options.sampling,
        options.use,
        max_length=options.prompts.max_length,
        system=options.prompts.system,
    )
    reward = None
    if options.reward.reward:
        reward, _ = online.reward_of(options.reward, speaker.policy.tokenizer, device=options.use.device)
    prompts = speaking.prompts_for(speaker.template, options.prompts, bad_rows=options.out.parent)
    groups = speaker.draw(prompts, n, title="Sample")
    if options.adversarial and reward is not None:
        rows = contested(reward, groups, options.adversarial)
        write_rows(options.out, rows)
        click.echo(f"{len(groups)} prompts, {len(rows)} pairs to judge → {options.out}")
        return
    marks = speaking.marked(reward, groups) if reward is not None else [None] * len(groups)
    write_rows(
        options.out,
        (
            best(drawn, mine) if options.best_of and mine else listed(drawn, mine)
            for drawn, mine in zip(groups, marks, strict=True)
        ),
    )
    click.echo(f"{len(groups)} prompts, {len(groups) * n} replies drawn → {options.out}")


def write_rows(out: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """The file as a whole."""
    from preferent.runtime import files

    with files.replaced(out) as partial, partial.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(row, ensure_ascii=False, default=str) + "\n" for row in rows)


def refuse_nonsense(options: Options, n: int) -> None:
    if options.adversarial and (not options.reward.reward or n < 2 or options.best_of):
        raise UsageError("--adversarial needs a --reward to find exploits of, and --n 2 replies or more to compare.")
    if options.best_of and not options.reward.reward:
        raise UsageError("--best-of needs a --reward that says which reply is the best.")
    if options.best_of and options.n != 1:
        raise UsageError("--best-of writes one reply to each prompt: leave --n out.")
    if options.sampling.temperature == 0 and n > 1:
        raise UsageError(f"--temperature 0 always draws the same reply, so {n} of them say no more than one.")


def best(group: Sequence[Episode], marks: Sequence[float]) -> dict[str, Any]:
    """The row of the reply with the highest mark, the first of them where several have it."""
    i = max(range(len(group)), key=lambda i: marks[i])
    return listed([group[i]], [marks[i]])


def contested(reward: Reward, groups: Sequence[Sequence[Episode]], k: int) -> list[dict[str, Any]]:
    """Rows of two completions, the suspect first, with what the members say of each in the mean and how far apart."""
    from preferent.rewards.disagreement import exploits

    groups = [list({episode.text: episode for episode in group}.values()) for group in groups]
    scores = iter(reward([episode for group in groups for episode in group]))
    marked = [[next(scores) for _ in group] for group in groups]
    if not all("members_spread" in score.parts for group in marked for score in group):
        raise UsageError("--adversarial asks where the members of an ensemble disagree: name one --reward that is one.")
    rows = []
    for prompt, *two, _ in exploits(marked, k):
        row = listed([groups[prompt][i] for i in two], [marked[prompt][i].value for i in two])
        row["spreads"] = [marked[prompt][i].parts["members_spread"] for i in two]
        rows.append({name: said for name, said in row.items() if name != "ranks"})  # the reward is what is in doubt
    return rows


def listed(group: Sequence[Episode], marks: Sequence[float] | None) -> dict[str, Any]:
    """A row in the columns that the data layer reads; single values for one reply, lists for several."""
    columns: Mapping[str, Sequence[Any]] = {
        "completion": [episode.text for episode in group],
        "logprob": [sum(episode.logprobs) for episode in group],
        "stop": [episode.stop for episode in group],
        **({"reward": marks} if marks is not None else {}),
    }
    info = dict(group[0].prompt.info)
    prompt = info.pop("messages")
    if len(group) == 1:
        return {"prompt": prompt, **info, **{name: values[0] for name, values in columns.items()}}
    ranks = {"ranks": [sum(other > mark for other in set(marks)) for mark in marks]} if marks is not None else {}
    return {"prompt": prompt, **info, **{f"{name}s": list(values) for name, values in columns.items()}, **ranks}
