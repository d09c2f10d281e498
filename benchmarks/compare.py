"""Many methods on the support desk, from one SFT model and the same judgements, marked by the hidden gold utility.

make compare                          three seeds; writes benchmarks/results/compare.json and docs/methods.md's table
python benchmarks/compare.py --seeds 3 --only DPO SimPO --out runs/tried      some of them, nothing written but there

As many runs at a time as there are cores, a thread each. The folder can be told of by `preferent report`. A comparison
that was interrupted goes on where it stopped. What a policy
learns from is what the simulated crowd said of the SFT policy's replies, or the reward models trained on that; gold is
asked at the end alone, on questions held out of everything.
"""

import argparse
import json
import logging
import multiprocessing
import os
import sys
import time
from dataclasses import replace
from pathlib import Path

import torch
from page import write

from preferent.evaluation.best_of_n import kl_bound
from preferent.stages.options import UseOptions
from preferent.worlds.support_desk.pipeline import COMMON, ONLINE, TRAINING, Demo, begin
from preferent.worlds.support_desk.pipeline import write as lines
from preferent.worlds.support_desk.table import NO_OP, Marked, examples, first, marked, questions, standing

RESULTS = Path(__file__).parent / "results" / "compare.json"
MINUTES = 30  # that it may take on two CPU cores
PAIRS = TRAINING["dpo"]
GROUPS = TRAINING["grpo"]
COSINE = ONLINE | {"schedule": "cosine"}
BEST_OF = 16

# name → the command, and its settings on this world, chosen on seed 3, which the table does not show
METHODS = {
    "DPO": ("dpo", PAIRS),
    "IPO": ("dpo", PAIRS | {"objective": ("ipo",), "beta": 0.1}),
    "hinge": ("dpo", PAIRS | {"objective": ("hinge",), "beta": 0.5}),
    "SimPO": ("dpo", PAIRS | {"objective": ("simpo",), "beta": 2.0, "gamma": 0.5, "lr": 1e-4}),
    "CPO": ("dpo", PAIRS | {"objective": ("cpo",), "beta": 0.5}),
    "ORPO": ("dpo", PAIRS | {"objective": ("orpo",), "beta": None, "alpha": 1.0}),
    "APO-zero": ("dpo", PAIRS | {"objective": ("apo-zero",), "beta": 0.5}),
    "KTO": ("kto", PAIRS | {"beta": 0.5}),
    "SPPO": ("dpo", PAIRS | {"objective": ("sppo",), "beta": 0.03}),
    "PPO": ("ppo", TRAINING["ppo"]),
    "GRPO": ("grpo", GROUPS),
    "RLOO": ("grpo", GROUPS | {"objective": "rloo", "kl": None, "kl_reward": 0.1}),
    "REINFORCE++": ("grpo", GROUPS | {"objective": "reinforce++", "kl": None, "kl_reward": 0.1}),
    "Dr. GRPO": ("grpo", GROUPS | {"objective": "dr-grpo"}),
    "DAPO": ("grpo", GROUPS | {"objective": "dapo", "kl": None, "lr": 4e-4}),
    "online DPO": (
        "online-dpo",
        COSINE | {"batch": 32, "replies": 4, "compare": "once", "beta": 0.5},
    ),
    "Nash-MD": ("nash-md", COSINE | {"lr": 1e-3, "batch": 128, "tau": 0.05}),
    "RAFT": ("raft", COSINE | {"lr": 2.5e-4, "batch": 32, "replies": 8}),
}


def folder_of(name):
    return name.lower().replace(". ", "-").replace(" ", "-").replace("+", "p")


def alone():
    """A process beside others."""
    torch.set_num_threads(1)
    logging.getLogger("preferent").setLevel(logging.WARNING)


def prepared(demo):
    """Demonstrations, the SFT model, the crowd's judgements and the reward models: what all methods share."""
    begin(demo.out, demo.seed, resume=True)
    demo.demonstrations()
    demo.train("sft", "SFT", model=str(demo.path("base")), data=(str(demo.path("demonstrations.jsonl")),))
    demo.compare()
    demo.train("reward", "reward models", model=str(demo.path("sft")), data=(str(demo.path("comparisons.jsonl")),))


def trained(demo, name):
    """Train a method; how many seconds that took."""
    command, settings = METHODS[name]
    data = {"model": str(demo.path("sft"))}
    if command in ONLINE_COMMANDS:
        data |= {"data": (str(demo.path("questions.jsonl")),), "reward": (str(demo.path("reward")),)}
    else:
        data |= {"data": (str(demo.path("comparisons.jsonl")),)}
    took = demo.path(folder_of(name)) / "seconds.json"
    began = time.monotonic()
    demo.run(folder_of(name), command, f"{name}, seed {demo.seed}", **{**settings, **data, "eval_every": None})
    if not took.is_file():
        took.write_text(json.dumps(time.monotonic() - began))
    return json.loads(took.read_text())


ONLINE_COMMANDS = {"ppo", "grpo", "online-dpo", "nash-md", "raft"}


