"""Streams: the rows of a file epoch by epoch, shuffled within a buffer, and the same after a restart."""

import json
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from shapes import CHATML, tokenizer_with

from preferent.config import UsageError
from preferent.data.reading import Reading
from preferent.data.stream import Stream, shuffled, stream
from preferent.data.template import Template


@pytest.fixture(scope="module")
def template() -> Template:
    return Template(tokenizer_with(CHATML), max_length=60)


@pytest.fixture(scope="module")
def source(tmp_path_factory: Any) -> str:
    """23 prompts, of which line 5 is too long, and line 9 empty."""
    path = tmp_path_factory.mktemp("stream") / "prompts.jsonl"
    prompts = [{"prompt": "hello " * (30 if i == 5 else 1), "i": i} if i != 9 else {"prompt": ""} for i in range(25)]
    path.write_text("".join(json.dumps(row) + "\n" for row in prompts))
    return str(path)


SKIP = Reading(skip_bad_rows=True)
GOOD = sorted({*range(25)} - {5, 9})


def numbers(found: Any) -> list[int]:
    return [prompt.info["i"] for prompt in found]


@settings(max_examples=100, deadline=None)
@given(items=st.lists(st.integers(), max_size=30), buffer=st.integers(1, 12), key=st.integers())
def test_shuffling_loses_and_doubles_nothing_and_holds_no_more_than_the_buffer(
    items: Any, buffer: int, key: int
) -> None:
    found = list(shuffled(enumerate(items), buffer, key))
    assert sorted(found) == list(enumerate(items))
    assert found == list(shuffled(enumerate(items), buffer, key))
    assert all(i < place + buffer for place, (i, _) in enumerate(found))
    assert buffer > 1 or found == list(enumerate(items))


def test_every_epoch_has_every_good_row_in_an_order_of_its_own(source: str, template: Template) -> None:
    found = numbers(islice(stream(source, template, "prompts", SKIP, buffer=8), 3 * len(GOOD)))
    epochs = [found[i : i + len(GOOD)] for i in range(0, len(found), len(GOOD))]
    assert [sorted(epoch) for epoch in epochs] == [GOOD] * 3
    assert len({tuple(epoch) for epoch in epochs}) == 3


@settings(max_examples=40, deadline=None)
@given(begun=st.integers(0, 60), buffer=st.integers(1, 40), seed=st.integers(0, 3))
def test_stopping_anywhere_and_going_on_equals_not_stopping(
    begun: int, buffer: int, seed: int, source: str, template: Template
) -> None:
    def fresh() -> Stream[Any]:
        return stream(source, template, "prompts", SKIP, seed=seed, buffer=buffer)

    straight = numbers(islice(fresh(), begun + 30))
    first, second = fresh(), fresh()
    before = numbers(islice(first, begun))
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    assert before + numbers(islice(second, 30)) == straight


def test_batches_of_a_stream_resume_across_the_end_of_an_epoch(source: str, template: Template) -> None:
    def fresh() -> Any:
        return stream(source, template, "prompts", SKIP).batches(7, steps=9)

    straight = [numbers(batch) for batch in fresh()]
    for stop in range(10):
        first, second = fresh(), fresh()
        before = [numbers(batch) for batch in islice(first, stop)]
        second.load_state_dict(first.state_dict())
        assert before + [numbers(batch) for batch in second] == straight
    assert len(fresh()) == 9


def test_an_epoch_ends_with_an_account_of_it(source: str, template: Template, tmp_path: Path) -> None:
    reading = Reading(skip_bad_rows=True, bad_rows_folder=tmp_path)
    found = stream(source, template, "prompts", reading)
    list(islice(found, len(GOOD) + 1))
    (report,) = found.report
    assert (report.read, report.kept, report.too_long, report.bad) == (25, 23, 1, {"an empty prompt": 1})
    assert report.bad_file == tmp_path / "prompts.bad.jsonl"


def test_a_bad_row_stops_a_stream_unless_it_is_to_be_skipped(source: str, template: Template) -> None:
    with pytest.raises(UsageError, match="line 10: an empty prompt"):
        list(islice(stream(source, template, "prompts", buffer=1), 20))


def test_a_stream_of_which_nothing_can_be_used_ends_with_an_error(tmp_path: Path, template: Template) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"prompt": ""}\n')
    with pytest.raises(UsageError, match="none of its 1 rows can be used"):
        next(iter(stream(path, template, "prompts", SKIP)))
    with pytest.raises(UsageError, match="no limit"):
        stream(path, template, "prompts", Reading(limit=3))
