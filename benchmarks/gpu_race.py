"""What ``gpu.py`` measures with: sizes, a report of what was found, and a model whose sides take turns."""

import copy
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import floor
import pace
import torch
import transformers
from speed_here import shapes

from preferent.config import UsageError
from preferent.data.collate import replies
from preferent.models.fast import fast
from preferent.models.half import halved
from preferent.models.load import without_dropout
from preferent.models.plan import token_budget
from preferent.models.policy import LanguagePolicy
from preferent.models.probe import can_share, can_use_own_head
from preferent.models.room import release
from preferent.types import Prompt, Replies, Reply

FAILURES = (RuntimeError, ValueError, TypeError, AttributeError, LookupError, ImportError, OSError, UsageError)


@dataclass(frozen=True)
class Size:
    """A model, and how much it reads and draws."""

    hidden: int
    layers: int
    heads: int
    few: int  # heads of keys and values
    wide: int
    vocabulary: int
    lengths: tuple[int, int]  # tokens of a prompt, and of a reply
    batch: dict[str, tuple[int, int]]  # prompts in a step, and replies to each

    @property
    def shape(self) -> floor.Shape:
        return floor.Shape(
            self.hidden, self.layers, self.vocabulary, self.wide, self.few * self.hidden // self.heads
        )  # fmt: skip

    def length(self, first: Any) -> Any:
        """How long a reply is that is drawn, by its first token: on both sides alike."""
        return pace.length(first, *self.lengths)


SIZES = {
    "0.5b": Size(896, 24, 14, 2, 4864, 151_936, (256, 1024), {"sft": (32, 1), "dpo": (16, 2), "grpo": (8, 8)}),
    "tiny": Size(64, 2, 4, 2, 128, 512, (8, 16), {"sft": (4, 1), "dpo": (4, 2), "grpo": (2, 4)}),
}


@dataclass
class Report:
    """What was found, and whether all that was wanted was met."""

    judged: bool  # are there targets of speed?
    until: float  # the clock's seconds after which nothing new begins
    rows: list[dict[str, Any]] = field(default_factory=list)
    details: dict[str, Any] = field(default_factory=dict)
    met: bool = True

    @property
    def late(self) -> bool:
        return time.perf_counter() > self.until

    def says(self, name: str, value: float, *, least: float | None = None, most: float | None = None) -> None:
        """One line: name, value, target, verdict."""
        good = (least is None or value >= least) and (most is None or value <= most)
        aimed = least is not None or most is not None
        target = "-" if not aimed else f"≥ {least:g}" if least is not None else f"≤ {most:g}"
        verdict = "-" if not aimed else "PASS" if good else "FAIL"
        self.met &= good
        self.rows.append({"name": name, "value": value, "target": target, "verdict": verdict})
        print(f"{name:<62}{value:>12.5g}  {target:<8}{verdict}", flush=True)

    def section(self, name: str, f: Callable[[], object], *, needs: float = 0.0, wanted: bool = True) -> None:
        """Run it; what fails is told of, and the others still run.

        ``needs`` are seconds that it may take beyond the last moment at which it would begin; without the time, one
        that is not ``wanted`` is left out.
        """
        began = time.perf_counter()
        if began + needs > self.until:
            why = "the time was over before it could begin"
            if wanted:
                self.fails(name, why)
            else:
                self.details[name] = {"left out": why}
                print(f"{name}: left out, {why}", flush=True)
            return
        try:
            f()
        except FAILURES as error:
            self.fails(name, f"{type(error).__name__}: {error}")
        release()
        self.details.setdefault(name, {})["took"] = time.perf_counter() - began

    def fails(self, name: str, why: str) -> None:
        self.met = False
        self.details.setdefault(name, {})["failed"] = why
        print(f"{name:<62}{'none':>12}  {'-':<8}FAIL   {why[:600]}", flush=True)


