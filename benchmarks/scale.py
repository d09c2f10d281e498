"""How the cost of a step grows with each of its sizes, in time and in memory.

make bench-scale                                  everything; benchmarks/results/scale.json, docs/images/scale-*.svg
python benchmarks/scale.py --only prompt          one axis; nothing is written
python benchmarks/scale.py --quick --out FOLDER   two tiny sizes of each, to see that it works; what is written, there
python benchmarks/scale.py --draw                 the pictures again, from figures that are there

One size is changed at a time, the others stay at ``BASE``; the model is that of ``speed.py``. Tokens are random, since
cost does not depend on what is said, and prompts, like replies, are of one length. ``update`` is a step of GRPO on
given replies: forward, backward and optimiser; ``sampling`` draws as many replies. ``reading`` makes a batch of pairs
out of so many rows of real text (repeated, with a number before each) that ``tokenising`` has put into the cache.

Each point is measured in a process of its own, which has done the same on a toy before: once not counted, then three
times, of which the median is taken. Memory is the peak above what the process held once the model, or libraries, were
loaded. ``operations`` and ``attention``, its share in them, are of a forward pass, counted by ``floor.py``.
The points of one place on all axes come one after the other, so that a slow spell of the machine hits all axes alike.

``time^1.2`` says that twice the size takes 2^1.2 times as long: the slope of a line through the logarithms of the three
largest sizes, where fixed costs hide least. The exit code is 1 where one is above 1.15. Time may grow faster as far
as attention explains it, and no further: 0.15 above the counted operations, of which attention's take ``SLOWER`` times
as long, and, where tokens are drawn, the bytes of keys and values, all of which every token reads again.
"""

import argparse
import gc
import json
import math
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import floor
import scale_pictures
import speed
import speed_rows
import torch
from pace import CLEAR, memory
from transformers import AutoTokenizer

from preferent.algorithms.grpo import GRPO
from preferent.algorithms.rollouts import Rollouts
from preferent.data import kept
from preferent.data.columns import parse
from preferent.data.load import load_preferences
from preferent.data.rows import BadRow
from preferent.data.template import Template
from preferent.models.fast import fast
from preferent.models.policy import LanguagePolicy
from preferent.models.probe import can_share, can_use_own_head
from preferent.models.scratch import new_model, train_tokenizer
from preferent.runtime.learner import local_learner
from preferent.sampling.local import LocalSampler
from preferent.types import Prompt, Replies

ROOT = Path(__file__).parent.parent
RESULTS, IMAGES = ROOT / "benchmarks" / "results", ROOT / "docs" / "images"
REPEATS = 3
LINEAR = 1.15  # exponents up to this are called linear
MOVED = 7  # operations in the time that it takes to move a byte, on the machine on which this was written
SLOWER = 4  # times as long as one of a matrix product: an operation of attention, exponentials and sums beside it
SLOPE = 3  # points, the largest, through which an exponent is drawn
BATCH, BATCHES = 16, 32  # pairs in a batch that is read, and batches in a repeat
FEW = 24  # rows of a toy
LOADED = ("torch", "pyarrow.ipc", "transformers.models.qwen2.modeling_qwen2", "preferent.models.load",
          "preferent.runtime.learner", "preferent.sampling.local", "preferent.data.load")  # fmt: skip
Found = dict[str, Any]


@dataclass(frozen=True)
class Point:
    """A step: so many prompts, replies to each, and tokens in each of them."""

    prompt: int = 256
    replies: int = 4
    reply: int = 64
    vocabulary: int = speed_rows.SIZE.vocabulary
    prompts: int = 16


@dataclass(frozen=True)
class Rows:
    """A file of so many rows, in a folder with a tokenizer."""

    rows: int
    folder: str

    @property
    def file(self) -> Path:
        return Path(self.folder) / f"{self.rows}.jsonl"


