"""The training commands end to end, as a person types them."""

import json
import re
import tempfile
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from tiny_runs import (
    DEMOS,
    PREFS,
    PROMPTS,
    RATED,
    SMALL,
    base,
    kept,
    left,
    quietly,
    reward,
    reward_models,
    run,
    written,
)

from preferent.models.load import load_policy, load_scorer
from preferent.runtime import checkpoint
from preferent.runtime.track import rows as metrics_in
from preferent.types import Prompt

FAST = [*SMALL, "--lr", "1e-2", "--batch", "6"]
SHORT = [*FAST, "--max-new-tokens", "8"]


@pytest.fixture(scope="module")
def data():
    """Names of the data files, by what they hold."""
    rows = {"demos": DEMOS, "prefs": PREFS, "prompts": PROMPTS, "rated": RATED}
    return {name: written(kept() / f"{name}-trained.jsonl", each) for name, each in rows.items()}


def command(name, data):
    """A short run of each command."""
    return {
        "sft": ["sft", "--data", data["demos"], *FAST],
        "reward": ["reward", "--data", data["prefs"], "--members", "2", *FAST],
        "dpo": ["dpo", "--data", data["prefs"], *FAST],
        "kto": ["kto", "--data", data["rated"], *FAST],
        "ppo": ["ppo", "--data", data["prompts"], "--reward", reward_models(), "--mini-batch", "3", *SHORT],
        "grpo": ["grpo", "--data", data["prompts"], "--reward", reward("topical"), "--group", "3", *SHORT],
    }[name] + ["--model", base()]


EVALUATION = {
    "sft": ("demos", {"eval/nll", "eval/loss"}),
    "reward": ("prefs", {"eval/accuracy", "eval/ensemble_accuracy", "eval/loss"}),
    "dpo": ("prefs", {"eval/accuracy", "eval/margin", "eval/loss"}),
    "kto": ("rated", {"eval/accuracy", "eval/margin", "eval/baseline", "eval/loss"}),
    "ppo": (
        "prompts",
        {
            "reward/members_spread",
            "eval/reward/members_spread",
            "eval/reward",
            "eval/kl",
            "eval/length",
            "eval/ended",
            "eval/distinct_2",
        },
    ),
    "grpo": ("prompts", {"eval/reward", "eval/kl", "eval/length", "eval/ended", "eval/distinct_2"}),
}


def weights(folder, load=load_policy):
    return dict(load(folder, device="cpu").named_parameters())


def same(a, b):
    return all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("name", list(EVALUATION))
def test_a_run_leaves_what_it_promises(name, data, tmp_path, capsys):
    held_out, measured = EVALUATION[name]
    out = tmp_path / "run"
    words = [*command(name, data), "--eval-data", data[held_out], "--eval-every", "1", "--save-every", "1"]
    assert run(*words, "--steps", "2", "--out", out) == 0
    metrics = list(metrics_in(out / "metrics.jsonl"))
    assert [row["step"] for row in metrics] == [1, 2]
    assert all(measured <= row.keys() for row in metrics)
    assert all(isinstance(row["loss"], float) and row["skipped"] == 0 for row in metrics)
    assert {"checkpoints", "config.yaml", "events", "manifest.json", "metrics.jsonl", "model"} <= set(left(out))
    assert left(out / "checkpoints") == ["step-1", "step-2"]
    assert ("samples" in left(out)) == (name in ("ppo", "grpo"))
    members = ["member-0", "member-1"] if name == "reward" else [""]
    moved = [weights(out / "model" / member, load_scorer if name == "reward" else load_policy) for member in members]
    assert not any(same(weights(base()), each) for each in moved if name != "reward")
    said = capsys.readouterr().err
    assert "step 1/2" in said
    told = [line for line in said.splitlines() if line.startswith("held out  step ")]
    number = {"sft": "nll", "reward": "ensemble accuracy", "ppo": "KL", "grpo": "KL"}.get(name, "margin")
    assert [bool(re.search(rf"step {i}  .*\b{number} -?\d", line)) for i, line in enumerate(told, 1)] == [True, True]
    assert f"The model is in {out / 'model'}." in said


