"""What the demo shows at its end: gold by part, wins against SFT, KL, length, and replies before and after."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, pstdev
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from preferent.evaluation.text import described
from preferent.evaluation.winrate import outcomes, win_rate
from preferent.worlds.support_desk.pipeline import TEMPERATURE, Demo
from preferent.worlds.support_desk.world import printed

if TYPE_CHECKING:
    from preferent.types import Episode, Score

NO_OP = "SFT again"  # the same policy with other noise: it should win half of the time
PARTS = {"right": "right fact", "direct": "direct", "warm": "warm", "brief": "brief"}


@dataclass(frozen=True)
class Marked:
    """What a policy said to the held-out questions, one reply each, and what gold says of it."""

    episodes: Sequence[Episode]
    gold: Sequence[Score]
    kl: float  # nats a reply, to the SFT policy


def evaluate(demo: Demo, methods: Sequence[str]) -> dict[str, Any]:
    """Every policy on the same held-out questions, marked by gold."""
    asked = questions(demo)
    said = {name: first(demo.sample(name, asked, n=1, seed=demo.seed + 2)) for name in ("sft", *methods)}
    said[NO_OP] = first(demo.sample("sft", asked, n=1, seed=demo.seed + 3))
    marks = {name: marked(demo, episodes) for name, episodes in said.items()}
    policies = {name: standing(each, marks["sft"]) for name, each in marks.items()}
    return {"n": len(asked), "policies": policies, **examples(demo, methods)}


def questions(demo: Demo) -> list[str]:
    """Those that policies are judged by, held out of everything."""
    return [q.text for q in demo.world.heldout_questions[: demo.sizes.evaluated]]


def marked(demo: Demo, episodes: Sequence[Episode]) -> Marked:
    """Replies to ``questions``, marked."""
    each = zip(questions(demo), episodes, strict=True)
    return Marked(episodes, [demo.world.gold(asked, said.text) for asked, said in each], kl_to_sft(demo, episodes))


def standing(mine: Marked, base: Marked) -> dict[str, Any]:
    """A policy's row of the table."""
    values = [score.value for score in mine.gold]
    wins = win_rate(outcomes(values, [score.value for score in base.gold]))
    return {
        "gold": fmean(values),
        "gold_sd": pstdev(values),
        "parts": {part: fmean(score.parts[part] for score in mine.gold) for part in mine.gold[0].parts},
        "wins": [wins.value, wins.low, wins.high],
        "kl": mine.kl,
        **described(mine.episodes),
    }


def examples(demo: Demo, methods: Sequence[str]) -> dict[str, Any]:
    """Some questions, and the reply of each policy to them."""
    examples = [q.text for q in demo.world.examples(3)]
    replies = {
        name: [e.text for e in first(demo.sample(name, examples, n=1, seed=demo.seed))] for name in ("sft", *methods)
    }
    printable = {name: [printed(reply) for reply in said] for name, said in replies.items()}
    return {"examples": list(map(printed, examples)), "replies": printable}


def first(groups: Sequence[Sequence[Episode]]) -> list[Episode]:
    return [group[0] for group in groups]


def kl_to_sft(demo: Demo, said: Sequence[Episode]) -> float:
    """Nats a reply, estimated on the policy's own replies."""
    import torch

    from preferent.data.collate import episodes, logprobs
    from preferent.losses.policy import k1
    from preferent.models.load import load_policy

    groups = [[episode] for episode in said]
    with torch.no_grad():
        reference = load_policy(demo.path("sft"), temperature=TEMPERATURE).read(episodes(groups)).logprobs
    return k1(logprobs(groups), reference).sum(-1).mean().item()


def show(console: Console, demo: Demo, results: Mapping[str, Any], methods: Sequence[str]) -> None:
    """The table, then some questions with the replies to them."""
    policies = results["policies"]
    table = Table(box=None, pad_edge=False, padding=(0, 1))
    table.add_column("", no_wrap=True)
    for name in ("sft", *methods, NO_OP):
        table.add_column(name if name == NO_OP else name.upper(), justify="right", no_wrap=True)
    columns = [policies[name] for name in ("sft", *methods, NO_OP)]
    table.add_row("gold utility", *(f"{p['gold']:.2f} ±{p['gold_sd']:.2f}" for p in columns))
    for part, label in PARTS.items():
        table.add_row(f"  {label}", *(f"{p['parts'][part]:.2f}" for p in columns))
    table.add_row("wins against SFT", "–", *(f"{p['wins'][0]:.0%}" for p in columns[1:]))
    table.add_row("  95 % interval", "", *(interval(p["wins"]) for p in columns[1:]))
    table.add_row("KL to SFT", *(f"{max(p['kl'], 0.0):.1f}" for p in columns))
    table.add_row("reply tokens", *(f"{p['length']:.1f}" for p in columns))
    table.add_row("distinct-2", *(f"{p['distinct_2']:.2f}" for p in columns))
    console.print()
    console.print(table)
    for i, question in enumerate(results["examples"]):
        console.print(f"\n customer: {question}", style="bold", soft_wrap=True)
        console.print(f" before:   {results['replies']['sft'][i]}", soft_wrap=True)
        for name in methods:
            after = "after:   " if len(methods) == 1 else f"{name.upper():<9}"
            console.print(f" {after} {results['replies'][name][i]}", soft_wrap=True)


def interval(wins: Sequence[float]) -> str:
    _, low, high = wins
    return f"{low:.0%} – {high:.0%}"
