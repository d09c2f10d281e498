"""`preferent dpo` asks its reference before the first step, keeps what it said in the run, and goes on from there."""

import subprocess
import sys
from pathlib import Path

import pytest
from safetensors import safe_open
from tiny_runs import PREFS, SMALL, base, kept, quietly, rows_of, run, written

# Four steps of six are an epoch. The rate depends on no number of steps, so that a run may grow and stay the same run.
WORDS = [*SMALL, "--batch", "6", "--schedule", "constant", "--warmup", "0", "--lr", "1e-3", "--save-every", "1"]

HELD_OUT = "reference/held_out"


@pytest.fixture(scope="module")
def prefs():
    return written(kept() / "remembered.jsonl", PREFS)


def words(prefs: str, out: Path, *more: object) -> list[str]:
    data = [word for name in prefs.split() for word in ("--data", name)]
    return [str(word) for word in ("dpo", "--model", base(), *data, "--out", out, *WORDS, *more)]


def remembered(out: Path, folder: str = "reference") -> list[int]:
    """How many replies each of the run's files holds."""
    found = []
    for path in sorted((out / folder).glob("*.safetensors")):
        with safe_open(path, "pt") as file:
            found.append(len(file.get_tensor("lengths")))
    return found


def left(out: Path) -> tuple[bytes, list[dict[str, float]]]:
    """The model's weights, and the metrics without their time."""
    rows = [{k: v for k, v in row.items() if k != "time"} for row in rows_of(out / "metrics.jsonl")]
    return (out / "model" / "model.safetensors").read_bytes(), rows


def test_every_reply_of_the_run_and_of_the_held_out_rows_is_asked_for_once(prefs, tmp_path, capfd):
    held_out = written(tmp_path / "held.jsonl", PREFS[:5])
    quietly(*words(prefs, tmp_path / "two", "--epochs", 2, "--eval-data", held_out))
    assert remembered(tmp_path / "two") == [2 * 24]
    assert remembered(tmp_path / "two", HELD_OUT) == [2 * 5]
    quietly(*words(prefs, tmp_path / "short", "--steps", 2))
    assert remembered(tmp_path / "short") == [2 * 12]
    assert left(tmp_path / "two")[1][0]["margin"] == 0  # the policy is its own reference, to the last bit
    assert run(*words(prefs, tmp_path / "said", "--steps", 1)) == 0
    assert "DPO reference  done  step 1/1" in capfd.readouterr().err


def test_a_run_that_grows_asks_for_the_rest_and_ends_where_one_as_long_from_the_start_ends(prefs, tmp_path):
    quietly(*words(prefs, tmp_path / "straight", "--steps", 6))
    quietly(*words(prefs, tmp_path / "grown", "--steps", 2))
    quietly(*words(prefs, tmp_path / "grown", "--steps", 6, "--resume"))
    assert remembered(tmp_path / "grown") == [2 * 12, 2 * 12]
    assert left(tmp_path / "grown") == left(tmp_path / "straight")


@pytest.mark.parametrize("done", [0, 3])
def test_a_resumed_run_whose_files_were_lost_asks_again_and_ends_with_the_same_bits(prefs, tmp_path, done):
    """The policy is asked before it takes up the weights of its checkpoint."""
    quietly(*words(prefs, tmp_path / "straight", "--steps", 6))
    if done:
        quietly(*words(prefs, tmp_path / "lost", "--steps", done))
        (tmp_path / "lost" / "reference" / "0.safetensors").write_bytes(b"damaged")
    quietly(*words(prefs, tmp_path / "lost", "--steps", 6, "--resume"))
    assert left(tmp_path / "lost") == left(tmp_path / "straight")


KILLED_AT = """
import os, signal, sys
from preferent.runtime import files

def failpoint(operation, *paths):
    if operation == sys.argv[1] and paths[-1].name == sys.argv[2]:
        os.kill(os.getpid(), signal.SIGKILL)

files.failpoint = failpoint
from preferent.cli import main
main(sys.argv[3:])
"""


@pytest.mark.parametrize(("operation", "name"), [("rename", "0.safetensors"), ("sync", "reference")])
def test_a_run_killed_while_its_reference_is_asked_is_resumed_to_the_same_bits(prefs, tmp_path, operation, name):
    quietly(*words(prefs, tmp_path / "straight", "--steps", 6))
    command = [sys.executable, "-c", KILLED_AT, operation, name, *words(prefs, tmp_path / "killed", "--steps", 6)]
    assert subprocess.run(command, capture_output=True, check=False).returncode == -9
    assert not (tmp_path / "killed" / "metrics.jsonl").exists()
    quietly(*words(prefs, tmp_path / "killed", "--steps", 6, "--resume"))
    assert remembered(tmp_path / "killed") == [2 * 24]
    assert left(tmp_path / "killed") == left(tmp_path / "straight")


def test_of_a_stream_the_held_out_rows_are_remembered_and_the_rest_is_asked_for_when_it_comes(prefs, tmp_path):
    held_out = written(tmp_path / "held.jsonl", PREFS[:4])
    quietly(*words(prefs, tmp_path / "plain", "--streaming", "--steps", 3))
    assert remembered(tmp_path / "plain") == []
    quietly(*words(prefs, tmp_path / "watched", "--streaming", "--steps", 3, "--eval-data", held_out))
    assert remembered(tmp_path / "watched") == []
    assert remembered(tmp_path / "watched", HELD_OUT) == [2 * 4]
    assert left(tmp_path / "watched")[0] == left(tmp_path / "plain")[0]


def test_watching_changes_nothing_even_where_held_out_rows_are_trained_on(prefs, tmp_path):
    held_out = written(tmp_path / "held.jsonl", PREFS[:4])
    quietly(*words(prefs, tmp_path / "plain", "--steps", 6))
    quietly(*words(prefs, tmp_path / "watched", "--steps", 6, "--eval-data", held_out))
    assert left(tmp_path / "watched")[0] == left(tmp_path / "plain")[0]


def test_a_mixture_is_asked_for_what_the_run_will_draw_of_it(prefs, tmp_path):
    other = written(
        tmp_path / "other.jsonl", [{"prompt": f"who is {i}?", "chosen": "me.", "rejected": "you."} for i in range(6)]
    )
    quietly(*words(f"{prefs}=0.5 {other}=0.5", tmp_path / "mixed", "--epochs", 1))
    asked = sum(remembered(tmp_path / "mixed"))  # five steps of six: each of the six is drawn, and not all the 24
    assert 2 * (6 + 10) < asked < 2 * (6 + 20)
