"""Rows of large files, tokenised once and kept on disk: the same as in memory, and never those of anything else."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from odd_cells import odd_rows
from shapes import CHATML, TEMPLATES, tokenizer_with

from preferent.config import UsageError
from preferent.data import blocks, kept
from preferent.data.arrow import NotPlain, batch_of, noun_at
from preferent.data.columns import Kind, parse
from preferent.data.joined import Joined
from preferent.data.load import Loaded, held_out, load
from preferent.data.mixture import mixed
from preferent.data.reading import Reading
from preferent.data.rows import BadRow
from preferent.data.template import Template
from preferent.stages.reward import seen_by_all, split

TOOLS = [{"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {}}}}]
ROWS: dict[Kind, list[dict[str, Any]]] = {
    "preferences": [
        {"prompt": "hello", "chosen": "I am well", "rejected": "how", "strength": 2.0, "annotator": "ann"},
        {"prompt": "What", "completions": ["is", "it", "that"], "ranks": [1, 0, 1], "judgements": ["a", "b"]},
        {
            "prompt": "What",
            "chosen": "that",
            "rejected": "it",
            "choice": 0.8,
            "both_bad": True,
            "m": [1, {"\ud83d": 2.5}],
        },
        {"prompt": "hello", "chosen": "ä 🦉", "rejected": "how", "margin": 1e-17, "nothing": None},
    ],
    "demonstrations": [
        {"messages": [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "what"}], "tools": TOOLS},
        {"text": "hello world, what is it"},
        {"prompt": "hello", "completion": "that"},
    ],
    "prompts": [{"prompt": "hello", "answer": 3}, {"turns": ["what", "is"]}],
    "unpaired": [{"prompt": "a", "completion": "b", "label": False}, {"prompt": "a", "completion": "c", "label": 1}],
}
BAD = [
    {"prompt": "hello", "chosen": " ", "rejected": "how"},
    {"prompt": "hello " * 200, "chosen": "I", "rejected": "am"},
]
SKIPPING = Reading(skip_bad_rows=True)


@pytest.fixture(scope="module")
def template() -> Template:
    return Template(tokenizer_with(CHATML), max_length=100)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of the test's own, for files of any size."""
    monkeypatch.setenv("PREFERENT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(kept, "LARGE", 1)
    return tmp_path / "cache"


def file_of(folder: Path, table: list[Any], name: str = "rows.jsonl") -> str:
    path = folder / name
    path.write_text("".join(json.dumps(row) + "\n" for row in table))
    return str(path)


def in_memory(*given: Any) -> Loaded[Any]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kept, "LARGE", 1 << 60)
        found = load(*given)
    assert isinstance(found.rows, tuple)
    return found


def files_in(cache: Path) -> dict[str, int]:
    """Names, and what changes when a file is written anew."""
    return {path.name: path.stat().st_ino for path in cache.iterdir()}


# --- the same rows -------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ROWS)
def test_rows_and_reports_from_the_cache_are_those_made_in_memory(kind: Kind, tmp_path: Path, cache: Path) -> None:
    shape = Template(tokenizer_with(TEMPLATES["Qwen 3"]), max_length=300, system="Be.")
    source = file_of(tmp_path, [*ROWS[kind], *BAD, {"stranger": 1}] * 3)
    reading = Reading(skip_bad_rows=True, bad_rows_folder=tmp_path / "run")
    plain = in_memory(source, shape, kind, reading)
    listed = plain.report[0].bad_file
    assert listed is not None
    said = listed.read_text()
    for _ in range(2):
        listed.unlink()
        found = load(source, shape, kind, reading)
        assert isinstance(found.rows, Joined)
        assert list(found) == list(plain)
        assert found.report == plain.report
        assert listed.read_text() == said
    assert len(files_in(cache)) == 1


@settings(max_examples=300, deadline=None)
@given(row=odd_rows)
def test_whatever_a_row_says_comes_back_as_it_was_or_is_refused(row: dict[str, Any]) -> None:
    try:
        noun = WIDE.tokenised(parse(row))
        batch = batch_of([noun, noun])
    except (BadRow, NotPlain):
        return
    assert repr(noun_at(batch, 1)) == repr(noun)


WIDE = Template(tokenizer_with(TEMPLATES["ChatML, marked"]))


def test_a_second_load_leaves_the_file_as_it_is(tmp_path: Path, cache: Path, template: Template) -> None:
    source = file_of(tmp_path, ROWS["prompts"])
    load(source, template, "prompts")
    before = files_in(cache)
    elsewhere = Path(source).rename(tmp_path / "moved.jsonl")  # where a file lies changes nothing in it
    assert load(elsewhere, template, "prompts").report[0].source == str(elsewhere)
    assert files_in(cache) == before


