"""`preferent reward` with each of its objectives, from rows to a reward that other commands take."""

import json

import pytest
import torch
from tiny_runs import PREFS, PROMPTS, SMALL, THINGS, base, kept, question, quietly, rows_of, run, written

from preferent.models.load import load_scorer
from preferent.rewards.load import scales_in
from preferent.runtime.track import rows as metrics_in

FAST = [*SMALL, "--lr", "1e-2", "--batch", "6"]
SAID = ["the {} is {}.", "hm.", "well, well, i do not know {1}"]


def replied(i, which):
    return SAID[which].format(THINGS[i % len(THINGS)], i)


RANKED = [
    {"prompt": question(i), "completions": [replied(i, j) for j in range(3)], "ranks": [0, 1, 1 + i % 2]}
    for i in range(24)
]
RATED = [
    {"prompt": question(i), "completion": replied(i, i % 3), "helpful": [4, 1, None][i % 3], "brief": [1, 3, 0][i % 3]}
    for i in range(24)
]
ASPECTS = [row | {"aspects": {"helpful": 1.0, "brief": 0.2}} for row in PREFS]
HARMS = [row | {"chosen_safe": True, "rejected_safe": bool(i % 2)} for i, row in enumerate(PREFS)]
OBJECTIVES = {
    "thurstone": (PREFS, ["--objective", "thurstone", "--smoothing", "0.1"]),
    "plackett-luce": (RANKED, ["--objective", "plackett-luce"]),
    "pick-best": (RANKED, ["--objective", "pick-best"]),
    "regression": (RATED, ["--objective", "regression", "--heads", "helpful", "--heads", "brief"]),
    "aspects": (ASPECTS, ["--heads", "helpful", "--heads", "brief"]),
    "cost": (HARMS, ["--objective", "cost"]),
}
every_objective = pytest.mark.parametrize("name", list(OBJECTIVES))


def words(name, *more):
    rows, said = OBJECTIVES[name]
    return ["reward", "--model", base(), "--data", written(kept() / f"{name}-rows.jsonl", rows), *said, *FAST, *more]


def numbers(folder):
    return [{k: v for k, v in row.items() if k != "time"} for row in metrics_in(folder / "metrics.jsonl")]


@every_objective
def test_each_objective_lowers_its_loss_and_is_measured_on_held_out_rows(name, tmp_path):
    held = written(tmp_path / "held.jsonl", OBJECTIVES[name][0])
    quietly(*words(name, "--epochs", "5", "--members", "2", "--eval-data", held, "--out", tmp_path / "rm"))
    told = numbers(tmp_path / "rm")
    assert told[-1]["loss"] < told[0]["loss"]
    heads = {"regression": "error", "aspects": "accuracy"}.get(name)
    measured = {f"eval/{heads}/helpful", f"eval/{heads}/brief"} if heads else {"eval/accuracy", "eval/disagreement"}
    assert measured <= told[-1].keys()
    if not heads:
        assert told[-1]["eval/ensemble_accuracy"] > 0.9
    members = [load_scorer(tmp_path / "rm" / "model" / f"member-{i}", device="cpu") for i in range(2)]
    assert all(member.base.score.weight.shape[0] == (2 if heads else 1) for member in members)


@every_objective
def test_each_objective_resumes_to_the_bit_with_an_adapter_too(name, tmp_path):
    for kind in ([], ["--lora", "2"]):
        more = ["--schedule", "constant", "--warmup", "0", *kind]
        straight, resumed = tmp_path / f"straight{len(kind)}", tmp_path / f"resumed{len(kind)}"
        quietly(*words(name, *more, "--steps", "3", "--out", straight))
        quietly(*words(name, *more, "--steps", "1", "--out", resumed))
        quietly(*words(name, *more, "--steps", "3", "--resume", "--out", resumed))
        assert numbers(resumed) == numbers(straight)
        assert scales_in(resumed / "model") == scales_in(straight / "model")
        assert (straight / "model" / "adapter_config.json").exists() == bool(kind)


