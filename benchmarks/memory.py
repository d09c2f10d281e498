"""Does the dry run foretell the memory that a run needs? Runs of all kinds and several sizes, predicted and measured.

python benchmarks/memory.py                writes benchmarks/results/memory.json
python benchmarks/memory.py allocator      writes benchmarks/results/allocator.json: what it saves, and costs,
                                           that large tensors give their memory back (MALLOC_MMAP_THRESHOLD_)
python benchmarks/memory.py predict NAME   (or measure) what a process of its own is asked

Measured is the peak resident memory (VmHWM) above what the process held before the run began, in a process of its own
that has run the same command on a toy before, so that libraries do not count. Linux only.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import io
import json
import os
import random
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
from itertools import pairwise
from pathlib import Path

RESULTS = Path(__file__).parent / "results"
GIVE_BACK = {"MALLOC_MMAP_THRESHOLD_": str(1 << 20)}
TOLERANCE = 0.25
STEPS = "8"  # a heap takes a few steps until it no longer grows
STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")

# name: (size of the model, the command, its options)
CONFIGURATIONS = {
    "sft, 256 wide, 6 layers, one micro-batch a step": (
        {"hidden": 256, "layers": 6, "vocabulary": 4000},
        "sft --data demos.jsonl --batch 12 --token-budget 4096",
    ),
    "dpo, 512 wide, 4 layers, several micro-batches a step": (
        {"hidden": 512, "layers": 4, "vocabulary": 8000},
        "dpo --data prefs.jsonl --batch 8 --token-budget 1024",
    ),
    "ppo, 256 wide, 4 layers, LoRA on the policy": (
        {"hidden": 256, "layers": 4, "vocabulary": 4000},
        "ppo --data prompts.jsonl --reward reward.py:length --lora 8 --max-new-tokens 64 "
        "--batch 32 --mini-batch 16 --ppo-epochs 1",
    ),
    "grpo, 192 wide, 5 layers": (
        {"hidden": 192, "layers": 5, "vocabulary": 3000},
        "grpo --data prompts.jsonl --reward reward.py:length --batch 8 --group 6 --max-new-tokens 48",
    ),
    "sft, 256 wide, 8 layers, layers computed again, moments in eight bits": (
        {"hidden": 256, "layers": 8, "vocabulary": 4000},
        "sft --data demos.jsonl --batch 12 --token-budget 2048 --checkpoint-activations --optimizer adamw8bit",
    ),
    "reward, 320 wide, 3 layers, two members": (
        {"hidden": 320, "layers": 3, "vocabulary": 6000},
        "reward --data prefs.jsonl --batch 12 --members 2",
    ),
    "sft, 512 wide, 6 layers, LoRA": (
        {"hidden": 512, "layers": 6, "vocabulary": 8000},
        "sft --data demos.jsonl --batch 12 --lora 8",
    ),
    "dpo, 512 wide, 6 layers, LoRA, layers computed again": (
        {"hidden": 512, "layers": 6, "vocabulary": 8000},
        "dpo --data prefs.jsonl --batch 24 --lora 16 --checkpoint-activations",
    ),
    "grpo, 512 wide, 4 layers, LoRA": (
        {"hidden": 512, "layers": 4, "vocabulary": 8000},
        "grpo --data prompts.jsonl --reward reward.py:length --batch 8 --group 6 --max-new-tokens 48 --lora 16",
    ),
    "grpo, 1024 wide, 3 layers, LoRA, little data": (
        {"hidden": 1024, "layers": 3, "vocabulary": 4000},
        "grpo --data prompts.jsonl --reward reward.py:length --batch 2 --group 4 --max-new-tokens 12 --lora 8",
    ),
    "reward, 384 wide, 4 layers, LoRA, several micro-batches a step": (
        {"hidden": 384, "layers": 4, "vocabulary": 5000},
        "reward --data prefs.jsonl --batch 16 --lora 32 --token-budget 1024",
    ),
    "sft, 320 wide, 5 layers, LoRA, one micro-batch a step": (
        {"hidden": 320, "layers": 5, "vocabulary": 12000},
        "sft --data demos.jsonl --batch 8 --lora 4 --token-budget 4096",
    ),
}
EVERY = "--model base --max-length 512 --threads 1 --lr 1e-4"
ALLOCATED = ("reward, 320 wide, 3 layers, two members", "sft, 512 wide, 6 layers, LoRA")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="?", choices=("allocator", "predict", "measure"))
    parser.add_argument("name", nargs="?", choices=CONFIGURATIONS, metavar="name", help="of a configuration")
    asked = parser.parse_args()
    if (asked.what in {"predict", "measure"}) != (asked.name is not None):
        parser.error(f"{asked.what} of which configuration? There are: {'; '.join(CONFIGURATIONS)}.")
    if asked.name:
        print({"predict": predict, "measure": measure}[asked.what](f"{CONFIGURATIONS[asked.name][1]} {EVERY}".split()))
    elif asked.what:
        allocator()
    else:
        estimates()


def allocator() -> None:
    """What runs take with the allocator as it is, and where it gives large pieces back at once."""
    found = {}
    for name in ALLOCATED:
        with tempfile.TemporaryDirectory() as folder:
            prepare(Path(folder), CONFIGURATIONS[name][0])
            for way, more in (("as it is", {}), ("given back", GIVE_BACK)):
                mib = float(child(folder, name, "measure", more))
                own = found.setdefault(name, {})[way] = {"mib": mib, "seconds_a_step": paced(Path(folder))}
                shutil.rmtree(Path(folder) / "run")
                shutil.rmtree(Path(folder) / "toy-run")
                print(f"{name}, {way}: {mib:.0f} MiB, {own['seconds_a_step']:.2f} s a step", flush=True)
    (RESULTS / "allocator.json").write_text(json.dumps(found, indent=2) + "\n")


def paced(folder: Path) -> float:
    """Seconds from one step of the run to the next."""
    file = next((folder / "run").rglob("metrics.jsonl"))
    ends = [row["time"] for row in map(json.loads, file.read_text().splitlines()) if "step" in row]
    return statistics.median(b - a for a, b in pairwise(ends))


def estimates() -> None:
    found = {name: compared(name) for name in CONFIGURATIONS}
    (RESULTS / "memory.json").write_text(json.dumps(found, indent=2) + "\n")
    for name, row in found.items():
        print(f"{name}: predicted {row['predicted_mib']:.0f} MiB, measured {row['measured_mib']:.0f} MiB")
    sys.exit(int(any(row["error"] > TOLERANCE for row in found.values())))


def compared(name: str) -> dict[str, float]:
    """One configuration, predicted in one process and measured in another."""
    with tempfile.TemporaryDirectory() as folder:
        prepare(Path(folder), CONFIGURATIONS[name][0])
        predicted, measured = (float(child(folder, name, what)) for what in ("predict", "measure"))
    return {"predicted_mib": predicted, "measured_mib": measured, "error": abs(predicted / measured - 1)}


def prepare(folder: Path, size: dict[str, int]) -> None:
    """Text with enough different words for the vocabulary, rows of it, a model of the size and a toy of its kind."""
    draw = random.Random(0)
    known = ["".join(draw.choices("abcdefghijklmnopqrstuvwxyz", k=draw.randint(3, 8))) for _ in range(9000)]

    def said(n: int) -> str:
        return " ".join(draw.choices(known, k=n))

    rows = {
        "demos": [{"prompt": said(12), "completion": said(draw.randint(60, 90))} for _ in range(60)],
        "prefs": [{"prompt": said(12), "chosen": said(40), "rejected": said(30)} for _ in range(60)],
        "prompts": [{"prompt": said(draw.randint(8, 16))} for _ in range(96)],
    }
    for name, each in rows.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in each))
    (folder / "text.txt").write_text("\n".join(" ".join(known[i : i + 9]) for i in range(0, 9000, 9)))
    (folder / "reward.py").write_text("def length(episodes):\n    return [len(e.text) / 100 for e in episodes]\n")
    words = [f"--{word}={value}" for word, value in size.items()]
    ran(folder, ["init", "--text", "text.txt", "--out", "base", "--heads", "8", *words])
    ran(folder, ["init", "--text", "text.txt", "--out", "toy", "--hidden", "16", "--layers", "1", "--heads", "2"])


def ran(folder: str | Path, arguments: list[str]) -> None:
    subprocess.run([sys.executable, "-m", "preferent", *arguments], cwd=folder, check=True, capture_output=True)


def child(folder: str, name: str, what: str, more: dict[str, str] | None = None) -> str:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **(more or {})}
    command = [sys.executable, str(Path(__file__).resolve()), what, name]
    done = subprocess.run(command, cwd=folder, env=environment, check=True, text=True, capture_output=True)
    return done.stdout.splitlines()[-1]


def predict(arguments: list[str]) -> float:
    """MiB, as the dry run says."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        run([*arguments, "--steps", STEPS, "--out", "run", "--dry-run"])
    return max(float(peak.replace(",", "")) for peak in re.findall(r"peak while .* ([\d,.]+) MiB", said.getvalue()))


def measure(arguments: list[str]) -> float:
    """MiB above what the process held before."""
    toy = ["toy" if word == "base" else word for word in arguments]
    run([*toy, "--steps", "2", "--out", "toy-run"])
    gc.collect()
    before = held("VmRSS")
    CLEAR.write_text("5")
    run([*arguments, "--steps", STEPS, "--out", "run"])
    return held("VmHWM") - before


def run(arguments: list[str]) -> None:
    from preferent.cli import main

    code = main(arguments)
    if code != 0:
        raise SystemExit(code)


def held(what: str) -> float:
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith(what))
    return int(line.split()[1]) / 1024


if __name__ == "__main__":
    main()
