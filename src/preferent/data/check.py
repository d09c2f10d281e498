"""What stands in a data file, and what is wrong with it, before a run finds out: ``preferent data check``."""

from __future__ import annotations

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from preferent.data.census import Census, Evaluation
from preferent.data.columns import Kind, Parsed, Unpaired, parse
from preferent.data.messages import Messages
from preferent.data.rows import BadRow, Row, rows
from preferent.data.template import Template
from preferent.data.wording import spoken
from preferent.feedback.curation.topics import Topic
from preferent.types import Demonstration, Preference, Prompt, Reply

PLACES = 5  # rows named for each fault
SHARES = 8  # classes shown of a column
BAR = 40  # characters of the longest bar in a histogram

PROMPT, REPLY = "prompt, characters", "reply, characters"
WHOLE = "prompt and longest reply, tokens"
TWO_SPEAK = "two turns in a row of the same role in a prompt: some chat templates refuse that"
CONTROL = "text that holds a control token of the chat template: it would be read as the token"
AGAIN = "the same row as one before, spaces and case aside"


@dataclass
class Check:
    """What was found. ``verdict`` is the exit code: 0 where every row can be used, 1 where some cannot."""

    source: str
    rows: int = 0
    max_length: int | None = None  # tokens that a row may have
    formats: Counter[str] = field(default_factory=Counter)
    columns: Counter[str] = field(default_factory=Counter)  # rows in which a column has a value
    faults: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))  # what → "line 3", … of bad rows
    notes: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))  # likewise, of rows that can be used
    reasons: dict[str, BadRow] = field(default_factory=dict)  # the first bad row of each fault
    lengths: dict[str, Counter[int]] = field(default_factory=lambda: defaultdict(Counter))
    prompts: set[bytes] = field(default_factory=set)  # different ones
    pairs: int = 0
    longer_chosen: int = 0  # pairs whose chosen reply has more characters
    template: list[str] = field(default_factory=list)  # what is to be known of the tokenizer and its template
    unknown: tuple[int, int] = (0, 0)  # tokens that stand for unknown text, of all tokens
    languages: Counter[str] = field(default_factory=Counter)
    topics: list[Topic] = field(default_factory=list)  # of a sample of the questions
    sampled: int = 0  # questions in that sample
    classes: dict[str, Counter[str]] = field(default_factory=dict)  # columns whose few values come again and again

    @property
    def bad(self) -> int:
        return sum(len(places) for places in self.faults.values())

    @property
    def duplicates(self) -> int:
        return len(self.notes.get(AGAIN, ()))

    @property
    def verdict(self) -> int:
        return 1 if self.bad else 0

    def render(self) -> str:
        """The report as plain text."""
        return "\n".join(lines_of(self))


def check(
    source: str | Path,
    tokenizer: Any = None,
    *,
    template: Template | None = None,
    columns: Mapping[str, str] | None = None,
    kind: Kind | None = None,
    near: float | None = None,
    against: Sequence[Evaluation] = (),
    watch: Callable[[Iterator[Row | BadRow]], Iterator[Row | BadRow]] = iter,
) -> Check:
    """Read all of a source. With a tokenizer (or a template made of one), rows go through its chat template as well.

    ``kind`` is what the rows are meant to be; without it, each row is what its columns say. Rows that are alike by
    ``near`` or more are noted, and rows that stand in an evaluation too. ``watch`` may show how far the reading is.
    Raises UsageError where the source cannot be read at all, or the tokenizer cannot be used.
    """
    found = Check(str(source))
    put = template if template is not None else Template(tokenizer) if tokenizer is not None else None
    if put is not None:
        found.template = remarks(put)
        found.max_length, put = put.max_length, replace(put, max_length=None)  # rows too long are measured as well
    seen: set[bytes] = set()
    census = Census(near, against)
    for item in watch(rows(source)):
        found.rows += 1
        try:
            row = good(item)
            found.columns.update(key for key, value in row.data.items() if value is not None)
            looked_at(found, row, parse(row.data, kind=kind, columns=columns), put, seen, census)
        except BadRow as bad:
            found.faults[bad.fault].append(f"{item.unit} {item.line}")
            found.reasons.setdefault(bad.fault, bad)
    found.languages, found.classes = census.languages, census.classes()
    found.topics, found.sampled = census.topics(), len(census.sample)
    return found


