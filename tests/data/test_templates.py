"""Laws of the way from messages to tokens, over chat templates in the shapes that are met in practice."""

import logging
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from shapes import CHATML, CHATML_MARKED, TEMPLATES, tokenizer_with

from preferent.config import UsageError
from preferent.data.columns import Unpaired
from preferent.data.rendering import DEFAULT_TEMPLATE
from preferent.data.rows import BadRow
from preferent.data.template import Template, TooLong
from preferent.types import Comparison, Preference, Ranking

# What each template writes for an assistant's content, and whether it takes a system's message.
SAYS = {
    "ChatML": "{}<|im_end|>",
    "ChatML, marked": "{}<|im_end|>",
    "ChatML, marked without the end": "{}<|im_end|>",
    "Llama 3": "{}<|eot_id|>",
    "Mistral": " {}</s>",
    "Gemma": "{}<end_of_turn>",
    "Zephyr": "{}</s>",
    "dated": "{}<|im_end|>",
}
TRIMMED = ("Llama 3", "Gemma")
KINDS = ("byte_level", "word_level", "sentence_pieces")

words = st.lists(st.sampled_from([*"ab \n:.?é漢🙂", "hello", "assistant", "user\n"]), min_size=1, max_size=8).map(
    "".join
)
said = words.filter(lambda text: text.strip() != "")
maybe_system = st.one_of(st.none(), said)


@st.composite
def conversations(draw: Any) -> tuple[dict[str, str], ...]:
    """A user and an assistant in turns, the assistant last, at times with a system's message before."""
    system, turns = draw(maybe_system), draw(st.lists(said, min_size=1, max_size=3))
    first = [{"role": "system", "content": system}] if system is not None else []
    pairs = [({"role": "user", "content": turn}, {"role": "assistant", "content": draw(said)}) for turn in turns]
    return (*first, *(message for pair in pairs for message in pair))


