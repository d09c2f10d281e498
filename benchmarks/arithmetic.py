"""What stands in place of PyTorch's arithmetic, beside PyTorch's own: products, norms, heads. And attention's rate.

python benchmarks/arithmetic.py            writes benchmarks/results/arithmetic.json (under a minute)
python benchmarks/arithmetic.py --quick    tiny sizes, to see that it runs; writes nothing

Both ways take turns, each for a spell; of a way's spells the median counts. Sizes are those of ``speed.py``'s model.
Where oneDNN is not used (``models/linear.py``), both ways of products are the same.
"""

import argparse
import copy
import json
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import floor
import speed
import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers.models.qwen2.modeling_qwen2 import Qwen2RMSNorm

from preferent.models import head as heads
from preferent.models.linear import FAST, ROWS, Linear, products, times
from preferent.models.norm import Norm

RESULTS = Path(__file__).parent / "results" / "arithmetic.json"
PIECES = (10, 40, 160)  # over which a head's gradient is added up
Ways = Mapping[str, Callable[[], object]]


@dataclass(frozen=True)
class Sizes:
    """Of what is measured, and how often."""

    rows: int = 2048
    drawn: int = 64  # rows while replies are drawn
    hidden: int = 192
    wide: int = 512
    vocabulary: int = 4608
    pieces: tuple[int, ...] = PIECES
    heads: int = 3
    seen: int = 1024  # tokens that attend to one another
    spells: int = 11
    spell: float = 0.04  # seconds


TINY = Sizes(rows=64, drawn=8, hidden=12, wide=16, vocabulary=64, pieces=(2,), seen=16, spells=3, spell=0.001)


def taken(ways: Ways, at: Sizes) -> dict[str, float]:
    """Seconds of one call of each way: the median of its spells."""
    each: dict[str, list[float]] = {name: [] for name in ways}
    for i in range(at.spells + 1):
        for name in sorted(ways, reverse=i % 2 == 1):
            calls, began = 0, time.perf_counter()
            while not calls or time.perf_counter() - began < at.spell:
                ways[name]()
                calls += 1
            each[name].append((time.perf_counter() - began) / calls)
    return {name: statistics.median(spells[1:]) for name, spells in each.items()}


def rates(operations: float, ways: Ways, at: Sizes) -> dict[str, float]:
    """Thousand million operations a second."""
    return {name: operations / seconds / 1e9 for name, seconds in taken(ways, at).items()}


def matrices(at: Sizes) -> dict[str, Any]:
    """GFLOP/s of a linear map and of its gradients, as ``Product`` and as autograd work them out."""
    found: dict[str, Any] = {}
    for wide, high in ((at.hidden, at.hidden), (at.hidden, at.wide), (at.wide, at.hidden)):
        x, w, grad = torch.randn(at.rows, wide), torch.randn(high, wide), torch.randn(at.rows, high)

        def of_weight(x: Tensor = x, grad: Tensor = grad) -> Tensor:
            longer = grad.shape[1] > x.shape[1]
            return times(x.t(), grad.t()).t() if longer else times(grad.t(), x.t())

        ways: dict[str, Ways] = {
            "forwards": {"ours": lambda x=x, w=w: times(x, w), "PyTorch": lambda x=x, w=w: torch.mm(x, w.t())},
            "of the input": {"ours": lambda g=grad, w=w: times(g, w.t()), "PyTorch": lambda g=grad, w=w: g @ w},
            "of the weight": {"ours": of_weight, "PyTorch": lambda g=grad, x=x: g.t() @ x},
        }
        for name, each in ways.items():
            found[f"{at.rows} × {wide} → {high}, {name}"] = rates(2 * at.rows * wide * high, each, at)
    return found


@torch.no_grad()
def together(at: Sizes) -> dict[str, float]:
    """Microseconds of queries, keys and values for the tokens that are drawn at a time."""
    layers = [Linear(at.hidden, at.hidden) for _ in range(3)]
    x, one = torch.randn(at.drawn, at.hidden), products(layers, copied=True)
    seconds = taken({"ours": lambda: one(x), "one by one": lambda: [layer(x) for layer in layers]}, at)
    return {name: 1e6 * each for name, each in seconds.items()}


def there_and_back(of: Callable[[Tensor], Tensor], x: Tensor) -> Callable[[], object]:
    """Forwards and backwards, as a model does, whose gradients were set to none."""
    given = torch.randn_like(of(x))
    return lambda: torch.autograd.grad(of(x), [x, *parameters(of)], given)


def parameters(of: Any) -> list[nn.Parameter]:
    return list(of.parameters()) if isinstance(of, nn.Module) else [of.linear.weight]


