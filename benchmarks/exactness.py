"""How exact the shared-prefix forward and the sampler are, on tiny models of many architectures.

python benchmarks/exactness.py        writes benchmarks/results/exactness.json
"""

import argparse
import json
import sys
from pathlib import Path

import torch

ROOT = Path(__file__).parent.parent
sys.path += [str(ROOT / "tests"), str(ROOT / "tests" / "models"), str(ROOT / "tests" / "sampling")]

import test_local
import test_shared_prefix as prefix

from preferent.data.collate import episodes, logprobs
from preferent.models.probe import can_share, can_use_own_head
from preferent.sampling.local import LocalSampler
from tiny_models import PLAIN, SHARING, tiny


def relative(ours, theirs):
    return ((ours - theirs).norm() / theirs.norm()).item()


def measured(name):
    model, x = tiny(name), prefix.batch(prefix.MIXED)
    sharing, own_head = can_share(model), can_use_own_head(model)
    ours = prefix.said(model, x, sharing=sharing, own_head=own_head)
    plain = prefix.said(model, x, sharing=False, own_head=False)
    policy = test_local.policy_of(name)
    groups = LocalSampler(policy, max_new_tokens=12).sample(test_local.PROMPTS, 3)
    with torch.no_grad():
        read = policy.read(episodes(groups)).logprobs
    return {
        "path": "shared prefix" if sharing else "plain",
        "log_probabilities_relative": relative(ours[0], plain[0]),
        "gradients_relative": relative(ours[2], plain[2]),
        "log_probabilities_against_each_reply_alone": (ours[0] - prefix.by_the_books(model, x)).abs().max().item(),
        "sampler_log_probabilities": (read - logprobs(groups)).abs().max().item(),
    }


def main():
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    results = {name: measured(name) for name in (*SHARING, *PLAIN)}
    path = ROOT / "benchmarks" / "results" / "exactness.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(results, indent=1) + "\n")
    for name, row in results.items():
        print(
            f"{name:<34} {row['path']:<14} log p {row['log_probabilities_relative']:.1e}   "
            f"gradient {row['gradients_relative']:.1e}   sampler {row['sampler_log_probabilities']:.1e}"
        )
    exact = all(
        row["log_probabilities_relative"] < 1e-5 and row["gradients_relative"] < 1e-5 for row in results.values()
    )
    drawn = all(row["sampler_log_probabilities"] < 1e-4 for row in results.values())
    print("PASS" if exact and drawn else "FAIL")
    return 0 if exact and drawn else 1


if __name__ == "__main__":
    sys.exit(main())
