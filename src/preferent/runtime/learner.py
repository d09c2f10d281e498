"""The learner on one device: the only place that knows of devices, precision, cuts and division."""

from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Literal, Protocol, TypeVar, cast, runtime_checkable

import torch
from torch import Tensor, nn

from preferent.config import UsageError
from preferent.data.collate import moved
from preferent.models import plan
from preferent.models.room import suffices
from preferent.runtime.fitting import fitted
from preferent.runtime.optimizer import adamw, of_its_shape
from preferent.types import Batch, Loss, Mean, Metrics, Objective

log = logging.getLogger(__name__)
N = TypeVar("N", bound=nn.Module)
B = TypeVar("B", bound=Batch)
Out = TypeVar("Out")
PATIENCE = 3  # batches that may give no number before the run stops
MOMENTS = (
    "for the optimiser, which keeps two numbers for each weight that is trained",
    "--optimizer adamw8bit takes a quarter of that, --lora a hundredth.",
)


@runtime_checkable
class Sparing(Protocol):
    """An objective that knows which prompts of a batch have no gradient: they are counted, and not forwarded."""

    def moving(self, batch: Any, /) -> Sequence[int]: ...  # the others


class NotFinite(UsageError):
    """Loss or gradient was NaN or infinite too often."""


@dataclass(frozen=True, slots=True)
class Schedule:
    """A multiplier of the learning rate at each update: linear warm-up, then constant, linear or cosine decay."""

    kind: Literal["constant", "linear", "cosine"] = "constant"
    total: int = 1  # updates in the run
    warmup: float = 0.0  # share of them
    floor: float = 0.0  # what is left of the rate at the end

    def __call__(self, update: int) -> float:
        warm = self.warmup * self.total
        if update < warm:
            return (update + 1) / (warm + 1)
        done = min(1.0, (update - warm) / max(1.0, self.total - warm))
        left = {"constant": 1.0, "linear": 1 - done, "cosine": (1 + math.cos(math.pi * done)) / 2}[self.kind]
        return self.floor + (1 - self.floor) * left


