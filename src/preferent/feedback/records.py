"""What somebody said, as it is kept: a judgement is never changed, only superseded by another.

An ``Item`` is what people are shown; a ``Judgement`` is what one of them said about it: who, when, how long it took,
and in which order the options stood. An answer speaks of options by their places in the item, which are canonical:
the same options asked in another order are the same item.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from itertools import islice
from typing import Annotated, Any, Literal, TypeVar
from uuid import uuid4

from pydantic import Field, TypeAdapter, ValidationError

from preferent.config import UsageError

T = TypeVar("T")
Messages = tuple[Mapping[str, Any], ...]
Kind = Literal["comparison", "ranking", "rating", "steps", "edit", "demonstration", "trajectories"]
STRONGEST = 3  # how much better: 0 not at all … 3 much


# --- answers -------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Choice:
    """A distribution over the options: (1, 0), (½, ½) for a tie. Where both are bad, that is not a tie."""

    choice: tuple[float, ...]
    strength: float | None = None  # how much better: 0 not at all … 3 much
    both_bad: bool = False
    aspects: Mapping[str, tuple[float, ...]] = field(default_factory=dict)  # a choice for each aspect that was asked
    said: Literal["choice"] = "choice"


@dataclass(frozen=True)
class Ranks:
    """A rank for each option, 0 the best; equal ranks are ties."""

    ranks: tuple[int, ...]
    said: Literal["ranks"] = "ranks"


@dataclass(frozen=True)
class Ratings:
    """A number for each option, on the scale of the guideline; aspects have scales of their own."""

    ratings: tuple[float, ...]
    aspects: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    said: Literal["ratings"] = "ratings"


@dataclass(frozen=True)
class Steps:
    """A label for each step of the one option, from the first on: 1 good, 0 neutral, -1 bad."""

    labels: tuple[Literal[-1, 0, 1], ...]
    said: Literal["steps"] = "steps"


@dataclass(frozen=True)
class Written:
    """What the annotator wrote: a demonstration, or an edit of the option ``of``."""

    messages: Messages
    of: int | None = None
    said: Literal["written"] = "written"


@dataclass(frozen=True)
class Skipped:
    """No answer, and why."""

    reason: str
    said: Literal["skipped"] = "skipped"


Answer = Choice | Ranks | Ratings | Steps | Written | Skipped
ANSWER: TypeAdapter[Answer] = TypeAdapter(Annotated[Answer, Field(discriminator="said")])
ANSWERS: Mapping[Kind, type[Answer]] = {
    "comparison": Choice,
    "trajectories": Choice,
    "ranking": Ranks,
    "rating": Ratings,
    "steps": Steps,
    "edit": Written,
    "demonstration": Written,
}


# --- what is kept ----------------------------------------------------------------------------------
@dataclass(frozen=True)
class Item:
    """A context and the options to judge, in canonical order. Make one with ``item``."""

    context: Messages
    options: tuple[Messages, ...] = ()
    kind: Kind = "comparison"
    sources: tuple[str, ...] = ()  # who wrote each option: a model's name, a person; hidden from annotators
    info: Mapping[str, Any] = field(default_factory=dict)  # what else is known: columns of its data set

    @cached_property
    def id(self) -> str:
        """Of the content: what is shown, not who wrote it. Asking the same again is asking once."""
        return digest([self.kind, self.context, self.options])


@dataclass(frozen=True)
class Judgement:
    """One answer by one annotator, as it was given."""

    item: str
    annotator: str
    answer: Answer
    shown: tuple[int, ...] = ()  # places of the options in the order in which they stood on the screen
    seconds: float | None = None  # that the annotator took
    guideline: str = ""  # version of the guideline that was in force
    campaign: str = ""
    supersedes: str | None = None  # the judgement that this one corrects
    note: str = ""
    at: str = field(default_factory=lambda: now())
    id: str = field(default_factory=lambda: uuid4().hex)


def item(
    context: Messages,
    options: Sequence[Messages] = (),
    *,
    kind: Kind = "comparison",
    sources: Sequence[str] = (),
    info: Mapping[str, Any] | None = None,
) -> tuple[Item, tuple[int, ...]]:
    """The item, and for each of its options the place that it had in ``options``.

    Raises UsageError for fewer options than the kind needs, or two that say the same.
    """
    texts = [canonical(option) for option in options]
    least, most = {"comparison": (2, 9), "trajectories": (2, 9), "ranking": (2, 9), "rating": (1, 9)}.get(
        kind, (0, 0) if kind == "demonstration" else (1, 1)
    )
    if not least <= len(options) <= most:
        expected = f"{least}" if least == most else f"{least} … {most}"
        raise UsageError(f"A {kind} is of {expected} options; got {len(options)}.")
    if len(set(texts)) != len(texts):
        raise UsageError(f"Two options of a {kind} say the same ({texts[0][:80]}), so there is nothing to choose.")
    if sources and len(sources) != len(options):
        raise UsageError(f"Expected a source for each of {len(options)} options; got {len(sources)}.")
    order = tuple(sorted(range(len(options)), key=texts.__getitem__))
    by_place = tuple(options[i] for i in order)
    return Item(tuple(context), by_place, kind, tuple(sources[i] for i in order) if sources else (), info or {}), order


def checked(of: Item, answer: Answer) -> Answer:
    """The answer, if it is one to this item. Raises UsageError that says what does not fit."""
    wanted = ANSWERS[of.kind]
    if not isinstance(answer, wanted | Skipped):
        raise UsageError(f"A {of.kind} is answered by {wanted.__name__} or Skipped; got {type(answer).__name__}.")
    if fault := misfit(answer, len(of.options)):
        raise UsageError(fault)
    return answer


def misfit(answer: Answer, options: int) -> str:
    """What is wrong with an answer about so many options; empty where nothing is."""
    match answer:
        case Choice():
            named = {"choice": answer.choice, **answer.aspects}
            wrong = next((name for name, shares in named.items() if not is_choice(shares, options)), None)
            if wrong:
                return f"{wrong}: expected {options} shares that sum to 1; got {named[wrong]}."
            if answer.strength is not None and not 0 <= answer.strength <= STRONGEST:
                return f"strength: expected 0 (not at all) … {STRONGEST} (much better); got {answer.strength}."
        case Ranks() if len(answer.ranks) != options or min(answer.ranks) < 0:
            return f"ranks: expected {options} ranks from 0 on; got {answer.ranks}."
        case Ratings():
            for name, ratings in {"ratings": answer.ratings, **answer.aspects}.items():
                if len(ratings) != options or not all(map(math.isfinite, ratings)):
                    return f"{name}: expected {options} numbers; got {ratings}."
        case Written() if not any(str(each.get("content") or "").strip() for each in answer.messages):
            return "messages: expected what the annotator wrote; got nothing."
        case Written() if answer.of not in (None, *range(options)):
            return f"of: expected the place of one of {options} options; got {answer.of}."
    return ""


def is_choice(shares: Sequence[float], options: int) -> bool:
    whole = all(0 <= share <= 1 for share in shares) and math.isclose(sum(shares), 1, abs_tol=1e-6)
    return whole and len(shares) == options


def read_answer(said: Any) -> Answer:
    """An answer from JSON. Raises UsageError that names the field."""
    try:
        return ANSWER.validate_python(said)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"][1:])) or "said"
        raise UsageError(f"answer, {where}: {first['msg'].lower()}; got {first['input']!r:.80}.") from error


def plain(answer: Answer) -> dict[str, Any]:
    """An answer as JSON; what was not said is left out."""
    return {key: value for key, value in ANSWER.dump_python(answer, mode="json").items() if value not in (None, {})}


def canonical(value: Any) -> str:
    """JSON that is the same for the same content."""
    return json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"), allow_nan=False)


def digest(value: Any) -> str:
    """SHA-256 of the canonical JSON, in hex."""
    return hashlib.sha256(canonical(value).encode()).hexdigest()


def now() -> str:
    """UTC, to the microsecond, so that text order is time order."""
    return datetime.now(UTC).isoformat(timespec="microseconds")


def batched(values: Iterable[T], n: int) -> Iterator[list[T]]:
    """Lists of up to n."""
    left = iter(values)
    while some := list(islice(left, n)):
        yield some
