"""What `preferent reward` writes about held-out comparisons."""

import pytest
import torch
from tiny_runs import PREFS, SMALL, base, kept, quietly, written

from preferent.evaluation import judged
from preferent.models.load import load_scorer
from preferent.runtime.track import rows as metrics_in

HELD = [*PREFS[:8], {"prompt": PREFS[0]["prompt"], "completions": ["a.", "b c.", "d e f."], "ranks": [0, 1, 1]}]


@pytest.fixture(scope="module")
def words():
    files = {name: written(kept() / f"{name}-judged.jsonl", rows) for name, rows in (("prefs", PREFS), ("held", HELD))}
    fast = ["--lr", "1e-2", "--batch", "6", "--members", "2", "--save-every", "1"]
    return ["reward", "--model", base(), "--data", files["prefs"], "--eval-data", files["held"], *SMALL, *fast]


def test_every_held_out_pair_is_in_it_as_often_as_it_was_compared(words, tmp_path):
    """Eight pairs, and a ranking of three: three pairs of it, the last of which is a tie. Its prompt is the first's."""
    quietly(*words, "--steps", 3, "--out", tmp_path / "run")
    rows = judged.read(tmp_path / "run" / "judged.jsonl")
    assert len(rows) == 11
    assert [row.prompt for row in rows].count(0) == 4
    assert sorted(row.choice for row in rows) == [0.5, *[1.0] * 10]
    assert {len(row.margins) for row in rows} == {2}


def test_it_agrees_with_what_was_measured_on_the_way(words, tmp_path):
    """The margin over decided pairs, weighed as the metric weighs them: a third for each pair of the ranking."""
    quietly(*words, "--steps", 3, "--out", tmp_path / "run")
    *_, last = metrics_in(tmp_path / "run" / "metrics.jsonl")
    rows = judged.read(tmp_path / "run" / "judged.jsonl")
    ranked = {("a", "b"), ("a", "d"), ("b", "d")}
    weighed = [(1 / 3 if row.openings in ranked else 1.0, sum(row.margins) / 2) for row in rows if row.choice == 1]
    mean = sum(weight * margin for weight, margin in weighed) / sum(weight for weight, _ in weighed)
    assert mean == pytest.approx(last["eval/margin"], abs=1e-5)


def test_a_run_that_goes_on_writes_the_same_file_and_the_same_weights(words, tmp_path):
    """With a constant rate, two steps and then a third are three steps."""
    constant = [*words, "--schedule", "constant", "--warmup", "0"]
    quietly(*constant, "--steps", 3, "--out", tmp_path / "whole")
    quietly(*constant, "--steps", 2, "--out", tmp_path / "cut")
    quietly(*constant, "--steps", 3, "--out", tmp_path / "cut", "--resume")
    assert (tmp_path / "whole" / "judged.jsonl").read_bytes() == (tmp_path / "cut" / "judged.jsonl").read_bytes()
    for member in range(2):
        a, b = (load_scorer(tmp_path / name / "model" / f"member-{member}", device="cpu") for name in ("whole", "cut"))
        assert all(torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters(), strict=True))


def test_without_held_out_data_there_is_none(words, tmp_path):
    without = [word for i, word in enumerate(words) if word != "--eval-data" and words[i - 1] != "--eval-data"]
    quietly(*without, "--steps", 1, "--out", tmp_path / "run")
    assert not (tmp_path / "run" / "judged.jsonl").exists()