def test_batches_of_kept_rows_are_those_of_rows_in_memory(tmp_path: Path, cache: Path, template: Template) -> None:
    sources = [file_of(tmp_path, ROWS["preferences"] * 5), file_of(tmp_path, ROWS["preferences"][:2], "more.jsonl")]
    plain, found = (each(sources, template, "preferences").batches(3, seed=7, epochs=4) for each in (in_memory, load))
    for ours, theirs in zip(found, plain, strict=True):
        for one, other in zip(tensors(ours), tensors(theirs), strict=True):
            torch.testing.assert_close(one, other, rtol=0, atol=0)


def test_an_ensemble_shares_kept_rows_out_as_it_does_rows_in_memory(
    tmp_path: Path, cache: Path, template: Template
) -> None:
    pairs = [{"prompt": f"{i % 20}", "chosen": f"{i}", "rejected": "x"} for i in range(50)]
    source = file_of(tmp_path, pairs)
    plain, found = (each(source, template, "preferences").by_prompt() for each in (in_memory, load))
    for members in (1, 3):
        ours, theirs = ([split(groups, i, members) for i in range(members)] for groups in (found, plain))
        assert [list(mine) for mine in ours] == [list(mine) for mine in theirs]
        assert list(seen_by_all(ours)) == list(seen_by_all(theirs))


def tensors(batch: Any) -> list[torch.Tensor]:
    if isinstance(batch, torch.Tensor):
        return [batch]
    return [each for field in dataclasses.fields(batch) for each in tensors(getattr(batch, field.name))]


def test_kept_rows_are_split_and_mixed_and_sliced_as_rows_in_memory_are(
    tmp_path: Path, cache: Path, template: Template
) -> None:
    numbered = [{"prompt": f"{i} hello"} for i in range(30)]
    sources = [file_of(tmp_path, numbered), file_of(tmp_path, ROWS["prompts"], "more.jsonl")]
    plain, found = in_memory(sources, template, "prompts"), load(sources, template, "prompts")
    assert [list(part) for part in held_out(found, 0.3)] == [list(part) for part in held_out(plain, 0.3)]
    assert list(found[5:31:2]) == list(plain[5:31:2])
    assert (found[-1], found[30]) == (plain[-1], plain[30])
    with pytest.raises(IndexError):
        found[32]
    one_by_one = mixed(sources, lambda name: load(name, template, "prompts"))
    assert isinstance(one_by_one, Loaded)
    assert list(one_by_one) == list(plain)
    ours = mixed([f"{name}=0.5" for name in sources], lambda name: load(name, template, "prompts"))
    theirs = mixed([f"{name}=0.5" for name in sources], lambda name: in_memory(name, template, "prompts"))
    assert [ours[i] for i in range(90)] == [theirs[i] for i in range(90)]


def test_small_files_bounded_reading_and_dates_stay_in_memory(
    tmp_path: Path, cache: Path, template: Template, monkeypatch: pytest.MonkeyPatch
) -> None:
    import pyarrow as pa
    import pyarrow.parquet

    source = file_of(tmp_path, ROWS["prompts"])
    assert isinstance(load(source, template, "prompts", Reading(limit=1)).rows, tuple)
    dated = tmp_path / "dated.parquet"
    pyarrow.parquet.write_table(pa.table({"prompt": ["hello"], "at": [datetime(2024, 1, 2)]}), dated)
    found = load(dated, template, "prompts")
    assert isinstance(found.rows, tuple)
    assert found[0].info["at"] == datetime(2024, 1, 2)
    assert found.report[0].read == 1
    monkeypatch.setattr(kept, "LARGE", 1 << 20)
    assert isinstance(load(source, template, "prompts").rows, tuple)
    assert not any(name.endswith(".arrow") for name in files_in(cache))


# --- never those of anything else ----------------------------------------------------------------