def good(item: Row | BadRow) -> Row:
    if isinstance(item, BadRow):
        raise item
    return item


def looked_at(
    found: Check, row: Row, parsed: Parsed, template: Template | None, seen: set[bytes], census: Census
) -> None:
    """Take note of a row that can be read."""
    place, (prompt, replies) = f"{row.unit} {row.line}", spoken(parsed)
    found.formats[parsed.format] += 1
    if template is not None:
        through_template(found, parsed, template, place)
    whole = digest([prompt, *replies])
    if whole in seen:
        found.notes[AGAIN].append(place)
    for note, where in census.take(row, parsed, again=whole in seen):
        found.notes[note].append(where)
    seen.add(whole)
    found.prompts.add(digest([prompt]))
    if any(a["role"] == b["role"] and a["role"] != "tool" for a, b in pairwise(prompt)):
        found.notes[TWO_SPEAK].append(place)
    if prompt:
        found.lengths[PROMPT][size(prompt)] += 1
    for reply in replies:
        found.lengths[REPLY][size(reply)] += 1
    if isinstance(parsed.noun, Preference):
        found.pairs += 1
        chosen, rejected = map(size, replies)
        found.longer_chosen += chosen > rejected


def through_template(found: Check, parsed: Parsed, template: Template, place: str) -> None:
    """Count the tokens that a row becomes. Raises BadRow where the template cannot take it."""
    prompt, replies = spoken(parsed)
    # The probe: whatever a data set says, it should not be able to end a turn or to speak as somebody else.
    if any(
        text in str(turn["content"]) for turns in (prompt, *replies) for turn in turns for text in template.end_texts
    ):
        found.notes[CONTROL].append(place)
    asked, said = in_tokens(template.tokenised(parsed))
    found.lengths["prompt, tokens"][len(asked.tokens)] += 1
    for reply in said:
        found.lengths["reply, tokens"][len(reply.tokens)] += 1
    longest = max((len(reply.tokens) for reply in said), default=0)
    whole = len(asked.tokens) + longest
    found.lengths[WHOLE][whole] += 1
    if found.max_length is not None and whole > found.max_length:
        found.notes[f"too long for max_length {found.max_length}"].append(place)
    every = [*asked.tokens, *(token for reply in said for token in reply.tokens)]
    unknown = every.count(template.tokenizer.unk_token_id) if template.tokenizer.unk_token_id is not None else 0
    found.unknown = (found.unknown[0] + unknown, found.unknown[1] + len(every))


def in_tokens(noun: Any) -> tuple[Prompt, Sequence[Reply]]:
    if isinstance(noun, Demonstration):
        return noun.prompt, [noun.reply]
    if isinstance(noun, Unpaired):
        return noun.context, [noun.option]
    return (noun, []) if isinstance(noun, Prompt) else (noun.comparison.context, noun.comparison.options)


def size(turns: Messages) -> int:
    return sum(len(turn["content"]) for turn in turns)


def digest(parts: Sequence[Messages]) -> bytes:
    """Of what was said, spaces and case aside."""
    said = [[(t["role"], " ".join(t["content"].lower().split()), t.get("tool_calls")) for t in part] for part in parts]
    return hashlib.blake2b(json.dumps(said, default=str).encode(), digest_size=12).digest()


def remarks(template: Template) -> list[str]:
    """What is to be known of a tokenizer and its template."""
    tokenizer = template.tokenizer
    ends = ", ".join(repr(tokenizer.decode([token])) for token in template.end_tokens)
    said = [f"a reply ends with {ends}"]
    if template.chat_template is None and not tokenizer.chat_template:
        said.append("no chat template: turns are written as User: …, Assistant: …")
    if "strftime_now" in template.source:
        said.append(f"the chat template writes today's date; {template.date} stands in for it")
    try:
        template.render(({"role": "system", "content": "x"}, {"role": "user", "content": "x"}))
    except BadRow as bad:
        said.append(f"no system messages: {bad.reason}; merge_system puts them into the first user's turn")
    return said


# --- as text -------------------------------------------------------------------------------------


def lines_of(found: Check) -> Iterator[str]:
    yield f"{found.source}: {counted(found.rows, 'row')}"
    yield from contents(found)
    drawn = [WHOLE] if WHOLE in found.lengths else [name for name in (PROMPT, REPLY) if name in found.lengths]
    for name in drawn:
        yield from ("", *histogram(name, found.lengths[name]))
    if found.notes:
        yield from ("", "to be known")
        for note, places in found.notes.items():
            yield f"  {len(places):>8}  {note}: {named(places)}"
    yield ""
    yield from conclusion(found)


