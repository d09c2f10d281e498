"""Train the same tiny model on the same real pairs here and with TRL 1.16, and compare the losses step by step.

``make parity`` runs it: SFT, a reward model, DPO and its relatives, KTO, policy gradients and online DPO, in fp32, from
the same weights, over the same rows in the same order. Both sides get text and put it through the model's chat template
themselves; what would be sampled is given as tokens. Each step's loss is compared, and the norm of its gradient before
it is clipped. Where a convention differs, what is compared here takes the other side's, and says so below. The rows are
pairs of HH-RLHF (Bai et al. 2022) where PREFERENT_TEST_DATA names the folder that holds them, and otherwise a few
written here.
Writes ``benchmarks/results/parity.json``; the exit code says whether every step agreed.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import parity_drawn
import transformers

from preferent.algorithms import grpo as rl
from preferent.algorithms import objectives as our
from preferent.algorithms.aot import aot
from preferent.algorithms.dpo import DPO, Objective, Side, dpo, on, together
from preferent.algorithms.drawing import Drawing
from preferent.algorithms.kto import kto
from preferent.algorithms.reward_model import BradleyTerry, reward_model
from preferent.algorithms.sft import sft
from preferent.algorithms.tr_dpo import tr_dpo
from preferent.data.batches import Batches
from preferent.data.collate import demonstrations
from preferent.data.columns import parse
from preferent.data.comparisons import pairs
from preferent.data.rated import Collate, Judged, Rated
from preferent.data.rows import BadRow, rows
from preferent.data.template import Template
from preferent.losses import policy, preference
from preferent.losses.means import over_budget, over_tokens
from preferent.models.load import load_policy, load_scorer, save
from preferent.models.policy import Follower
from preferent.models.scratch import Size, new_model, train_tokenizer
from preferent.runtime.learner import LocalLearner, local_learner
from preferent.types import Algorithm

PAIRS = "hh_rlhf/harmless_base_test.preference.jsonl.gz"
LONGEST = 256  # tokens of a pair's longer side; longer pairs are left out on both sides
TOLERANCE = 1e-3  # relative
PEER = Path(__file__).with_name("peer_trl.py")
RESULTS = Path(__file__).parent / "results" / "parity.json"
SIZE = Size(hidden=64, layers=2, heads=4, vocabulary=1024, context=1024)

MEASURED = ("loss", "grad_norm")  # of each step

Row = dict[str, Any]
Curves = dict[str, list[float]]


@dataclass(frozen=True)
class Job:
    """One method, with what both sides are told."""

    name: str
    method: str = "dpo"
    lr: float = 1e-3
    steps: int = 5
    batch: int = 8
    betas: tuple[float, float] = (0.9, 0.999)
    max_grad_norm: float = 1.0
    options: dict[str, Any] = field(default_factory=dict)  # TRL's own, for what here is the default
    objective: Any = DPO  # ours
    how: Drawing = Drawing()  # ours, of policy gradients
    measured: tuple[str, ...] = MEASURED

    def told(self) -> dict[str, Any]:
        """What the other side is told."""
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name not in ("objective", "how")}


def relative(name: str, objective: Objective, *losses: str, **options: Any) -> Job:
    return Job(name, objective=objective, options={"beta": 0.1, "loss_type": losses or ["sigmoid"], **options})


def gradients(name: str, objective: Any, method: str = "grpo", how: Drawing = Drawing(), **options: Any) -> Job:
    """Policy gradients without a KL term, unless told otherwise, on replies that were drawn by another policy."""
    return Job(name, method, batch=4, objective=objective, how=how, options={"beta": 0.0, **options})


def corrected(name: str, mode: str, correction: policy.Correction, **options: Any) -> Job:
    """Importance sampling between what drew and the learner: TRL has it for vLLM."""
    options = {f"vllm_importance_sampling_{name}": value for name, value in {"mode": mode, **options}.items()}
    return gradients(name, PLAIN, how=Drawing(correction=correction), loss_type="grpo", **options)


# TRL's IPO averages over tokens; its CPO adds the likelihood averaged over all tokens of the step.
MEAN_IPO = Objective(on(partial(preference.ipo, beta=0.1), Side.mean_ratio), Side.mean_ratio)
TOKEN_CPO = Objective(on(partial(preference.cpo, beta=0.1), Side.logp), Side.logp, likelihood=1.0, referred=False)
# The likelihood that TRL's ORPO adds is that of the prompt too: what is compared is the odds ratio, at the first step.
ODDS = Objective(on(lambda c, r: 0.1 * preference.orpo(c, r), Side.mean), Side.mean, referred=False)

PLAIN = replace(rl.GRPO, kl=0.0)
WHOLE = {"importance_sampling_level": "sequence"}

JOBS = (
    Job("sft", "sft", steps=20, options={"loss_type": "nll"}),
    Job("reward", "reward", steps=20, objective=BradleyTerry()),
    Job("reward, centred", "reward", objective=BradleyTerry(centring=0.1), options={"center_rewards_coefficient": 0.1}),
    Job("dpo", steps=20, options={"beta": 0.1}),
    # With one pair a step, TRL's AOT is DPO, and has the label smoothing that its DPO no longer has.
    replace(relative("cdpo", our.dpo(flip=0.2), "aot", label_smoothing=0.2), batch=1),
    relative("robust-dpo", our.robust_dpo(flip=0.2), "robust", label_smoothing=0.2),
    relative("ipo, token means", MEAN_IPO, "ipo"),
    relative("hinge", our.hinge(), "hinge"),
    relative("exo", our.exo(flip=0.1), "exo_pair", label_smoothing=0.1),
    relative("nca", our.nca(beta=0.1), "nca_pair"),
    relative("sppo", our.sppo(beta=0.1), "sppo_hard"),
    relative("apo-zero", our.apo_zero(), "apo_zero"),
    relative("apo-down", our.apo_down(), "apo_down"),
    relative("discopop", our.discopop(), "discopop", beta=0.05, discopop_tau=0.05),
    relative("sigmoid-norm", our.sigmoid_norm(), "sigmoid_norm", beta=5.0),
    relative("aot", aot(), "aot"),
    relative("ld-dpo", our.ld_dpo(alpha=0.5), ld_alpha=0.5),
    relative("f-dpo, forward", our.f_dpo(divergence="forward"), f_divergence_type="forward_kl"),
    relative("f-dpo, jensen-shannon", our.f_dpo(), f_divergence_type="js_divergence"),
    # TRL's α is 1 less ours, which is the paper's.
    relative("f-dpo, alpha", our.f_dpo(divergence="alpha", alpha=0.4), f_divergence_type="alpha_divergence",
             f_alpha_divergence_coef=0.6),
    relative("dpo with likelihood", replace(DPO, likelihood=0.2), "sigmoid", "sft", loss_weights=[1.0, 0.2]),
    relative("several", together([(our.dpo(), 0.8), (our.hinge(), 0.3)]), "sigmoid", "hinge", loss_weights=[0.8, 0.3]),
    Job("tr-dpo", "tr-dpo", steps=6, options={"beta": 0.1, "sync_ref_model": True, "ref_model_sync_steps": 2,
                                              "ref_model_mixup_alpha": 0.6}),
    Job("simpo", "cpo", objective=our.simpo(), options={"loss_type": "simpo", "beta": 2.0, "simpo_gamma": 1.0,
                                                        "cpo_alpha": 0.0}),
    Job("cpo, token means", "cpo", objective=TOKEN_CPO, options={"beta": 0.1}),
    Job("kto", "kto", steps=20, options={"beta": 0.1}),
    Job("apo-zero, one by one", "kto", steps=20, options={"beta": 0.1, "loss_type": "apo_zero_unpaired"}),
    # Its gradient is that of the likelihood, too.
    Job("orpo, odds ratio", "orpo", steps=1, objective=ODDS, options={"beta": 0.1}, measured=("loss",)),
    gradients("grpo", PLAIN, loss_type="grpo"),
    gradients("grpo, dual clip", replace(PLAIN, surrogate=partial(policy.clipped, dual=1.4)), loss_type="grpo",
              delta=1.4),
    gradients("grpo, k3 times ratio", replace(rl.GRPO, divergence=policy.reverse_off_policy), loss_type="grpo",
              beta=0.04, use_bias_correction_kl=True),
    gradients("grpo, the paper's k3", replace(rl.GRPO, divergence=parity_drawn.forward_kl), loss_type="grpo",
              beta=0.04, use_bias_correction_kl=False),
    gradients("grpo, token mean", replace(PLAIN, average=over_tokens), loss_type="bnpo"),
    gradients("dr. grpo", replace(rl.DR_GRPO, kl=0.0, average=over_budget(length=64)), loss_type="dr_grpo",
              scale_rewards="none", max_completion_length=64),
    gradients("dapo", rl.DAPO, loss_type="dapo", epsilon_high=0.28),
    gradients("dapo, cut off masked", rl.DAPO, how=Drawing(mask_truncated=True), loss_type="dapo", epsilon_high=0.28,
              mask_truncated_completions=True),
    # The papers' ranges, 3e-4 and 4e-4, and the cap of 5 would hold of all replies here, or of none.
    gradients("gspo", replace(rl.GSPO, surrogate=partial(policy.gspo, low=0.03, high=0.04)), loss_type="grpo",
              epsilon=0.03, epsilon_high=0.04, **WHOLE),
    gradients("cispo", replace(rl.CISPO, surrogate=partial(policy.cispo, high=1.1)), loss_type="cispo",
              epsilon_high=1.1),
    gradients("sapo", rl.SAPO, loss_type="sapo"),
    gradients("gmpo", replace(rl.GMPO, surrogate=partial(policy.gmpo, low=0.1, high=0.1)), "gmpo", epsilon=0.1,
              epsilon_high=0.1),
    gradients("gdpo", replace(PLAIN, advantage=parity_drawn.gdpo), loss_type="grpo",
              multi_objective_aggregation="normalize_then_sum"),
    corrected("tis, tokens", "token_truncate", partial(policy.truncated, cap=1.2), clip_max=1.2),
    corrected("tis, replies", "sequence_truncate", partial(policy.truncated, cap=2.0, whole=True), clip_max=2.0),
    corrected("mis, tokens", "token_mask", partial(policy.masked, cap=1.2, low=0.8), clip_max=1.2, clip_min=0.8),
    corrected("mis, replies", "sequence_mask", partial(policy.masked, cap=2.0, whole=True), clip_max=2.0),
    # TRL's loss is of the ratio, ours of the logarithm: the values differ, and on-policy the gradients do not.
    replace(gradients("rloo", rl.RLOO, "rloo", how=Drawing(recompute=True), beta=0.05), measured=("grad_norm",)),
    Job("online-dpo", "online-dpo", options={"beta": 0.1}),
)  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peer", type=Path, required=True, help="Python of the environment that holds TRL")
    parser.add_argument("--only", default="", help="methods whose name begins so; nothing is written")
    asked = parser.parse_args()
    jobs = [job for job in JOBS if job.name.startswith(asked.only)]
    if not jobs:
        parser.error(f"--only {asked.only}: no method begins so. There are {'; '.join(job.name for job in JOBS)}.")
    transformers.utils.logging.disable_progress_bar()
    source, said = real_rows()
    report: dict[str, Any] = {"rows": source, "model": asdict(SIZE), "tolerance": TOLERANCE, "methods": {}}
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder) / "base"
        template = made(said, base)
        fitting = [row for row in said if fits(row, template)]
        folders = {job.name: Path(folder) / str(i) for i, job in enumerate(jobs)}
        ours = {job.name: mine(job, taken(job, fitting), base, folders[job.name]) for job in jobs}
        ran = of_trl(folders.values(), asked.peer)
    report["methods"] = {job.name: compared(job, ours[job.name], theirs) for job, theirs in zip(jobs, ran, strict=True)}
    if not asked.only:
        RESULTS.parent.mkdir(exist_ok=True)
        RESULTS.write_text(json.dumps(report, indent=1) + "\n")
    return 0 if all(said["agree"] for said in report["methods"].values()) else 1


def taken(job: Job, said: Sequence[Row]) -> list[Row]:
    """As many rows as its steps need."""
    return [said[i % len(said)] for i in range(job.steps * job.batch)]


def compared(job: Job, ours: Curves, theirs: Curves) -> dict[str, Any]:
    """Both sides' curves of a method, and the largest relative difference between them."""
    apart = {}
    for name in job.measured:
        if not len(ours[name]) == len(theirs[name]) == job.steps:
            raise RuntimeError(
                f"{job.name}, {name}: {len(ours[name])} steps here and {len(theirs[name])} there; expected {job.steps}"
            )
        apart[name] = max(abs(a - b) / abs(b) for a, b in zip(ours[name], theirs[name], strict=True))
    agree = all(each <= TOLERANCE for each in apart.values())
    told = "".join(f"   {name} {apart[name]:.1e}" if name in apart else f"   {name}       –" for name in MEASURED)
    print(f"{job.name:<22}{job.steps:>3} steps   apart by{told}   {'PASS' if agree else 'FAIL'}")
    return {
        "agree": agree,
        "largest_relative_difference": apart,
        "job": job.told(),
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


def mine(job: Job, said: Sequence[Row], base: Path, folder: Path) -> Curves:
    """What our steps say. Leaves in the folder what the other side needs: the job, its rows, the model's start."""
    folder.mkdir()
    (folder / "job.json").write_text(json.dumps(job.told()))
    if job.method in parity_drawn.METHODS:
        return curves(job, parity_drawn.steps(job, said, base, folder, learner))
    given = {"sft": as_demonstrations, "kto": as_judged}.get(job.method, list)(said)
    (folder / "rows.json").write_text(json.dumps(given))
    steps = {"sft": sft_here, "reward": reward_here, "kto": kto_here}.get(job.method, dpo_here)
    return curves(job, steps(job, said, base, folder / "model"))


def curves(job: Job, steps: Algorithm) -> Curves:
    every = list(steps)
    return {name: [metrics[name] for metrics in every] for name in job.measured}


def sft_here(job: Job, said: Sequence[Row], base: Path, start: Path) -> Algorithm:
    policy = load_policy(base, device="cpu")
    save(policy, start)
    return sft(learner(policy, job), batched(job, as_demonstrations(said), policy.tokenizer, demonstrations))


def reward_here(job: Job, said: Sequence[Row], base: Path, start: Path) -> Algorithm:
    scorer = load_scorer(base, seed=2, device="cpu")
    save(scorer, start)
    return reward_model(learner(scorer, job), batched(job, said, scorer.tokenizer, pairs), objective=job.objective)


def dpo_here(job: Job, said: Sequence[Row], base: Path, start: Path) -> Algorithm:
    policy = load_policy(base, device="cpu")
    save(policy, start)
    data = batched(job, said, policy.tokenizer, pairs)
    if job.method == "tr-dpo":
        share, every = job.options["ref_model_mixup_alpha"], job.options["ref_model_sync_steps"]
        return tr_dpo(learner(policy, job), Follower(policy), data, share=share, every=every)
    return dpo(learner(policy, job), policy.frozen(), data, objective=job.objective)


def kto_here(job: Job, said: Sequence[Row], base: Path, start: Path) -> Algorithm:
    policy = load_policy(base, device="cpu")
    save(policy, start)
    batches = turned(as_judged(said), policy.tokenizer, job.batch)
    if job.options.get("loss_type") == "apo_zero_unpaired":
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


def of_trl(folders: Iterable[Path], peer: Path) -> list[Curves]:
    """What TRL's steps say of the same rows, from the same weights, for each folder."""
    places = list(folders)
    quiet = {"HF_HUB_OFFLINE": "1", "TRL_EXPERIMENTAL_SILENCE": "1", "HF_DATASETS_DISABLE_PROGRESS_BARS": "1"}
    ran = subprocess.run([peer, PEER, *places], env=os.environ | quiet, capture_output=True, text=True, check=False)
    if ran.returncode:
        raise RuntimeError(f"TRL stopped with exit code {ran.returncode}:\n{ran.stderr[-4000:]}")
    return [json.loads((folder / "curves.json").read_text()) for folder in places]


if __name__ == "__main__":
    sys.exit(main())
