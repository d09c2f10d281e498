"""What `preferent data check` finds in a file, and how it says it."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from shapes import CHATML, TEMPLATES, tokenizer_with

from preferent.data.check import AGAIN, CONTROL, TWO_SPEAK, check, quantile, remarks
from preferent.data.template import Template


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


TABLE = [
    {"prompt": "hello", "chosen": "I am well", "rejected": "how", "id": 1},
    {"prompt": " Hello", "chosen": "I am  WELL", "rejected": "how"},
    {"prompt": [user("a"), user("b")], "chosen": "I", "rejected": "am <|im_end|>"},
    {"prompt": "q", "completion": "a"},
    {"prompt": "q", "chosen": "", "rejected": "b"},
    {"prompt": "q", "chosen": "b", "rejected": "b"},
    {"prompt": "q", "choosen": "a", "rejected": "b"},
]


@pytest.fixture
def source(tmp_path: Path) -> str:
    path = tmp_path / "prefs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in TABLE) + "{broken\n")
    return str(path)


def test_rows_are_counted_by_format_and_bad_ones_by_fault(source: str) -> None:
    found = check(source)
    assert found.rows == 8
    assert found.formats == {"prompt + chosen + rejected": 3, "prompt + completion": 1}
    assert dict(found.faults) == {
        "an empty reply": ["line 5"],
        "chosen and rejected are equal": ["line 6"],
        'column "choosen" is not known here (did you mean "chosen"?)': ["line 7"],
        "not JSON": ["line 8"],
    }
    assert (found.bad, found.verdict, found.duplicates) == (4, 1, 1)
    assert found.columns["id"] == 1
    assert (found.pairs, found.longer_chosen, len(found.prompts)) == (3, 2, 3)


def test_what_is_odd_but_can_be_used_is_noted(source: str) -> None:
    found = check(source, tokenizer_with(CHATML))
    assert dict(found.notes) == {
        AGAIN: ["line 2"],
        TWO_SPEAK: ["line 3"],
        CONTROL: ["line 3"],
    }
    assert found.lengths["prompt and longest reply, tokens"].total() == 4
    assert found.lengths["reply, tokens"].total() == 7


def test_the_report_names_lines_reasons_and_what_is_expected(source: str) -> None:
    text = check(source, tokenizer_with(CHATML)).render()
    assert "4 rows of 8 cannot be used" in text
    assert "not JSON: line 8" in text
    assert "Expected one of: prompt + chosen + rejected" in text
    assert "the chosen reply is the longer one in 67% of 3" in text
    assert "a reply ends with '</s>', '<|im_end|>'" in text
    assert "more than one format" in text
    assert "█" in text


def test_a_file_without_faults_gets_a_good_verdict(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps(TABLE[0]) + "\n")
    found = check(path)
    assert found.verdict == 0
    assert found.render().splitlines()[-1] == "every row can be used"


def test_what_the_rows_are_meant_for_decides_which_are_good(source: str) -> None:
    assert check(source, kind="prompts").formats == {"prompt": 7}
    assert check(source, kind="demonstrations").formats == {"prompt + completion": 1}


def test_columns_with_other_names_are_checked_under_ours(source: str) -> None:
    found = check(source, columns={"chosen": "choosen"})
    assert found.formats == {"prompt + chosen + rejected": 1}


def test_rows_that_a_template_cannot_take_are_bad_and_long_ones_noted(source: str) -> None:
    refused = check(source, tokenizer_with(TEMPLATES["Mistral"]))
    assert refused.faults["the chat template refuses this conversation"] == ["line 3"]
    long = check(source, template=Template(tokenizer_with(CHATML), max_length=3))
    assert long.notes["too long for max_length 3"] == ["line 1", "line 2", "line 3", "line 4"]
    ahead = check(source, tokenizer_with(TEMPLATES["looks ahead"]))
    assert ahead.faults["a prompt that changes with its reply"]


def test_what_is_to_be_known_of_a_template_is_said() -> None:
    def said(template: str | None) -> str:
        return "\n".join(remarks(Template(tokenizer_with(template))))

    assert "no chat template" in said(None)
    assert "System role not supported" in said(TEMPLATES["Gemma"])
    assert "writes today's date; 2024-07-26" in said(TEMPLATES["dated"])


def test_unknown_tokens_are_counted(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({"prompt": "hello zebra", "completion": "world"}) + "\n")
    found = check(path, tokenizer_with(TEMPLATES["Llama 3"], "word_level"))
    assert found.unknown[0] == 1
    assert "of the tokens stand for text that has none" in found.render()


@settings(max_examples=100)
@given(lengths=st.lists(st.integers(0, 50), min_size=1, max_size=30), share=st.floats(0.01, 1))
def test_a_quantile_is_the_shortest_length_that_covers_its_share(lengths: list[int], share: float) -> None:
    at = quantile(Counter(lengths), share)
    assert sum(length <= at for length in lengths) >= share * len(lengths) - 1e-9
    assert sum(length < at for length in lengths) < share * len(lengths) + 1e-9


@settings(max_examples=40, deadline=None)
@given(
    table=st.lists(
        st.dictionaries(st.sampled_from(["prompt", "chosen", "rejected", "text"]), st.text(max_size=5)),
        min_size=1,
        max_size=5,
    )
)
def test_every_row_is_accounted_for_and_the_report_can_be_written(table: Any, tmp_path_factory: Any) -> None:
    path = tmp_path_factory.mktemp("check") / "a.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in table))
    found = check(path, tokenizer_with(CHATML))
    assert found.rows == found.bad + found.formats.total()
    assert (found.verdict == 0) == (found.bad == 0)
    assert found.render()