def contents(found: Check) -> Iterator[str]:
    for name, n in found.formats.most_common():
        yield f"  {n:>8}  {name}"
    if len(found.formats) > 1:
        yield "            more than one format in one file: a command takes those that it needs"
    every = [name if n == found.rows else f"{name} ({n})" for name, n in found.columns.most_common()]
    yield "columns     " + " · ".join(every)
    if found.prompts:
        yield f"prompts     {len(found.prompts)} different"
    if found.pairs:
        share = found.longer_chosen / found.pairs
        yield f"pairs       the chosen reply is the longer one in {share:.0%} of {found.pairs}"
    yield from makeup(found)
    for remark in found.template:
        yield f"template    {remark}"
    if found.unknown[0]:
        yield f"unknown     {found.unknown[0] / found.unknown[1]:.2%} of the tokens stand for text that has none"
    for name, counts in sorted(found.lengths.items()):
        yield f"lengths     {name}: {quantiles(counts)}"


def makeup(found: Check) -> Iterator[str]:
    """Languages, topics and classes, those that there are most of first."""
    if found.languages:
        yield f"languages   {shares(found.languages)}"
    for column, counts in found.classes.items():
        yield f"classes     {column}: {shares(counts)}"
    for i, topic in enumerate(found.topics):
        share = f"{topic.texts / found.sampled:4.0%}"
        yield f"{'topics' if i == 0 else '':12}{share} {' · '.join(topic.words)}"


def shares(counts: Counter[str]) -> str:
    every = [f"{name} {n / counts.total():.1%}" for name, n in counts.most_common()]
    return " · ".join(every[:SHARES]) + (f" and {len(every) - SHARES} more" if len(every) > SHARES else "")


def conclusion(found: Check) -> Iterator[str]:
    if not found.bad:
        yield "every row can be used"
        return
    yield f"{counted(found.bad, 'row')} of {found.rows} cannot be used"
    for fault, places in sorted(found.faults.items(), key=lambda item: -len(item[1])):
        yield f"  {len(places):>8}  {fault}: {named(places)}"
        first = found.reasons[fault]
        if first.reason != fault:
            yield f"            as in {places[0]}: {first.reason}"
        if first.hint:
            yield f"            {first.hint}"
    yield "--skip-bad-rows leaves these rows out and lists them in a file"


def histogram(name: str, counts: Counter[int]) -> Iterator[str]:
    yield name
    bins = doubling(counts)
    highest = max(n for _, _, n in bins)
    for low, high, n in bins:
        yield f"  {low:>6} – {high:<6}  {'█' * ceil_share(n, highest)} {n}"


def doubling(counts: Counter[int]) -> list[tuple[int, int, int]]:
    """Lengths in bins that double in width: from, up to and including, how many."""
    bins: Counter[int] = Counter()
    for length, n in counts.items():
        bins[max(length - 1, 0).bit_length()] += n
    return [((2 ** (i - 1) + 1 if i else 0), 2**i, bins[i]) for i in range(min(bins), max(bins) + 1)]


def quantiles(counts: Counter[int]) -> str:
    return f"median {quantile(counts, 0.5)} · 95 % up to {quantile(counts, 0.95)} · longest {max(counts)}"


def ceil_share(n: int, highest: int) -> int:
    """A bar's length: none for nothing, at least one sign for something."""
    return -(-BAR * n // highest)


def quantile(counts: Counter[int], share: float) -> int:
    """The shortest length that this share of the rows does not exceed."""
    rest = share * counts.total()
    for length in sorted(counts):
        rest -= counts[length]
        if rest <= 0:
            return length
    return max(counts)


def counted(n: int, noun: str) -> str:
    return f"{n} {noun}" + ("" if n == 1 else "s")


def named(places: Sequence[str]) -> str:
    """``line 3, 7, 12 and 40 more``."""
    unit = places[0].split()[0]
    first = ", ".join(place.removeprefix(unit).strip() for place in places[:PLACES])
    return f"{unit} {first}" + (f" and {len(places) - PLACES} more" if len(places) > PLACES else "")
