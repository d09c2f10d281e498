"""preferent grpo and ppo with all their objectives and ways of drawing, as a person types them."""

import json

import pytest
import torch
from tiny_runs import DEMOS, PROMPTS, SMALL, base, kept, quietly, reward, reward_models, run, written

from preferent.models.load import load_policy
from preferent.runtime.track import rows as metrics_in

SHORT = [*SMALL, "--lr", "1e-2", "--batch", "4", "--max-new-tokens", "8", "--save-every", "1", "--warmup", "0"]
CLIPPED = ["grpo", "dr-grpo", "dapo", "gspo", "cispo", "gmpo", "sapo", "reinforce++"]
UNCLIPPED = ["rloo", "reinforce", "remax"]


@pytest.fixture(scope="module")
def prompts():
    return written(kept() / "prompts-gradients.jsonl", PROMPTS)


@pytest.fixture(scope="module")
def demos():
    return written(kept() / "demos-gradients.jsonl", DEMOS)


def grpo(prompts, objective="grpo", *more, rewards=("topical", "brief")):
    words = [word for name in rewards for word in ("--reward", f"{reward(name)}={1 + len(name)}")]
    group = [] if "--group" in more else ["--group", "3"]
    return ["grpo", "--model", base(), "--data", prompts, "--objective", objective, *group, *words, *SHORT, *more]


def ppo(prompts, *more):
    return ["ppo", "--model", base(), "--data", prompts, "--reward", reward_models(), *SHORT, *more]


def left(folder):
    """The model's weights and the metrics, without the clock's."""
    metrics = [{k: v for k, v in row.items() if k != "time"} for row in metrics_in(folder / "metrics.jsonl")]
    return dict(load_policy(str(folder / "model"), device="cpu").named_parameters()), metrics


def same(one, other):
    return one[1] == other[1] and all(torch.equal(one[0][name], other[0][name]) for name in one[0])


def straight_and_resumed(words, tmp_path):
    quietly(*words, "--steps", "3", "--out", tmp_path / "straight")
    quietly(*words, "--steps", "1", "--out", tmp_path / "resumed")
    quietly(*words, "--steps", "3", "--out", tmp_path / "resumed", "--resume")
    return left(tmp_path / "straight"), left(tmp_path / "resumed")


@pytest.mark.parametrize("objective", [*CLIPPED, *UNCLIPPED])
def test_every_objective_trains_and_goes_on_to_the_bit(objective, prompts, tmp_path):
    straight, resumed = straight_and_resumed(grpo(prompts, objective), tmp_path)
    assert [row["step"] for row in straight[1]] == [1, 2, 3]
    assert all(row["mismatch"] < 1e-4 for row in straight[1] if "mismatch" in row)
    assert not all(torch.equal(w, straight[0][n]) for n, w in load_policy(base(), device="cpu").named_parameters())
    assert same(straight, resumed)


def test_rewards_normalised_apart_train_and_go_on_to_the_bit(prompts, tmp_path):
    words = grpo(prompts, "gdpo", "--end-penalty", "0", "--overlong-buffer", "4")
    straight, resumed = straight_and_resumed(words, tmp_path)
    assert "reward/overlong" in straight[1][0]
    assert same(straight, resumed)


def test_maximum_likelihood_takes_rewards_that_are_not_negative(prompts, tmp_path):
    words = grpo(prompts, "max-rl", "--end-penalty", "0", rewards=("topical",))
    assert same(*straight_and_resumed(words, tmp_path))


def test_resampling_makes_as_many_steps_as_were_asked_for_and_goes_on_to_the_bit(prompts, tmp_path):
    """A reward that seldom differs: most steps take further batches."""
    words = grpo(
        prompts, "dapo", "--resample", "2", "--end-penalty", "0", "--overlong-buffer", "4", rewards=("topical",)
    )
    straight, resumed = straight_and_resumed(words, tmp_path)
    assert [row["step"] for row in straight[1]] == [1, 2, 3]
    assert {row["prompt_batches"] for row in straight[1]} <= {1, 2, 3}
    assert max(row["prompt_batches"] for row in straight[1]) > 1
    assert same(straight, resumed)


