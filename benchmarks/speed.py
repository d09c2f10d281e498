"""The same work here and with the peer, in one run, taking turns: how many seconds, and how much memory.

make bench                              everything; writes benchmarks/results/speed.json and docs/performance.md's table
make bench-quick                        DPO, GRPO and sampling; writes benchmarks/results/speed-quick.json
python benchmarks/speed.py --peer PYTHON --only dpo --rounds 7

The peer is TRL 1.16 (for PPO 1.10, the last that has it), and for sampling and scoring plain transformers. Both sides
start from one model with random weights (Qwen2, 2.2 million parameters, a tokenizer of the rows' text) and take the
same real rows in the same order, in fp32, without gradient checkpointing; rows of like length stand together, which is
what padding likes best; DPO's reference was asked beforehand on both sides. In each round one side works while the
other is stopped; the first round is not counted. Memory is the peak above what a process held once model and rows were
loaded. The ratio is the peer's seconds over ours, its median over rounds; between brackets its lowest and highest.
``floor`` is explained in ``floor.py``.

Where replies are given, both sides' losses must agree after the first round, or the race ends there; they must after
all others, too. GRPO, online DPO and PPO draw replies of their own, so that there is nothing to compare. A job whose
peer is missing or stops is told of and counts as a failure; the next one runs.
"""

import argparse
import contextlib
import functools
import json
import math
import os
import platform
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import floor
import page
import parity
import speed_rows
import torch
import transformers

HERE = Path(__file__).parent
RESULTS = HERE / "results"
OFFLINE = ("sft", "reward", "dpo", "kto")
SAME = 1e-3  # relative: what losses may differ by
NEEDED = "import datasets, torch, transformers, trl"  # of a peer's environment
Turns = dict[str, list[dict[str, Any]]]


class Uncompared(Exception):
    """Why a job has no ratio."""


@dataclass(frozen=True)
class Job:
    """Some work, and how much faster and smaller than the peer it is to be."""

    name: str
    kind: str
    faster: float | None
    smaller: float | None
    batch: int = 16
    group: int = 1
    new: int = 64
    ending: bool = False  # replies end after 8 to 64 tokens
    prompts: tuple[str, int, int] = ("gsm8k", 1, 256)  # from which data, and how many tokens
    lr: float = 1e-5
    rounds: int = 6
    quick: bool = False
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def given(self) -> bool:
        """Whether both sides read given replies, so that they must say the same of them."""
        return self.kind in OFFLINE or self.kind == "scoring"

    @property
    def steps(self) -> int:
        """Optimiser steps, or batches, in a round."""
        return 3 if self.given else 1


JOBS = (
    Job("SFT", "sft", 3.0, 0.6),
    Job("reward model", "reward", 4.5, 0.5),
    Job("DPO", "dpo", 8.0, 0.5, quick=True, options={"beta": 0.1, "precompute_ref_log_probs": True}),
    Job("KTO", "kto", None, None, options={"beta": 0.1, "precompute_ref_log_probs": True}),
    Job("GRPO", "grpo", 6.0, 0.5, batch=8, group=8, quick=True, options={"beta": 0.04}),
    Job("online DPO", "online-dpo", None, None, group=2, options={"beta": 0.1}),
    Job("PPO", "ppo", 4.0, 0.6, batch=64, options={"epochs": 4}),
    Job("scoring", "scoring", None, None),
    Job("sampling", "sampling", 4.0, 0.6, batch=8, group=8, quick=True, prompts=("hh", 1, 256)),
    Job("sampling, long prompts", "sampling", 13.0, 0.3, batch=8, group=8, quick=True, prompts=("tldr", 512, 1024)),
    Job(
        "sampling, replies that end", "sampling", 6.0, None, batch=8, group=8, quick=True, prompts=("hh", 1, 256),
        ending=True,
    ),
)  # fmt: skip


class Side:
    """A process that makes a round when it is told to, and is stopped meanwhile."""

    def __init__(self, name: str, python: str, script: str, folder: Path) -> None:
        self.name = name
        quiet = {"HF_HUB_OFFLINE": "1", "TRL_EXPERIMENTAL_SILENCE": "1", "HF_DATASETS_DISABLE_PROGRESS_BARS": "1"}
        with (folder / f"{name}.err").open("w") as self.log:
            self.process = subprocess.Popen(
                [python, str(HERE / script), str(folder)],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.log, text=True,
                env={**os.environ, **quiet},
            )  # fmt: skip
        self.heard()
        self.process.send_signal(signal.SIGSTOP)

    def heard(self) -> dict[str, Any]:
        line = self.process.stdout.readline()
        if not line:
            code = self.process.wait()
            self.end()
            print(Path(self.log.name).read_text()[-3000:], file=sys.stderr)
            raise Uncompared(f"{'the peer' if self.name == 'peer' else 'our side'} stopped with exit code {code}")
        return dict(json.loads(line))

    def round(self) -> dict[str, Any]:
        self.process.send_signal(signal.SIGCONT)
        with contextlib.suppress(BrokenPipeError):  # it has ended: what it said last is in its log
            self.process.stdin.write("go\n")
            self.process.stdin.flush()
        said = self.heard()
        self.process.send_signal(signal.SIGSTOP)
        return said

    def end(self) -> None:
        self.process.kill()
        self.process.communicate()  # closes the pipes, and waits