def test_whatever_rows_depend_on_makes_another_file(
    tmp_path: Path, cache: Path, template: Template, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [{"prompt": "hello", "completion": "what", "other": "is"}]
    source = file_of(tmp_path, rows)
    tokens = template.tokenizer
    shapes = [
        template,
        Template(tokens),
        Template(tokens, max_length=100, truncation="left"),
        Template(tokens, max_length=100, system="Be."),
        Template(tokens, max_length=100, learn="last"),
        Template(tokens, max_length=100, chat_template="{{ '<s>' }}" + CHATML),
        Template(tokenizer_with(TEMPLATES["Qwen 3"]), max_length=100),
        Template(tokenizer_with(CHATML, "word_level"), max_length=100),
        Template(tokenizer_with(CHATML, eos_token="<s>"), max_length=100),  # noqa: S106  (no password)
    ]
    for number, shape in enumerate(shapes, 1):
        assert list(load(source, shape, "demonstrations")) == list(in_memory(source, shape, "demonstrations"))
        assert len(files_in(cache)) == number, shape
    load(source, template, "prompts")
    load(source, template, "demonstrations", SKIPPING)
    load(source, template, "demonstrations", Reading(columns={"completion": "other"}))
    load(file_of(tmp_path, rows, "same.json"), template, "demonstrations")
    load(file_of(tmp_path, [*rows, *rows]), template, "demonstrations")
    monkeypatch.setattr(kept, "FORMAT", kept.FORMAT + 1)
    load(source, template, "demonstrations")
    assert len(files_in(cache)) == len(shapes) + 6


@pytest.mark.parametrize("damage", ["cut", "flipped", "emptied", "foreign"])
def test_a_damaged_file_is_made_again(damage: str, tmp_path: Path, cache: Path, template: Template) -> None:
    source = file_of(tmp_path, ROWS["prompts"] * 50)
    whole = list(load(source, template, "prompts"))
    (path,) = cache.iterdir()
    written = path.read_bytes()
    half = len(written) // 2
    broken = {
        "cut": written[:half],
        "flipped": written[:half] + bytes([written[half] ^ 1]) + written[half + 1 :],
        "emptied": b"",
        "foreign": b"not ours",
    }
    path.write_bytes(broken[damage])
    assert list(load(source, template, "prompts")) == whole
    assert [each.read_bytes() for each in cache.iterdir()] == [written]


def test_what_a_killed_process_left_is_never_read_and_goes_away_in_time(
    tmp_path: Path, cache: Path, template: Template
) -> None:
    source = file_of(tmp_path, ROWS["prompts"])
    load(source, template, "prompts")
    (made,) = cache.iterdir()
    left = made.with_suffix(".partial")
    made.rename(left)
    load(source, template, "prompts")
    assert set(files_in(cache)) == {made.name, left.name}
    os.utime(left, (0, 0))
    os.utime(made, (0, 0))
    load(file_of(tmp_path, ROWS["prompts"][:1], "other.jsonl"), template, "prompts")
    assert len(files_in(cache)) == 1
    assert not {made.name, left.name} & set(files_in(cache))


def test_bad_rows_are_an_error_that_leaves_nothing(tmp_path: Path, cache: Path, template: Template) -> None:
    source = file_of(tmp_path, [ROWS["preferences"][0], *BAD])
    errors = []
    for loading in (in_memory, load):
        with pytest.raises(UsageError) as error:
            loading(source, template, "preferences")
        errors.append(str(error.value))
    assert errors[0] == errors[1]
    assert files_in(cache) == {}
    hopeless = file_of(tmp_path, BAD, "hopeless.jsonl")
    for loading in (in_memory, load, load):
        with pytest.raises(UsageError, match=r"1 is too long \(the longest has \d+ tokens, .* · 1 × an empty reply"):
            loading(hopeless, template, "preferences", SKIPPING)


def test_with_the_cache_off_rows_are_on_disk_as_long_as_they_are_used(
    tmp_path: Path, cache: Path, template: Template, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "passing").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "passing"))
    monkeypatch.setenv("PREFERENT_CACHE", "off")
    found = load(file_of(tmp_path, ROWS["prompts"]), template, "prompts")
    assert isinstance(found.rows, Joined)
    assert len(list((tmp_path / "passing").glob("*/rows.arrow"))) == 1
    del found
    assert list((tmp_path / "passing").iterdir()) == []
    assert not cache.exists()