@pytest.mark.parametrize("name", ["sft", "reward", "dpo", "kto", "grpo", "ppo"])
def test_the_runs_config_says_the_same_run_again(name, data, tmp_path):
    words = command(name, data)
    quietly(*words, "--steps", "2", "--out", tmp_path / "a")
    quietly(name, "--config", tmp_path / "a", "--out", tmp_path / "b")
    places = ["model/member-0", "model/member-1"] if name == "reward" else ["model"]
    for place in places:
        load = load_scorer if name == "reward" else load_policy
        assert same(weights(tmp_path / "a" / place, load), weights(tmp_path / "b" / place, load))


def test_learning_lowers_the_loss_and_raises_the_margin(data, tmp_path):
    quietly(*command("sft", data), "--epochs", "6", "--out", tmp_path / "sft")
    nll = [row["nll"] for row in metrics_in(tmp_path / "sft" / "metrics.jsonl")]
    assert len(nll) == 24
    assert nll[-1] < nll[0] - 1
    quietly(*command("dpo", data), "--epochs", "3", "--out", tmp_path / "dpo")
    margins = [row["margin"] for row in metrics_in(tmp_path / "dpo" / "metrics.jsonl")]
    assert margins[0] == pytest.approx(0, abs=1e-5)
    assert margins[-1] > 1


def test_a_reference_of_its_own_is_what_margins_are_to_and_has_to_read_the_same_tokens(data, tmp_path, capsys):
    quietly(*command("sft", data), "--epochs", "4", "--out", tmp_path / "sft")
    words = ["dpo", "--data", data["prefs"], *FAST, "--steps", "1", "--model", tmp_path / "sft"]
    quietly(*words, "--reference", base(), "--out", tmp_path / "other")
    quietly(*words, "--reference", tmp_path / "sft", "--out", tmp_path / "itself")
    quietly(*words, "--out", tmp_path / "none")
    margins = [next(metrics_in(tmp_path / name / "metrics.jsonl"))["margin"] for name in ("other", "itself", "none")]
    assert abs(margins[0]) > 0.1
    assert margins[1:] == pytest.approx([0, 0], abs=1e-5)
    assert same(weights(tmp_path / "itself"), weights(tmp_path / "none"))
    text = written(tmp_path / "text.jsonl", [{"text": "quite another text, of other words"}] * 3)
    quietly("init", "--text", text, "--out", tmp_path / "strange", "--hidden", 32, "--layers", 1, "--heads", 2)
    assert run(*words, "--reference", tmp_path / "strange", "--out", tmp_path / "x") == 2
    assert "makes other tokens of the same text" in capsys.readouterr().err
    assert run(*words, "--reference", base(), "--follow", "0.5", "--out", tmp_path / "x") == 2
    assert "leave --reference out" in capsys.readouterr().err
    assert left(tmp_path / "x") == []


def test_the_best_checkpoint_is_kept_and_patience_ends_the_run(data, tmp_path, capsys):
    """At a learning rate that makes it worse, the first evaluation is the best, and two more are waited for."""
    words = ["sft", "--model", base(), "--data", data["demos"], "--eval-data", data["demos"], *SMALL]
    words += ["--batch", "6", "--eval-every", "1", "--keep-best", "eval/nll", "--schedule", "constant"]
    assert run(*words, "--lr", "3", "--steps", "9", "--patience", "2", "--out", tmp_path / "run") == 0
    values = [row["eval/nll"] for row in metrics_in(tmp_path / "run" / "metrics.jsonl")]
    best = values.index(min(values)) + 1
    assert len(values) == best + 2 < 9
    assert f"The model is that of step {best}, best by eval/nll." in capsys.readouterr().err
    assert "best" not in left(tmp_path / "run")
    quietly(*words, "--lr", "3", "--steps", "9", "--out", tmp_path / "whole")
    assert same(weights(tmp_path / "run"), weights(tmp_path / "whole"))


def test_a_finished_run_goes_on_with_more_steps_to_a_better_best(data, tmp_path):
    words = [*command("sft", data), "--eval-data", data["demos"], "--eval-every", "1", "--keep-best", "eval/nll"]
    words += ["--schedule", "constant", "--out", tmp_path / "run"]
    quietly(*words, "--steps", "2")
    before = weights(tmp_path / "run")
    quietly(*words, "--steps", "4", "--resume")
    assert [row["step"] for row in metrics_in(tmp_path / "run" / "metrics.jsonl")] == [1, 2, 3, 4]
    assert not same(before, weights(tmp_path / "run"))