def race(job: Job, folder: Path, commands: Mapping[str, tuple[str, str]]) -> Turns:
    """What each side said of each round; ``commands`` are a side's Python and script. Uncompared if one ends early."""
    sides: dict[str, Side] = {}
    turns: Turns = {name: [] for name in commands}
    try:
        for name, command in commands.items():
            sides[name] = Side(name, *command, folder)
        for i in range(job.rounds):
            for name in ("peer", "here") if i % 2 else ("here", "peer"):
                turns[name].append(sides[name].round())
            if i == 0 and job.given and apart(turns) >= SAME:
                raise Uncompared(f"the losses differ by {apart(turns):.1e}")
    finally:
        for side in sides.values():
            side.end()
    return turns


def apart(turns: Turns) -> float:
    """By how much losses differ at most, relative to the peer's; infinitely where one is not a number."""
    pairs = [
        (a, b) for ours, theirs in zip(turns["here"], turns["peer"], strict=True)
        for a, b in zip(ours["losses"], theirs["losses"], strict=True)
    ]  # fmt: skip
    return max(abs(a - b) / max(abs(b), 1e-9) if math.isfinite(a - b) else math.inf for a, b in pairs)


@functools.cache
def unusable(python: str) -> str | None:
    """Why an environment cannot be raced against. Where its packages failed to install, its Python is there."""
    try:
        tried = subprocess.run([python, "-c", NEEDED], capture_output=True, text=True, check=False)
    except OSError:
        return "the peer is missing"
    if tried.returncode != 0:
        print(tried.stderr[-1000:], file=sys.stderr)
        return "the peer is missing, for its packages are not installed"
    return None


def summary(job: Job, turns: Turns, machine: floor.Machine) -> dict[str, Any]:
    counted = {name: each[1:] for name, each in turns.items()}
    ratios = [b["seconds"] / a["seconds"] for a, b in zip(counted["here"], counted["peer"], strict=True)]
    peaks = {name: max(turn["peak"] for turn in each) for name, each in turns.items()}
    seconds = {name: statistics.median(turn["seconds"] for turn in each) / job.steps for name, each in counted.items()}
    shape = floor.Shape(speed_rows.SIZE.hidden, speed_rows.SIZE.layers, speed_rows.SIZE.vocabulary)
    needed = [
        floor.floor(job.kind, shape, turn["groups"], epochs=job.options.get("epochs", 1)) for turn in counted["here"]
    ]
    least = [machine.seconds(*each) for each in needed]
    tokens = {
        name: statistics.median(
            turn.get("tokens", ours["tokens"]) / turn["seconds"]
            for turn, ours in zip(each, counted["here"], strict=True)
        )
        for name, each in counted.items()
    }
    found = {
        "ratio": statistics.median(ratios),
        "ratio_low": min(ratios),
        "ratio_high": max(ratios),
        "seconds_a_step": seconds,
        "reply_tokens_a_second": tokens,
        "peak_mib": {name: peak / 2**20 for name, peak in peaks.items()},
        "memory_ratio": peaks["here"] / peaks["peer"],
        "times_the_floor": statistics.median(t["seconds"] / s for t, s in zip(counted["here"], least, strict=True)),
        "of_the_matrix_rate": statistics.median(
            (n[0] + n[1]) / t["seconds"] / machine.matrices for t, n in zip(counted["here"], needed, strict=True)
        ),
        "target": {"ratio": job.faster, "memory_ratio": job.smaller},
    }
    if job.given:
        found["losses_apart"] = apart(turns)
    return found


def told(job: Job, found: dict[str, Any]) -> bool:
    """Print a line or two; whether every target is met."""
    same = found.get("losses_apart", 0.0) < SAME
    met = [same]
    for what, ratio, target, good in (
        ("", found["ratio"], job.faster, job.faster is None or found["ratio"] >= job.faster),
        (", memory", found["memory_ratio"], job.smaller, job.smaller is None or found["memory_ratio"] <= job.smaller),
    ):
        verdict = "" if target is None else ("PASS" if good else "FAIL")
        sign = "" if target is None else f"target {'≤' if what else '≥'} {target:g}"
        print(f"{job.name + what:<36}{ratio:6.2f}×  {sign:<14}{verdict:<6}", end="" if not what else "\n")
        if not what:
            ours, theirs = found["seconds_a_step"]["here"], found["seconds_a_step"]["peer"]
            print(
                f"[{found['ratio_low']:.2f} – {found['ratio_high']:.2f}]   {ours:.3f} s against {theirs:.3f} s   "
                f"{found['times_the_floor']:.1f} × the floor"
            )
        met.append(good)
    if not same:
        print(f"{job.name}: the losses differ by {found['losses_apart']:.1e}  FAIL")
    sys.stdout.flush()
    return all(met)


