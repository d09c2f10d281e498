"""The same work here and with plain transformers (and TRL, where it is installed) on one CUDA GPU, taking turns.

python benchmarks/gpu.py                                writes benchmarks/results/gpu.json (under eight minutes)
python benchmarks/gpu.py --device cpu --size tiny       the same lines of code in seconds; nothing is judged but numbers

A Qwen2 of 0.5 billion parameters with random weights reads and draws random tokens: what is measured is time and
memory, and that both sides say the same. Lengths of prompts and replies are drawn evenly from 256 to 1,024 tokens, all
draws with keys. Nothing is downloaded. Training is in bf16 over fp32 weights (autocast), sampling from a copy in
bf16. In each round every side works once, first one, then the other; the first round is not counted. Memory is the peak
above what was held before the turn. No section begins, and no further round, once seven minutes are over.
Drawing takes longest, so sampling has two counted rounds at most, and GRPO's whole step one. The peers: a plain loop
over padded rows, four at a time, with the prompt again for each reply and all logits; ``generate``; TRL's trainers.

Model FLOPs utilisation: what no exact method can leave out (``floor.py``) of one forward–backward, over its seconds, as
a share of the rate of matrix products at the model's own shapes, forwards and backwards. Decode bandwidth: the weights
once a token of the batch, keys and values once a token and group, over the seconds of the whole call, as a share of the
rate at which the device copies memory.
"""

import argparse
import copy
import importlib.util
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import floor
import torch
import transformers
from gpu_peers import Padded, generated, rows_of, said, trl_side
from gpu_race import SIZES, Race, Report
from speed_here import Lengths, even
from torch import Tensor

from preferent.algorithms import grpo as groups
from preferent.algorithms.dpo import DPO, referred
from preferent.algorithms.drawing import Drawing
from preferent.algorithms.rollouts import Rollouts
from preferent.algorithms.sft import Likelihood
from preferent.config import UsageError
from preferent.data.collate import episodes, logprobs, moved
from preferent.losses.advantage import standardised
from preferent.models.device import chosen_device
from preferent.models.plan import token_budget
from preferent.models.policy import LanguagePolicy
from preferent.runtime.learner import LocalLearner, local_learner
from preferent.runtime.reference import Remembered
from preferent.sampling.local import LocalSampler
from preferent.types import Episode, Pairs, Replies

RESULTS = Path(__file__).parent / "results" / "gpu.json"
TRAINING, DECODING = 0.6, 0.5  # shares of what the device does at best
SAME = {"loss": 2e-2, "gradient": 5e-2, "fp32": 1e-3, "bf16": 2.0}  # the last: times the plain forward's error


