"""`preferent kto`: what it takes, what it warns of, what it remembers, and where it ends after an interruption."""

import logging
from pathlib import Path

import pytest
from safetensors import safe_open
from tiny_runs import PREFS, RATED, SMALL, base, kept, quietly, rows_of, run, written

from preferent.data.columns import Unpaired
from preferent.data.rated import Judged
from preferent.stages.kto import KTOOptions, advise
from preferent.types import Prompt
from toys import reply

WORDS = [*SMALL, "--batch", "6", "--schedule", "constant", "--warmup", "0", "--lr", "1e-3", "--save-every", "1"]


@pytest.fixture(scope="module")
def thumbs() -> str:
    return written(kept() / "thumbs.jsonl", RATED)


def words(data: str, out: Path, *more: object) -> list[str]:
    return [str(word) for word in ("kto", "--model", base(), "--data", data, "--out", out, *WORDS, *more)]


def remembered(folder: Path) -> int:
    found = 0
    for path in folder.glob("*.safetensors"):
        with safe_open(path, "pt") as file:
            found += len(file.get_tensor("lengths"))
    return found


def left(out: Path) -> tuple[bytes, list[dict[str, float]]]:
    rows = [{k: v for k, v in row.items() if k != "time"} for row in rows_of(out / "metrics.jsonl")]
    return (out / "model" / "model.safetensors").read_bytes(), rows


def test_every_reply_is_asked_for_once_with_its_own_prompt_and_once_with_another(thumbs, tmp_path):
    held = written(tmp_path / "held.jsonl", RATED[:5])
    quietly(*words(thumbs, tmp_path / "run", "--epochs", 3, "--eval-data", held))
    assert remembered(tmp_path / "run/reference") == 2 * 24
    assert remembered(tmp_path / "run/reference/held_out") == 2 * 5
    first = left(tmp_path / "run")[1][0]
    assert (first["margin"], first["baseline"], first["loss"]) == (0, 0, 0.5)  # its own reference, to the last bit
    for objective in ("bco", "apo-zero"):
        quietly(*words(thumbs, tmp_path / objective, "--epochs", 3, "--objective", objective))
        assert remembered(tmp_path / objective / "reference") == 24


def test_an_adapters_reference_is_the_model_without_it(thumbs, tmp_path):
    quietly(*words(thumbs, tmp_path / "lora", "--steps", 3, "--lora", 2))
    first = rows_of(tmp_path / "lora/metrics.jsonl")[0]
    assert (first["margin"], first["loss"]) == (0, 0.5)


@pytest.mark.parametrize("objective", ["kto", "bco"])
def test_a_run_that_stops_and_grows_ends_where_a_straight_one_ends(objective, thumbs, tmp_path):
    more = ["--objective", objective, "--eval-data", thumbs, "--eval-every", 2]
    quietly(*words(thumbs, tmp_path / "straight", "--steps", 6, *more))
    quietly(*words(thumbs, tmp_path / "grown", "--steps", 3, *more[:2]))
    quietly(*words(thumbs, tmp_path / "grown", "--steps", 6, "--resume", *more[:2]))
    assert left(tmp_path / "grown")[0] == left(tmp_path / "straight")[0]  # and being watched changed nothing


@pytest.mark.parametrize("objective", ["kto", "bco", "apo-zero"])
def test_good_replies_end_above_the_baseline_and_bad_ones_below(objective, tmp_path):
    prefs = written(tmp_path / "prefs.jsonl", PREFS)
    more = ["--objective", objective, "--lr", "1e-2", "--epochs", 3, "--eval-data", prefs]
    quietly(*words(prefs, tmp_path / "run", *more))
    last = rows_of(tmp_path / "run/metrics.jsonl")[-1]
    assert last["eval/accuracy"] == 1
    assert last["eval/chosen"] > last["eval/baseline"] + 5
    assert last["eval/rejected"] < last["eval/baseline"] - 5
    assert last["eval/desirable"] == 0.5


def judged(good: int, bad: int) -> list[Judged]:
    return [Judged([Unpaired(Prompt((i,)), reply(2), i < good)]) for i in range(good + bad)]


@pytest.mark.parametrize(
    ("good", "bad", "weights", "said"),
    [
        (4, 1, (1, 1), ["80%", "4.00 to 1", "Give --undesirable-weight 4 (down to 3)", "--desirable-weight 0.25"]),
        (1, 4, (1, 1), ["20%", "0.25 to 1", "Give --desirable-weight 4 (up to 5.33)", "--undesirable-weight 0.25"]),
        (1, 4, (2, 1), ["0.50 to 1", "Give --desirable-weight 4 (up to 5.33)", "--undesirable-weight 0.5"]),
        (2, 2, (1, 1), []),
        (4, 3, (1, 1), []),
        (1, 4, (5, 1), []),
        (3, 0, (1, 1), ["All judgements are desirable"]),
        (0, 3, (1, 1), ["All judgements are undesirable"]),
    ],
)
def test_uneven_judgements_are_told_of_with_the_weight_that_evens_them(good, bad, weights, said, caplog):
    """4 good to 1 bad: with a weight of 4 for bad ones 1 to 1, with 3 they are 4/3 to 1."""
    options = KTOOptions(desirable_weight=weights[0], undesirable_weight=weights[1])
    with caplog.at_level(logging.WARNING):
        advise(judged(good, bad), options)
    assert bool(caplog.text) == bool(said)
    assert all(words in caplog.text for words in said)


def test_what_cannot_be_done_is_said(thumbs, tmp_path, capsys):
    lone = written(tmp_path / "lone.jsonl", [RATED[0], RATED[0] | {"label": False}])
    assert run(*words(lone, tmp_path / "a")) == 2
    assert "all rows have the same prompt" in capsys.readouterr().err
    assert run(*words(thumbs, tmp_path / "b", "--streaming", "--steps", 2, "--batch", 1)) == 2
    assert "--batch must be 2 or more" in capsys.readouterr().err
    dpo = ["dpo", *words(thumbs, tmp_path / "c")[1:]]
    assert run(*dpo) == 2
    assert "`preferent kto` learns from these" in capsys.readouterr().err


@pytest.mark.parametrize("objective", ["kto", "bco"])
def test_judgements_are_taken_as_they_stream_in(objective, thumbs, tmp_path):
    more = ["--streaming", "--steps", 3, "--objective", objective, "--eval-data", thumbs]
    quietly(*words(thumbs, tmp_path / "run", *more))
    rows = rows_of(tmp_path / "run/metrics.jsonl")
    assert (rows[0]["margin"], len(rows)) == (0, 3)
    assert rows[-1]["eval/accuracy"] > 0.5
    assert run(*words(thumbs, tmp_path / "dry", *more, "--dry-run")) == 0


def test_a_dry_run_counts_the_replies_to_a_prompt(tmp_path, capsys):
    both = [{**RATED[0], "completion": text, "label": text == "yes"} for text in ("yes", "no", "yes")] + RATED[1:3]
    assert run(*words(written(tmp_path / "few.jsonl", both), tmp_path / "run", "--dry-run")) == 0
    said = capsys.readouterr().out
    assert "rows         3\n" in said
    assert "peak while updating" in said
