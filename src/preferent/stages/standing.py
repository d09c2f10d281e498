"""Where a round's policy stands: beside the one that the loop began with and the one before it, on held-out prompts.

What the reward model says of replies, which is what was trained on, stands beside what the annotator says of them, who
is asked here and not trained on: where the one rises and the other does not, the reward is being exploited. People may
be asked which policy's reply is better. And the judgements of the next round tell how often the reward model of the
round before, on which the policy was trained, agrees with people about that policy's replies.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from preferent.config import build, words
from preferent.evaluation import text
from preferent.evaluation.winrate import outcomes, win_rate
from preferent.feedback import summary
from preferent.feedback.crowd import chance
from preferent.feedback.records import canonical
from preferent.stages import evaluate
from preferent.stages.rounds import Round, read, write
from preferent.types import Comparison

Row = dict[str, Any]
HELD_OUT = ", held out"  # what the campaign about held-out prompts is called besides


def measured(round_: Round, *, learned: bool) -> dict[str, Any]:
    """The round's ``evaluation.json``, as `preferent evaluate` would write it and with more in each row.

    ``learned``: whether there is a reward model.
    """
    names = {"start": round_.first, f"round {round_.number}": str(round_.path("policy"))}
    if round_.number > 1:
        names = {"start": round_.first, f"round {round_.number - 1}": round_.last, **names}
    rewards = {"reward": str(round_.path("reward"))} if learned else {}
    if not round_.people:
        rewards["truth"] = round_.ask.annotator
    told = read(round_.path("comparisons.jsonl"))
    decided = any(row["choice"] != 0.5 for row in told)
    tried = evaluate.reward_tried(options_of(round_, str(round_.before))) if round_.before and decided else []
    return {
        "models": standings(round_, names, rewards),
        "reward": tried,
        "missing": [] if rewards else ["Reward and win rate: people compared, and no reward model was trained."],
        "comparisons": len(told),
        "judgements": sum(len(row["judgements"]) for row in told),
    }


def options_of(round_: Round, *reward: str) -> evaluate.Options:
    """What `preferent evaluate` would be told. The same seed in every round, so that draws can be compared."""
    known = {word.name for word in words(evaluate.Options)}
    given = {name: value for name, value in round_.given.items() if name in known}
    mine = {"prompts": tuple(round_.held_out), "reward": reward, "seed": round_.seed, "models": (round_.first,)}
    tried = (str(round_.path("comparisons.jsonl")),)
    return build(evaluate.Options, {**given, **mine, "preferences": tried if reward else ()})


def standings(round_: Round, names: Mapping[str, str], rewards: Mapping[str, str]) -> list[Row]:
    """A row for each policy. One beside the first is in memory at a time; all draw with the same noise."""
    from preferent.rewards.load import load_reward
    from preferent.stages import speaking

    options = options_of(round_)
    first = evaluate.speaker_of(options, round_.first)
    prompts = evaluate.prompts_of(options, first)
    tokenizer, device = first.policy.tokenizer, options.use.device
    asked = {kind: load_reward([name], tokenizer, device=device) for kind, name in rewards.items()}
    exact, _ = evaluate.can_estimate_kl(options.sampling)
    rows: list[Row] = []
    marks: list[dict[str, list[float]]] = []
    texts: list[dict[str, Any]] = [{"prompt": prompt.info["messages"]} for prompt in prompts]
    for name, model in names.items():
        speaker = evaluate.speaker_of(options, model) if rows else first
        groups = speaker.draw(prompts, 1, title=name)
        said = [group[0] for group in groups]
        marks.append({kind: [mark for (mark,) in speaking.marked(one, groups)] for kind, one in asked.items()})
        for row, episode in zip(texts, said, strict=True):
            row[name] = episode.text
        kl = {"kl": evaluate.kl_between(said, first.policy)} if rows and exact else {}
        rows.append({"name": name, "n": len(said), **described(marks), **kl, **text.described(said)})
    write(round_.path("held_out.jsonl"), texts)
    return rows


def described(marks: Sequence[Mapping[str, Sequence[float]]]) -> Row:
    """The last policy's marks, and how often they are higher than the first's and than those of the one before.

    The truth says who wins, where there is one to ask, and else the reward.
    """
    now, judge = marks[-1], "truth" if "truth" in marks[-1] else "reward"
    found: Row = {
        kind: {"mean": evaluate.mean(values), "standard_error": evaluate.standard_error(values)}
        for kind, values in now.items()
    }
    against = {"win_rate": marks[0], "win_rate_last": marks[-2]} if len(marks) > 1 and judge in now else {}
    wins = {name: asdict(win_rate(outcomes(now[judge], theirs[judge]))) for name, theirs in against.items()}
    return found | wins | ({"judge": judge} if wins else {})


# --- what people say -------------------------------------------------------------------------------


def compared(round_: Round) -> Row:
    """The round's ``wins.json``: how often people prefer its policy's reply to the first one's. Ties are ½.

    Replies that say the same are ties without asking. Raises Waiting where people have not answered yet.
    """
    from preferent.feedback.asking import item_of
    from preferent.feedback.store.store import UNFIT

    rows = [row for row in read(round_.path("held_out.jsonl")) if not UNFIT.search("".join(list(row.values())[1:]))]
    rows.sort(key=lambda row: chance(round_.seed, "compared", canonical(row["prompt"])))
    ours, theirs = f"round {round_.number}", "start"
    sources = str(round_.path("policy")), round_.first
    asked = [
        item_of(Comparison(tuple(row["prompt"]), (row[ours], row[theirs])), sources=sources)
        for row in rows[: round_.ask.compared]
        if row[ours] != row[theirs]
    ]
    results = [0.5] * (min(round_.ask.compared, len(rows)) - len(asked))
    campaign = round_.campaign + HELD_OUT
    said = round_.judged([of for of, _ in asked], campaign, "asked_held_out.jsonl", None) if asked else {}
    for of, order in asked:
        if found := summary.choices(said[of.id]):
            results.append(found.choice[order.index(0)])
    return {"judge": "people", **({"win_rate": asdict(win_rate(results))} if results else {})}


# --- all rounds ------------------------------------------------------------------------------------


def metrics_of(row: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a round, one each."""
    means = {f"eval/{kind}": row[kind]["mean"] for kind in ("reward", "truth") if kind in row}
    rates = {f"eval/{kind}": row[kind]["value"] for kind in ("win_rate", "win_rate_last", "agreement") if kind in row}
    plain = {f"eval/{kind}": row[kind] for kind in ("kl", "length") if kind in row}
    counted = {name: float(row[name]) for name in ("comparisons", "judgements")}
    return {**counted, **means, **rates, **plain}


def table(rows: Sequence[Mapping[str, Any]], first: str) -> None:
    """What came of the rounds; ``first``: the name of the policy that the loop began with."""
    from rich.console import Console

    from preferent.stages.tables import interval, number, plus_minus
    from preferent.stages.tables import table as made

    console = Console()
    if not console.is_terminal:
        console.width = 120
    by = f" by {rows[-1]['judge']}" if "judge" in rows[-1] else ""
    columns = {
        "judgements": lambda row: str(row["judgements"]),
        "agreement": lambda row: interval(row.get("agreement")),
        "reward": lambda row: plus_minus(row.get("reward")),
        "truth": lambda row: plus_minus(row.get("truth")),
        f"wins{by} against {first}": lambda row: interval(row.get("win_rate")),
        "against the last": lambda row: interval(row.get("win_rate_last")),
        "KL": lambda row: number(row.get("kl")),
        "length": lambda row: number(row["length"]),
    }
    console.print(made(f"one reply to each of {rows[0]['n']} prompts", rows, columns))