@every_objective
def test_a_dry_run_of_each_objective_shows_its_plan(name, tmp_path, capsys):
    assert run(*words(name, "--out", tmp_path / "rm", "--dry-run")) == 0
    assert "peak while updating" in capsys.readouterr().out
    assert not (tmp_path / "rm").exists()


def test_heads_say_ratings_in_their_own_units_and_are_weighed_at_use(tmp_path):
    """A head that learned its ratings says about what they were, and a run reports each head."""
    quietly(*words("regression", "--epochs", "12", "--out", tmp_path / "rm"))
    assert list(scales_in(tmp_path / "rm" / "model")) == ["helpful", "brief"]
    prompts = written(tmp_path / "prompts.jsonl", PROMPTS)
    grpo = ["grpo", "--model", base(), "--data", prompts, "--group", "2", "--max-new-tokens", "4", *FAST]
    named = f"{tmp_path / 'rm'}:helpful=0.7,brief=-0.2"
    quietly(*grpo, "--reward", named, "--steps", "1", "--out", tmp_path / "grpo")
    (row,) = numbers(tmp_path / "grpo")
    assert row["reward"] == pytest.approx(0.7 * row["reward/helpful"] - 0.2 * row["reward/brief"] - 1 + row["ended"])
    from preferent.data.load import load_demonstrations
    from preferent.rewards.load import load_reward

    scorer = load_scorer(tmp_path / "rm")
    reward = load_reward([f"{tmp_path / 'rm'}:helpful"], scorer.tokenizer, device="cpu")
    rows = load_demonstrations(kept() / "regression-rows.jsonl", scorer.tokenizer)
    rated = [row for row in rows if row.prompt.info["helpful"] is not None]
    said = reward.score_rows([(row.prompt, row.reply) for row in rated])[0]
    wanted = torch.tensor([float(row.prompt.info["helpful"]) for row in rated])
    assert (said - wanted).abs().mean() < 0.7


def test_an_average_of_members_with_heads_keeps_the_heads_and_loads(tmp_path):
    from preferent.rewards.load import load_reward

    quietly(*words("aspects", "--members", "2", "--steps", "4", "--out", tmp_path / "rm"))
    quietly("merge", tmp_path / "rm", "--average", "--out", tmp_path / "one")
    each = [scales_in(tmp_path / "rm" / "model" / f"member-{i}") for i in range(2)]
    merged = scales_in(tmp_path / "one" / "model")
    assert list(merged) == ["helpful", "brief"]
    assert merged["brief"].std == pytest.approx((each[0]["brief"].std + each[1]["brief"].std) / 2)
    tokenizer = load_scorer(tmp_path / "one").tokenizer
    assert load_reward([f"{tmp_path / 'one'}:helpful"], tokenizer, device="cpu").heads == ["helpful", "brief"]


def test_the_zero_of_a_cost_is_kept(tmp_path):
    quietly(*words("cost", "--steps", "1", "--out", tmp_path / "cm"))
    assert json.loads((tmp_path / "cm" / "model" / "score.json").read_text()) == {"mean": 0.0, "std": 1.0}


def test_members_start_from_the_bases_in_turn(tmp_path):
    """At a learning rate of next to nothing, member 1's trunk is the other base's."""
    other = ["sft", "--model", base(), "--data", written(tmp_path / "demos.jsonl", [
        {"prompt": row["prompt"], "completion": row["chosen"]} for row in PREFS
    ]), *FAST]  # fmt: skip
    quietly(*other, "--steps", "2", "--out", tmp_path / "other")
    more = ["--members", "2", "--steps", "1", "--lr", "1e-12", "--bases", tmp_path / "other"]
    quietly(*words("thurstone", *more, "--out", tmp_path / "rm"))
    trunks = [load_scorer(place).base.model.state_dict() for place in (base(), tmp_path / "other")]
    members = [load_scorer(tmp_path / "rm" / "model" / f"member-{i}").base.model.state_dict() for i in range(2)]
    for i in range(2):
        same = [all(torch.allclose(trunk[n], members[i][n], atol=1e-8) for n in trunk) for trunk in trunks]
        assert same == [i == 0, i == 1]


