"""From messages to tokens and masks, with a Hugging Face tokenizer and its chat template.

The law: a prompt's tokens are what a sampler is given, ``apply_chat_template(prompt, add_generation_prompt=True)``,
whatever reply follows. So the whole text is tokenised at once, and where a token would straddle the border between
prompt and reply, the two are tokenised apart, as sampling sees them. Behind the reply's end token nothing is kept.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from itertools import pairwise
from typing import Any, Literal

from preferent.config import UsageError
from preferent.data.columns import Dialogue, Parsed, Plain, Unpaired
from preferent.data.messages import Messages
from preferent.data.rendering import (
    DEFAULT_TEMPLATE,
    GENERATION_MARK,
    PROBE,
    Written,
    merged,
    pinned,
    refused,
    tail_of,
    variables,
    written,
)
from preferent.data.rows import BadRow, Row
from preferent.types import Comparison, Demonstration, Preference, Prompt, Ranking, Reply

logger = logging.getLogger(__name__)

Info = Mapping[str, Any]
Tokens = tuple[int, ...]
AnyMessages = Messages | Sequence[Mapping[str, Any]]
Noun = Prompt | Demonstration | Preference[Prompt, Reply] | Ranking[Prompt, Reply] | Unpaired[Prompt, Reply]
NOTHING: Info = {}


class TooLong(BadRow):
    """A row of more tokens than ``max_length``. Where rows are to be dropped, it is counted and not an error."""

    def __init__(self, reason: str, *, tokens: int, limit: int, **place: Any) -> None:
        super().__init__(reason, **place)
        self.tokens, self.limit = tokens, limit

    def at(self, row: Row) -> TooLong:
        place = {"source": row.source, "line": row.line, "unit": row.unit, "raw": row.raw}
        return TooLong(self.reason, tokens=self.tokens, limit=self.limit, hint=self.hint, **place)


@dataclass(frozen=True)
class Template:
    """How conversations become tokens. ``max_length`` bounds a prompt with its longest reply, or a prompt alone.

    ``truncation``: "drop" and "error" raise ``TooLong`` (a loader counts it, or stops); "left" cuts the prompt's left
    end, keeps a beginning-of-text token, and never cuts a reply. ``learn``: all turns of the assistant behind the
    first prompt, or only the last one, all before it being the prompt; it concerns demonstrations.
    """

    tokenizer: Any
    system: str | None = None  # put before conversations that have none
    learn: Literal["all", "last"] = "all"
    max_length: int | None = None  # tokens
    truncation: Literal["drop", "left", "error"] = "drop"
    chat_template: str | None = None  # in place of the tokenizer's own
    options: Info = field(default_factory=dict)  # variables of the chat template, such as enable_thinking
    merge_system: bool = False  # into the first user's turn, for templates that know no system
    end_token: str | None = None  # ends a reply where neither template nor tokenizer has a token for that
    remedy: str = ""  # what to do about a row that is too long, where a person has to be told
    date: str = "2024-07-26"  # for templates that write the day: the clock would make every run different

    def __post_init__(self) -> None:
        if self.end_token is not None and self.end_token not in self.tokenizer.get_vocab():
            raise UsageError(f"end_token: {self.end_token!r} is not in the tokenizer's vocabulary.")
        if self.chat_template is None and not self.tokenizer.chat_template:
            say_once("The tokenizer has no chat template: turns are written as User: …, Assistant: … and an end token.")
        if "strftime_now" in self.source:
            say_once(f"The chat template writes today's date; {self.date} stands in for it (option date).")
        _ = self.end  # a tokenizer without an end token is found here, not at row 1

    # --- nouns ---

    def tokenised(self, parsed: Parsed) -> Noun:
        """What a row says as text → the same in tokens. Raises BadRow where the template cannot take it."""
        noun, info = parsed.noun, parsed.info
        if isinstance(noun, Preference):
            return self.preference(noun, info)
        if isinstance(noun, Ranking):
            return self.ranking(noun, info)
        if isinstance(noun, Dialogue):
            return self.demonstration((*noun.prompt, *noun.reply), info, start=len(noun.prompt))
        if isinstance(noun, Plain):
            return self.plain(noun.text, info)
        return self.unpaired(noun, info) if isinstance(noun, Unpaired) else self.prompt(noun, info)

    def prompt(self, messages: AnyMessages, info: Info = NOTHING) -> Prompt:
        """What a sampler is given. Cut or refused when it alone is longer than ``max_length``."""
        asked = self.prepared(messages)
        return self.asked(self.tokens(self.render(asked, info, header=True)), asked, info, longest=0)

    def demonstration(self, messages: AnyMessages, info: Info = NOTHING, *, start: int | None = None) -> Demonstration:
        """A conversation whose reply begins at ``messages[start]``: the first turn of the assistant, if not said.

        Later turns of others stand in the reply, not learned from.
        """
        first = start if start is not None else next((i for i, m in enumerate(messages) if m["role"] == "assistant"), 0)
        at = len(messages) - 1 if self.learn == "last" else first
        prompt, (reply,) = self.group(tuple(messages[:at]), [tuple(messages[at:])], info)
        return Demonstration(prompt, reply)

    def plain(self, text: str, info: Info = NOTHING) -> Demonstration:
        """Text without turns, and an end token. Its first token is the prompt: nothing before it could predict it."""
        tokens = (*self.tokens(text, special=True), self.end)
        if tokens[-2:-1] == (self.end,):
            tokens = tokens[:-1]
        if len(tokens) < 2:
            raise BadRow("an empty text: the tokenizer makes no token of it")
        prompt = self.asked(tokens[:1], (), info, longest=len(tokens) - 1)
        return Demonstration(prompt, Reply(tokens[1:], (True,) * (len(tokens) - 1), text))

    def preference(self, said: Preference[Messages, Messages], info: Info = NOTHING) -> Preference[Prompt, Reply]:
        """Both replies behind one and the same prompt."""
        return Preference(
            self.comparison(said.comparison, info),
            said.choice,
            said.annotator,
            said.strength,
            said.both_bad,
            said.judgements,
        )

    def ranking(self, said: Ranking[Messages, Messages], info: Info = NOTHING) -> Ranking[Prompt, Reply]:
        """All replies behind one and the same prompt."""
        return Ranking(self.comparison(said.comparison, info), said.ranks, said.annotator, said.judgements)

    def unpaired(self, said: Unpaired[Messages, Messages], info: Info = NOTHING) -> Unpaired[Prompt, Reply]:
        prompt, (reply,) = self.group(said.context, [said.option], info)
        return Unpaired(prompt, reply, said.good)

    def comparison(self, said: Comparison[Messages, Messages], info: Info) -> Comparison[Prompt, Reply]:
        prompt, replies = self.group(said.context, said.options, info)
        if len({reply.tokens for reply in replies}) < len(replies):
            raise BadRow("equal replies: they differ as text, but not in the tokens that the template makes of them")
        return Comparison(prompt, tuple(replies))

    def decode(self, reply: Sequence[int]) -> str:
        """A reply's text, without special tokens and without what ended it."""
        said = list(reply)
        while said and said[-1] in self.end_tokens:
            said.pop()
        return str(self.tokenizer.decode(said, skip_special_tokens=True, clean_up_tokenization_spaces=False))

    # --- what ends a reply ---

    @cached_property
    def end_tokens(self) -> Tokens:
        """Every token that ends a reply: the tokenizer's, the template's, and ``end_token``."""
        own = self.tokenizer.eos_token_id
        listed = own if isinstance(own, list | tuple) else [own]
        return tuple(sorted({token for token in (*listed, self.end, self.end_of_turn) if token is not None}))

    @cached_property
    def end(self) -> int:
        """The token put behind a reply for which the template writes none."""
        if self.end_token is not None:
            return int(self.tokenizer.convert_tokens_to_ids(self.end_token))
        own = self.tokenizer.eos_token_id
        token = self.end_of_turn if own is None else own[0] if isinstance(own, list | tuple) else own
        if token is None:
            known = ", ".join(repr(text) for text in self.special_texts[:5]) or "a token of its vocabulary"
            raise UsageError(
                "The tokenizer has no end token (eos_token), and its chat template writes none behind a reply, so that "
                f"no reply could ever end. Pass end_token, such as {known}, or save the tokenizer with an eos_token."
            )
        return int(token)

    @cached_property
    def end_of_turn(self) -> int | None:
        """The token that the template itself writes behind a reply, if it writes one."""
        text = next((text for text in self.special_texts if self.tail.lstrip().startswith(text)), self.tail.strip())
        tokens = self.tokens(text)
        return tokens[0] if len(tokens) == 1 and tokens[0] in self.tokenizer.added_tokens_decoder else None

    @cached_property
    def end_texts(self) -> tuple[str, ...]:
        """What a turn may end with, longest first."""
        ends = {str(self.tokenizer.convert_ids_to_tokens(token)) for token in self.end_tokens}
        return tuple(sorted({*self.special_texts, *ends}, key=lambda text: (-len(text), text)))

    @cached_property
    def special_texts(self) -> tuple[str, ...]:
        added = self.tokenizer.added_tokens_decoder.values()
        return tuple(
            sorted({str(t.content) for t in added if t.special and t.content.strip()}, key=lambda t: (-len(t), t))
        )

    @cached_property
    def tail(self) -> str:
        """What the template writes behind a reply; nothing where it refuses so short a conversation."""
        try:
            return tail_of(self.render(PROBE))
        except BadRow:
            return ""

    # --- from messages to text ---

    @cached_property
    def source(self) -> str:
        """The chat template in use."""
        if self.chat_template is not None:
            return pinned(self.chat_template, self.date)
        if self.tokenizer.chat_template:
            return pinned(str(self.tokenizer.get_chat_template()), self.date)
        begins = self.tokens("", special=True)[:1] == (self.tokenizer.bos_token_id,)
        return ("{{ bos_token }}" if begins else "") + DEFAULT_TEMPLATE

    @cached_property
    def source_with_tools(self) -> str:
        """The chat template for rows with tools, where the tokenizer has a template of its own for these."""
        named = isinstance(self.tokenizer.chat_template, dict) and self.chat_template is None
        return pinned(str(self.tokenizer.get_chat_template(tools=[{}])), self.date) if named else self.source

    def prepared(self, messages: AnyMessages) -> Messages:
        """The messages with the system's, if one was given and they have none."""
        if self.system is None or (messages and messages[0]["role"] == "system"):
            return tuple(messages)
        return ({"role": "system", "content": self.system}, *messages)

    def render(self, messages: Messages, info: Info = NOTHING, *, header: bool = False) -> str:
        """The chat template's text; ``header``: up to where a reply begins."""
        return self.rendered(messages, info, header=header, marks=False)[0]

    def rendered(
        self, messages: Messages, info: Info, *, header: bool, marks: bool
    ) -> tuple[str, list[tuple[int, int]]]:
        """The text, and the characters that stand inside ``{% generation %}``."""
        from jinja2.exceptions import TemplateError
        from transformers.utils.chat_template_utils import render_jinja_template

        tools = tools_of(info)
        turns = merged(messages) if self.merge_system else messages
        if not turns:
            raise BadRow("an empty prompt: there is no message before the reply")
        known = {**self.tokenizer.special_tokens_map, **self.options, **variables(info)}
        if self.end_token is not None:
            known.setdefault("eos_token", self.end_token)
        try:
            texts, marked = render_jinja_template(
                conversations=[[{k: v for k, v in turn.items() if v is not None} for turn in turns]],
                tools=tools,
                chat_template=self.source_with_tools if tools else self.source,
                add_generation_prompt=header,
                return_assistant_tokens_mask=marks,
                **known,
            )
        except (
            TemplateError,
            ArithmeticError,
            AttributeError,
            LookupError,
            RecursionError,
            TypeError,
            ValueError,
        ) as error:
            raise refused(error) from error  # a template is a program of somebody's, and may stumble over anything
        return str(texts[0]), [(int(a), int(b)) for a, b in marked[0]] if marks else []

    # --- from text to tokens ---

    def group(self, prompt: Messages, replies: Sequence[Messages], info: Info) -> tuple[Prompt, list[Reply]]:
        """A prompt with the replies to it."""
        asked = self.prepared(prompt)
        text = self.render(asked, info, header=True)
        head = Head(text, self.tokens(text))
        encoded = [self.reply(asked, reply, info, head) for reply in replies]
        return self.asked(head.tokens, asked, info, longest=max(len(reply.tokens) for reply in encoded)), encoded

    def reply(self, prompt: Messages, reply: Messages, info: Info, head: Head) -> Reply:
        """What follows the prompt, ended by an end token."""
        if not reply or reply[-1]["role"] != "assistant":
            raise BadRow("nothing to learn from: the conversation does not end with an assistant's turn")
        said = self.written((*prompt, *reply), len(prompt), info, head)
        tokens, borders = self.split(said, head)
        if not said.spans[-1].ended:
            tokens = (*tokens, self.end)
        learned = [False] * len(tokens)
        for start, stop in zip(borders[::2], borders[1::2], strict=True):
            learned[start:stop] = [True] * (stop - start)
        learned[-1] = True
        n = len(head.tokens)
        text = str(reply[-1]["content"]) if len(reply) == 1 else said.text[said.prompt_length :]
        return Reply(tokens[n:], tuple(learned[n:]), text)

    def written(self, messages: Messages, start: int, info: Info, head: Head) -> Written:
        """The conversation as text, with what is to be learned from in it. Nothing is rendered twice."""
        known = {(start, True): head.text}

        def render(n: int, header: bool) -> str:
            if (n, header) not in known:
                known[n, header] = self.render(messages[:n], info, header=header)
            return known[n, header]

        marks = None
        if GENERATION_MARK.search(self.source_with_tools if tools_of(info) else self.source):
            known[len(messages), False], marks = self.rendered(messages, info, header=False, marks=True)
        return written(render, messages, start, ends=self.end_texts, tail=self.tail, marks=marks)

    def split(self, said: Written, head: Head) -> tuple[Tokens, list[int]]:
        """The text's tokens, and at which of them each span starts and ends: [start, end, start, end, …].

        A border is clean when the tokens up to it are those of the text up to it. Where they are not, a token straddles
        it, and what follows is tokenised apart.
        """
        tokens, since, borders = self.tokens(said.text), 0, list[int]()
        kept: Tokens = ()
        places = [said.prompt_length, *(place for span in said.spans for place in (span.start, span.end))]
        for before, place in pairwise([0, *places]):
            if place == len(said.text):
                borders.append(len(tokens))
                continue
            if place == before and borders:
                borders.append(borders[-1])
                continue
            known = head.tokens if not borders else kept + self.tokens(said.text[since:place])
            if tokens[: len(known)] != known:
                known = head.tokens if not borders else tokens[: borders[-1]] + self.tokens(said.text[before:place])
                kept, since = known, place
                tokens = known + self.tokens(said.text[place:])
            borders.append(len(known))
        return tokens, borders[1:]

    def asked(self, tokens: Tokens, messages: Messages, info: Info, *, longest: int) -> Prompt:
        """The prompt, cut to the room that its longest reply leaves it."""
        if not tokens:
            raise BadRow("an empty prompt: the tokenizer makes no token of it")
        total = len(tokens) + longest
        if self.max_length is not None and total > self.max_length:
            bos = tokens[:1] if tokens[0] == self.tokenizer.bos_token_id else ()
            room = self.max_length - longest - len(bos)
            if self.truncation != "left" or room < 1:
                said = f", of which the longest reply has {longest}" if longest else ""
                reason = f"too long: {total} tokens{said}, and max_length is {self.max_length}"
                raise TooLong(reason, tokens=total, limit=self.max_length, hint=self.remedy)
            tokens = (*bos, *tokens[-room:])
        return Prompt(tokens, {**info, "messages": messages})

    def tokens(self, text: str, *, special: bool = False) -> Tokens:
        """Tokens of a text; ``special``: with those that the tokenizer puts around it."""
        encoded = self.tokenizer(text, add_special_tokens=special, return_attention_mask=False, verbose=False)
        return tuple(encoded["input_ids"])


@dataclass(frozen=True, slots=True)
class Head:
    """A prompt as text and as tokens: both are what a sampler is given."""

    text: str
    tokens: Tokens


@cache
def say_once(message: str) -> None:
    logger.warning(message)


def tools_of(info: Info) -> list[Any] | None:
    """The functions that a row's assistant may call: its column ``tools``, a list or the JSON of one."""
    tools = info.get("tools")
    if isinstance(tools, str) and tools.strip():
        try:
            tools = json.loads(tools)
        except (ValueError, RecursionError) as error:
            raise BadRow(f"tools that cannot be read: not JSON: {error}") from error
    if not tools:
        return None
    if not isinstance(tools, list) or not all(isinstance(tool, dict) for tool in tools):
        raise BadRow("tools that cannot be read: expected a list of JSON schemas")
    return tools