class LocalLearner(Generic[N]):
    """Owns a model's parameters and their optimiser on the device where the model is."""

    def __init__(
        self,
        model: N,
        optimizer: torch.optim.Optimizer,
        *,
        schedule: Schedule = Schedule(),
        token_budget: int | None = None,
        max_grad_norm: float = 1.0,
        bf16: bool = False,
        bad_batches: Path | None = None,
    ) -> None:
        self._model = model
        self.optimizer = optimizer
        self.schedule = schedule
        self.token_budget = token_budget or plan.token_budget(self.device)
        self.max_grad_norm = max_grad_norm
        self.bf16 = bf16
        self.bad_batches = bad_batches  # where a batch that gave no number is written
        self.rates = [group["lr"] for group in optimizer.param_groups]
        self.version = 0
        self.bad = 0  # updates that were skipped
        self.last_bad = -1  # the last of them

    @property
    def model(self) -> N:
        return self._model

    @property
    def device(self) -> torch.device:
        return next(self._model.parameters()).device

    @property
    def stuck(self) -> bool:
        """Whether the last update was skipped: what the model would learn next, nobody knows."""
        return self.bad > 0 and self.last_bad == self.version - 1

    def update(self, batch: B, objective: Objective[N, B]) -> Metrics:
        """One optimiser step. Counts are summed over all cuts before the first backward, so cuts cannot matter."""
        metrics = fitted(self, batch, lambda cuts: self.gradients(cuts, objective))
        return {**metrics, **self.step(batch, metrics["loss"]), "tokens": float(sum(batch.tokens_each()))}

    def gradients(self, cuts: Iterable[B], objective: Objective[N, B]) -> Metrics:
        """The gradients of a whole step, from nothing: an attempt that ran out of memory half-way leaves no trace."""
        self.optimizer.zero_grad(set_to_none=True)
        counts: dict[str, Tensor] = {}
        for cut in cuts:
            for name, count in objective.counts(cut).items():
                counts[name] = counts[name] + count if name in counts else count
        said: dict[str, Mean] = {}
        weights: dict[str, float] = {}
        for cut in cuts:
            moving = cut[objective.moving(cut)] if isinstance(objective, Sparing) else cut
            if not len(moving):
                continue
            with self.precision():
                loss = objective(self._model, moving)
                total = weighted(loss, counts)
            if total.requires_grad:
                total.backward()
            weights |= {name: weight for name, (weight, _) in loss.terms.items()}
            said |= {k: said[k] + v if k in said else v for k, v in detached(loss).items()}
        # A term's count is the whole step's, whatever part of it was left out: what is said is what was differentiated.
        means = {name: Mean(mean.total, counts.get(name, mean.count)) for name, mean in said.items()}
        metrics = {name: mean.value for name, mean in means.items()}
        return {**metrics, "loss": sum(weight * metrics[name] for name, weight in weights.items())}

    def step(self, batch: Batch, loss: float) -> Metrics:
        """Clip and step, unless the loss or its gradient is not a number."""
        factor = self.schedule(self.version)
        for group, rate in zip(self.optimizer.param_groups, self.rates, strict=True):
            group["lr"] = rate * factor
        parameters = [p for group in self.optimizer.param_groups for p in group["params"] if p.grad is not None]
        norm = nn.utils.clip_grad_norm_(parameters, self.max_grad_norm).item() if parameters else 0.0
        finite = math.isfinite(norm) and math.isfinite(loss)
        if finite:
            with suffices(*MOMENTS):
                self.optimizer.step()
        else:
            self.refuse(batch, loss, norm)
        self.version += 1
        return {"grad_norm": norm, "lr": self.rates[0] * factor, "skipped": float(not finite)}

    def refuse(self, batch: Batch, loss: float, norm: float) -> None:
        """Write the batch down, skip the step, and stop the run when it happens too often."""
        self.bad, self.last_bad = self.bad + 1, self.version
        where = ""
        if self.bad_batches is not None:
            self.bad_batches.mkdir(parents=True, exist_ok=True)
            path = self.bad_batches / f"update-{self.version}.safetensors"
            dump(batch, path)
            where = f" Its batch is in {path}."
        if self.bad >= PATIENCE:
            raise NotFinite(
                f"update {self.version}: loss {loss}, gradient norm {norm}; expected finite numbers. "
                f"{self.bad} batches gave none, so the run stops.{where} "
                "A lower --lr, --dtype float32, or a look at the rewards usually helps."
            )
        log.warning("Update %d skipped: loss %g, gradient norm %g.%s", self.version, loss, norm, where)

    def skip(self) -> Metrics:
        """A step with nothing to learn from: what is drawn next is drawn with other noise."""
        self.last_bad += self.stuck  # which it stays
        self.version += 1
        return {"skipped": 1.0}

    def measure(self, batches: Iterable[B], objective: Objective[N, B]) -> Metrics:
        """The objective's terms and metrics over held-out batches, without gradients and without an update."""
        said: dict[str, Mean] = {}
        weights: dict[str, float] = {}
        with torch.no_grad(), self.precision():
            for batch in batches:
                for loss in fitted(self, batch, lambda cuts: [objective(self._model, cut) for cut in cuts]):
                    weights |= {name: weight for name, (weight, _) in loss.terms.items()}
                    said |= {k: said[k] + v if k in said else v for k, v in detached(loss).items()}
        metrics = {name: mean.value for name, mean in said.items()}
        return {**metrics, "loss": sum(weight * metrics[name] for name, weight in weights.items())}

    def map(self, batch: B, f: Callable[[N, B], Out]) -> Out:
        """``f`` over the same cuts without gradients; tensors [r, …] are put together in order."""
        with torch.no_grad(), self.precision():
            return fitted(self, batch, lambda cuts: cast(Out, joined([f(self._model, cut) for cut in cuts])))

    def cuts(self, batch: B) -> Iterator[B]:
        """Neighbouring prompts up to the token budget, on the learner's device; never less than one prompt."""
        first, held = 0, 0
        for i, tokens in enumerate(batch.tokens_each()):
            if held and held + tokens > self.token_budget:
                yield moved(batch[first:i], self.device)
                first, held = i, 0
            held += tokens
        yield moved(batch[first:], self.device)

    def precision(self) -> AbstractContextManager[Any]:
        return torch.autocast(self.device.type, torch.bfloat16) if self.bf16 else nullcontext()

    def weights(self) -> Mapping[str, Tensor]:
        return dict(self._model.named_parameters())

    def state_dict(self) -> dict[str, Any]:
        names = {id(p): name for name, p in self._model.named_parameters()}
        trained = {name: p.detach() for name, p in self._model.named_parameters() if p.requires_grad}
        moments = {names[id(p)]: dict(state) for p, state in self.optimizer.state.items()}
        return {
            "model": trained, "optimizer": moments, "version": self.version, "bad": self.bad,
            "last_bad": self.last_bad, "token_budget": self.token_budget,
        }  # fmt: skip

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        parameters = dict(self._model.named_parameters())
        if missing := {n for n, p in parameters.items() if p.requires_grad} ^ set(state["model"]):
            raise ValueError(f"the checkpoint is of another model: parameter {min(missing)} is on one side only")
        held = [(parameters[name], value) for name, value in state["model"].items()]
        moments = [(n, v, parameters[name]) for name, of in state["optimizer"].items() for n, v in of.items()]
        if any(value.shape != p.shape for p, value in held) or not all(of_its_shape(*each) for each in moments):
            raise ValueError("the checkpoint is of another model: its parameters have other shapes")
        # Bits depend on the cuts, and memory may have forced smaller ones.
        counts = [int(state[name]) for name in ("version", "bad", "last_bad", "token_budget")]
        with torch.no_grad():  # nothing was changed until here, and nothing is refused from here on
            for name, value in state["model"].items():
                parameters[name].copy_(value)
        # A step count lies with its parameter where the optimiser is fused, else on the CPU.
        fused = any(group.get("fused") or group.get("capturable") for group in self.optimizer.param_groups)
        for name, of in state["optimizer"].items():
            own = parameters[name]
            self.optimizer.state[own] = {
                k: v.clone().to(own.device if v.dim() or fused else v.device) if isinstance(v, Tensor) else v
                for k, v in of.items()
            }
        self.version, self.bad, self.last_bad, self.token_budget = counts