At = Point | Rows
BASE, TOY = Point(), Point(prompt=8, replies=2, reply=4, vocabulary=320, prompts=2)
STEP, DATA = ("update", "sampling"), ("tokenising", "reading")
AXES: dict[str, tuple[int, ...]] = {
    "prompt": (128, 256, 512, 1024, 2048),
    "replies": (2, 4, 8, 16, 32),
    "reply": (16, 32, 64, 128, 256),
    "vocabulary": (2304, 4608, 9216, 18432, 36864),
    "prompts": (4, 8, 16, 32, 64),
    "rows": (2048, 4096, 8192, 16384, 32768),
}
QUICK = {**{name: (value, 2 * value) for name, value in asdict(TOY).items()}, "rows": (32, 64)}
PAIRS = "attention: every token sees all before it, so that pairs of tokens grow with the square"


# --- one point, in a process of its own ------------------------------------------------------------


@dataclass(frozen=True)
class Tokens:
    """As much of a tokenizer as a new model asks for: tokens are numbers here."""

    count: int
    eos_token_id: int = 0
    pad_token_id: int = 1

    def __len__(self) -> int:
        return self.count


def policy_of(at: Point) -> LanguagePolicy:
    size = replace(speed_rows.SIZE, vocabulary=at.vocabulary, context=max(AXES["prompt"]) + max(AXES["reply"]))
    model = fast(new_model(Tokens(at.vocabulary), size, seed=1).eval())
    return LanguagePolicy(model, sharing=can_share(model), own_head=can_use_own_head(model))


def random(at: Point, rows: int, length: int) -> torch.Tensor:
    return torch.randint(at.vocabulary, (rows, length), generator=torch.Generator().manual_seed(rows))


def update(at: Point) -> Callable[[], object]:
    learner: Any = local_learner(policy_of(at), lr=1e-6)
    tokens = random(at, at.prompts * at.replies, at.reply)
    every = torch.ones_like(tokens, dtype=torch.bool)
    asked, lengths = random(at, at.prompts, at.prompt), torch.full((at.prompts,), at.prompt)
    x = Replies(asked, lengths, torch.arange(at.prompts).repeat_interleave(at.replies), tokens, every, every)
    said = torch.full(tokens.shape, -math.log(at.vocabulary))  # about what a new model says of any token
    gain = (1.0 - 2.0 * (torch.arange(len(tokens)) % 2))[:, None].expand(tokens.shape)
    batch = Rollouts(x, said, said, gain)
    return lambda: learner.update(batch, GRPO)


def sampling(at: Point) -> Callable[[], object]:
    sampler = LocalSampler(policy_of(at), max_new_tokens=at.reply, end_tokens=[])
    prompts = [Prompt(tuple(row)) for row in random(at, at.prompts, at.prompt).tolist()]
    return lambda: sampler.sample(prompts, at.replies)


def stepped(work: str, at: Point, repeats: int) -> Found:
    make = {"update": update, "sampling": sampling}[work]
    make(TOY)()
    step = make(at)
    base = marked()
    seconds = [timed(step) for _ in range(1 + repeats)][1:]
    return {"seconds": seconds, "peak": memory("VmHWM") - base}


def read(work: str, at: Rows, repeats: int) -> Found:
    """The first time, rows are tokenised into the cache, if they are many; afterwards they are read from there.

    While reading, pages of the cache's file are counted apart: the system takes them back when it wants them.
    """
    os.environ["PREFERENT_CACHE"] = str(Path(at.folder) / "cache")
    template = Template(AutoTokenizer.from_pretrained(at.folder))
    large, kept.LARGE = kept.LARGE, 0  # a few rows go through the cache, too, so that all libraries are there
    next(iter(load_preferences(replace(at, rows=FEW).file, template).batches(BATCH)))
    kept.LARGE = large
    base, began = marked(), time.perf_counter()
    own = memory("RssAnon")
    loaded = load_preferences(at.file, template)
    if work == "tokenising":
        return {"seconds": [time.perf_counter() - began], "peak": memory("VmHWM") - base}
    batches = iter(loaded.batches(BATCH, steps=BATCHES * (1 + repeats)))
    seconds, held = [], [memory("RssAnon")]
    for _ in range(1 + repeats):
        seconds.append(timed(lambda: [next(batches) for _ in range(BATCHES)]) / BATCHES)
        held.append(memory("RssAnon"))
    mapped = memory("VmHWM") - base - max(held) + own
    return {"seconds": seconds[1:], "peak": max(held) - own, "mapped": max(0, mapped)}


