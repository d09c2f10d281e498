"""Train the same tiny model on the same real pairs here and with TRL 1.16, and compare the losses step by step.

``make parity`` runs it: SFT, a reward model, DPO and KTO, in fp32, from the same weights, over the same rows in the
same order. Both sides get text and put it through the model's chat template themselves. The rows are pairs of HH-RLHF
(Bai et al. 2022) where PREFERENT_TEST_DATA names the folder that holds them, and otherwise a few written here.
Writes ``benchmarks/results/parity.json``; the exit code says whether every step agreed.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

import transformers

from preferent.algorithms.dpo import dpo
from preferent.algorithms.kto import kto
from preferent.algorithms.reward_model import reward_model
from preferent.algorithms.sft import sft
from preferent.data.batches import Batches
from preferent.data.collate import demonstrations, pairs
from preferent.data.columns import parse
from preferent.data.rated import Collate, Judged, Rated
from preferent.data.rows import BadRow, rows
from preferent.data.template import Template
from preferent.models.load import load_policy, load_scorer, save
from preferent.models.scratch import Size, new_model, train_tokenizer
from preferent.runtime.learner import LocalLearner, local_learner
from preferent.types import Algorithm

PAIRS = "hh_rlhf/harmless_base_test.preference.jsonl.gz"
LONGEST = 256  # tokens of a pair's longer side; longer pairs are left out on both sides
TOLERANCE = 1e-3  # relative
PEER = Path(__file__).with_name("peer_trl.py")
RESULTS = Path(__file__).parent / "results" / "parity.json"
SIZE = Size(hidden=64, layers=2, heads=4, vocabulary=1024, context=1024)

Row = dict[str, Any]


@dataclass(frozen=True)
class Job:
    """One method, with what both sides are told."""

    method: str
    lr: float = 1e-3
    steps: int = 20
    batch: int = 8
    betas: tuple[float, float] = (0.9, 0.999)
    max_grad_norm: float = 1.0
    options: dict[str, Any] = field(default_factory=dict)  # TRL's own, for what here is the default


JOBS = (
    Job("sft", options={"loss_type": "nll"}),
    Job("reward"),
    Job("dpo", options={"beta": 0.1}),
    Job("kto", options={"beta": 0.1}),
    Job("apo-zero", options={"beta": 0.1, "loss_type": "apo_zero_unpaired"}),
)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peer", type=Path, required=True, help="Python of the environment that holds TRL")
    peer = parser.parse_args().peer
    transformers.utils.logging.disable_progress_bar()
    source, said = real_rows()
    report: dict[str, Any] = {"rows": source, "model": asdict(SIZE), "tolerance": TOLERANCE, "methods": {}}
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder) / "base"
        template = made(said, base)
        fitting = [row for row in said if fits(row, template)]
        for job in JOBS:
            report["methods"][job.method] = compared(job, fitting, base, Path(folder) / job.method, peer)
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(report, indent=1) + "\n")
    return 0 if all(said["agree"] for said in report["methods"].values()) else 1


def compared(job: Job, said: Sequence[Row], base: Path, folder: Path, peer: Path) -> dict[str, Any]:
    """Both curves of a method, and the largest relative difference between them."""
    needed = job.steps * job.batch
    chosen = [said[i % len(said)] for i in range(needed)]
    ours, theirs = mine(job, chosen, base, folder), of_trl(job, chosen, folder, peer)
    if len(ours) != len(theirs):
        raise RuntimeError(f"{job.method}: {len(ours)} steps here and {len(theirs)} there; expected {job.steps}")
    differences = [abs(a - b) / abs(b) for a, b in zip(ours, theirs, strict=True)]
    agree = max(differences) <= TOLERANCE
    verdict = "PASS" if agree else "FAIL"
    print(f"{job.method:<8}{len(ours):>3} steps   largest relative difference {max(differences):.1e}   {verdict}")
    return {
        "agree": agree,
        "largest_relative_difference": max(differences),
        "job": asdict(job),
        "preferent": ours,
        "trl": theirs,
    }


# --- rows and the model --------------------------------------------------------------------------


def real_rows() -> tuple[str, list[Row]]:
    """Pairs in the columns that both sides know: prompt, chosen, rejected, each a list of messages."""
    folder = os.environ.get("PREFERENT_TEST_DATA")
    if not folder:
        print("PREFERENT_TEST_DATA is not set: pairs written here take the place of real ones.")
        return "written by parity.py", list(islice(written(), 160))
    good = [row.data for row in rows(Path(folder) / PAIRS) if not isinstance(row, BadRow)]
    return PAIRS, [{name: row[name] for name in ("prompt", "chosen", "rejected")} for row in good]


def written() -> Iterator[Row]:
    """Sums, answered rightly and wrongly."""
    for a in range(1, 14):
        for b in range(1, 14):
            yield {
                "prompt": [{"role": "user", "content": f"What is {a} plus {b}?"}],
                "chosen": [{"role": "assistant", "content": f"{a} plus {b} is {a + b}."}],
                "rejected": [{"role": "assistant", "content": f"I would say that it is {a * b + 1}, but do not ask."}],
            }


def made(said: Sequence[Row], folder: Path) -> Template:
    """A tiny model with a tokenizer of these rows' text."""
    texts = [turn["content"] for row in said for turns in row.values() for turn in turns]
    tokenizer = train_tokenizer(texts, vocabulary=SIZE.vocabulary)
    new_model(tokenizer, SIZE, seed=1).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return Template(tokenizer)