def best_of(demo):
    """The SFT policy's best of several replies, by the reward models: what takes no training."""
    from preferent.algorithms.best_of_n import best_of_n
    from preferent.data.template import Template
    from preferent.models.load import load_policy
    from preferent.rewards.load import load_reward
    from preferent.sampling.local import LocalSampler

    policy = load_policy(demo.path("sft"), temperature=COMMON["temperature"], device=UseOptions().device)
    template = Template(policy.tokenizer)
    prompts = [template.prompt([{"role": "user", "content": asked}], {}) for asked in questions(demo)]
    reward = load_reward([str(demo.path("reward"))], policy.tokenizer, how=ONLINE["combine"])
    sampler = LocalSampler(
        policy, max_new_tokens=COMMON["max_new_tokens"], end_tokens=template.end_tokens, seed=demo.seed + 2
    )
    return best_of_n(sampler, reward, prompts, n=BEST_OF)


def judged(demo, names):
    """Every policy's replies to the held-out questions, marked by gold."""
    asked = questions(demo)
    said = {name: first(demo.sample(folder_of(name), asked, n=1, seed=demo.seed + 2)) for name in ("SFT", *names)}
    said[NO_OP] = first(demo.sample("sft", asked, n=1, seed=demo.seed + 3))
    found = {name: marked(demo, episodes) for name, episodes in said.items()}
    # Chosen replies are the SFT policy's own, so its log-probabilities say nothing of how far the choice goes.
    return found | {f"best of {BEST_OF}": replace(marked(demo, best_of(demo)), kl=kl_bound(BEST_OF))}


def said(demo, names):
    """Some questions, and every policy's reply to them."""
    shown = examples(demo, [folder_of(name) for name in names])
    return shown | {"replies": dict(zip(("SFT", *names), shown["replies"].values(), strict=True))}


def pooled(marks):
    """One policy's replies of several seeds, together."""
    return Marked(
        [episode for each in marks for episode in each.episodes],
        [score for each in marks for score in each.gold],
        sum(each.kl for each in marks) / len(marks),
    )


def table(by_seed, seconds):
    """A row for each policy, over all seeds."""
    first_seed, *_ = by_seed.values()
    rows = {}
    for name in first_seed:
        mine = [marks[name] for marks in by_seed.values()]
        base = [marks["SFT"] for marks in by_seed.values()]
        each = [standing(one, against) for one, against in zip(mine, base, strict=True)]
        rows[name] = standing(pooled(mine), pooled(base))
        rows[name] |= {"wins_by_seed": [row["wins"][0] for row in each], "gold_by_seed": [row["gold"] for row in each]}
        if name in seconds:
            rows[name] |= {"seconds": sum(seconds[name]) / len(seconds[name])}
    return rows


def compared(demos, names):
    """Train everything for every seed, then judge: by seed, every policy's marks; and by method, seconds."""
    jobs = [(demo, name) for name in names for demo in demos]
    workers = min(os.cpu_count() or 1, len(jobs))
    with multiprocessing.get_context("spawn").Pool(workers, alone) as pool:
        pool.map(prepared, demos, chunksize=1)
        took = pool.starmap(trained, jobs, chunksize=1)
        marks = pool.starmap(judged, [(demo, names) for demo in demos], chunksize=1)
    seconds = {}
    for (_, name), each in zip(jobs, took, strict=True):
        seconds.setdefault(name, []).append(each)
    return {demo.seed: each for demo, each in zip(demos, marks, strict=True)}, seconds


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--only", nargs="+", choices=METHODS, help="these methods alone; the table is not written")
    parser.add_argument("--out", type=Path, default=Path("runs/compare"))
    words = parser.parse_args()
    names, began, fresh = words.only or list(METHODS), time.monotonic(), not words.out.exists()
    demos = [Demo(words.out / f"seed-{seed}", seed) for seed in words.seeds]
    by_seed, seconds = compared(demos, names)
    minutes = (time.monotonic() - began) / 60
    rows = table(by_seed, seconds)
    report = {
        "n": sum(len(marks["SFT"].gold) for marks in by_seed.values()),
        "seeds": words.seeds,
        "cores": os.cpu_count(),
        "minutes": minutes,
        "policies": rows,
    }
    lines(words.out / "results.json", [report | said(demos[0], names)])
    for name, row in rows.items():
        print(
            f"{name:<14} wins {row['wins'][0]:.3f}  gold {row['gold']:.3f}  KL {row['kl']:6.2f}  "
            f"tokens {row['length']:5.1f}  {row.get('seconds', 0):5.0f} s"
        )
    if fresh and words.only is None and words.seeds == [0, 1, 2]:  # or its minutes would not be those of the whole
        RESULTS.write_text(json.dumps(report, indent=1) + "\n")
        write("compare", report)
    print(f"as a page: preferent report {words.out}")
    print(f"{minutes:.0f} minutes  {'PASS' if minutes <= MINUTES else 'FAIL'}")
    return 0 if minutes <= MINUTES else 1


if __name__ == "__main__":
    sys.exit(main())