def test_a_cache_that_cannot_be_written_does_not_stop_a_run(
    tmp_path: Path, cache: Path, template: Template, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache.write_text("a file where the folder should be")
    assert isinstance(load(file_of(tmp_path, ROWS["prompts"]), template, "prompts").rows, tuple)


# --- several processes ---------------------------------------------------------------------------


def test_workers_are_as_many_as_are_worth_their_start(monkeypatch: pytest.MonkeyPatch) -> None:
    assert blocks.sensible_workers(blocks.PER_WORKER * 2 - 1) == 1
    assert blocks.sensible_workers(1 << 50) <= blocks.MOST_WORKERS
    monkeypatch.setenv("PREFERENT_WORKERS", "3")
    assert blocks.sensible_workers(1) == 3
    monkeypatch.setenv("PREFERENT_WORKERS", "many")
    with pytest.raises(UsageError, match="expected 1 or more, got 'many'"):
        blocks.sensible_workers(1)


@pytest.mark.slow
def test_several_processes_make_the_file_that_one_makes(
    tmp_path: Path, cache: Path, template: Template, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = [*ROWS["preferences"], *BAD] * 300  # four blocks, the last one not full
    source = file_of(tmp_path, table)
    alone = load(source, template, "preferences", SKIPPING)
    (path,) = cache.iterdir()
    written = path.read_bytes()
    path.unlink()
    monkeypatch.setenv("PREFERENT_WORKERS", "3")
    monkeypatch.setattr(blocks, "block_of", None)  # this process makes none
    assert load(source, template, "preferences", SKIPPING).report == alone.report
    assert [each.read_bytes() for each in cache.iterdir()] == [written]


@pytest.mark.slow
def test_the_first_bad_row_is_the_same_with_several_processes(
    tmp_path: Path, cache: Path, template: Template, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = ROWS["preferences"][:1] * 700
    source = file_of(tmp_path, [*good, BAD[0], *good, {"prompt": "another fault"}])
    monkeypatch.setenv("PREFERENT_WORKERS", "2")
    with pytest.raises(UsageError, match="line 701: an empty reply") as error:
        load(source, template, "preferences")
    with pytest.raises(UsageError) as expected:
        in_memory(source, template, "preferences")
    assert str(error.value) == str(expected.value)
    assert files_in(cache) == {}


@pytest.mark.slow
def test_two_commands_may_make_the_same_file_at_once(tmp_path: Path, template: Template) -> None:
    template.tokenizer.save_pretrained(tmp_path / "model")
    source = file_of(tmp_path, [{"text": "hello what is it " * 20}] * 12_500)
    (tmp_path / "script.py").write_text(LOADING + "print(len(rows))")
    scripts = [
        subprocess.Popen(
            [sys.executable, tmp_path / "script.py", source, tmp_path / "model"],
            env={**os.environ, "PREFERENT_CACHE": str(tmp_path / "cache")},
            stdout=subprocess.PIPE,
        )
        for _ in range(2)
    ]
    assert [script.communicate(timeout=60)[0] for script in scripts] == [b"12500\n"] * 2
    assert len(files_in(tmp_path / "cache")) == 1


LOADING = """
import sys
from preferent.data.load import load
from preferent.data.template import Template
from transformers import AutoTokenizer

rows = load(sys.argv[1], Template(AutoTokenizer.from_pretrained(sys.argv[2])), "demonstrations")
"""


@pytest.mark.slow
def test_ctrl_c_ends_the_workers_too(tmp_path: Path, template: Template) -> None:
    """The script has no guard around its main part: workers do not run it again."""
    template.tokenizer.save_pretrained(tmp_path / "model")
    source = file_of(tmp_path, [{"text": "hello what is it " * 20}] * 150_000)
    cache = tmp_path / "cache"
    (tmp_path / "script.py").write_text(LOADING)
    script = subprocess.Popen(
        [sys.executable, tmp_path / "script.py", source, tmp_path / "model"],
        env={**os.environ, "PREFERENT_WORKERS": "2", "PREFERENT_CACHE": str(cache), "TMPDIR": str(tmp_path)},
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    until = time.monotonic() + 60
    while not any(path.stat().st_size > 10_000 for path in cache.glob("*.partial")) and time.monotonic() < until:
        time.sleep(0.05)
    os.killpg(script.pid, signal.SIGINT)
    _, said = script.communicate(timeout=20)
    assert said.count("KeyboardInterrupt") == 1
    assert "multiprocessing" not in said
    assert script.returncode != 0
    assert files_in(cache) == {}
    assert list(tmp_path.glob("preferent-*")) == []
    with pytest.raises(ProcessLookupError):  # nobody is left in the group
        os.killpg(script.pid, 0)


# --- memory --------------------------------------------------------------------------------------

MEASURING = """
from preferent.data import kept
kept.LARGE = int(sys.argv[3])
def anonymous():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("RssAnon"))
template = Template(AutoTokenizer.from_pretrained(sys.argv[2]))
load(sys.argv[4], template, "demonstrations")
before = anonymous()
rows = load(sys.argv[1], template, "demonstrations")
total = sum(len(row.learn.tolist()) for row, _ in zip(rows.batches(16, seed=1), range(2000)))
print(total, anonymous() - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_does_not_grow_with_the_rows(tmp_path: Path, template: Template) -> None:
    template.tokenizer.save_pretrained(tmp_path / "model")
    large = file_of(tmp_path, [{"text": f"hello {i} " + "what is it " * 5} for i in range(50_000)])
    small = file_of(tmp_path, [{"text": f"hello {i}"} for i in range(2000)], "small.jsonl")
    grown = {}
    for threshold in (1, 1 << 60):
        command = [sys.executable, "-c", LOADING.partition("\nrows")[0] + MEASURING, large, tmp_path / "model"]
        done = subprocess.run([*command, str(threshold), small], capture_output=True, text=True, check=True)
        total, grown[threshold] = map(int, done.stdout.split())
        assert total == 2000 * 16
    assert grown[1] < 15_000, grown  # kilobytes
    assert grown[1 << 60] > 60_000, grown
