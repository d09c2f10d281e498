"""Run folders as training writes them, made of plain numbers, for tests of what is told of them."""

from __future__ import annotations

import importlib
import json
import math
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from preferent.config import build, flatten, write_yaml
from preferent.evaluation import judged
from preferent.feedback.asking import ask_crowd
from preferent.feedback.crowd import Crowd
from preferent.feedback.store import open_engine
from preferent.runtime.track import JsonLines
from preferent.types import Comparison

NEEDS = {
    "sft": {"data": ["demos.jsonl"]},
    "reward": {"data": ["prefs.jsonl"], "members": 3},
    "dpo": {"data": ["prefs.jsonl"]},
    "ppo": {"data": ["questions.jsonl"], "reward": ["runs/reward"]},
    "grpo": {"data": ["questions.jsonl"], "reward": ["runs/reward"]},
}
HOSTILE = "<script>alert('x')</script> & \"quoted\" \u2028 …"


def run_folder(folder: Path, kind: str, *, steps: int = 40, finished: bool = True, **options: Any) -> Path:
    """A run of a command: options that the command would take, metrics that fall and rise as one would hope."""
    folder.mkdir(parents=True)
    stage = importlib.import_module(f"preferent.stages.{kind}")
    given = {"model": "runs/base", "out": str(folder), **NEEDS[kind], **options}
    write_yaml(folder / "config.yaml", flatten(build(stage.Options, given)))
    (folder / "manifest.json").write_text(json.dumps(manifest()))
    writer = JsonLines(folder / "metrics.jsonl")
    for step in range(1, steps + 1):
        writer.write(step, metrics(kind, step, steps))
    writer.close()
    if finished:
        (folder / "model").mkdir()
        weights(folder / "model" / "model.safetensors")
    return folder


def manifest(**more: Any) -> dict[str, Any]:
    sitting = {
        "started": "2026-01-02T03:04:05+00:00",
        "after_step": 0,
        "command": ["/bin/preferent", "demo", "--all"],
        "device": "cpu",
        "threads": 1,
        "platform": "Linux",
        "versions": {"python": "3.11", "preferent": "0.1.0", "torch": "2.13.0"},
    }
    return {"seed": 7, "inputs": {"demos.jsonl": {"size": 12, "sha256": "ab" * 32}}, "sittings": [sitting | more]}


def metrics(kind: str, step: int, steps: int) -> dict[str, float]:
    done = step / steps
    shown = {"loss": 1 - done / 2, "grad_norm": 1.0, "skipped": 0.0, "tokens": 100.0}
    if kind == "sft":
        return shown | {"nll": 3 * math.exp(-4 * done)}
    if kind in ("reward", "dpo"):
        return shown | {"accuracy": 0.5 + done / 4, "margin": done}
    shown |= {"reward": 2 * done, "kl": 5 * done**2, "length": 20 - 5 * done, "ended": 1.0, "entropy": 2 - done}
    if step % 10 == 0:  # the truth is best at three quarters of the way
        shown |= {"eval/reward": 1.9 * done, "eval/kl": 5 * done**2, "eval/gold": 1 - (done - 0.75) ** 2}
        shown |= {"eval/distinct_2": 0.2 - done / 10}
    return shown


def weights(path: Path) -> None:
    """A safetensors file of 12 numbers."""
    header = json.dumps({"w": {"dtype": "F32", "shape": [3, 4], "data_offsets": [0, 48]}}).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(48))


def write_samples(folder: Path, steps: Sequence[int], *, prompts: int = 6) -> None:
    (folder / "samples").mkdir()
    for step in steps:
        rows = [
            {"prompt": [{"role": "user", "content": f"question {i}?"}], "reply": f"answer {i} at {step}", "reward": 0.5}
            for i in range(prompts)
        ]
        (folder / "samples" / f"step-{step}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def write_judged(folder: Path, *, members: int = 3, prompts: int = 60) -> None:
    """An ensemble that annotators agree with most of the time, and that likes long replies more than they do."""
    draw = random.Random(0)
    rows = []
    for prompt in range(prompts):
        for _ in range(4):
            true, words = draw.gauss(0, 1.5), draw.randint(-4, 4)
            first = draw.random() < 1 / (1 + math.exp(-true))
            margins = [(true + 0.6 * words + draw.gauss(0, 0.3)) * (1 if first else -1) for _ in range(members)]
            long, short = "the " * (5 + max(words, 0)), "oh " * (5 + max(-words, 0))
            choice = draw.choice([2 / 3, 1.0, 1.0, 0.5])
            rows.append(judged.judged(prompt, choice, margins, *((long, short) if first else (short, long))))
    (folder / "judged.jsonl").write_text(judged.written(rows), encoding="utf-8")


def evaluation(names: Sequence[str]) -> dict[str, Any]:
    """As ``preferent evaluate --out`` writes it."""
    rows: list[Mapping[str, Any]] = []
    for i, name in enumerate(names):
        row = {"name": f"runs/{name}", "n": 400, "reward": {"mean": -0.2 + i, "standard_error": 0.05}, "length": 19.0}
        wins = {"win_rate": {"value": 0.8, "low": 0.75, "high": 0.85, "n": 400}, "kl": 2.0 * i}
        rows.append(row | {"ended": 1.0, "distinct_1": 0.1, "distinct_2": 0.2} | (wins if i else {}))
    return {"models": rows, "reward": [], "missing": []}


def results(names: Sequence[str]) -> dict[str, Any]:
    """As the demo writes them."""
    policies = {
        name: {
            "gold": 0.4 + 0.2 * i,
            "gold_sd": 0.3,
            "parts": {"right": 0.8, "warm": 0.1 + 0.2 * i},
            "wins": [0.5 + 0.2 * i, 0.45 + 0.2 * i, 0.55 + 0.2 * i],
            "kl": 2.0 * i,
            "length": 19.0 - i,
            "ended": 1.0,
            "distinct_1": 0.03,
            "distinct_2": 0.1,
        }
        for i, name in enumerate(names)
    }
    replies = {name: [f"{name} says {HOSTILE}", "second"] for name in names}
    crowd = {"pairs": 100, "alpha": [0.4, 0.35, 0.45], "ceiling": 0.83, "ties": 0.08}
    return {"policies": policies, "examples": [HOSTILE, "where is it?"], "replies": replies, "crowd": crowd}


def whole(folder: Path) -> Path:
    """A folder with everything that a page can tell of."""
    for kind in NEEDS:
        run_folder(folder / kind, kind, **({"keep_best": "max:eval/gold"} if kind == "grpo" else {}))
    write_samples(folder / "ppo", [10, 40])
    write_judged(folder / "reward")
    (folder / "results.json").write_text(json.dumps(results(["sft", "ppo"])))
    (folder / "evaluation.json").write_text(json.dumps(evaluation(["sft", "grpo", "dpo"])))
    return folder


def write_store(path: Path) -> None:
    """Sixty comparisons, each judged by three of four people, who like what is shown first whatever it says."""
    crowd = Crowd(lambda _, reply: 0.0, seed=0, people=4, per_comparison=3, position_bias=3.0, tie_rate=0.0)
    engine = open_engine(path)
    ask_crowd(engine, crowd, [Comparison(f"question {i}", ("yes", "no")) for i in range(60)], campaign="c")
    engine.dispose()