def test_ppo_with_all_it_can_have_goes_on_to_the_bit(prompts, demos, tmp_path):
    words = ppo(
        prompts, "--ptx-data", demos, "--ptx-batch", "3", "--ptx-weight", "0.5", "--entropy-bonus", "0.01",
        "--dual-clip", "3", "--mask-truncated", "--correction", "truncated", "--overlong-buffer", "4",
        "--mini-batch", "2",
    )  # fmt: skip
    straight, resumed = straight_and_resumed(words, tmp_path)
    assert {"ptx_nll", "entropy_bonus", "reward/overlong"} <= straight[1][0].keys()
    assert same(straight, resumed)


@pytest.mark.parametrize("name", ["grpo", "ppo"])
def test_a_step_of_replies_that_were_all_cut_off_and_masked_changes_nothing_and_the_run_goes_on(
    name, prompts, tmp_path
):
    """They are counted as no tokens: no division by 0, and no forward without a token."""
    words = [*(grpo(prompts) if name == "grpo" else ppo(prompts)), "--mask-truncated", "--max-new-tokens", "1"]
    quietly(*words, "--steps", "2", "--out", tmp_path / "run")
    weights, told = left(tmp_path / "run")
    assert [row["skipped"] for row in told] == [0, 0]
    if name == "grpo":
        assert told[0]["ended"] == 0
        assert all(torch.equal(w, weights[n]) for n, w in load_policy(base(), device="cpu").named_parameters())


@pytest.mark.parametrize("words", [["--kl-estimate", "k3", "--grpo-epochs", "2"], ["--kl-reward", "0.2"]])
def test_the_kl_may_be_paid_otherwise(words, prompts, tmp_path):
    quietly(*grpo(prompts), *words, "--steps", "2", "--out", tmp_path / "run")
    assert ("kl_loss" in left(tmp_path / "run")[1][0]) == ("--kl-reward" not in words)


def test_without_what_was_added_ppo_says_nothing_of_it(prompts, tmp_path):
    quietly(*ppo(prompts), "--steps", "1", "--out", tmp_path / "run")
    (told,) = left(tmp_path / "run")[1]
    assert not told.keys() & {"ptx_nll", "entropy_bonus", "reward/overlong", "prompt_batches"}


@pytest.mark.parametrize("lora", [[], ["--lora", "2"]])
@pytest.mark.parametrize("name", ["grpo", "ppo"])
def test_a_run_that_draws_ahead_is_the_same_each_time_and_watching_it_changes_nothing(name, lora, prompts, tmp_path):
    """Evaluation uses the sampler and the reward that the thread uses, in turn."""
    words = grpo(prompts) if name == "grpo" else ppo(prompts)
    words += [*lora, "--max-staleness", "1", "--correction", "masked", "--steps", "4"]
    quietly(*words, "--out", tmp_path / "a")
    quietly(*words, "--out", tmp_path / "b", "--eval-data", prompts, "--eval-every", "1")
    a, b = (tuple(left(tmp_path / run)) for run in "ab")
    watched = [{k: v for k, v in row.items() if not k.startswith("eval/")} for row in b[1]]
    assert same(a, (b[0], watched))
    assert a[1][0]["mismatch"] < 1e-4 < a[1][2]["mismatch"]


