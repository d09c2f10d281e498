"""`--cost` in the commands that learn by sampling: reported, priced, resumed, and not moved by watching."""

import pytest
from tiny_runs import PROMPTS, SMALL, base, kept, quietly, reward, reward_models, written

from preferent.runtime import checkpoint
from preferent.runtime.track import rows as metrics_in

SHORT = [*SMALL, "--lr", "1e-2", "--batch", "4", "--max-new-tokens", "6", "--schedule", "constant", "--warmup", "0"]


def words(name, cost=("--cost", reward("brief"))):
    data = written(kept() / "prompts-priced.jsonl", PROMPTS)
    more = {"ppo": ["--mini-batch", "2"], "grpo": ["--group", "3"]}[name]
    said = [name, "--model", base(), "--data", data, "--reward", reward_models(), *cost]
    return [*said, "--cost-limit", "-0.2", "--cost-rate", "0.5", *more, *SHORT]


def numbers(folder):
    return [{k: v for k, v in row.items() if k != "time"} for row in metrics_in(folder / "metrics.jsonl")]


def test_an_ensemble_of_costs_is_averaged_however_rewards_are_combined(tmp_path):
    twice = ["--cost", reward_models(), "--combine", "worst", "--end-penalty", "0"]
    quietly(*words("grpo", cost=twice), "--steps", "1", "--out", tmp_path / "run")
    (row,) = numbers(tmp_path / "run")
    assert row["reward/plain"] < row["reward/cost"] - 1e-3


def test_what_the_likeliest_replies_cost_does_not_move_the_price(tmp_path):
    quietly(*words("grpo"), "--objective", "remax", "--steps", "1", "--out", tmp_path / "remax")
    _, states = checkpoint.load(tmp_path / "remax" / "checkpoints")
    (row,) = numbers(tmp_path / "remax")
    assert states["cost_price"]["count"] == 4 * 3  # prompts and replies to each, without the greedy one
    assert states["cost_price"]["total"] / 12 == pytest.approx(row["reward/cost"])


@pytest.mark.parametrize("name", ["ppo", "grpo"])
def test_the_price_of_cost_moves_and_goes_on_where_it_was_whether_watched_or_not(name, tmp_path):
    quietly(*words(name), "--steps", "3", "--out", tmp_path / "straight")
    quietly(*words(name), "--steps", "1", "--out", tmp_path / "resumed")
    quietly(*words(name), "--steps", "3", "--resume", "--out", tmp_path / "resumed")
    eval_ = ["--eval-data", kept() / "prompts-priced.jsonl", "--eval-every", "1"]
    quietly(*words(name), *eval_, "--steps", "3", "--out", tmp_path / "watched")
    rows = numbers(tmp_path / "straight")
    paid = [row["reward/cost_price"] for row in rows]
    assert paid[0] == 1 != paid[1] != paid[2]
    assert {"reward/cost", "reward/plain", "reward/members_spread"} <= rows[0].keys()
    assert numbers(tmp_path / "resumed") == rows
    seen = numbers(tmp_path / "watched")
    assert [{k: v for k, v in row.items() if not k.startswith("eval/")} for row in seen] == rows
    assert "eval/reward/cost" in seen[0]
    _, states = checkpoint.load(tmp_path / "straight" / "checkpoints")
    assert states["cost_price"]["count"] > 0
