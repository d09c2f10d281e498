"""The demo for three seeds fixed beforehand, held against what it promises.

python benchmarks/demo.py             writes benchmarks/results/demo.json (about three minutes a seed on two CPU cores)
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from preferent.stages.doctor import gflops

SEEDS = (0, 1, 2)
SECONDS = 180  # for the demo without --all, where `preferent doctor` measures 80 GFLOP/s or more
METHODS = ("ppo", "grpo", "dpo")
RESULTS = Path(__file__).parent / "results" / "demo.json"


def promises(policies):
    """What must hold of one seed's table: name → (figure, whether it holds)."""
    sft, again = policies["sft"], policies["SFT again"]
    held = {
        "sft_right": (sft["parts"]["right"], 0.5 <= sft["parts"]["right"] <= 0.9),
        "no_op_wins": (again["wins"][0], abs(again["wins"][0] - 0.5) <= 0.05),
    }
    for name in METHODS:
        (value, low, _), rise = policies[name]["wins"], policies[name]["gold"] - sft["gold"]
        held[f"{name}_wins"] = (value, value >= 0.85)
        held[f"{name}_wins_low"] = (low, low >= 0.75)
        held[f"{name}_rise_in_sd"] = (rise / sft["gold_sd"], rise > sft["gold_sd"])
    return held


def demo(*words):
    """What `preferent demo` with these words writes, and how many seconds the command takes."""
    folder = Path(tempfile.mkdtemp(prefix="preferent-demo-"))
    try:
        began = time.monotonic()
        subprocess.run([sys.executable, "-m", "preferent", "demo", "--out", folder / "demo", *words], check=True)
        return json.loads((folder / "demo" / "results.json").read_text()), time.monotonic() - began
    finally:
        shutil.rmtree(folder)


def one(seed):
    results, seconds = demo("--all", "--seed", str(seed))
    held = promises(results["policies"])
    figures = {
        name: {key: row[key] for key in ("gold", "gold_sd", "parts", "wins", "kl", "length", "distinct_2")}
        for name, row in results["policies"].items()
    }
    return {
        "seconds": seconds,
        "crowd": results["crowd"],
        "reward_accuracy": results["reward_accuracy"],
        "policies": figures,
        "promises": {name: {"figure": figure, "holds": bool(holds)} for name, (figure, holds) in held.items()},
    }


def main():
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    report = {"machine": {"gflops": gflops(), "threads": torch.get_num_threads()}, "seeds": {}}
    _, report["seconds_without_all"] = demo()
    for seed in SEEDS:
        report["seeds"][str(seed)] = one(seed)
        RESULTS.write_text(json.dumps(report, indent=1) + "\n")
    failed = 0
    for seed, row in report["seeds"].items():
        for name, promise in row["promises"].items():
            print(f"seed {seed}  {name:<18} {promise['figure']:.3f}  {'PASS' if promise['holds'] else 'FAIL'}")
            failed += not promise["holds"]
    seconds = report["seconds_without_all"]
    print(f"the demo without --all  {seconds:.0f} s  {'PASS' if seconds <= SECONDS else 'FAIL'}")
    return 1 if failed or seconds > SECONDS else 0


if __name__ == "__main__":
    sys.exit(main())