def fits(row: Row, template: Template) -> bool:
    """Whether a row is sound, and short enough to be quick."""
    try:
        pair: Any = template.tokenised(parse(row, kind="preferences"))
    except BadRow:
        return False
    longest = max(len(reply.tokens) for reply in pair.comparison.options)
    return len(pair.comparison.context.tokens) + longest <= LONGEST


# --- the two sides -------------------------------------------------------------------------------


def mine(job: Job, said: Sequence[Row], base: Path, folder: Path) -> list[float]:
    """This project's losses. Leaves the model that it started from in ``folder/model``, for the other side."""
    steps = {"sft": sft_here, "reward": reward_here, "dpo": dpo_here, "kto": kto_here, "apo-zero": kto_here}[job.method]
    return [metrics["loss"] for metrics in steps(job, said, base, folder / "model")]


def sft_here(job: Job, said: Sequence[Row], base: Path, start: Path) -> Algorithm:
    policy = load_policy(base, device="cpu")
    save(policy, start)
    return sft(learner(policy, job), batched(job, as_demonstrations(said), policy.tokenizer, demonstrations))


def reward_here(job: Job, said: Sequence[Row], base: Path, start: Path) -> Algorithm:
    scorer = load_scorer(base, seed=2, device="cpu")
    save(scorer, start)
    return reward_model(learner(scorer, job), batched(job, said, scorer.tokenizer, pairs))


def dpo_here(job: Job, said: Sequence[Row], base: Path, start: Path) -> Algorithm:
    policy = load_policy(base, device="cpu")
    save(policy, start)
    return dpo(learner(policy, job), policy.frozen(), batched(job, said, policy.tokenizer, pairs))


def kto_here(job: Job, said: Sequence[Row], base: Path, start: Path) -> Algorithm:
    policy = load_policy(base, device="cpu")
    save(policy, start)
    batches = turned(as_judged(said), policy.tokenizer, job.batch)
    if job.method == "apo-zero":
        batches = [replace(batch, others=None) for batch in batches]
    return kto(learner(policy, job), policy.frozen(), batches)


def turned(said: Sequence[Row], tokenizer: Any, size: int) -> list[Rated]:
    """Batches in which a prompt stands, as TRL has it, with the reply of the row before it, the first with the last's.

    What ``preferent kto`` takes, the replies to the next prompt of the file, would be others, and another baseline.
    """
    template = Template(tokenizer)
    judged: list[Any] = [template.tokenised(parse(row)) for row in said]
    steps = [judged[i : i + size] for i in range(0, len(judged), size)]
    return [Collate()([Judged([step[i]], [step[i - 1]]) for i in range(len(step))]) for step in steps]


def learner(model: Any, job: Job) -> LocalLearner[Any]:
    return local_learner(model, lr=job.lr, betas=job.betas, max_grad_norm=job.max_grad_norm)


def batched(job: Job, said: Sequence[Row], tokenizer: Any, collate: Callable[[list[Any]], Any]) -> Batches[Any, Any]:
    template = Template(tokenizer)
    tokenised = [template.tokenised(parse(row)) for row in said]
    return Batches(tokenised, job.batch, collate, steps=job.steps, shuffle=False)


def as_demonstrations(said: Sequence[Row]) -> list[Row]:
    return [{"prompt": row["prompt"], "completion": row["chosen"]} for row in said]


def as_judged(said: Sequence[Row]) -> list[Row]:
    """One reply of each pair, by turns the chosen one and the rejected."""
    return [
        {"prompt": row["prompt"], "completion": row["rejected" if i % 2 else "chosen"], "label": not i % 2}
        for i, row in enumerate(said)
    ]


def of_trl(job: Job, said: Sequence[Row], folder: Path, peer: Path) -> list[float]:
    """TRL's losses on the same rows, from the same weights."""
    given = {"sft": as_demonstrations, "kto": as_judged, "apo-zero": as_judged}.get(job.method, list)(said)
    (folder / "rows.json").write_text(json.dumps(given))
    (folder / "job.json").write_text(json.dumps(asdict(job)))
    quiet = {"HF_HUB_OFFLINE": "1", "TRL_EXPERIMENTAL_SILENCE": "1", "HF_DATASETS_DISABLE_PROGRESS_BARS": "1"}
    ran = subprocess.run([peer, PEER, folder], env=os.environ | quiet, capture_output=True, text=True, check=False)
    if ran.returncode:
        raise RuntimeError(f"TRL stopped with exit code {ran.returncode}:\n{ran.stderr[-4000:]}")
    return list(json.loads((folder / "losses.json").read_text()))


if __name__ == "__main__":
    sys.exit(main())