def local_learner(
    model: N,
    *,
    lr: float = 1e-5,
    critic_lr: float | None = None,
    betas: tuple[float, float] = (0.9, 0.999),
    weight_decay: float = 0.0,
    schedule: Schedule = Schedule(),
    token_budget: int | None = None,
    max_grad_norm: float = 1.0,
    bf16: bool = False,
    bad_batches: Path | None = None,
) -> LocalLearner[N]:
    """AdamW over what requires gradients; parameters named ``critic.…`` may have a rate of their own."""
    optimizer = adamw(model, lr=lr, critic_lr=critic_lr, betas=betas, weight_decay=weight_decay)
    return LocalLearner(
        model, optimizer, schedule=schedule, token_budget=token_budget, max_grad_norm=max_grad_norm, bf16=bf16,
        bad_batches=bad_batches,
    )  # fmt: skip


def weighted(loss: Loss, counts: Mapping[str, Tensor]) -> Tensor:
    """The cut's share of the step's loss: each term's total over its count in the whole step."""
    terms = [
        weight * mean.total / counts[name].clamp(min=1e-12).to(mean.total.device)
        for name, (weight, mean) in loss.terms.items()
    ]
    return cast(Tensor, sum(terms))


def detached(loss: Loss) -> dict[str, Mean]:
    """All that a loss says, without its graph."""
    means = {**loss.metrics, **{name: mean for name, (_, mean) in loss.terms.items()}}
    return {name: Mean(mean.total.detach(), mean.count.detach()) for name, mean in means.items()}


def joined(parts: list[Any]) -> Any:
    """Tensors along their first dimension; tuples field by field; None stays None."""
    first = parts[0]
    if isinstance(first, Tensor):
        return torch.cat(parts)
    if first is None:
        return None
    if isinstance(first, tuple):
        fields = [joined(list(each)) for each in zip(*parts, strict=True)]
        return type(first)(*fields) if hasattr(first, "_fields") else tuple(fields)
    raise TypeError(f"Learner.map joins tensors and tuples of them; f gave {type(first).__name__}")


def dump(batch: Any, path: Path) -> None:
    """Every tensor of a batch, by its dotted name."""
    from safetensors.torch import save_file

    def named(thing: Any, prefix: str) -> Iterator[tuple[str, Tensor]]:
        for f in dataclasses.fields(thing):
            value = getattr(thing, f.name)
            if isinstance(value, Tensor):
                yield prefix + f.name, value.detach().cpu().contiguous().clone()  # fields may share memory
            else:
                yield from named(value, f"{prefix}{f.name}.")

    save_file(dict(named(batch, "")), path)
