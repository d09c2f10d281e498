"""What commands that only use a model have in common: a policy that draws replies to prompts from a file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from tempfile import TemporaryFile
from typing import TYPE_CHECKING

from preferent.config import UsageError
from preferent.stages.options import PromptOptions, SamplingOptions, UseOptions
from preferent.stages.training import reported

if TYPE_CHECKING:
    from preferent.data.load import Loaded
    from preferent.data.template import Template
    from preferent.models.policy import LanguagePolicy
    from preferent.sampling.local import LocalSampler
    from preferent.types import Episode, Prompt, Reward

HELD = 1 << 15  # tokens of keys and values at a time: fewer than in training, so that a person sees progress


@dataclass(frozen=True)
class Speaker:
    """A policy, how it is asked, and what draws its replies."""

    policy: LanguagePolicy
    template: Template
    sampler: LocalSampler

    def draw(self, prompts: Sequence[Prompt], n: int, *, title: str) -> list[list[Episode]]:
        """``n`` replies to each prompt, while a person is told of the progress."""
        from preferent.runtime.show import shown
        from preferent.types import Algorithm

        groups: dict[int, list[Episode]] = {}

        def steps() -> Algorithm:
            for place, group in self.sampler.drawn(prompts, n):
                groups[place] = group
                yield {"tokens": float(sum(len(episode.tokens) for episode in group))}

        for _ in shown(steps(), title=title, total=len(prompts)):
            pass
        return [groups[i] for i in range(len(prompts))]


def speaker(
    model: str,
    sampling: SamplingOptions,
    use: UseOptions,
    *,
    max_length: int | None = None,
    system: str | None = None,
    cut: bool = False,
) -> Speaker:
    """The model with a template whose prompts leave room for a reply; ``cut`` takes longer prompts' left end off.

    Temperature 0 is drawing from the likeliest token alone; log-probabilities are then those at temperature 1.
    """
    from preferent.data.template import Template
    from preferent.models.load import load_policy
    from preferent.sampling.local import LocalSampler
    from preferent.sampling.support import Support

    greedy = sampling.temperature == 0
    policy = load_policy(
        model,
        device=use.device,
        temperature=1.0 if greedy else sampling.temperature,
        trust_remote_code=use.trust_remote_code,
    ).requires_grad_(False)
    template = Template(
        policy.tokenizer,
        system=system,
        max_length=room(policy, max_length, sampling.max_new_tokens),
        truncation="left" if cut else "drop",
        remedy="A prompt has the room that --max-new-tokens leaves it: give fewer of them.",
    )
    sampler = LocalSampler(
        policy,
        max_new_tokens=sampling.max_new_tokens,
        end_tokens=template.end_tokens,
        support=Support(top_k=1 if greedy else sampling.top_k, top_p=sampling.top_p, min_p=sampling.min_p),
        stop=sampling.stop,
        seed=use.seed,
        cache_tokens=HELD,
    )
    return Speaker(policy, template, sampler)


def room(policy: LanguagePolicy, max_length: int | None, reply: int) -> int | None:
    """Tokens that a prompt may have, where the model or the user says so."""
    context: int | None = getattr(policy.text_config, "max_position_embeddings", None)
    if max_length and context and max_length > context:
        raise UsageError(f"--max-length {max_length} is more than the model can read: its context is {context} tokens.")
    longest = max_length or context
    if longest is None:
        return None
    if reply >= longest:
        raise UsageError(
            f"--max-new-tokens {reply} leaves no room for a prompt: prompt and reply have {longest} tokens together. "
            "Give fewer."
        )
    return longest - reply


def prompts_for(template: Template, options: PromptOptions, *, bad_rows: Path | None) -> Loaded[Prompt]:
    """The prompts of ``--prompts``; what was left out is said."""
    from preferent.data.columns import mapping
    from preferent.data.load import load_prompts
    from preferent.data.reading import Reading

    reading = Reading(mapping(options.columns), options.skip_bad_rows, bad_rows, options.limit)
    rows = load_prompts(options.prompts, template, reading)
    reported(rows.report)
    return rows


def marked(reward: Reward, groups: Sequence[Sequence[Episode]]) -> list[list[float]]:
    """What the reward says of each episode. Raises UsageError for a mark that is no number."""
    flat = [episode for group in groups for episode in group]
    marks = [score.value for score in reward(flat)]
    for episode, mark in zip(flat, marks, strict=True):
        if not isfinite(mark):
            asked = episode.prompt.info["messages"][-1]["content"]
            raise UsageError(f"The reward of a reply to {asked[:60]!r} is {mark}; expected a finite number.")
    rest = iter(marks)
    return [[next(rest) for _ in group] for group in groups]


def make_room(path: Path, *, force: bool) -> None:
    """Make the folder of the file that ``--out`` names, before the work, which would else be lost.

    Raises UsageError where the file cannot be written, or stands there already.
    """
    from preferent.runtime import files

    with files.wanted(path):
        if path.is_dir():
            raise UsageError(f"{path} is a folder; --out names the file to write.")
        if path.exists() and not force:
            raise UsageError(f"{path} exists already: choose another --out, or say --force to write over it.")
        files.make_folder(path.parent)
        with TemporaryFile(dir=path.parent):
            pass