def measured(work: str, at: At, repeats: int) -> Found:
    return stepped(work, at, repeats) if isinstance(at, Point) else read(work, at, repeats)


def marked() -> int:
    """Bytes held now; the peak is from here on."""
    gc.collect()
    CLEAR.write_text("5")
    return memory("VmRSS")


def timed(step: Callable[[], object]) -> float:
    began = time.perf_counter()
    step()
    return time.perf_counter() - began


# --- all of them -----------------------------------------------------------------------------------


def prepared(folder: Path, values: Sequence[int]) -> None:
    """A tokenizer, and files of so many pairs: real ones again and again, each time under another number."""
    real = [row for row in speed_rows.real("hh") if good(row)]
    train_tokenizer(speed_rows.texts(real), vocabulary=speed_rows.SIZE.vocabulary).save_pretrained(folder)
    for n in (FEW, *values):
        with Rows(n, str(folder)).file.open("w") as file:
            for i in range(n):
                row = real[i % len(real)]
                first, *rest = row["prompt"]
                prompt = [{**first, "content": f"{i}. {first['content']}"}, *rest]
                file.write(json.dumps({**row, "prompt": prompt}) + "\n")


def good(row: Found) -> bool:
    try:
        parse(row, kind="preferences")
    except BadRow:
        return False
    return True


def visited(axes: dict[str, tuple[int, ...]], base: Point, folder: str) -> Iterator[tuple[str, int, str, At]]:
    """(axis, its value, what is done, with what), going round the axes."""
    for i in range(max(map(len, axes.values()))):
        for axis, values in axes.items():
            for work in (DATA if axis == "rows" else STEP) if i < len(values) else ():
                at = Rows(values[i], folder) if axis == "rows" else replace(base, **{axis: values[i]})
                yield axis, values[i], work, at


def found_at(axes: dict[str, tuple[int, ...]], base: Point, repeats: int) -> dict[str, dict[str, list[Found]]]:
    """For each axis and work, what was measured at each value. A point on several axes is measured once."""
    forks = multiprocessing.get_context("forkserver")
    forks.set_forkserver_preload(list(LOADED))
    known: dict[tuple[str, At], Found] = {}
    curves: dict[str, dict[str, list[Found]]] = {axis: {} for axis in axes}
    with tempfile.TemporaryDirectory() as folder:
        if "rows" in axes:
            prepared(Path(folder), axes["rows"])
        for axis, value, work, at in visited(axes, base, folder):
            if (work, at) not in known:
                with ProcessPoolExecutor(1, mp_context=forks) as process:  # made anew: its memory is a point's own
                    known[work, at] = process.submit(measured, work, at, repeats).result()
            said = known[work, at]
            more = arithmetic(at, work) if isinstance(at, Point) else {"mapped_mib": said.get("mapped", 0) / 2**20}
            point = {
                "value": value, "seconds": statistics.median(said["seconds"]), "low": min(said["seconds"]),
                "high": max(said["seconds"]), "peak_mib": said["peak"] / 2**20, **more,
            }  # fmt: skip
            curves[axis].setdefault(work, []).append(point)
            print(f"{axis} {value}: {work} {point['seconds']:.4g} s, {point['peak_mib']:.1f} MiB", file=sys.stderr)
    return curves


