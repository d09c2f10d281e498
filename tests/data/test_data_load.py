"""From files to rows of tokens, with an account of every row that was left out."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from odd_cells import odd_rows
from shapes import CHATML, TEMPLATES, tokenizer_with

from preferent.config import UsageError
from preferent.data.columns import parse
from preferent.data.load import (
    Loaded,
    asked,
    held_out,
    load_demonstrations,
    load_preferences,
    load_prompts,
    load_unpaired,
)
from preferent.data.reading import Reading, Report
from preferent.data.rows import BadRow
from preferent.data.template import Template
from preferent.types import Pairs, Prompt, Ranking, Replies

ROWS = [
    {"prompt": "hello", "chosen": "I am well", "rejected": "how"},
    {"prompt": "hello", "chosen": " ", "rejected": "how"},
    {"prompt": "hello", "chosen": "how", "rejected": "how"},
    {"prompt": "hello " * 200, "chosen": "I", "rejected": "am"},
    {"prompt": "What", "completions": ["is", "it", "that"], "ranks": [1, 0, 1]},
]


@pytest.fixture(scope="module")
def template() -> Template:
    return Template(tokenizer_with(CHATML), max_length=100)


def file_of(folder: Path, table: list[Any], name: str = "prefs.jsonl") -> str:
    path = folder / name
    path.write_text("".join(json.dumps(row) + "\n" for row in table))
    return str(path)


def test_rows_that_are_left_out_are_counted_and_listed(tmp_path: Path, template: Template) -> None:
    source = file_of(tmp_path, ROWS)
    found = load_preferences(source, template, Reading(skip_bad_rows=True, bad_rows_folder=tmp_path / "run"))
    listed = tmp_path / "run" / "prefs.bad.jsonl"
    assert len(found) == 2
    faults = {"an empty reply": 1, "chosen and rejected are equal": 1}
    assert found.report == (Report(source, 5, 2, 1, faults, listed),)
    assert [json.loads(line)["line"] for line in listed.read_text().splitlines()] == [2, 3]
    assert str(found.report[0]) == (
        f"{source}: 2 of 5 rows · 1 × too long · 1 × an empty reply · 1 × chosen and rejected are equal → {listed}"
    )
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["prefs.jsonl", "run"]


def test_nothing_is_written_where_no_folder_is_given(tmp_path: Path, template: Template) -> None:
    found = load_preferences(file_of(tmp_path, ROWS), template, Reading(skip_bad_rows=True))
    assert found.report[0].bad_file is None
    assert [entry.name for entry in tmp_path.iterdir()] == ["prefs.jsonl"]


def test_the_first_bad_row_stops_the_loading_and_says_what_to_do(tmp_path: Path, template: Template) -> None:
    source = file_of(tmp_path, [ROWS[0], {"prompt": "q", "choosen": "a", "rejected": "b"}])
    with pytest.raises(UsageError) as error:
        load_preferences(source, template)
    first, expected, advice = str(error.value).splitlines()
    assert first == f'{source}: line 2: column "choosen" is not known here (did you mean "chosen"?).'
    assert expected.startswith("Expected one of: prompt + chosen + rejected")
    assert advice == (
        f"`preferent data check {source}` lists every such row; `--skip-bad-rows` leaves them out and writes them to "
        "prefs.bad.jsonl."
    )


def test_a_long_row_is_an_error_where_that_was_asked_for(tmp_path: Path, template: Template) -> None:
    source = file_of(tmp_path, ROWS[3:4])
    strict = Template(template.tokenizer, max_length=100, truncation="error")
    with pytest.raises(UsageError, match=r"line 1: too long: \d+ tokens, of which the longest reply has 3"):
        load_preferences(source, strict)
    cut = load_preferences(source, Template(template.tokenizer, max_length=100, truncation="left"))
    assert len(cut[0].comparison.context.tokens) == 97


def test_a_file_of_which_nothing_is_left_is_an_error(tmp_path: Path, template: Template) -> None:
    with pytest.raises(
        UsageError, match=r"2 rows can be used: 1 is too long \(the longest has \d+ tokens, .* 100 fit\) · 1 × an empty"
    ):
        load_preferences(file_of(tmp_path, [ROWS[3], ROWS[1]]), template, Reading(skip_bad_rows=True))


def test_each_loader_gives_batches_for_its_algorithms(tmp_path: Path, template: Template) -> None:
    pairs = load_preferences(file_of(tmp_path, [ROWS[0], ROWS[4]]), template)
    assert isinstance(pairs[1], Ranking)
    batch = next(iter(pairs.batches(2)))
    assert isinstance(batch, Pairs)
    assert len(batch.better) == 1 + 3
    demonstrations = file_of(tmp_path, [{"prompt": "a", "completion": "b"}, {"text": "hello world"}], "demos.jsonl")
    assert isinstance(next(iter(load_demonstrations(demonstrations, template).batches(2))), Replies)
    prompts = load_prompts(file_of(tmp_path, [{"prompt": "a", "answer": 3}], "prompts.jsonl"), template)
    (prompt,) = next(iter(prompts.batches(1)))
    assert isinstance(prompt, Prompt)
    assert prompt.info["answer"] == 3
    thumbs = file_of(tmp_path, [{"prompt": "a", "completion": "b", "label": False}], "thumbs.jsonl")
    assert load_unpaired(thumbs, template)[0].good is False


def test_a_bare_tokenizer_is_a_template_without_options(tmp_path: Path, template: Template) -> None:
    source = file_of(tmp_path, ROWS[:1])
    assert load_preferences(source, template.tokenizer).rows == load_preferences(source, template).rows


def test_several_files_stand_one_behind_the_other_and_their_bad_rows_apart(tmp_path: Path, template: Template) -> None:
    (tmp_path / "more").mkdir()
    sources = [file_of(tmp_path, ROWS[:2]), file_of(tmp_path / "more", ROWS[2:])]
    found = load_preferences(sources, template, Reading(skip_bad_rows=True, bad_rows_folder=tmp_path / "run"))
    assert [report.kept for report in found.report] == [1, 1]
    assert sorted(e.name for e in (tmp_path / "run").iterdir()) == ["1-prefs.bad.jsonl", "2-prefs.bad.jsonl"]


def test_a_limit_stops_reading(tmp_path: Path, template: Template) -> None:
    source = file_of(tmp_path, [{"prompt": str(i)} for i in range(9)])
    found = load_prompts(source, template, Reading(limit=4))
    assert (len(found), found.report[0].read) == (4, 4)


SHAPES = [
    Template(tokenizer_with(TEMPLATES[name]), truncation=truncation, max_length=40, system="Be.")
    for name, truncation in (("ChatML, marked", "drop"), ("Mistral", "left"), ("Qwen 3", "error"), ("no end", "left"))
]


@settings(max_examples=400, deadline=None)
@given(row=odd_rows, shape=st.sampled_from(SHAPES))
def test_any_row_becomes_tokens_or_is_a_bad_row(row: dict[str, Any], shape: Template) -> None:
    found = tokens_or_fault(row, shape)
    if isinstance(found, BadRow):
        assert found.reason.strip()
    else:
        assert isinstance(asked(found), str)


def tokens_or_fault(row: dict[str, Any], shape: Template) -> Any:
    try:
        return shape.tokenised(parse(row))
    except BadRow as bad:
        return bad


def rows_of(prompts: list[str]) -> Loaded[Prompt]:
    return Loaded(
        tuple(Prompt((1,), {"messages": ({"role": "user", "content": p},), "i": i}) for i, p in enumerate(prompts))
    )


@settings(max_examples=100, deadline=None)
@given(
    prompts=st.lists(st.sampled_from("abcdefgh"), min_size=2, max_size=30).filter(lambda found: len(set(found)) > 1),
    share=st.floats(0.01, 0.99),
    seed=st.integers(0, 9),
)
def test_a_prompt_never_stands_on_both_sides_and_no_row_is_lost(prompts: list[str], share: float, seed: int) -> None:
    whole = rows_of([p + " " * (i % 3) for i, p in enumerate(prompts)])
    train, held = held_out(whole, share, seed=seed)
    assert not {asked(row) for row in train} & {asked(row) for row in held}
    assert sorted([row.info["i"] for row in [*train, *held]]) == list(range(len(prompts)))
    assert len(train) > 0
    assert len(held) > 0


def test_the_share_of_prompts_held_out_is_about_the_one_asked_for_and_stays_when_rows_are_added() -> None:
    few, many = rows_of([str(i) for i in range(1000)]), rows_of([str(i) for i in range(2000)])
    held = {asked(row) for row in held_out(few, 0.1)[1]}
    assert 70 <= len(held) <= 130
    assert held <= {asked(row) for row in held_out(many, 0.1)[1]}


def test_one_prompt_alone_cannot_be_shared_out() -> None:
    with pytest.raises(UsageError, match="all rows have the same prompt"):
        held_out(rows_of(["a", "a "]), 0.5)
    with pytest.raises(UsageError, match="between 0 and 1"):
        held_out(rows_of(["a", "b"]), 1)


def test_every_kind_of_row_has_a_prompt_to_be_held_out_by(tmp_path: Path, template: Template) -> None:
    pairs = load_preferences(file_of(tmp_path, [ROWS[0], ROWS[4]]), template)
    same = file_of(
        tmp_path, [{"prompt": "Hello", "completion": "x"}, {"prompt": "what", "completion": "y"}], "demos.jsonl"
    )
    demos = load_demonstrations(same, template)
    assert [asked(row) for row in pairs] == [asked(row) for row in demos]
    texts = load_demonstrations(file_of(tmp_path, [{"text": "a b"}, {"text": "a c"}], "texts.jsonl"), template)
    assert len({asked(row) for row in texts}) == 2