@dataclass
class Race:
    """A policy and the same model as transformers makes it, and what is measured of them."""

    size: Size
    device: torch.device
    rounds: int
    report: Report

    def __post_init__(self) -> None:
        self.bf16 = self.device.type == "cuda"
        self.rates: dict[str, float] = {}

    def load(self) -> None:
        """As ``load_policy`` does, but for the folder."""
        s = self.size
        config = transformers.Qwen2Config(
            vocab_size=s.vocabulary, hidden_size=s.hidden, intermediate_size=s.wide, num_hidden_layers=s.layers,
            num_attention_heads=s.heads, num_key_value_heads=s.few, max_position_embeddings=4096,
            tie_word_embeddings=True, bos_token_id=None, eos_token_id=None, pad_token_id=None,
            initializer_range=0.02 * (896 / s.hidden) ** 0.5 * 2,  # doubled: not too sure that all tokens are alike
        )  # fmt: skip
        with torch.random.fork_rng():
            torch.manual_seed(0)
            made = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        self.plain = copy.deepcopy(made).to(self.device).eval()
        model = fast(without_dropout(made).eval()).to(self.device)
        sharing, own_head = can_share(model), can_use_own_head(model)
        self.policy = LanguagePolicy(model, sharing=sharing, own_head=own_head).to(self.device).eval()
        path = {"sharing": sharing, "own head": own_head, "tree": self.policy.branching}
        self.report.details["path"] = path
        print(", ".join(f"{name}: {value}" for name, value in path.items()), flush=True)

    def half(self) -> LanguagePolicy:
        """A copy for sampling, in bf16 the one from which a run draws."""
        return halved(self.policy) if self.bf16 else copy.deepcopy(self.policy)

    def halved(self) -> Any:
        made = copy.deepcopy(self.plain)
        if self.bf16:
            narrowed(made)
        return made

    # --- what is read and drawn ----------------------------------------------------------------------
    def tokens(self, n: int, key: torch.Generator) -> tuple[int, ...]:
        return tuple(torch.randint(2, self.size.vocabulary, (n,), generator=key).tolist())

    def drawn_lengths(self, n: int, key: torch.Generator) -> list[int]:
        low, high = self.size.lengths
        return torch.randint(low, high + 1, (n,), generator=key).tolist()

    def prompts(self, n: int, i: int) -> list[Prompt]:
        """Those of the ``i``-th batch."""
        key = torch.Generator().manual_seed(1000 + i)
        return [Prompt(self.tokens(length, key)) for length in self.drawn_lengths(n, key)]

    def batch(self, kind: str, i: int) -> Replies:
        n, each = self.size.batch[kind]
        key = torch.Generator().manual_seed(2000 + i)

        def reply(length: int) -> Reply:
            return Reply(self.tokens(length, key), (True,) * length)

        return replies([(p, [reply(t) for t in self.drawn_lengths(each, key)]) for p in self.prompts(n, i)])

    # --- time and memory -----------------------------------------------------------------------------
    def waited(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def turn(self, f: Callable[[], Any]) -> dict[str, Any]:
        """Seconds, the peak in bytes above what was held, and what ``f`` said."""
        cuda = self.device.type == "cuda"
        self.waited()
        if cuda:
            torch.cuda.reset_peak_memory_stats()
        else:
            pace.CLEAR.write_text("5")
        held = torch.cuda.memory_allocated() if cuda else pace.memory("VmRSS")
        began = time.perf_counter()
        value = f()
        self.waited()
        seconds = time.perf_counter() - began
        peak = torch.cuda.max_memory_allocated() if cuda else pace.memory("VmHWM")
        return {"seconds": seconds, "peak": peak - held, "said": value}

    def race(
        self, name: str, sides: dict[str, Callable[[int], Any]], *, rounds: int | None = None
    ) -> dict[str, list[dict[str, Any]]]:
        """The counted turns of each side; the ratio of the others' seconds to those ``here`` is told."""
        turns: dict[str, list[dict[str, Any]]] = {side: [] for side in sides}
        for i in range((rounds or self.rounds) + 1):
            if i > 1 and self.report.late:
                break
            for side in sides if i % 2 else reversed(sides):
                turns[side].append(self.turn(partial(sides[side], i)))
        counted = {side: each[1:] for side, each in turns.items()}
        for side, each in counted.items():
            seconds = [turn["seconds"] for turn in each]
            peak = max(turn["peak"] for turn in each)
            self.report.details.setdefault(name, {})[side] = {"seconds": seconds, "peak_bytes": peak}
            self.report.says(f"{name}, {side}: seconds", statistics.median(seconds))
            self.report.says(f"{name}, {side}: peak GiB", peak / 2**30)
            if side not in ("here", "forward–backward"):
                ratios = [b["seconds"] / a["seconds"] for a, b in zip(counted["here"], each, strict=True)]
                self.report.details[name][f"{side} / here"] = ratios
                said = f"{name}, {side} / here [{min(ratios):.2f} – {max(ratios):.2f}]"
                self.report.says(said, statistics.median(ratios))
        return counted

    def measure(self) -> None:
        """Rates of matrix products, forwards and backwards, and of copying."""
        shape, n = self.size.shape, token_budget(self.device) if self.bf16 else 256
        kind = torch.bfloat16 if self.bf16 else torch.float32
        maps = [(n, a, b) for a, b in shape.matrices] * shape.layers + [(n // 2, shape.hidden, shape.vocabulary)]
        made = {each: [torch.randn(s, device=self.device, dtype=kind) for s in operands(each)] for each in set(maps)}

        def products() -> None:
            for each in maps:
                x, w, grad = made[each]
                torch.mm(x, w), torch.mm(grad, w.t()), torch.mm(x.t(), grad)
            self.waited()

        products()
        self.rates["products"] = floor.rate(sum(6.0 * m * a * b for m, a, b in maps), products)
        made.clear()
        block = torch.randn(1 << (28 if self.bf16 else 22), device=self.device)
        into = torch.empty_like(block)

        def copied() -> None:
            into.copy_(block)
            self.waited()

        self.rates["copying"] = floor.rate(2.0 * 4 * block.numel(), copied)
        self.report.says("matrix products at these shapes: TFLOP/s", self.rates["products"] / 1e12)
        self.report.says("copying, read and written: GB/s", self.rates["copying"] / 1e9)

    def useful(self, x: Replies) -> float:
        """Operations of a forward–backward."""
        return 3 * floor.read(self.size.shape, shapes(x), head=self.size.vocabulary)


def narrowed(model: torch.nn.Module) -> None:
    """Parameters in bf16."""
    for parameter in model.parameters():
        parameter.data = parameter.data.to(torch.bfloat16)


def operands(each: tuple[int, int, int]) -> list[tuple[int, int]]:
    """Of a linear map's input, its matrix and its output's gradient."""
    n, a, b = each
    return [(n, a), (a, b), (n, b)]
