"""A conversation with a model, in a terminal or through a pipe."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar

import click

from preferent.config import group
from preferent.stages.options import SamplingOptions, UseOptions

if TYPE_CHECKING:
    from preferent.sampling.local import LocalSampler
    from preferent.stages.speaking import Speaker
    from preferent.types import Prompt

COMMANDS = {
    "/reset": "forget the conversation",
    "/system TEXT": "begin anew with this system prompt; without TEXT, with none",
    "/help": "show these lines",
    "/exit": "leave, as Ctrl-D does",
}
CUT = "\ufffd"  # what stands for bytes that are no whole character yet
Messages = list[dict[str, str]]


@dataclass(frozen=True, kw_only=True)
class Options:
    """Talk to a model. It sees the whole conversation; what no longer fits into its context is cut off at the left.

    Questions are read a line at a time, so that a file may ask: replies go to stdout, everything else to stderr.
    In the conversation: /reset, /system TEXT, /help, /exit.

    Examples:
        preferent chat runs/ppo
        preferent chat runs/ppo --temperature 0 < questions.txt > replies.txt
    """

    positional: ClassVar[str] = "model"
    model: Annotated[str, "a Hugging Face folder, a Hub name, or a run folder"]
    system: Annotated[str | None, "system prompt"] = None
    sampling: SamplingOptions = group(SamplingOptions, temperature=0.7)
    use: UseOptions = UseOptions()


def run(options: Options) -> None:
    """Ask, answer, and ask again."""
    from preferent.stages import speaking

    speaker = speaking.speaker(options.model, options.sampling, options.use, cut=True)
    person = sys.stdin.isatty()
    if person:
        click.echo(f"{options.model}. /help shows what else can be said; Ctrl-D leaves.", err=True)
    said = opened(options.system)
    for turn, line in enumerate(lines(person=person)):
        if line.startswith("/"):
            if line == "/exit":
                return
            said = obeyed(line, said)
            continue
        said.append({"role": "user", "content": line})
        said.append({"role": "assistant", "content": answered(speaker, said, turn)})


def lines(*, person: bool) -> Iterator[str]:
    """What is asked, blank lines left out, up to the end of the input."""
    while True:
        try:
            line = input("you: ") if person else sys.stdin.readline()
        except EOFError:
            click.echo(err=True)
            return
        if not line and not person:
            return
        if line.strip():
            yield line.strip()


def opened(system: str | None) -> Messages:
    return [{"role": "system", "content": system}] if system else []


def obeyed(line: str, said: Messages) -> Messages:
    """The conversation after a command."""
    command, _, text = line.partition(" ")
    if command == "/system":
        return opened(text.strip())
    if command == "/reset":
        return [message for message in said if message["role"] == "system"]
    if command != "/help":
        click.echo(f"{command} is not known here.", err=True)
    for name, meaning in COMMANDS.items():
        click.echo(f"  {name:<14}{meaning}", err=True)
    return said


def answered(speaker: Speaker, said: Messages, turn: int) -> str:
    """The reply, written to stdout while it is drawn. ``turn`` keys its noise: a question asked again gets another."""
    prompt = speaker.template.prompt(said)
    if len(prompt.tokens) == speaker.template.max_length:
        click.echo("(The conversation has outgrown the model's context: its beginning is cut off.)", err=True)
    speaker.sampler.load({}, turn)
    text = ""
    for piece in pieces(speaker.sampler, prompt):
        click.echo(piece, nl=False)
        sys.stdout.flush()
        text += piece
    click.echo()
    return text.strip()


def pieces(sampler: LocalSampler, prompt: Prompt) -> Iterator[str]:
    """A reply's text bit by bit; together they are the episode's text."""
    ((row,),) = begun = sampler.begun([prompt], 1)
    text, shown = "", 0
    for _ in sampler.growing(sampler.queue(begun)):
        text = sampler.episode(row).text
        ready = len(text) - pending(text, sampler.stop)
        if ready > shown and CUT not in text[shown:ready]:
            yield text[shown:ready]
            shown = ready
    yield text[shown:]


def pending(text: str, stops: Sequence[str]) -> int:
    """Characters at the end that may become a stop string, and then are not part of the reply."""
    longest = max(map(len, stops), default=0)
    return next((n for n in range(longest - 1, 0, -1) if any(stop.startswith(text[-n:]) for stop in stops)), 0)