def template_for(name: str, kind: str = "byte_level", **options: Any) -> Template:
    return Template(tokenizer_with(TEMPLATES[name], kind), merge_system=name == "Gemma", **options)


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def assistant(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


def given_to_a_sampler(template: Template, messages: Any) -> tuple[int, ...]:
    """What transformers itself makes of a prompt."""
    return tuple(
        template.tokenizer.apply_chat_template(
            list(messages), chat_template=template.source, add_generation_prompt=True, tokenize=True, return_dict=False
        )
    )


def text_of(template: Template, tokens: Any) -> str:
    return str(template.tokenizer.decode(list(tokens), skip_special_tokens=False))


def start_of(messages: Any) -> int:
    return next(i for i, message in enumerate(messages) if message["role"] == "assistant")


# --- laws ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", sorted(SAYS))
@settings(max_examples=25, deadline=None)
@given(messages=conversations())
def test_a_prompt_has_the_tokens_that_a_sampler_is_given(name: str, kind: str, messages: Any) -> None:
    template = template_for(name, kind)
    start = start_of(messages)
    expected = given_to_a_sampler(template_for(name, kind), asked(name, messages[:start]))
    assert template.prompt(messages[:start]).tokens == expected
    assert template.demonstration(messages).prompt.tokens == expected
    last = template_for(name, kind, learn="last").demonstration(messages)
    assert last.prompt.tokens == given_to_a_sampler(template, asked(name, messages[:-1]))


def asked(name: str, messages: Any) -> Any:
    if name == "Gemma" and messages[0]["role"] == "system":
        return [user(messages[0]["content"] + "\n\n" + messages[1]["content"]), *messages[2:]]
    return messages


@pytest.mark.parametrize("name", sorted(SAYS))
@settings(max_examples=40, deadline=None)
@given(messages=conversations())
def test_exactly_what_the_assistant_says_is_learned_with_its_end_token(name: str, messages: Any) -> None:
    template = template_for(name)
    reply = template.demonstration(messages).reply
    learned = [token for token, learn in zip(reply.tokens, reply.learn, strict=True) if learn]
    contents = [message["content"] for message in messages if message["role"] == "assistant"]
    contents = [text.strip() for text in contents] if name in TRIMMED else contents
    assert text_of(template, learned) == "".join(SAYS[name].format(text) for text in contents)
    assert reply.learn[-1]
    assert reply.tokens[-1] in template.end_tokens


@pytest.mark.parametrize("name", sorted(SAYS))
@settings(max_examples=25, deadline=None)
@given(messages=conversations())
def test_prompt_and_reply_together_are_the_whole_text_up_to_the_last_end_token(name: str, messages: Any) -> None:
    template = template_for(name)
    row = template.demonstration(messages)
    whole = text_of(template, row.prompt.tokens + row.reply.tokens)
    assert template.render(messages).startswith(whole)
    assert template.render(messages)[len(whole) :].strip() == ""


@pytest.mark.parametrize("other", ["ChatML, marked", "ChatML, marked without the end"])
@settings(max_examples=40, deadline=None)
@given(messages=conversations())
def test_masks_do_not_depend_on_whether_the_template_has_marks(other: str, messages: Any) -> None:
    row, plain = template_for(other).demonstration(messages), template_for("ChatML").demonstration(messages)
    assert (row.prompt.tokens, row.reply) == (plain.prompt.tokens, plain.reply)


@pytest.mark.parametrize("name", sorted(SAYS))
@settings(max_examples=25, deadline=None)
@given(messages=conversations(), others=st.lists(said, min_size=2, max_size=4, unique_by=str.strip))
def test_all_replies_of_a_comparison_stand_behind_the_tokens_of_one_prompt(
    name: str, messages: Any, others: list[str]
) -> None:
    template, prompt = template_for(name), messages[:-1]
    options = tuple((assistant(text),) for text in others)
    ranking = template.ranking(Ranking(Comparison(prompt, options), tuple(range(len(others)))))
    assert ranking.comparison.context.tokens == given_to_a_sampler(template, asked(name, prompt))
    for text, option, reply in zip(others, options, ranking.comparison.options, strict=True):
        alone = template_for(name, learn="last").demonstration((*prompt, *option))
        assert (alone.prompt.tokens, alone.reply) == (ranking.comparison.context.tokens, reply)
        assert reply.text == text


@settings(max_examples=60, deadline=None)
@given(messages=conversations(), limit=st.integers(1, 60), truncation=st.sampled_from(["drop", "left", "error"]))
def test_a_row_is_never_longer_than_allowed_and_a_reply_never_cut(messages: Any, limit: int, truncation: Any) -> None:
    whole = template_for("Llama 3").demonstration(messages)
    template = template_for("Llama 3", max_length=limit, truncation=truncation)
    length = len(whole.prompt.tokens) + len(whole.reply.tokens)
    try:
        row = template.demonstration(messages)
    except TooLong:
        assert length > limit
        assert truncation != "left" or len(whole.reply.tokens) + 2 > limit
        return
    assert row.reply == whole.reply
    assert len(row.prompt.tokens) == min(len(whole.prompt.tokens), limit - len(row.reply.tokens))
    assert row.prompt.tokens[0] == template.tokenizer.bos_token_id
    assert whole.prompt.tokens[-len(row.prompt.tokens) + 1 :] == row.prompt.tokens[1:] or len(row.prompt.tokens) == 1


@settings(max_examples=60, deadline=None)
@given(text=said)
def test_decoding_a_reply_gives_back_its_content(text: str) -> None:
    template = template_for("ChatML")
    reply = template.demonstration((user("hello"), assistant(text))).reply
    assert template.decode(reply.tokens) == text


@settings(max_examples=20, deadline=None)
@given(messages=conversations())
def test_the_header_of_a_reply_is_never_its_own_even_when_a_mark_begins_before_it(messages: Any) -> None:
    marked = template_for("ChatML, marked with the header").demonstration(messages)
    plain = template_for("ChatML").demonstration(messages)
    assert (marked.prompt.tokens, marked.reply) == (plain.prompt.tokens, plain.reply)


# --- borders between tokens ----------------------------------------------------------------------


def test_a_token_that_would_straddle_prompt_and_reply_is_cut_where_sampling_cuts_it() -> None:
    r"""``assistant\n`` + ``\n\nhello``: in one text the first two line breaks are one token, which no sampler sees."""
    template = template_for("ChatML")
    messages = (user("hello"), assistant("\n\nhello"))
    together = template.tokens(template.render(messages))
    row = template.demonstration(messages)
    assert row.prompt.tokens == given_to_a_sampler(template, messages[:1])
    assert together[: len(row.prompt.tokens)] != row.prompt.tokens
    assert row.prompt.tokens + row.reply.tokens != together[: len(row.prompt.tokens + row.reply.tokens)]
    assert template.decode(row.reply.tokens) == "\n\nhello"


def test_a_token_that_would_straddle_a_later_turns_border_is_cut_there_as_well() -> None:
    template = template_for("ChatML")
    messages = (
        user("hello"),
        assistant("you"),
        user("how"),
        assistant("\n\nwell"),
        user("are"),
        assistant("\n\n\nI am"),
    )
    row = template.demonstration(messages)
    together = template.tokens(template.render(messages).rstrip())
    assert row.prompt.tokens + row.reply.tokens != together
    learned = [token for token, learn in zip(row.reply.tokens, row.reply.learn, strict=True) if learn]
    assert text_of(template, learned) == "you<|im_end|>\n\nwell<|im_end|>\n\n\nI am<|im_end|>"


# --- what ends a reply ---------------------------------------------------------------------------


def test_a_template_without_end_tokens_gets_the_tokenizers_behind_its_last_reply() -> None:
    template = template_for("no end")
    row = template.demonstration((user("hello"), assistant("you"), user("how"), assistant("well")))
    assert text_of(template, row.prompt.tokens) == "user: hello\nassistant:"
    assert text_of(template, row.reply.tokens) == " you\nuser: how\nassistant: well</s>"
    learned = [token for token, learn in zip(row.reply.tokens, row.reply.learn, strict=True) if learn]
    assert text_of(template, learned) == " you well</s>"


def test_the_end_tokens_are_the_tokenizers_and_the_templates() -> None:
    assert texts(template_for("Llama 3")) == {"</s>", "<|eot_id|>"}
    assert texts(template_for("ChatML")) == {"</s>", "<|im_end|>"}
    assert texts(template_for("Zephyr")) == {"</s>"}
    assert texts(template_for("no end")) == {"</s>"}
    assert texts(Template(tokenizer_with(CHATML, eos_token=""))) == {"<|im_end|>"}


def texts(template: Template) -> set[str]:
    return {text_of(template, [token]) for token in template.end_tokens}


def test_a_tokenizer_without_any_end_token_is_refused_with_a_way_out() -> None:
    with pytest.raises(UsageError, match=r"no end token.*Pass end_token"):
        Template(tokenizer_with(TEMPLATES["no end"], eos_token=""))
    with pytest.raises(UsageError, match=r"no end token"):
        Template(tokenizer_with(None, eos_token=""))
    template = Template(tokenizer_with(TEMPLATES["no end"], eos_token=""), end_token="<|im_end|>")  # noqa: S106  no password
    assert texts(template) == {"<|im_end|>"}
    assert text_of(template, template.demonstration((user("a"), assistant("b"))).reply.tokens) == " b<|im_end|>"


def test_an_end_token_that_the_tokenizer_does_not_have_is_refused() -> None:
    with pytest.raises(UsageError, match=r"'<end>' is not in the tokenizer's vocabulary"):
        Template(tokenizer_with(CHATML), end_token="<end>")  # noqa: S106  no password


# --- templates with ways of their own ------------------------------------------------------------


def test_a_tokenizer_without_a_template_gets_one_and_says_so(caplog: Any) -> None:
    with caplog.at_level(logging.WARNING):
        template = Template(tokenizer_with(None))
    row = template.demonstration((user("hello"), assistant("you"), user("how"), assistant("well")))
    assert text_of(template, row.prompt.tokens) == "User:\nhello\n\nAssistant:\n"
    assert text_of(template, row.reply.tokens) == "you</s>\n\nUser:\nhow\n\nAssistant:\nwell</s>"
    assert row.prompt.tokens == given_to_a_sampler(template, [user("hello")])
    assert template.source == DEFAULT_TEMPLATE
    Template(tokenizer_with(None))
    assert sum("no chat template" in message for message in caplog.messages) <= 1


def test_a_template_that_changes_earlier_turns_is_refused_for_several_turns_and_taken_for_the_last() -> None:
    messages = (user("hello"), assistant("you"), user("how"), assistant("well"))
    with pytest.raises(BadRow, match=r"turns that change later") as error:
        template_for("Qwen 3").demonstration(messages)
    assert 'learn="last"' in str(error.value)
    row = template_for("Qwen 3", learn="last").demonstration(messages)
    assert text_of(template_for("Qwen 3"), row.reply.tokens) == "<think>\n\n</think>\n\nwell<|im_end|>"
    assert row.prompt.tokens == given_to_a_sampler(template_for("Qwen 3"), messages[:-1])


def test_variables_reach_the_template_from_the_options_and_from_a_rows_own_column() -> None:
    messages = (user("hello"), assistant("you"))
    quiet = template_for("Qwen 3", options={"enable_thinking": False}).demonstration(messages)
    assert text_of(template_for("Qwen 3"), quiet.reply.tokens) == "you<|im_end|>"
    own = template_for("Qwen 3").demonstration(messages, {"chat_template_kwargs": {"enable_thinking": False}})
    assert own.prompt.tokens == quiet.prompt.tokens


def test_a_template_whose_header_is_not_in_its_training_text_is_refused() -> None:
    with pytest.raises(BadRow, match=r"a prompt that changes with its reply.*'<think>.*becomes 'you"):
        template_for("R1").demonstration((user("hello"), assistant("you")))


def test_a_template_that_looks_at_the_reply_while_it_writes_the_prompt_is_refused() -> None:
    comparison = Comparison((user("hello"),), ((assistant("yes"),), (assistant("certainly"),)))
    with pytest.raises(BadRow, match="a prompt that changes with its reply"):
        template_for("looks ahead").preference(Preference(comparison, (1.0, 0.0)))


def test_a_template_that_refuses_a_conversation_is_quoted() -> None:
    with pytest.raises(BadRow, match="refuses this conversation: Conversation roles must alternate"):
        template_for("Mistral").prompt((user("hello"), user("you")))
    with pytest.raises(BadRow, match="System role not supported") as error:
        Template(tokenizer_with(TEMPLATES["Gemma"])).prompt(({"role": "system", "content": "Be."}, user("hello")))
    assert "merge_system" in str(error.value)


def test_todays_date_in_a_template_stands_still() -> None:
    template = template_for("dated", date="2025-02-03")
    text = text_of(template, template.prompt((user("hello"),)).tokens)
    assert text.startswith("<|im_start|>system\n03 Feb 2025<|im_end|>")


def test_a_system_prompt_is_put_before_conversations_that_have_none() -> None:
    template = template_for("ChatML", system="Be kind.")
    mine = ({"role": "system", "content": "Be curt."}, user("hello"))
    assert text_of(template, template.prompt((user("hello"),)).tokens).startswith("<|im_start|>system\nBe kind.")
    assert text_of(template, template.prompt(mine).tokens).startswith("<|im_start|>system\nBe curt.")
    assert template.prompt((user("hello"),)).info["messages"][0]["content"] == "Be kind."


def test_replies_that_differ_only_in_spaces_which_the_template_trims_are_equal() -> None:
    comparison = Comparison((user("hello"),), ((assistant("yes"),), (assistant("yes "),)))
    with pytest.raises(BadRow, match="equal replies"):
        template_for("Llama 3").preference(Preference(comparison, (1.0, 0.0)))


def test_the_beginning_of_text_is_kept_when_the_prompts_left_end_is_cut() -> None:
    template = template_for("Llama 3", max_length=12, truncation="left")
    row = template.demonstration((user("hello how are you " * 5), assistant("well")))
    assert row.prompt.tokens[0] == template.tokenizer.bos_token_id
    assert len(row.prompt.tokens) + len(row.reply.tokens) == 12
    assert text_of(template, row.prompt.tokens).endswith("assistant<|end_header_id|>\n\n")


def test_both_replies_of_a_pair_get_the_prompt_that_is_cut_for_the_longer_one() -> None:
    template = template_for("Llama 3", max_length=20, truncation="left")
    comparison = Comparison((user("hello how are you " * 5),), ((assistant("I"),), (assistant("I am well" * 2),)))
    pair = template.preference(Preference(comparison, (1.0, 0.0))).comparison
    assert len(pair.context.tokens) + max(len(reply.tokens) for reply in pair.options) == 20


def test_a_prompt_alone_is_bounded_too() -> None:
    with pytest.raises(TooLong, match=r"too long: \d+ tokens, and max_length is 3"):
        template_for("ChatML", max_length=3).prompt((user("hello"),))
    assert len(template_for("ChatML", max_length=3, truncation="left").prompt((user("hello"),)).tokens) == 3


TOOLS_WRITTEN = CHATML.replace(
    "message['content'] +",
    "message['content'] + (message['tool_calls'][0]['function'] | tojson if message['tool_calls'] else '') +",
)
CALL = {"role": "assistant", "content": "", "tool_calls": [{"type": "function", "function": {"name": "look"}}]}


def test_tools_and_their_calls_go_through_a_template_that_writes_them() -> None:
    listing = "{% if tools %}{{ tools[0]['name'] }}{% endif %}"
    template = Template(tokenizer_with(listing + TOOLS_WRITTEN))
    messages = (user("hello"), CALL, {"role": "tool", "content": "it"}, assistant("well"))
    row = template.demonstration(messages, {"tools": [{"name": "look"}]})
    assert text_of(template, row.prompt.tokens).startswith("look<|im_start|>user")
    learned = [token for token, learn in zip(row.reply.tokens, row.reply.learn, strict=True) if learn]
    assert text_of(template, learned) == '{"name": "look"}<|im_end|>well<|im_end|>'


def test_a_template_that_leaves_out_tool_calls_is_refused_rather_than_learned_as_silence() -> None:
    messages = (user("hello"), CALL, {"role": "tool", "content": "it"}, assistant("well"))
    with pytest.raises(BadRow, match="tool calls that are not written"):
        template_for("ChatML").demonstration(messages)


@pytest.mark.parametrize("tools", ["no JSON", [1], {"name": "look"}])
def test_tools_that_cannot_be_read_are_a_bad_row(tools: Any) -> None:
    with pytest.raises(BadRow, match="tools that cannot be read"):
        template_for("ChatML").prompt((user("hello"),), {"tools": tools})


def test_text_without_turns_is_learned_behind_its_first_token_and_ends() -> None:
    template = template_for("ChatML")
    row = template.plain("hello world")
    assert text_of(template, row.prompt.tokens + row.reply.tokens) == "hello world</s>"
    assert len(row.prompt.tokens) == 1
    assert all(row.reply.learn)


def test_a_tokenizer_written_in_python_serves_as_well() -> None:
    """ByT5's, bytes plus 3: it knows no offsets, which borders are not found by."""
    from transformers import ByT5Tokenizer

    template = Template(ByT5Tokenizer(), chat_template=TEMPLATES["no end"])
    row = template.demonstration((user("hello"), assistant("you"), user("how"), assistant("well")))
    assert row.prompt.tokens == tuple(byte + 3 for byte in b"user: hello\nassistant:")
    assert row.reply.tokens == (*(byte + 3 for byte in b" you\nuser: how\nassistant: well"), 1)
    assert row.reply.learn == (True,) * 4 + (False,) * 21 + (True,) * 6


def test_an_unpaired_reply_keeps_its_label() -> None:
    template = template_for("ChatML")
    row = template.unpaired(Unpaired((user("hello"),), (assistant("you"),), False))
    assert row.good is False
    assert text_of(template, row.option.tokens) == "you<|im_end|>"


def test_other_columns_and_the_messages_stay_with_the_prompt() -> None:
    prompt = template_for("ChatML").prompt((user("hello"),), {"answer": 7})
    assert prompt.info == {"answer": 7, "messages": (user("hello"),)}


def test_a_template_given_as_an_option_wins_over_the_tokenizers() -> None:
    template = Template(tokenizer_with(TEMPLATES["Zephyr"]), chat_template=CHATML_MARKED)
    assert (
        text_of(template, template.prompt((user("a"),)).tokens)
        == "<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\n"
    )