@pytest.mark.parametrize(
    ("name", "more", "sentence"),
    [
        ("plackett-luce", ["--smoothing", "0.1"], "--smoothing has a meaning on pairs"),
        ("aspects", ["--centring", "0.1"], "--centring has a meaning on pairs with one head"),
        ("cost", ["--heads", "kind"], "--heads has a meaning with bradley-terry, thurstone or regression only"),
        ("aspects", ["--heads", "kind"], "--heads kind: no row names it in a column aspects"),
        ("aspects", ["--heads", "a=b"], "--heads: expected different names without : , = and /"),
        ("regression", ["--heads", "kind"], "kind: no row has this column, so there is nothing to learn. Columns"),
        ("thurstone", ["--bases", "runs/none"], "so --members is 2 at least; got 1"),
    ],
)
def test_options_that_do_not_go_together_are_refused(name, more, sentence, tmp_path, capsys):
    if "--bases" in more:
        more = ["--bases", base()]
    assert run(*words(name, *more, "--steps", "1", "--out", tmp_path / "rm")) == 2
    assert sentence in capsys.readouterr().err


def test_regression_without_heads_and_ratings_that_are_words_are_refused(tmp_path, capsys):
    data = written(tmp_path / "rated.jsonl", [row | {"helpful": "very"} for row in RATED])
    said = ["reward", "--model", base(), "--data", data, "--objective", "regression", *FAST, "--out", tmp_path / "rm"]
    assert run(*said) == 2
    assert "--objective regression needs --heads" in capsys.readouterr().err
    assert run(*said, "--heads", "helpful") == 2
    assert "expected a rating, a number or null; got 'very'" in capsys.readouterr().err


def test_the_likeliest_exploits_are_written_to_be_judged(tmp_path, capsys):
    quietly(*words("thurstone", "--members", "2", "--steps", "2", "--out", tmp_path / "rm"))
    prompts = written(tmp_path / "prompts.jsonl", PROMPTS)
    sample = ["sample", base(), "--prompts", prompts, "--max-new-tokens", "4", "--adversarial", "3"]
    quietly(*sample, "--reward", tmp_path / "rm", "--n", "4", "--out", tmp_path / "ask.jsonl")
    rows = rows_of(tmp_path / "ask.jsonl")
    assert len(rows) == 3
    assert [row["spreads"][0] for row in rows] == sorted((row["spreads"][0] for row in rows), reverse=True)
    assert all(len(set(row["completions"])) == 2 and "ranks" not in row for row in rows)
    assert run(*sample, "--reward", tmp_path / "rm", "--out", tmp_path / "no.jsonl") == 2
    assert "--n 2 replies or more" in capsys.readouterr().err
    member = tmp_path / "rm" / "model" / "member-0"
    assert run(*sample, "--reward", member, "--n", "4", "--out", tmp_path / "no.jsonl") == 2
    assert "where the members of an ensemble disagree" in capsys.readouterr().err


def test_a_cost_model_without_labels_of_harm_is_refused_and_margins_without_strengths_are_warned_of(tmp_path, capsys):
    prefs = written(tmp_path / "prefs.jsonl", PREFS)
    said = ["reward", "--model", base(), "--data", prefs, *FAST, "--steps", "1", "--out"]
    assert run(*said, tmp_path / "cost", "--objective", "cost") == 2
    assert "chosen_safe and rejected_safe, true or false; no row has a value" in " ".join(
        capsys.readouterr().err.split()
    )
    assert run(*said, tmp_path / "margins", "--margins", "0", "--margins", "1") == 0
    assert "no row has a strength above 0" in " ".join(capsys.readouterr().err.split())


def test_a_rating_that_is_misspelt_is_told_all_columns_of_numbers_also_where_the_first_row_has_none(tmp_path, capsys):
    data = written(tmp_path / "rated.jsonl", RATED[2:])
    said = ["reward", "--model", base(), "--data", data, "--objective", "regression", "--heads", "helpfull", *FAST]
    assert run(*said, "--out", tmp_path / "rm") == 2
    told = " ".join(capsys.readouterr().err.split())
    assert "did you mean helpful?" in told
    assert "Columns of numbers here: brief, helpful" in told