def prepared(job: Job, where: Path, template: Any) -> Path:
    """A folder with all that both sides need to know."""
    folder = where / job.name.replace(" ", "-")
    folder.mkdir()
    for name in ("model", "reward"):
        (folder / name).symlink_to(where / name)
    if job.given:
        rows = speed_rows.compared(template, batch=job.batch, rounds=job.rounds)
        rows = {"sft": parity.as_demonstrations, "kto": parity.as_judged}.get(job.kind, list)(rows)
    else:
        name, shortest, longest = job.prompts
        rows = speed_rows.asked(template, name, shortest=shortest, longest=longest, count=job.rounds * job.batch)
    (folder / "rows.json").write_text(json.dumps(rows))
    (folder / "job.json").write_text(json.dumps({**asdict(job), "steps": job.steps * job.rounds, "each": job.steps}))
    return folder


def described(machine: floor.Machine) -> dict[str, Any]:
    cpu = Path("/proc/cpuinfo")
    names = [line.partition(":")[2].strip() for line in cpu.read_text().splitlines() if line.startswith("model name")]
    return {
        "cpu": names[0] if names else platform.processor(),
        "threads": torch.get_num_threads(),
        "gflops_on_many_rows": machine.matrices / 1e9,
        "gflops_on_64_rows": machine.drawing / 1e9,
        "copied_gb_a_second": machine.copying / 1e9,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }


def compared(jobs: Sequence[Job], peers: Mapping[str, str], machine: floor.Machine) -> dict[str, Any]:
    """What was found of each job, or why nothing was. ``peers``: by a job's name, the Python that it races against."""
    found: dict[str, Any] = {"jobs": {}, "uncompared": {}, "met": True}
    with tempfile.TemporaryDirectory() as where:
        template = None
        for job in jobs:
            try:
                if why := unusable(peers[job.name]):
                    raise Uncompared(why)
                template = template or speed_rows.made(Path(where))
                commands = {"peer": (peers[job.name], "speed_trl.py"), "here": (sys.executable, "speed_here.py")}
                said = summary(job, race(job, prepared(job, Path(where), template), commands), machine)
            except Uncompared as why:
                found["uncompared"][job.name] = str(why)
                found["met"] = False
                print(f"{job.name:<36}{why}: nothing is compared  FAIL", flush=True)
            else:
                found["jobs"][job.name] = said
                found["met"] &= told(job, said)
    return found


def wanted(job: Job, only: str, *, quick: bool) -> bool:
    begins = any(each.lower().startswith(only.lower()) for each in (job.name, job.kind))
    return begins and (job.quick or not quick)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", default="", help="Python of the environment that holds TRL 1.16")
    parser.add_argument("--ppo-peer", default="", help="Python of the environment that holds TRL 1.10")
    parser.add_argument(
        "--only", default="", help="jobs whose name or kind begins so; nothing is written without --out"
    )
    parser.add_argument("--quick", action="store_true", help="DPO, GRPO and sampling; the page's table stays as it is")
    parser.add_argument("--rounds", type=int, default=5, help="that are counted")
    parser.add_argument("--out", type=Path, help="a file for what was found; the page's table stays as it is")
    asked = parser.parse_args(arguments)
    began = time.perf_counter()
    transformers.utils.logging.disable_progress_bar()
    jobs = [replace(job, rounds=asked.rounds + 1) for job in JOBS if wanted(job, asked.only, quick=asked.quick)]
    if not jobs:
        parser.error(f"--only {asked.only}: no job begins so. There are {', '.join(job.name for job in JOBS)}.")
    size = speed_rows.SIZE
    machine = floor.machine(floor.Shape(size.hidden, size.layers, size.vocabulary))
    found = compared(jobs, {job.name: asked.ppo_peer if job.kind == "ppo" else asked.peer for job in jobs}, machine)
    minutes = (time.perf_counter() - began) / 60
    report = {"machine": described(machine), "model": asdict(size), "minutes": minutes, **found}
    print(f"{minutes:.1f} minutes")
    out = asked.out
    if not out and not asked.only and found["jobs"]:
        out = RESULTS / ("speed-quick.json" if asked.quick else "speed.json")
    if out:
        out.write_text(json.dumps(report, indent=1) + "\n")
    if out == RESULTS / "speed.json":
        page.write("speed", report)
    return 0 if found["met"] else 1


if __name__ == "__main__":
    sys.exit(main())