def norms(at: Sizes) -> dict[str, float]:
    """Milliseconds, forwards and backwards."""
    usual: Any = Qwen2RMSNorm(at.hidden)
    ours = copy.deepcopy(usual)
    ours.__class__ = Norm
    x = torch.randn(at.rows, at.hidden, requires_grad=True)
    seconds = taken({"ours": there_and_back(ours, x), "PyTorch": there_and_back(usual, x)}, at)
    return {name: 1e3 * each for name, each in seconds.items()}


@dataclass(frozen=True)
class Read:
    """Log-probabilities of fixed targets under a head; given its bare linear map, autograd does what we do by hand."""

    linear: Any
    targets: Tensor
    by_hand: bool

    def __call__(self, hidden: Tensor) -> Tensor:
        head = heads.Head(self.linear) if self.by_hand else self.linear
        return heads.token_logprobs(head, hidden, self.targets, vocabulary=self.linear.out_features)[0]


def head(at: Sizes) -> dict[str, float]:
    """Milliseconds, forwards and backwards."""
    linear = nn.Linear(at.hidden, at.vocabulary, bias=False)
    targets = torch.randint(at.vocabulary, (at.rows,))
    x = torch.randn(at.rows, at.hidden, requires_grad=True)
    ways = {"ours": Read(linear, targets, True), "PyTorch": Read(linear, targets, False)}
    return {name: 1e3 * s for name, s in taken({n: there_and_back(way, x) for n, way in ways.items()}, at).items()}


def head_error(at: Sizes) -> dict[str, Any]:
    """Per cent by which a head's weight's gradient is off under autocast, by the pieces that it is added up from."""
    found: dict[str, Any] = {}
    usual, heads.CHUNK = heads.CHUNK, ROWS * at.vocabulary  # so few rows at a time
    try:
        for pieces in at.pieces:
            linear = nn.Linear(at.hidden, at.vocabulary, bias=False)
            n = ROWS * pieces
            x, targets = torch.randn(n, at.hidden, requires_grad=True), torch.randint(at.vocabulary, (n,))

            def of_weight(by_hand: bool, half: bool, linear=linear, x=x, targets=targets) -> Tensor:
                with torch.autocast("cpu", torch.bfloat16, enabled=half):
                    said = Read(linear, targets, by_hand)(x)
                return torch.autograd.grad(said.mean(), [linear.weight])[0].double()

            exact = of_weight(True, False)
            found[f"{pieces} pieces"] = {
                name: 100 * ((of_weight(by_hand, True) - exact).norm() / exact.norm()).item()
                for name, by_hand in (("ours", True), ("PyTorch", False))
            }
    finally:
        heads.CHUNK = usual
    return found


@torch.no_grad()
def attention(at: Sizes) -> dict[str, float]:
    """GFLOP/s, counting the pairs that see one another; beside it, those of a layer's product."""
    width = at.hidden // at.heads
    q, k, v = (torch.randn(1, at.heads, at.seen, width) for _ in range(3))
    x, w = torch.randn(at.rows, at.hidden), torch.randn(at.wide, at.hidden)
    seconds = taken(
        {"attention": lambda: scaled_dot_product_attention(q, k, v, is_causal=True), "product": lambda: times(x, w)}, at
    )
    pairs = at.seen * (at.seen + 1) // 2
    counted = {"attention": 4.0 * at.hidden * pairs, "product": 2.0 * at.rows * at.hidden * at.wide}
    return {name: counted[name] / each / 1e9 for name, each in seconds.items()}


MEASURED: dict[str, tuple[str, Callable[[Sizes], dict[str, Any]]]] = {
    "linear maps": ("GFLOP/s", matrices),
    "queries, keys and values of a drawn token": ("µs", together),
    "norm": ("ms", norms),
    "log-probabilities by the head": ("ms", head),
    "gradient of the head's weight under autocast": ("% off", head_error),
    "causal attention": ("GFLOP/s", attention),
}


def printed(name: str, unit: str, found: Mapping[str, Any]) -> None:
    if any(isinstance(each, dict) for each in found.values()):
        for part, each in found.items():
            printed(f"{name}, {part}", unit, each)
        return
    said = ", ".join(f"{way} {float(f'{value:.2g}') if value < 10 else round(value):g}" for way, value in found.items())
    print(f"{name}: {said} {unit}", flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="tiny sizes; nothing is written")
    at = TINY if parser.parse_args(arguments).quick else Sizes()
    torch.manual_seed(0)
    found: dict[str, Any] = {}
    for name, (unit, measure) in MEASURED.items():
        found[name] = {"unit": unit, **measure(at)}
        printed(name, unit, {way: each for way, each in found[name].items() if way != "unit"})
    if at is not TINY:
        shape = floor.Shape(at.hidden, 3, at.vocabulary)
        machine = speed.described(floor.machine(shape)) | {"oneDNN": FAST}
        RESULTS.write_text(json.dumps({"machine": machine, "sizes": asdict(at), "figures": found}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