def test_an_adapters_run_writes_an_adapter_whose_reference_is_the_model_without_it(data, tmp_path):
    quietly(*command("dpo", data), "--lora", "4", "--epochs", "3", "--out", tmp_path / "dpo")
    assert (tmp_path / "dpo" / "model" / "adapter_config.json").exists()
    rows = list(metrics_in(tmp_path / "dpo" / "metrics.jsonl"))
    assert rows[0]["margin"] == pytest.approx(0, abs=1e-5)
    assert rows[-1]["margin"] > 0
    quietly(*command("ppo", data), "--lora", "4", "--steps", "1", "--out", tmp_path / "ppo")
    assert (tmp_path / "ppo" / "model" / "adapter_config.json").exists()


def test_weighted_rewards_and_weighted_data_are_taken(data, tmp_path):
    words = ["grpo", "--model", base(), "--data", f"{data['prompts']}=0.7", "--data", f"{data['prompts']}=0.3"]
    words += ["--reward", f"{reward_models()}=0.5", "--reward", f"{reward('topical')}=2", *SHORT]
    quietly(*words, "--steps", "1", "--out", tmp_path / "grpo")
    (row,) = metrics_in(tmp_path / "grpo" / "metrics.jsonl")
    assert {"reward/rm", "reward/rewards.py:topical"} <= row.keys()
    _, states = checkpoint.load(tmp_path / "grpo" / "checkpoints")
    assert states["reward-0"] == {"token_budget": None}  # where memory made it less, a resumed run reads as few
    words = ["reward", "--model", base(), "--data", f"{data['prefs']}=0.7", "--data", f"{data['prefs']}=0.3", *FAST]
    quietly(*words, "--steps", "1", "--out", tmp_path / "rm")
    assert left(tmp_path / "rm" / "model")


def test_streaming_trains_on_rows_as_they_come(data, tmp_path):
    quietly(*command("sft", data), "--streaming", "--steps", "3", "--out", tmp_path / "run")
    assert [row["step"] for row in metrics_in(tmp_path / "run" / "metrics.jsonl")] == [1, 2, 3]


@pytest.mark.parametrize("name", list(EVALUATION))
def test_a_dry_run_shows_the_plan_and_writes_nothing(name, data, tmp_path, monkeypatch, capsys):
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    assert run(*command(name, data), "--steps", "2", "--out", tmp_path / "run", "--dry-run") == 0
    said = capsys.readouterr().out
    assert "peak while updating" in said
    assert "steps 2*" in said
    assert not (tmp_path / "run").exists()
    assert left(tmp_path / "temporary") == []


def test_a_dry_run_says_what_none_comes_to_and_how_often_a_step_takes_a_row(data, tmp_path, capsys):
    words = ["--steps", "1", "--out", tmp_path / "run", "--dry-run"]
    assert run(*command("grpo", data), *words) == 0
    assert "kl 0.04 · kl_reward 0.0 ·" in capsys.readouterr().out
    assert run(*command("ppo", data), *words, "--batch", "32") == 0
    assert "1 of 32 rows: 2.67 epochs · 44 updates · a step takes a row 2.7 times" in capsys.readouterr().out


def test_held_out_replies_are_drawn_as_those_in_training(data, tmp_path):
    """From the likeliest token alone, another seed draws the same."""
    said = []
    for seed in (0, 1):
        out = tmp_path / str(seed)
        words = [*command("grpo", data), "--eval-data", data["prompts"], "--top-k", "1", "--lr", "1e-9"]
        quietly(*words, "--seed", seed, "--steps", "1", "--out", out)
        rows = (out / "samples" / "step-1.jsonl").read_text().splitlines()
        said.append([json.loads(line)["reply"] for line in rows])
    assert said[0] == said[1]