def test_a_run_that_draws_ahead_goes_on_where_its_data_was_used(prompts, tmp_path):
    words = grpo(prompts, "grpo", "--max-staleness", "2")
    quietly(*words, "--steps", "2", "--out", tmp_path / "run")
    quietly(*words, "--steps", "3", "--out", tmp_path / "run", "--resume")
    state = json.loads(next((tmp_path / "run" / "checkpoints" / "step-3").glob("*.json")).read_text())
    assert "'position': 3" in str(state) or '"position": 3' in json.dumps(state)
    assert [row["step"] for row in left(tmp_path / "run")[1]] == [1, 2, 3]


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["--group", "1"], "--objective grpo compares the replies to a prompt, so it needs --group 2 or more"),
        (["--objective", "rloo", "--group", "1"], "--objective rloo compares"),
        (["--objective", "reinforce++", "--group", "1", "--resample", "1"], "--resample compares"),
        (["--objective", "reinforce", "--group", "1", "--batch", "1"], "take a --batch or --group of 2"),
        (["--objective", "rloo", "--grpo-epochs", "2"], "one update a step: take --grpo-epochs 1"),
        (["--objective", "remax", "--mini-batch", "2"], "a --mini-batch of at least --batch"),
        (["--objective", "rloo", "--max-staleness", "1"], "take --correction truncated or masked"),
        (["--objective", "gdpo"], "give --end-penalty 0"),
        (["--objective", "gdpo", "--end-penalty", "0", "--kl-reward", "0.1"], "would have no price: take --kl"),
        (["--objective", "max-rl"], "so none may be negative: give --end-penalty 0"),
        (["--objective", "max-rl", "--end-penalty", "0"], "wrong (0); this one gave -"),
        (["--kl", "0.1", "--kl-reward", "0.1"], "give one of them"),
        (["--overlong-buffer", "9"], "--overlong-buffer 9 is more than a reply can be long: --max-new-tokens is 8"),
    ],
)
def test_what_an_objective_lacks_is_said_in_one_message(words, why, prompts, tmp_path, capsys):
    assert run(*grpo(prompts), *words, "--out", tmp_path / "run") == 2
    said = capsys.readouterr().err
    assert why in said
    assert "Traceback" not in said


def test_one_reward_cannot_be_normalised_apart(prompts, tmp_path, capsys):
    words = grpo(prompts, "gdpo", "--end-penalty", "0", rewards=("brief",))
    assert run(*words, "--out", tmp_path / "run") == 2
    assert "name two or more with --reward" in capsys.readouterr().err


def test_rewards_normalised_apart_would_not_see_a_cost_and_a_dry_run_says_so_too(prompts, tmp_path, capsys):
    words = grpo(prompts, "gdpo", "--end-penalty", "0", "--cost", reward("brief"))
    assert run(*words, "--dry-run", "--out", tmp_path / "run") == 2
    assert "would not see what --cost takes off" in capsys.readouterr().err


def test_a_single_reply_is_enough_where_nothing_is_compared(prompts, tmp_path):
    for objective in ("reinforce", "reinforce++", "remax"):
        quietly(*grpo(prompts, objective, "--group", "1"), "--steps", "1", "--out", tmp_path / objective)


@pytest.mark.parametrize(
    ("words", "kl", "kl_reward"),
    [
        ([], 0.04, 0.0),
        (["--kl", "0.1"], 0.1, 0.0),
        (["--kl-reward", "0.1"], 0.0, 0.1),
        (["--objective", "rloo"], 0.0, 0.05),
        (["--objective", "rloo", "--kl", "0.1"], 0.1, 0.0),
        (["--objective", "rloo", "--kl-reward", "0"], 0.0, 0.0),
    ],
)
def test_the_kl_is_paid_once_and_the_plan_says_where(words, kl, kl_reward, prompts, tmp_path, capsys):
    assert run(*grpo(prompts), *words, "--dry-run", "--out", tmp_path / "run") == 0
    said = " ".join(capsys.readouterr().out.split())
    assert f"kl {kl}" in said.replace("*", "")
    assert f"kl_reward {kl_reward}" in said.replace("*", "")


def test_the_plan_of_a_run_that_draws_ahead_counts_the_copy(prompts, tmp_path, capsys):
    for staleness in ("0", "1"):
        assert run(*grpo(prompts), "--max-staleness", staleness, "--dry-run", "--out", tmp_path / "run") == 0
        assert ("copy" in capsys.readouterr().out) == (staleness == "1")
