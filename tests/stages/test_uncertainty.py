"""`preferent dpo --uncertainty`: an ensemble that disagrees makes pairs weigh less, in every start of a run alike."""

import pytest
from tiny_runs import PREFS, SMALL, base, kept, quietly, reward, reward_models, run, written

from preferent.runtime.track import rows as metrics_in

FAST = [*SMALL, "--lr", "1e-2", "--batch", "6", "--schedule", "constant", "--warmup", "0"]


def words(*more):
    return ["dpo", "--model", base(), "--data", written(kept() / "doubted.jsonl", PREFS), *FAST, *more]


def numbers(folder):
    return [{k: v for k, v in row.items() if k != "time"} for row in metrics_in(folder / "metrics.jsonl")]


def test_pairs_weigh_as_the_ensemble_says_and_a_run_goes_on_where_it_was(tmp_path):
    doubt = ["--uncertainty", reward_models(), "--uncertainty-temperature", "0.1"]
    quietly(*words(*doubt), "--steps", "3", "--out", tmp_path / "straight")
    quietly(*words(*doubt), "--steps", "1", "--out", tmp_path / "resumed")
    quietly(*words(*doubt), "--steps", "3", "--resume", "--out", tmp_path / "resumed")
    quietly(*words(), "--steps", "3", "--out", tmp_path / "plain")
    assert numbers(tmp_path / "resumed") == numbers(tmp_path / "straight")
    doubted, plain = (numbers(tmp_path / name)[1]["loss"] for name in ("straight", "plain"))
    assert doubted != pytest.approx(plain, rel=1e-4)


def test_members_that_hardly_count_change_next_to_nothing(tmp_path):
    """At a high temperature every pair weighs one."""
    doubt = ["--uncertainty", reward_models(), "--uncertainty-temperature", "1e9"]
    for name, more in (("doubted", doubt), ("plain", [])):
        quietly(*words(*more), "--steps", "2", "--out", tmp_path / name)
    doubted, plain = (numbers(tmp_path / name)[-1]["loss"] for name in ("doubted", "plain"))
    assert doubted == pytest.approx(plain, rel=1e-4)


@pytest.mark.parametrize(
    ("named", "sentence"),
    [
        (lambda: f"{reward_models()}/model/member-0", "a single reward model does not disagree with itself"),
        (lambda: reward("brief"), "it is no ensemble of reward models"),
    ],
)
def test_what_does_not_disagree_is_refused(named, sentence, tmp_path, capsys):
    assert run(*words("--uncertainty", named()), "--steps", "1", "--out", tmp_path / "x") == 2
    assert sentence in capsys.readouterr().err


def test_a_dry_run_counts_the_ensemble_in(tmp_path, capsys):
    assert run(*words("--uncertainty", reward_models()), "--out", tmp_path / "x", "--dry-run") == 0
    assert "weights: reward 1" in capsys.readouterr().out