def test_members_are_scaled_on_prompts_that_all_learned_from_where_there_are_any():
    from preferent.stages.reward import seen_by_all, split
    from toys import preference, reply

    groups = [[preference(Prompt((i,)), reply(1), reply(2))] for i in range(60)]
    for members in (2, 4):
        splits = [split(groups, i, members) for i in range(members)]
        shared = seen_by_all(splits)
        assert shared
        assert all(group in mine for group in shared for mine in splits)
        assert len(shared) < len(splits[0])
    splits = [split(groups, i, 5) for i in range(5)]
    assert seen_by_all(splits) == splits[0]


def test_samples_hold_what_was_said_at_an_evaluation(data, tmp_path):
    words = [*command("ppo", data), "--eval-data", data["prompts"], "--steps", "1", "--out", tmp_path / "run"]
    quietly(*words)
    rows = [json.loads(line) for line in Path(tmp_path / "run" / "samples" / "step-1.jsonl").read_text().splitlines()]
    assert len(rows) == len(PROMPTS)
    assert rows[0]["prompt"][0]["content"] == PROMPTS[0]["prompt"]
    assert {"reply", "reward", "stop"} <= rows[0].keys()


def test_the_truth_is_asked_of_held_out_replies_and_changes_nothing(data, tmp_path):
    """The same weights with and without it; the metric is the function's mean over the samples in the run's folder."""
    words = [*command("grpo", data), "--eval-data", data["prompts"], "--eval-every", "1", "--steps", "2"]
    truth = ["--truth", reward("brief")]
    for name, more in (("with", truth), ("without", [])):
        assert run(*words, *more, "--out", tmp_path / name) == 0
    last = list(metrics_in(tmp_path / "with" / "metrics.jsonl"))[-1]
    said = [json.loads(line)["reply"] for line in (tmp_path / "with/samples/step-2.jsonl").read_text().splitlines()]
    assert last["eval/truth"] == pytest.approx(sum(-len(reply) / 10 for reply in said) / len(said))
    one, other = ((tmp_path / name / "model/model.safetensors").read_bytes() for name in ("with", "without"))
    assert one == other
    assert "eval/truth" not in list(metrics_in(tmp_path / "without" / "metrics.jsonl"))[-1]


def test_the_truth_without_held_out_prompts_is_refused(data, tmp_path, capsys):
    words = [*command("grpo", data), "--truth", reward("brief"), "--out", tmp_path / "run"]
    assert run(*words) == 2
    assert "name some with --eval-data" in capsys.readouterr().err


SAVING = ["--checkpoint-activations", "--lora", "4"]


@pytest.mark.parametrize("name", list(EVALUATION))
def test_every_command_can_save_memory(name, data, tmp_path):
    words = [*command(name, data), *SAVING, "--steps", "2", "--out", tmp_path / "run"]
    assert run(*words) == 0
    plain = [word for word in words if word != "--checkpoint-activations"]
    assert run(*plain[:-1], tmp_path / "plain") == 0
    losses = [
        [row["loss"] for row in metrics_in(tmp_path / f / "metrics.jsonl") if "loss" in row] for f in ("run", "plain")
    ]
    assert losses[0] == losses[1] != []


@pytest.mark.skipif(not find_spec("bitsandbytes"), reason="bitsandbytes is not installed")
@pytest.mark.parametrize("name", ["reward", "grpo"])
def test_a_run_on_four_and_eight_bits_goes_on_to_the_bit(name, data, tmp_path):
    words = [
        *command(name, data),
        *SAVING,
        "--load-4bit",
        "--optimizer",
        "adamw8bit",
        "--schedule",
        "constant",
        "--warmup",
        "0",
    ]
    assert run(*words, "--steps", "4", "--out", tmp_path / "straight") == 0
    assert run(*words, "--steps", "2", "--out", tmp_path / "resumed") == 0
    assert run(*words, "--steps", "4", "--resume", "--out", tmp_path / "resumed") == 0
    assert said(tmp_path / "resumed") == said(tmp_path / "straight")


def said(folder):
    """Every number of a run that is not a time."""
    return [{k: v for k, v in row.items() if k != "time"} for row in metrics_in(folder / "metrics.jsonl")]


def test_weights_in_four_bits_need_an_adapter(data, tmp_path, capsys):
    assert run(*command("sft", data), "--load-4bit", "--out", tmp_path / "run") == 2
    assert "--load-4bit needs --lora" in capsys.readouterr().err
