"""The whole loop on the support desk, with the same commands that a user has: a small model learns what people want.

Training sees demonstrations and the simulated crowd's answers, never the gold utility. Gold is asked at the end, on
questions held out of everything, to say how well that went.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from annotated_types import Ge, Lt
from rich.console import Console

from preferent.worlds.support_desk.pipeline import Demo, begin, write
from preferent.worlds.support_desk.table import evaluate, show
from preferent.worlds.support_desk.world import INTRODUCTION

console = Console(highlight=False)


@dataclass(frozen=True, kw_only=True)
class Options:
    """Watch a small model learn what people want, in a few minutes on a CPU.

    Demonstrations → SFT → samples → comparisons by a simulated crowd → reward models → PPO → evaluation on questions
    held out of training. Everything that the commands `sft`, `reward` and `ppo` write lies in the folder, to be looked
    at, and to be made again by hand.

    Examples:
        preferent demo
        preferent demo --all --out runs/demo-all
    """

    out: Annotated[Path, "folder for the data, the runs and the results"] = Path("runs/demo")
    all: Annotated[bool, "train GRPO and DPO on the same comparisons too"] = False
    seed: Annotated[int, "seed of the world, the crowd, the models and the sampling", Ge(0), Lt(2**63)] = 0
    resume: Annotated[bool, "go on with the demo in --out, from where it stopped"] = False


def run(options: Options) -> None:
    """The six parts, each with a line; then the table, and replies before and after."""
    began = time.monotonic()
    begin(options.out, options.seed, resume=options.resume)
    logging.getLogger("preferent").setLevel(logging.WARNING)
    demo = Demo(options.out, options.seed)
    methods = ["ppo", "grpo", "dpo"] if options.all else ["ppo"]
    last = 5 + len(methods)
    say(f"preferent demo · support desk · {machine()} · {options.out}")
    say(INTRODUCTION, style="dim")
    n = demo.demonstrations()
    say(f" 1/{last} demonstrations     {n:,} dialogues in five styles, some of them wrong   {clock(began)}")
    data = {"model": str(demo.path("base")), "data": (str(demo.path("demonstrations.jsonl")),)}
    demo.train("sft", f" 2/{last} SFT", **data)
    facts = demo.compare()
    alpha, low, high = facts["alpha"]
    say(
        f" 3/{last} comparisons        {facts['pairs']:,} pairs × {demo.crowd.per_comparison} annotators "
        f"(simulated crowd), α = {alpha:.2f} [{low:.2f} – {high:.2f}]   {clock(began)}"
    )
    sft, asked = str(demo.path("sft")), {"data": (str(demo.path("comparisons.jsonl")),)}
    held = {"eval_data": (str(demo.path("held_out.jsonl")),)}
    demo.train("reward", f" 4/{last} reward model", model=sft, **asked, **held)
    say(f"                      held-out accuracy {accuracy(demo):.3f}   (noise ceiling {facts['ceiling']:.3f})")
    online: dict[str, Any] = {
        "reward": (str(demo.path("reward")),),
        "data": (str(demo.path("questions.jsonl")),),
        "eval_data": (str(demo.path("watched.jsonl")),),
        "truth": (f"{demo.path('truth.py')}:gold",),
    }
    for i, method in enumerate(methods):
        words = asked if method == "dpo" else online
        demo.train(method, f" {5 + i}/{last} {method.upper()}", model=sft, **words)
    say(f" {last}/{last} evaluation         {demo.sizes.evaluated} questions held out of training")
    results = evaluate(demo, methods)
    results |= {"seconds": time.monotonic() - began, "crowd": facts, "reward_accuracy": accuracy(demo)}
    write(demo.path("results.json"), [results])
    show(console, demo, results, methods)
    say(f"\n everything is in {options.out}; the table in numbers: {demo.path('results.json')}   {clock(began)}")
    say(f" the whole story as a page: preferent report {options.out}")


def accuracy(demo: Demo) -> float:
    """The ensemble's, on held-out comparisons, at the last step."""
    from preferent.runtime.track import rows

    *_, last = rows(demo.path("reward") / "metrics.jsonl")
    return last.get("eval/ensemble_accuracy", last["eval/accuracy"])


def machine() -> str:
    import torch

    if torch.cuda.is_available():
        return str(torch.cuda.get_device_name())
    return f"{torch.get_num_threads()} CPU threads, fp32"


def clock(began: float) -> str:
    minutes, seconds = divmod(int(time.monotonic() - began), 60)
    return f"{minutes}:{seconds:02d}"


def say(line: str, **how: Any) -> None:
    console.print(line, soft_wrap=True, **how)
