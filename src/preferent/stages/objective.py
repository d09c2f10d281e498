"""Which loss on pairs a command takes: its words, and the objective that they make."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Annotated, Literal

from annotated_types import Ge, Gt, Lt

from preferent.config import UsageError, did_you_mean

if TYPE_CHECKING:
    from preferent.algorithms.dpo import Objective

OBJECTIVES = (
    "dpo", "robust-dpo", "odpo", "ipo", "hinge", "slic", "simpo", "cpo", "orpo", "apo-zero", "apo-down", "nca", "sppo",
    "exo", "discopop", "dpop", "rdpo", "ld-dpo", "sigmoid-norm", "f-dpo", "aot",
)  # fmt: skip
WORDS = ("beta", "flip", "gamma", "margin", "alpha", "penalty", "mixing", "divergence")  # read by some objectives


@dataclass(frozen=True, kw_only=True)
class PairOptions:
    """Objective."""

    objective: Annotated[
        tuple[str, ...],
        "loss on a pair (`preferent methods` tells of each); several at once with weights: --objective dpo=0.8 "
        f"--objective simpo=0.2. One of {', '.join(OBJECTIVES)}",
    ] = ("dpo",)
    beta: Annotated[
        float | None, "how much leaving the reference costs; lower goes further; none: the objective's own", Gt(0)
    ] = None
    flip: Annotated[float | None, "dpo (then cDPO), robust-dpo, exo: chance that a label is wrong", Ge(0), Lt(1)] = None
    gamma: Annotated[float | None, "simpo: by how much the better reply should be ahead"] = None
    margin: Annotated[float | None, "slic: the same, in nats", Gt(0)] = None
    alpha: Annotated[
        float | None,
        "rdpo: reward that a token costs; ld-dpo: weight of a longer reply's tail; f-dpo: which α-divergence; orpo: "
        "weight of the odds ratio",
        Ge(0),
    ] = None
    penalty: Annotated[float | None, "dpop: what a better reply's loss of likelihood costs", Ge(0)] = None
    mixing: Annotated[float | None, "discopop: temperature of the mixture of its two losses", Gt(0)] = None
    divergence: Annotated[
        Literal["reverse", "forward", "jensen-shannon", "alpha"], "f-dpo: what leaving the reference is measured by"
    ] = "jensen-shannon"
    likelihood: Annotated[
        float | None, "weight of the better replies' negative log-likelihood; none: the objective's own", Ge(0)
    ] = None
    weigh: Annotated[bool, "weigh pairs by how likely the policy would say them (WPO)"] = False


def objective_of(options: PairOptions) -> Objective:
    """What the words say. Raises UsageError for a word that no objective reads or a number that one cannot take."""
    from preferent.algorithms.dpo import together
    from preferent.algorithms.wpo import weighted

    every = builders()
    named = weighed_names(options.objective)
    parts = [(every[name], weight) for name, weight in named]
    given = {
        f.name: getattr(options, f.name)
        for f in fields(options)
        if f.name in WORDS and getattr(options, f.name) != f.default
    }
    taken = [inspect.signature(build).parameters for build, _ in parts]
    for word in given:
        if not any(word in words for words in taken):
            readers = [name for name, build in every.items() if word in inspect.signature(build).parameters]
            raise UsageError(
                f"--{word} is not read by {' and '.join(name for name, _ in named)}; it is by {', '.join(readers)}."
            )
    try:
        made = [
            (build(**{word: value for word, value in given.items() if word in words}), weight)
            for (build, weight), words in zip(parts, taken, strict=True)
        ]
    except ValueError as e:
        raise UsageError(f"--objective {' '.join(options.objective)}: {e}.") from e
    objective = made[0][0] if len(made) == 1 and made[0][1] == 1 else together(made)
    if options.likelihood is not None:
        objective = replace(objective, likelihood=options.likelihood)
    return weighted(objective) if options.weigh else objective


def refuse_margins(options: PairOptions) -> None:
    """Raise UsageError for an objective that reads margins, which pairs made on the way do not have."""
    if "odpo" in dict(weighed_names(options.objective)):
        raise UsageError("--objective odpo reads the margins of the data's pairs; pairs made here have none. Take dpo.")


def defaults(options: PairOptions) -> dict[str, str]:
    """What the words mean whose value is none: the objectives' own."""
    every = builders()
    found: dict[str, list[str]] = {}
    for name, _ in weighed_names(options.objective):
        for word, parameter in inspect.signature(every[name]).parameters.items():
            if getattr(options, word) is None and parameter.default is not None:
                found.setdefault(word, []).append(str(parameter.default))
    return {word: ", ".join(dict.fromkeys(values)) for word, values in found.items()}


def builders() -> dict[str, Callable[..., Objective]]:
    """The objective behind each name."""
    from preferent.algorithms import objectives as o
    from preferent.algorithms.aot import aot

    found: tuple[Callable[..., Objective], ...] = (
        o.dpo, o.robust_dpo, o.odpo, o.ipo, o.hinge, o.slic, o.simpo, o.cpo, o.orpo, o.apo_zero, o.apo_down, o.nca,
        o.sppo, o.exo, o.discopop, o.dpop, o.rdpo, o.ld_dpo, o.sigmoid_norm, o.f_dpo, aot,
    )  # fmt: skip
    return dict(zip(OBJECTIVES, found, strict=True))


def weighed_names(said: Sequence[str]) -> list[tuple[str, float]]:
    """``dpo=0.8`` is dpo with that weight; without one, 1."""
    from preferent.data.mixture import weighed

    found = []
    for word in said:
        name, weight = weighed(word)
        if name not in OBJECTIVES:
            raise UsageError(f'--objective: "{name}" is not known{meant(name)}.\nKnown: {", ".join(OBJECTIVES)}.')
        found.append((name, 1.0 if weight is None else weight))
    if not found or len(dict(found)) < len(found):
        raise UsageError(f"--objective: expected one or several, each once; got {' '.join(said) or 'none'}.")
    if {"aot", "odpo"} <= dict(found).keys():
        raise UsageError("--objective: aot sets margins of its own, where odpo reads the data's; take one of them.")
    return found


def meant(name: str) -> str:
    """What somebody may have meant by an objective that does not exist: a hint that follows "is not known"."""
    from preferent.stages.methods import called

    before, sign, weight = name.partition("=")
    if sign and before in OBJECTIVES:
        return f': a weight is a number, as in {before}=0.5; got "{weight}"'
    if "," in name:
        return f"; for several, repeat the flag: {' '.join(f'--objective {each.strip()}' for each in name.split(','))}"
    if name.lower() in OBJECTIVES:
        return f"; write {name.lower()}"
    if rows := called(name):
        return f" here; {' or '.join(f'{row.name} is `preferent {row.command}`' for row in rows)}"
    return did_you_mean(name, dict.fromkeys(OBJECTIVES, ""))
