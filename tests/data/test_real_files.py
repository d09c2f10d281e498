"""The real data sets: what is broken in them is found and named, and all the rest becomes tokens."""

import gzip
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from shapes import CHATML, CHATML_MARKED, TEMPLATES, tokenizer_with

from preferent.data.check import AGAIN, TWO_SPEAK, check
from preferent.data.columns import parse
from preferent.data.load import (
    Loaded,
    held_out,
    load_demonstrations,
    load_preferences,
    load_prompts,
    load_unpaired,
)
from preferent.data.reading import Reading
from preferent.data.rows import BadRow, Row, rows
from preferent.data.template import Template
from preferent.types import Preference, Ranking

pytestmark = pytest.mark.real_data

HH = "hh_rlhf/harmless_base_test.preference.jsonl.gz"
TOOLS = "llamafactory_demos/glaive_toolcall.demonstrations.jsonl.gz"
# A reply of two turns in a row: these are the pairs that do not share their text up to the last reply.
SPLIT = [1255, 1689, 1951, 1953, 2037]
EMPTY = [87, 517, 926, 1104]
SKIP = Reading(skip_bad_rows=True)

# How many rows cannot be used, of each file: all of them empty replies, but for HH's five.
BAD = {
    HH: 9,
    "gsm8k/model_solutions.preference.jsonl.gz": 0,
    "llamafactory_demos/dpo_en.preference.jsonl.gz": 0,
    "llamafactory_demos/kto_en.unpaired.jsonl.gz": 0,
    TOOLS: 0,
    "llmfao/majority.preference.jsonl.gz": 218,
    "mt_bench/questions.prompts.jsonl.gz": 0,
    "oasst_en_100/ranked.preference.jsonl.gz": 0,
    "oasst_en_100/ranked_lists.jsonl.gz": 0,
    "oasst_en_100/threads.jsonl.gz": 0,
    "qa_feedback/dev.preference.jsonl.gz": 0,
    "self_instruct/seed_tasks.demonstrations.jsonl.gz": 0,
    "tldr_summarize_feedback/comparisons_train.preference.jsonl.gz": 0,
    "tldr_summarize_feedback/tldr_train.demonstrations.jsonl.gz": 0,
    "truthfulqa/answers_truth.preference.jsonl.gz": 41,
    "xstest/prompts.eval.jsonl.gz": 0,
}


def lines(path: Path) -> list[Any]:
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def template(shape: str = CHATML_MARKED, **options: Any) -> Template:
    return Template(tokenizer_with(shape), **options)


@pytest.mark.parametrize("name", sorted(BAD))
def test_every_row_is_a_noun_or_a_bad_row_with_its_line(real_data: Path, name: str) -> None:
    found = check(real_data / name)
    assert found.bad == BAD[name]
    assert found.formats.total() + found.bad == found.rows
    assert set(found.faults) <= {"an empty reply", "roles that make no sense"}
    assert found.verdict == (1 if BAD[name] else 0)


def test_the_broken_pairs_of_hh_are_these(real_data: Path) -> None:
    found = check(real_data / HH)
    assert dict(found.faults) == {
        "roles that make no sense": [f"line {n}" for n in SPLIT],
        "an empty reply": [f"line {n}" for n in EMPTY],
    }
    assert found.notes[TWO_SPEAK] == ["line 668", "line 764", "line 1320", "line 1850"]


def test_hh_in_its_raw_format_has_the_same_pairs_and_the_same_broken_ones(real_data: Path, tmp_path: Path) -> None:
    """Written out as Anthropic published it, and read back: ``\\n\\nHuman: … \\n\\nAssistant: …``."""
    heads = {"user": "\n\nHuman: ", "assistant": "\n\nAssistant: "}
    table = lines(real_data / HH)
    raw = tmp_path / "raw.jsonl"
    with raw.open("w") as file:
        for row in table:
            texts = {k: "".join(heads[m["role"]] + m["content"] for m in row["prompt"] + row[k]) for k in PAIR}
            file.write(json.dumps(texts) + "\n")
    bad: dict[str, list[int]] = {}
    for n, row in enumerate(rows(raw), 1):
        assert isinstance(row, Row)
        try:
            found = parse(row.data).noun
        except BadRow as fault:
            bad.setdefault(fault.fault, []).append(n)
            continue
        expected = parse(table[n - 1]).noun
        assert isinstance(found, Preference)
        assert isinstance(expected, Preference)
        assert stripped(found.comparison.context) == stripped(expected.comparison.context)
        assert list(map(stripped, found.comparison.options)) == list(map(stripped, expected.comparison.options))
    assert sorted(line for found in bad.values() for line in found) == sorted(SPLIT + EMPTY)


PAIR = ("chosen", "rejected")


def stripped(messages: Any) -> list[tuple[str, str]]:
    return [(message["role"], message["content"].strip()) for message in messages]


@pytest.mark.slow
def test_hh_pairs_become_tokens_behind_one_prompt_and_the_bad_ones_are_written_down(
    real_data: Path, tmp_path: Path
) -> None:
    reading = Reading(skip_bad_rows=True, bad_rows_folder=tmp_path)
    with_template = template(max_length=1024)
    found = load_preferences(real_data / HH, with_template, reading)
    (report,) = found.report
    assert report.read == 2312
    assert report.kept == len(found) == 2312 - 9 - report.too_long
    assert 0 < report.too_long < 600
    listed = [
        json.loads(line) for line in (tmp_path / "harmless_base_test.preference.bad.jsonl").read_text().splitlines()
    ]
    assert [row["line"] for row in listed] == sorted(SPLIT + EMPTY)
    for row in found[:50]:
        assert isinstance(row, Preference)
        assert row.comparison.context.tokens == tuple(
            with_template.tokenizer.apply_chat_template(
                list(row.comparison.context.info["messages"]), add_generation_prompt=True, return_dict=False
            )
        )
        assert all(reply.tokens[-1] in with_template.end_tokens for reply in row.comparison.options)