def arithmetic(at: Point, work: str) -> Found:
    """What a forward pass over prompts and replies cannot leave out, attention's share in it, and bytes of drawing."""
    shape = floor.Shape(speed_rows.SIZE.hidden, speed_rows.SIZE.layers, at.vocabulary)
    groups = [(at.prompt, (at.reply,) * at.replies)] * at.prompts
    every = floor.read(shape, groups, head=at.vocabulary)
    learned = at.prompts * at.replies * at.reply
    tokens = at.prompts * at.prompt + learned
    others = 2.0 * shape.in_layers * tokens + 2.0 * shape.hidden * at.vocabulary * learned
    moved = {"bytes": floor.drawn(shape, groups)[2]} if work == "sampling" else {}
    return {"operations": every, "attention": 1 - others / every, **moved}


def exponent(points: Sequence[Found], name: str, least: float = 1e-9) -> float:
    """The slope of logarithms over the largest values; what is less than ``least`` counts as that."""
    last = points[-SLOPE:]
    xs, ys = ([math.log(max(point[key], least)) for point in last] for key in ("value", name))
    return statistics.linear_regression(xs, ys).slope


def curve(points: Sequence[Found]) -> Found:
    found: Found = {"time": exponent(points, "seconds"), "memory": exponent(points, "peak_mib", least=1.0)}
    found["allowed"] = {"time": allowed(points), "memory": LINEAR}
    if "operations" in points[0]:
        found["arithmetic"] = exponent(points, "operations")
    return {"exponents": found, "points": list(points)}


def allowed(points: Sequence[Found]) -> float:
    """The largest exponent of time that the counted operations, and bytes, explain."""
    if "operations" not in points[0]:
        return LINEAR
    taken = [
        {
            "value": point["value"],
            "taken": point["operations"] * (1 + (SLOWER - 1) * point["attention"]) + MOVED * point.get("bytes", 0),
        }
        for point in points
    ]
    return max(LINEAR, exponent(taken, "taken") + LINEAR - 1)


def told(axis: str, work: str, found: Found) -> bool:
    """Print a line; whether the curve is linear, or worse by no more than attention explains."""
    each = found["exponents"]
    last = found["points"][-1]
    beside = f"arithmetic^{each['arithmetic']:.2f}, attention {last['attention']:.0%}" if "arithmetic" in each else ""
    print(f"{axis:<12}{work:<12}time^{each['time']:<7.2f}memory^{each['memory']:<7.2f}{beside}")
    good = True
    for what, most in each["allowed"].items():
        if each[what] > most:
            good = False
            print(f"    {what}: worse than {what}^{most:.2f}, and no reason is known  FAIL")
        elif each[what] > LINEAR:
            print(f"    {what}: {PAIRS} (up to {what}^{most:.2f})")
    return good


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=[*AXES], help="one axis; nothing is written without --out")
    parser.add_argument("--quick", action="store_true", help="two tiny sizes; nothing is written without --out")
    parser.add_argument("--draw", action="store_true", help="measure nothing")
    parser.add_argument("--out", type=Path, help="folder of what is written")
    asked = parser.parse_args()
    results, images = (asked.out or RESULTS) / "scale.json", asked.out or IMAGES
    if asked.draw:
        scale_pictures.draw(json.loads(results.read_text()), images)
        return 0
    axes = {axis: values for axis, values in (QUICK if asked.quick else AXES).items() if asked.only in (None, axis)}
    base = TOY if asked.quick else BASE
    size = speed_rows.SIZE
    machine = floor.machine(floor.Shape(size.hidden, size.layers, size.vocabulary))
    curves = found_at(axes, base, 1 if asked.quick else REPEATS)
    said = {axis: {work: curve(points) for work, points in works.items()} for axis, works in curves.items()}
    good = all([told(axis, work, found) for axis, works in said.items() for work, found in works.items()])
    report = {"machine": speed.described(machine), "model": asdict(size), "base": asdict(base), "axes": said}
    if asked.out or not (asked.only or asked.quick):
        results.parent.mkdir(parents=True, exist_ok=True)
        results.write_text(json.dumps(report, indent=1) + "\n")
        scale_pictures.draw(report, images)
    return 0 if good or asked.quick else 1


if __name__ == "__main__":
    sys.exit(main())