class Bench(Race):
    """The sections."""

    def check(self) -> None:
        """Log-probabilities against the plain padded forward's, in fp32 and in bf16, and the sampler's."""
        x = self.batch("dpo", 0)[:2]
        rows = rows_of(x)
        cut = moved(x, self.device)
        found: dict[tuple[str, bool], Tensor] = {}
        with torch.no_grad():
            for bf16 in (False, True):
                logp, mask = said(self.plain, rows, bf16=bf16)
                found["plain", bf16] = logp[mask].double()
                with torch.autocast(self.device.type, torch.bfloat16, enabled=bf16):
                    found["here", bf16] = self.policy.read(cut).logprobs[cut.learn].double()
        exact = found["plain", False]
        scale = (exact - exact.mean()).norm()
        self.report.says(
            "log-probabilities in fp32 against the plain forward's, relative",
            ((found["here", False] - exact).norm() / scale).item(), most=SAME["fp32"],
        )  # fmt: skip
        errors = {side: ((found[side, True] - exact).norm() / scale).item() for side in ("here", "plain")}
        self.report.says("log-probabilities in bf16, the plain forward's error", errors["plain"])
        self.report.says(
            "log-probabilities in bf16, our error / the plain forward's", errors["here"] / errors["plain"],
            most=SAME["bf16"],
        )  # fmt: skip
        self.report.details["log-probabilities"] = errors
        self.check_sampler()

    def check_sampler(self) -> None:
        """What the sampler said of its tokens, against a plain read of them with the same weights."""
        half = self.half()
        sampler = LocalSampler(half, max_new_tokens=self.size.lengths[0], end_tokens=())
        drawn = sampler.sample(self.prompts(2, 0), 2)
        x, told = episodes(drawn), logprobs(drawn).to(self.device).double()
        rows = rows_of(x)
        with torch.no_grad():
            exact, plain = (
                logp[mask].double() for logp, mask in (said(m, rows, bf16=False) for m in (self.plain, self.halved()))
            )
        errors = [((each - exact).norm() / (exact - exact.mean()).norm()).item() for each in (told.flatten(), plain)]
        self.report.details["sampled"] = {"by hand": sampler.direct, "errors": errors}
        if self.bf16:
            told_of = "the sampler's log-probabilities in bf16, error / the plain forward's"
            self.report.says(told_of, errors[0] / errors[1], most=SAME["bf16"])
        else:
            self.report.says("the sampler's log-probabilities in fp32, relative", errors[0], most=SAME["fp32"])

    def training(self, kind: str, *, remembered: bool = False) -> None:
        """An update of given replies. GRPO's has two more forward passes: the old policy's and the reference's."""
        name = {"sft": "SFT", "dpo": "DPO", "grpo": "GRPO, given replies"}[kind]
        name += ", reference remembered" if remembered else ""
        policy, peer = copy.deepcopy(self.policy), self.padded(kind)
        learner = local_learner(policy, bf16=self.bf16)
        batches = [self.batch(kind, i) for i in range(self.rounds + 1)]
        gains = [gain_of(x) if kind == "grpo" else torch.zeros(1, 1) for x in batches]
        with tempfile.TemporaryDirectory() as folder:
            reference: Any = policy.frozen() if kind != "sft" else None
            if remembered:
                reference = Remembered(reference)
                list(reference.asked(learner, batches, Path(folder), mark="a benchmark"))
                reference.let_go()
                peer.kept = {i: peer.asked(peer.reference, rows_of(x)) for i, x in enumerate(batches)}
            prepared = partial(self.prepared, kind, learner, reference)
            objective: Any = {"sft": Likelihood(), "dpo": DPO, "grpo": groups.GRPO}[kind]
            ready = [prepared(x, gain) for x, gain in zip(batches, gains, strict=True)]
            turns = self.race(
                name,
                {
                    "here": lambda i: told(learner.update(prepared(batches[i], gains[i]), objective)),
                    "plain": lambda i: peer.update(i, batches[i], kind, gains[i][:, 0] if kind == "grpo" else None),
                    "forward–backward": lambda i: learner.gradients(list(learner.cuts(ready[i])), objective)["loss"],
                },
            )
        both = [(a["said"], b["said"]) for a, b in zip(turns["here"], turns["plain"], strict=True)]
        self.report.details[name]["micro-batch of the plain loop"] = peer.micro
        self.report.details[name]["losses and gradient norms, here and plain"] = both
        self.report.says(f"{name}: losses apart", max(abs(a[0] - b[0]) for a, b in both), most=SAME["loss"])
        norms = max(abs(a[1] - b[1]) / b[1] for a, b in both)
        self.report.says(f"{name}: gradient norms apart, relative", norms, most=SAME["gradient"])
        times = [t["seconds"] for t in turns["forward–backward"]]
        done = [self.useful(x) / s for x, s in zip(batches[1:], times, strict=False)]
        share = statistics.median(done) / self.rates["products"]
        self.report.says(f"{name}: useful TFLOP/s of forward–backward", statistics.median(done) / 1e12)
        self.report.says(
            f"{name}: share of the matrix-product rate", share, least=TRAINING if self.report.judged else None
        )  # fmt: skip

    def padded(self, kind: str) -> Padded:
        reference = None if kind == "sft" else self.plain
        return Padded(copy.deepcopy(self.plain), reference, self.bf16, micro=4)

    def prepared(self, kind: str, learner: LocalLearner[Any], reference: Any, x: Replies, gain: Tensor) -> Any:
        """The batch that a step learns from."""
        if kind == "sft":
            return x
        if kind == "dpo":
            better = torch.arange(0, len(x.tokens), 2)
            ones = torch.ones(len(better))
            return referred(learner, reference, Pairs(x, better, better + 1, ones, 0 * ones, ones))
        old = learner.map(x, lambda model, cut: model.read(cut).logprobs).cpu()
        before = learner.map(x, lambda _, cut: reference.read(cut).logprobs).cpu()
        return Rollouts(x, old, before, gain.expand(old.shape))

    def sampler(self, policy: LanguagePolicy, *, half: bool = False) -> Lengths:
        made = Lengths(policy, max_new_tokens=self.size.lengths[1], end_tokens=(), half=half)
        made.lengths = self.size.lengths
        return made

    def sampling(self, count: int, n: int, *, wide: bool = False) -> None:
        """``n`` replies to each of ``count`` prompts; ``wide`` from the fp32 weights themselves, without a peer."""
        name = f"sampling {count} × {n}" + (", from fp32 weights" if wide else "")
        sampler = self.sampler(self.policy if wide else self.half())
        other = None if wide else self.halved()
        prompts = [self.prompts(count, i) for i in range(self.rounds + 1)]
        low, high = self.size.lengths

        def here(i: int) -> list[list[Episode]]:
            sampler.max_new_tokens = high if i else low // 8  # the round that is not counted is a short one
            return sampler.sample(prompts[i], n)

        def there(i: int) -> object:
            return generated(other, prompts[i], n, longest=high if i else low // 8, length=self.size.length)

        sides = {"here": here} if wide else {"here": here, "generate": there}
        turns = self.race(name, sides, rounds=min(2, self.rounds))["here"]
        self.report.details[name]["by hand"] = sampler.direct
        self.report.says(f"{name}: reply tokens a second", statistics.median(
            sum(len(e.tokens) for g in t["said"] for e in g) / t["seconds"] for t in turns
        ))  # fmt: skip
        bytes_each = 2 if self.bf16 and not wide else 4
        moved = [
            floor.drawn(self.size.shape, drawn_groups(t["said"]))[2] * bytes_each / floor.FP32 / t["seconds"]
            for t in turns
        ]
        self.report.says(
            f"{name}: share of the copy bandwidth", statistics.median(moved) / self.rates["copying"],
            least=DECODING if self.report.judged and not wide else None,
        )  # fmt: skip

    def whole(self) -> None:
        """GRPO's step: replies are drawn, marked and learned from."""
        n, each = self.size.batch["grpo"]
        policy, peer = copy.deepcopy(self.policy), self.padded("grpo")
        asked = [self.prompts(n, i) for i in range(self.rounds + 1)]
        steps = groups.grpo(
            local_learner(policy, bf16=self.bf16), policy.frozen(), self.sampler(policy, half=self.bf16), even, asked,
            config=groups.Config(group=each), how=Drawing(recompute=self.bf16),
        )  # fmt: skip
        other = self.halved()

        def plain(i: int) -> object:
            with torch.no_grad():
                for own, learned in zip(other.parameters(), peer.model.parameters(), strict=True):
                    own.copy_(learned)
            drawn = generated(other, asked[i], each, longest=self.size.lengths[1], length=self.size.length)
            told = [[Episode(p, tuple(t), (True,) * len(t), (0.0,) * len(t), "length", 0) for t in group]
                    for p, group in zip(asked[i], drawn, strict=True)]  # fmt: skip
            marks = torch.tensor([score.value for group in told for score in even(group)])
            return peer.update(i, episodes(told), "grpo", standardised(marks.view(n, each)).flatten())

        self.race("GRPO, whole step", {"here": lambda i: next(steps)["loss"], "plain": plain}, rounds=1)

    def against_trl(self, kind: str) -> None:
        """TRL's own trainer on the same rows; where it is missing, nothing is compared."""
        name = {"sft": "SFT", "dpo": "DPO", "grpo": "GRPO, whole step"}[kind] + ", TRL"
        n, each = self.size.batch[kind]
        rounds = 1 if kind == "grpo" else self.rounds
        count = range(rounds + 1)
        batches: list[Any] = [self.prompts(n, i) if kind == "grpo" else self.batch(kind, i) for i in count]
        with tempfile.TemporaryDirectory() as folder:
            trl = trl_side(
                kind, copy.deepcopy(self.plain), batches, folder,
                group=each, longest=self.size.lengths[1], bf16=self.bf16,
            )  # fmt: skip
            policy = copy.deepcopy(self.policy)
            learner, reference = local_learner(policy, bf16=self.bf16), policy.frozen()
            if kind == "grpo":  # TRL's replies have no end, so ours have none: all are as long as can be
                sampler = LocalSampler(policy, max_new_tokens=self.size.lengths[1], end_tokens=(), half=self.bf16)
                config = groups.Config(group=each)
                steps = groups.grpo(
                    learner, reference, sampler, even, batches, config=config, how=Drawing(recompute=self.bf16)
                )
            objective: Any = {"sft": Likelihood(), "dpo": DPO, "grpo": groups.GRPO}[kind]

            def here(i: int) -> Any:
                if kind == "grpo":
                    return next(steps)["loss"]
                batch = self.prepared(kind, learner, reference, batches[i], torch.zeros(1))
                return learner.update(batch, objective)["loss"]

            try:
                self.race(name, {"here": here, "TRL": lambda _: trl.turn()}, rounds=rounds)
            finally:
                trl.end()


def told(metrics: Any) -> tuple[float, float]:
    return metrics["loss"], metrics["grad_norm"]


def gain_of(x: Replies) -> Tensor:
    """Advantages [r, 1] of random marks."""
    marks = torch.randn(len(x), len(x.tokens) // len(x), generator=torch.Generator().manual_seed(3))
    return standardised(marks).view(-1, 1)


def drawn_groups(drawn: Sequence[Sequence[Episode]]) -> list[floor.Group]:
    return [(len(group[0].prompt.tokens), [len(e.tokens) for e in group]) for group in drawn]


def described(bench: Bench) -> dict[str, Any]:
    """What the figures are of."""
    cuda = bench.device.type == "cuda"
    return {
        "device": torch.cuda.get_device_name() if cuda else platform.processor() or platform.machine(),
        "cuda": torch.version.cuda,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "tokens": "random, drawn with keys",
        "weights": "random, drawn with a key",
        "bf16": bench.bf16,
        "token budget": token_budget(bench.device),
    }


def measured(bench: Bench) -> None:
    """Every section, the most wanted first."""
    report, (count, each) = bench.report, bench.size.batch["grpo"]
    report.section("model", bench.load)
    if not hasattr(bench, "policy"):
        return
    report.section("check", bench.check)
    report.section("rates", bench.measure)
    for kind in ("sft", "dpo", "grpo"):
        report.section(f"{kind}, update", partial(bench.training, kind))
    report.section("dpo, reference remembered", partial(bench.training, "dpo", remembered=True))
    report.section("sampling, groups", partial(bench.sampling, count, each))
    report.section("sampling, single replies", partial(bench.sampling, count * each, 1))
    if bench.bf16:
        report.section("sampling, from fp32 weights", partial(bench.sampling, count, each, wide=True), wanted=False)
    report.section("grpo, whole step", bench.whole, needs=60, wanted=False)
    if importlib.util.find_spec("trl") is None:
        report.details["TRL"] = "not installed: nothing is compared"
        print("TRL is not installed: nothing is compared with it")
    else:
        for kind in ("sft", "dpo", "grpo"):
            needs = 60 if kind == "grpo" else 0
            report.section(f"{kind}, TRL", partial(bench.against_trl, kind), needs=needs, wanted=False)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--size", default="0.5b", choices=SIZES)
    parser.add_argument("--rounds", type=int, default=3, help="that are counted")
    parser.add_argument("--minutes", type=float, default=7.0, help="after which nothing new begins")
    parser.add_argument("--out", type=Path, help="a file for what was found (on a GPU: benchmarks/results/gpu.json)")
    asked = parser.parse_args(arguments)
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "0")  # transformers' trainer would take all that there are
    try:
        device = chosen_device(asked.device)
    except UsageError as error:
        sys.exit(str(error))
    transformers.utils.logging.set_verbosity_error()
    judged = device.type == "cuda" and asked.size == "0.5b"
    report = Report(judged, time.perf_counter() + 60 * asked.minutes)
    bench = Bench(SIZES[asked.size], device, asked.rounds, report)
    about = described(bench)
    print(", ".join(f"{name}: {value}" for name, value in about.items()))
    measured(bench)
    if out := asked.out or (RESULTS if judged else None):
        found = {"machine": about, "size": asdict(bench.size), "found": report.rows, "details": report.details}
        out.write_text(json.dumps(found, indent=1) + "\n")
    return 0 if report.met else 1


if __name__ == "__main__":
    sys.exit(main())