@pytest.mark.parametrize("shape", ["ChatML", "Llama 3", "Zephyr", "no end"])
def test_the_first_hundred_pairs_of_hh_go_through_every_shape_of_template(real_data: Path, shape: str) -> None:
    found = load_preferences(real_data / HH, template(TEMPLATES[shape]), Reading(skip_bad_rows=True, limit=100))
    assert len(found) == 100


def test_rank_lists_keep_their_order(real_data: Path) -> None:
    found = load_preferences(real_data / "oasst_en_100/ranked_lists.jsonl.gz", template())
    assert len(found) == 212
    for row in found:
        assert isinstance(row, Ranking)
        assert row.ranks == tuple(range(len(row.comparison.options)))
    assert Counter(len(row.comparison.options) for row in found)[3] == 117


def test_summaries_are_pairs_and_demonstrations(real_data: Path) -> None:
    folder = real_data / "tldr_summarize_feedback"
    pairs = load_preferences(folder / "comparisons_valid1.preference.jsonl.gz", template(), Reading(limit=200))
    demos = load_demonstrations(folder / "tldr_valid.demonstrations.jsonl.gz", template(), Reading(limit=200))
    assert len(pairs) == len(demos) == 200
    assert all(all(row.reply.learn) for row in demos)


def test_all_turns_of_a_thread_are_learned_or_only_the_last(real_data: Path) -> None:
    source, limit = real_data / "oasst_en_100/threads.jsonl.gz", Reading(limit=60)
    every, last = (load_demonstrations(source, template(learn=learn), limit) for learn in ("all", "last"))
    for a, b in zip(every, last, strict=True):
        assert a.prompt.tokens + a.reply.tokens == b.prompt.tokens + b.reply.tokens
        assert all(b.reply.learn)
        assert a.reply.learn[-len(b.reply.tokens) :] == b.reply.learn
        turns = len(b.prompt.info["messages"]) - len(a.prompt.info["messages"])
        assert all(a.reply.learn) == (turns == 0)


TOOLS_WRITTEN = "{% if tools %}{{ tools | tojson }}\n{% endif %}" + CHATML.replace(
    "message['content'] +", "message['content'] + (message['tool_calls'] | tojson if message['tool_calls'] else '') +"
)


def test_tool_calls_are_learned_through_a_template_that_writes_them_and_told_where_it_does_not(real_data: Path) -> None:
    written = load_demonstrations(real_data / TOOLS, template(TOOLS_WRITTEN))
    assert len(written) == 300
    calling = next(row for row in written if row.reply.learn.count(False) and row.prompt.info["tools"])
    prompt = calling.prompt.info["messages"]
    assert calling.prompt.tokens == template(TOOLS_WRITTEN).prompt(prompt, calling.prompt.info).tokens
    silent = load_demonstrations(real_data / TOOLS, template(), SKIP).report[0]
    assert silent.bad == {"tool calls that are not written": 153}


def test_of_mt_benchs_questions_the_first_is_the_prompt_and_the_rest_stays_with_it(real_data: Path) -> None:
    found = load_prompts(real_data / "mt_bench/questions.prompts.jsonl.gz", template())
    assert len(found) == 160
    assert all(row.info["turns"][0] == row.info["messages"][0]["content"] for row in found)
    assert Counter(len(row.info["turns"]) for row in found) == {1: 80, 2: 80}


def test_prompts_keep_the_columns_that_a_reward_needs(real_data: Path) -> None:
    found = load_prompts(real_data / "gsm8k/test.verifiable.jsonl.gz", template(), Reading(limit=50))
    assert found[0].info["answer"] == "18"


def test_thumbs_up_and_down_are_read(real_data: Path) -> None:
    found = load_unpaired(real_data / "llamafactory_demos/kto_en.unpaired.jsonl.gz", template(), Reading(limit=100))
    assert {row.good for row in found} == {True, False}


def test_duplicates_are_found(real_data: Path) -> None:
    found = check(real_data / "qa_feedback/dev.preference.jsonl.gz")
    table = lines(real_data / "qa_feedback/dev.preference.jsonl.gz")
    normal = [json.dumps([row[k] for k in ("prompt", *PAIR)]).lower() for row in table]
    assert len(found.notes[AGAIN]) >= len(normal) - len(set(normal))


@pytest.fixture(scope="module")
def hh_pairs() -> Any:
    import os

    folder = os.environ.get("PREFERENT_TEST_DATA")
    if not folder:
        pytest.skip("PREFERENT_TEST_DATA names no folder with the real data sets")
    return load_preferences(Path(folder) / HH, template(), Reading(skip_bad_rows=True, limit=300))


@settings(max_examples=20, deadline=None)
@given(share=st.floats(0.05, 0.5), seed=st.integers(0, 100))
def test_held_out_pairs_have_prompts_of_their_own(hh_pairs: Loaded[Any], share: float, seed: int) -> None:
    train, held = held_out(hh_pairs, share, seed=seed)
    prompts = [{row.comparison.context.tokens for row in side} for side in (train, held)]
    assert not prompts[0] & prompts[1]
    assert abs(len(held) / 300 - share) < 0.15
