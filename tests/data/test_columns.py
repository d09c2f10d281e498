"""Every format that is recognised, every fault that is told, and no row that brings anything else about."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from odd_cells import cells, odd_rows

from preferent.config import UsageError
from preferent.data.columns import FORMATS, Dialogue, Parsed, Plain, Unpaired, mapping, parse
from preferent.data.messages import parsed_hh
from preferent.data.rows import BadRow
from preferent.types import Comparison, Preference, Ranking


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def assistant(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


Q, A, B, C = user("q"), assistant("a"), assistant("b"), assistant("c")
PAIR = Preference(Comparison((Q,), ((A,), (B,))), (1.0, 0.0))


def noun(row: dict[str, Any], **how: Any) -> Any:
    return parse(row, **how).noun


def fault(row: dict[str, Any], **how: Any) -> str:
    with pytest.raises(BadRow) as error:
        parse(row, **how)
    return str(error.value)


def outcome(row: dict[str, Any], kind: Any) -> Parsed | BadRow:
    try:
        return parse(row, kind=kind)
    except BadRow as bad:
        return bad


# --- laws ----------------------------------------------------------------------------------------


@settings(max_examples=500, deadline=None)
@given(
    row=odd_rows,
    kind=st.sampled_from([None, "demonstrations", "preferences", "prompts", "unpaired"]),
)
def test_any_row_becomes_a_noun_or_a_bad_row_with_a_sentence(row: dict[str, Any], kind: Any) -> None:
    found = outcome(row, kind)
    if isinstance(found, BadRow):
        assert found.reason.strip()
        assert not found.reason.endswith(".")
    else:
        assert kind in (None, found.kind)


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_any_row_of_a_known_format_becomes_a_noun_or_a_bad_row(data: Any) -> None:
    which = data.draw(st.sampled_from(FORMATS))
    row = {column: data.draw(cells) for column in sorted(which.needs)}
    found = outcome(row, None)
    assert isinstance(found, Parsed) or found.fault


sayings = st.text(st.characters(codec="utf-8"), min_size=1, max_size=6).filter(lambda text: text.strip())


@st.composite
def dialogues(draw: Any) -> list[dict[str, str]]:
    pairs = draw(st.lists(st.tuples(sayings, sayings), min_size=1, max_size=3))
    return [message for a, b in pairs for message in (user(a), assistant(b))]


@settings(max_examples=100, deadline=None)
@given(dialogue=dialogues(), other=sayings)
def test_a_pair_means_the_same_in_every_format(dialogue: list[dict[str, str]], other: str) -> None:
    better = dialogue[-1]["content"]
    if better.strip() == other.strip():
        other += "!"
    prompt, worse = dialogue[:-1], [assistant(other)]
    expected = noun({"prompt": prompt, "chosen": dialogue[-1:], "rejected": worse})
    assert expected == Preference(Comparison(tuple(prompt), (tuple(dialogue[-1:]), tuple(worse))), (1.0, 0.0))
    assert noun({"prompt": prompt, "chosen": better, "rejected": other}) == expected
    assert noun({"chosen": dialogue, "rejected": [*prompt, *worse]}) == expected
    assert noun({"prompt": prompt, "chosen": dialogue, "rejected": [*prompt, *worse]}) == expected
    openai = {"input": {"messages": prompt}, "preferred_output": dialogue[-1:], "non_preferred_output": worse}
    assert noun(openai) == expected


@settings(max_examples=100, deadline=None)
@given(dialogue=dialogues())
def test_hh_strings_are_read_back_into_the_turns_that_they_were_written_from(dialogue: list[dict[str, str]]) -> None:
    heads = {"user": "\n\nHuman:", "assistant": "\n\nAssistant:"}
    text = "".join(f"{heads[message['role']]} {message['content']}" for message in dialogue)
    assert list(parsed_hh(text)) == [{**m, "content": m["content"].strip()} for m in dialogue]


@settings(max_examples=60, deadline=None)
@given(dialogue=dialogues())
def test_content_in_parts_is_content(dialogue: list[dict[str, str]]) -> None:
    apart = [
        {**m, "content": [{"type": "text", "text": m["content"][:1]}, {"type": "text", "text": m["content"][1:]}]}
        for m in dialogue
    ]
    assert parse({"messages": apart}) == parse({"messages": dialogue})


@settings(max_examples=60, deadline=None)
@given(ranks=st.lists(st.integers(-3, 9), min_size=2, max_size=6))
def test_ranks_keep_their_order_and_begin_at_0(ranks: list[int]) -> None:
    found = noun({"prompt": "q", "completions": [f"reply {i}" for i in range(len(ranks))], "ranks": ranks})
    assert isinstance(found, Ranking)
    assert set(found.ranks) == set(range(max(found.ranks) + 1))
    pairs = [(i, j) for i in range(len(ranks)) for j in range(len(ranks))]
    assert all((ranks[i] < ranks[j]) == (found.ranks[i] < found.ranks[j]) for i, j in pairs)


# --- formats -------------------------------------------------------------------------------------


def test_strings_become_turns_of_a_user_and_an_assistant() -> None:
    assert noun({"prompt": "q", "chosen": "a", "rejected": "b"}) == PAIR
    assert noun({"prompt": "q", "completion": "a"}) == Dialogue((Q,), (A,))
    assert noun({"prompt": "q", "completion": "a", "label": True}) == Unpaired((Q,), (A,), True)
    assert noun({"prompt": "q"}) == (Q,)
    assert noun({"text": "once upon a time"}) == Plain("once upon a time")


def test_a_conversation_is_a_demonstration_or_a_prompt_by_who_speaks_last() -> None:
    assert noun({"messages": [Q, A]}) == Dialogue((Q,), (A,))
    assert noun({"messages": [Q, A, user("r")]}) == (Q, A, user("r"))
    assert noun({"messages": [Q, A, user("r"), B]}) == Dialogue((Q,), (A, user("r"), B))
    assert noun({"messages": [assistant("Hello!"), Q, A]}) == Dialogue((assistant("Hello!"), Q), (A,))


def test_raw_hh_pairs_share_all_but_their_last_reply() -> None:
    row = {"chosen": "\n\nHuman: q\n\nAssistant: a", "rejected": "\n\nHuman: q\n\nAssistant: b"}
    assert noun(row) == PAIR
    assert noun({"prompt": "\n\nHuman: q\n\nAssistant:", "chosen": "a", "rejected": "b"}) == PAIR


def test_of_questions_in_turns_the_first_is_the_prompt() -> None:
    parsed = parse({"turns": ["q", "and then?"], "category": "writing"})
    assert parsed.noun == (Q,)
    assert parsed.info == {"category": "writing", "turns": ["q", "and then?"]}


def test_choice_strength_margin_and_annotator_are_taken_along() -> None:
    row = {"prompt": "q", "chosen": "a", "rejected": "b", "choice": 0.75, "strength": 2, "annotator": 7, "margin": 1.5}
    found = parse(row)
    assert found.noun == Preference(Comparison((Q,), ((A,), (B,))), (0.75, 0.25), "7", 2.0)
    assert found.info == {"margin": 1.5}
    assert noun({"prompt": "q", "chosen": "a", "rejected": "b", "margin": 1.5}).strength is None


def test_columns_of_no_format_stay_with_the_row() -> None:
    assert parse({"prompt": "q", "answer": 7, "id": None}).info == {"answer": 7, "id": None}


def test_a_column_without_a_value_is_not_there() -> None:
    row = {"prompt": "q", "chosen": None, "rejected": None, "completion": "a"}
    assert noun(row) == Dialogue((Q,), (A,))


def test_a_kind_that_is_asked_for_takes_the_format_that_has_it() -> None:
    row = {"prompt": "q", "chosen": "a", "rejected": "b"}
    assert parse(row, kind="prompts").info == {"chosen": "a", "rejected": "b"}
    assert "ends with an assistant's turn" in fault({"messages": [Q, A]}, kind="prompts")
    assert "ends before an assistant's turn" in fault({"messages": [Q]}, kind="demonstrations")
    assert "imitating all of them" in fault({"prompt": "q", "completion": "a", "label": False}, kind="demonstrations")


def test_openais_arguments_as_a_string_become_the_object_that_templates_want() -> None:
    call = {"type": "function", "function": {"name": "look", "arguments": '{"where": "here"}'}}
    row = {
        "messages": [
            Q,
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "content": "x"},
            A,
        ]
    }
    reply = noun(row).reply
    assert reply[0]["content"] == ""
    assert reply[0]["tool_calls"][0]["function"]["arguments"] == {"where": "here"}
    assert call["function"]["arguments"] == '{"where": "here"}'


def test_the_developers_role_is_the_systems_newer_name() -> None:
    assert noun({"messages": [{"role": "developer", "content": "Be."}, Q]})[0]["role"] == "system"


# --- names of columns ----------------------------------------------------------------------------


def test_a_misspelt_column_is_told_with_what_was_meant() -> None:
    told = fault({"prompt": "q", "choosen": "a", "rejected": "b"})
    assert told.startswith(
        'column "choosen" is not known here (did you mean "chosen"?).\nExpected one of: prompt + chosen'
    )
    assert "prompt + chosen + rejected" in fault({"prompt": "q", "choosen": "a", "rejected": "b"}, kind="preferences")
    assert 'did you mean "messages"' in fault({"message": [Q, A]}, kind="demonstrations")


def test_a_missing_column_is_told_beside_those_that_are_there() -> None:
    assert 'a missing column: no "rejected" beside "chosen", "prompt"' in fault({"prompt": "q", "chosen": "a"})
    assert 'no known columns: got "instruction", "output"' in fault({"instruction": "q", "output": "a"})
    assert "prompt is null" in fault({"prompt": None})
    assert "none with a value" in fault({"instruction": None})
    assert "none with a value" in fault({})


def test_columns_may_have_other_names() -> None:
    renamed = mapping(["prompt=question", "chosen=rejected", "rejected=chosen"])
    found = parse({"question": "q", "chosen": "b", "rejected": "a", "id": 1}, columns=renamed)
    assert found.noun == PAIR
    assert found.info == {"id": 1}
    told = fault({"questoin": "q", "chosen": "a", "rejected": "b"}, columns={"prompt": "question"})
    assert 'a missing column: "question", given as prompt, is not there (did you mean "questoin"?)' in told


def test_a_mapping_to_a_name_that_means_nothing_is_refused() -> None:
    with pytest.raises(UsageError, match=r"'choosen' means nothing here \(did you mean \"chosen\"\?\)"):
        parse({"prompt": "q"}, columns={"choosen": "better"})
    with pytest.raises(UsageError, match=r"^--columns: expected .* chosen=better"):
        mapping(["chosen"])


# --- faults of rows ------------------------------------------------------------------------------

CALLED = {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "f"}}]}
FAULTS = [
    ({"prompt": "q", "chosen": "a", "rejected": " a\n"}, "chosen and rejected are equal"),
    ({"chosen": [Q, A], "rejected": [Q, A]}, "chosen and rejected are equal"),
    ({"prompt": "q", "chosen": " ", "rejected": "a"}, "an empty reply: chosen"),
    ({"prompt": "q", "chosen": "a", "rejected": [assistant("")]}, "an empty reply: rejected"),
    ({"prompt": "q", "completion": [A, user("r"), assistant("")]}, "an empty reply: completion, turn 3 (assistant)"),
    ({"prompt": " ", "chosen": "a", "rejected": "b"}, "an empty prompt: prompt"),
    ({"prompt": [], "chosen": "a", "rejected": "b"}, "an empty conversation: prompt"),
    (
        {"prompt": [{"role": "system", "content": "x"}], "completion": "a"},
        "an empty prompt: prompt has no turn of a user",
    ),
    ({"prompt": [Q, A]}, "roles that make no sense: prompt ends with an assistant's turn"),
    ({"prompt": "q", "completion": [Q]}, "roles that make no sense: completion begins with a turn of user"),
    ({"prompt": "q", "completion": [A, Q]}, "roles that make no sense: completion ends with a turn of user"),
    ({"prompt": "q", "completion": [A, B]}, "two assistant's turns in a row (turns 1 and 2)"),
    ({"messages": [Q, {"role": "tool", "content": "x"}, A]}, "turn 2 is a tool's, but nobody called it"),
    ({"messages": [{"role": "narrator", "content": "x"}, A]}, 'an unknown role: messages, turn 1 has "narrator"'),
    ({"messages": [A]}, "an empty prompt"),
    ({"messages": ["q"]}, "not a message: messages, turn 1 is a string"),
    ({"messages": "q"}, "not a conversation: messages is a string"),
    ({"messages": [{"role": "user", "content": 3}]}, "content that is no text: messages, turn 1 has a number"),
    ({"messages": [{"role": "user", "content": [{"type": "image"}]}]}, "a part of type 'image'"),
    ({"messages": [{"role": "user", "content": "\ud800"}]}, "text that is not Unicode: messages, turn 1 holds \\ud800"),
    ({"messages": [Q, CALLED | {"tool_calls": "f"}]}, "tool calls that cannot be read"),
    ({"messages": [Q, CALLED | {"tool_calls": [{}]}]}, "a call without the name of a function"),
    ({"chosen": [Q, A], "rejected": [user("r"), B]}, "different prompts: chosen and rejected differ in turn 1"),
    (
        {"chosen": [Q, A, user("r"), B], "rejected": [Q, A, user("s"), C]},
        "different prompts: chosen and rejected differ in turn 3",
    ),
    ({"chosen": [Q, A], "rejected": [Q, A, user("r"), B]}, "roles that make no sense: behind turn 2"),
    ({"chosen": [A], "rejected": [B]}, "different prompts: chosen and rejected differ from their first turn on"),
    ({"prompt": "q", "chosen": "a", "rejected": "b", "choice": 1.5}, "a choice that is no probability: 1.5"),
    ({"prompt": "q", "chosen": "a", "rejected": "b", "choice": "yes"}, "not a number: choice is 'yes'"),
    ({"prompt": "q", "chosen": "a", "rejected": "b", "strength": 10**400}, "not a number: strength is 1000"),
    ({"prompt": "q", "completions": ["a", "b"], "ranks": [1]}, "there are 2 completions and 1 ranks"),
    ({"prompt": "q", "completions": ["a"], "ranks": [1]}, "it takes two completions, got 1"),
    ({"prompt": "q", "completions": "ab", "ranks": [1, 2]}, "completions is a string, expected a list"),
    ({"prompt": "q", "completions": ["a", "b"], "ranks": [1, None]}, "not a number: ranks is None"),
    ({"prompt": "q", "completions": ["a", "b", "a "], "ranks": [0, 1, 2]}, "equal completions: 1 and 3"),
    ({"prompt": "q", "completion": "a", "label": "good"}, "a label that is neither true nor false"),
    ({"text": "  "}, "an empty text"),
    ({"turns": []}, "an empty prompt: turns"),
]


@pytest.mark.parametrize(("row", "reason"), FAULTS, ids=[f"{i}: {reason}" for i, (_, reason) in enumerate(FAULTS)])
def test_a_row_that_cannot_be_used_says_why(row: dict[str, Any], reason: str) -> None:
    assert reason in fault(row)


def test_reasons_of_rows_with_the_same_trouble_share_what_stands_before_the_colon() -> None:
    faults = []
    for column in ("chosen", "rejected"):
        with pytest.raises(BadRow) as error:
            parse({"prompt": "q", "chosen": "a", "rejected": "b", column: " "})
        faults.append(error.value.fault)
    assert faults == ["an empty reply", "an empty reply"]


def test_what_is_read_is_not_written_into() -> None:
    row = {"messages": [{**Q}, {"role": "assistant", "content": "a", "name": None}], "id": 1}
    before = json.dumps(row)
    parse(row)
    assert json.dumps(row) == before
