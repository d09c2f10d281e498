"""`preferent dpo` with another objective, several at once, and a reference that follows."""

import pytest
import torch
from safetensors.torch import load_file
from tiny_runs import PREFS, SMALL, base, kept, left, quietly, run, written

from preferent.config import UsageError
from preferent.models.load import load_policy
from preferent.runtime.track import rows as metrics_in
from preferent.stages.objective import OBJECTIVES, PairOptions, builders, defaults, objective_of

FAST = [*SMALL, "--batch", "6", "--lr", "1e-2"]


@pytest.fixture(scope="module")
def prefs():
    return written(kept() / "objectives.jsonl", PREFS)


def dpo(prefs, *words):
    return ["dpo", "--model", base(), "--data", prefs, *FAST, *words]


# --- what the words say ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", OBJECTIVES)
def test_every_name_makes_the_objective_of_that_name(name):
    made, written_out = objective_of(PairOptions(objective=(name,))), builders()[name]()
    assert builders()[name].__name__.replace("_", "-") == name
    assert (made.referred, made.likelihood, made.score) == (
        written_out.referred,
        written_out.likelihood,
        written_out.score,
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (PairOptions(objective=("simp",)), '"simp" is not known \\(did you mean simpo\\?\\)'),
        (PairOptions(objective=("dpo", "dpo=0.5")), "each once; got dpo dpo=0.5"),
        (PairOptions(objective=()), "expected one or several, each once; got none"),
        (PairOptions(objective=("dpo=-1",)), "a weight is a number above 0"),
        (PairOptions(penalty=3.0), "--penalty is not read by dpo; it is by dpop"),
        (
            PairOptions(objective=("dpo=0.8", "ipo=0.2"), gamma=1.0),
            "--gamma is not read by dpo and ipo; it is by simpo",
        ),
        (PairOptions(divergence="forward"), "--divergence is not read by dpo; it is by f-dpo"),
        (PairOptions(objective=("slic",), beta=0.5), "--beta is not read by slic"),
        (PairOptions(objective=("exo",), flip=0.0), "--objective exo: .* 0 < flip < 1"),
        (PairOptions(objective=("robust-dpo",), flip=0.6), "--objective robust-dpo: .* for ties use dpo"),
        (PairOptions(objective=("f-dpo",), alpha=0.3), "α-divergence only, not with jensen-shannon"),
        (PairOptions(objective=("f-dpo",), divergence="alpha", alpha=1.5), "needs 0 < alpha < 1"),
        (PairOptions(objective=("aot", "odpo")), "aot sets margins of its own"),
    ],
)
def test_words_that_cannot_be_meant_are_refused_with_what_to_do(options, message):
    with pytest.raises(UsageError, match=message):
        objective_of(options)


def test_likelihood_takes_the_place_of_the_objectives_own_and_weights_reach_every_part():
    assert objective_of(PairOptions(likelihood=0.3)).likelihood == 0.3
    assert objective_of(PairOptions(objective=("slic",))).likelihood == 1
    assert objective_of(PairOptions(objective=("slic",), likelihood=0.0)).likelihood == 0
    several = objective_of(PairOptions(objective=("simpo", "slic=0.5"), weigh=True))
    assert several.likelihood == 0.5
    assert several.entropy
    assert not several.referred


def test_what_none_means_is_the_objectives_own_number():
    assert defaults(PairOptions()) == {"beta": "0.1", "flip": "0.0"}
    assert defaults(PairOptions(objective=("dpo", "simpo"), flip=0.1)) == {"beta": "0.1, 2.0", "gamma": "1.0"}
    assert "alpha" not in defaults(PairOptions(objective=("f-dpo",)))


# --- runs -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "words",
    [
        ["--objective", "simpo", "--beta", "2.5"],
        ["--objective", "dpo=0.8", "--objective", "orpo=0.2", "--likelihood", "0.1"],
        ["--objective", "aot", "--weigh"],
        ["--objective", "ipo", "--follow", "0.6"],
    ],
    ids=["simpo", "several", "aot and wpo", "a reference that follows"],
)
def test_a_run_with_another_objective_learns_and_measures_what_dpo_does(prefs, tmp_path, words):
    held_out = ["--eval-data", prefs, "--eval-every", "4", "--keep-best", "eval/accuracy"]
    quietly(*dpo(prefs, *words, *held_out, "--epochs", "3"), "--out", tmp_path / "run")
    rows = list(metrics_in(tmp_path / "run" / "metrics.jsonl"))
    assert len(rows) == 12
    assert {"loss", "preference", "accuracy", "margin", "chosen", "rejected"} <= rows[0].keys()
    assert ("likelihood" in rows[0]) == ("--likelihood" in words)
    assert rows[-1]["margin"] > rows[0]["margin"]
    assert rows[-1]["eval/accuracy"] > 0.9
    assert "model" in left(tmp_path / "run")


def test_what_asks_no_reference_writes_down_nothing_of_one(prefs, tmp_path, capsys):
    assert run(*dpo(prefs, "--objective", "simpo", "--steps", "1"), "--out", tmp_path / "simpo") == 0
    assert "SIMPO reference" not in capsys.readouterr().err
    assert "reference" not in left(tmp_path / "simpo")
    quietly(*dpo(prefs, "--steps", "1"), "--out", tmp_path / "dpo")
    assert "reference" in left(tmp_path / "dpo")


@pytest.mark.parametrize("lora", [[], ["--lora", "2"]], ids=["all weights", "an adapter"])
def test_a_run_whose_reference_follows_goes_on_where_it_stopped(prefs, tmp_path, lora):
    """Stopped after three steps, the reference stands where it went after two."""
    steady = ["--schedule", "constant", "--warmup", "0"]
    words = dpo(prefs, *lora, *steady, "--follow", "0.5", "--follow-every", "2")
    quietly(*words, "--steps", "6", "--out", tmp_path / "whole")
    quietly(*words, "--steps", "3", "--out", tmp_path / "cut")
    quietly(*words, "--steps", "6", "--out", tmp_path / "cut", "--resume")
    whole, cut = ([row["loss"] for row in metrics_in(tmp_path / name / "metrics.jsonl")] for name in ("whole", "cut"))
    assert len(whole) == 6
    assert whole == cut
    places = [tmp_path / name / "checkpoints" / "step-6" / "reference.safetensors" for name in ("whole", "cut")]
    kept_of = [load_file(place) for place in places]
    assert kept_of[0].keys() == kept_of[1].keys() != set()
    assert all(torch.equal(kept_of[0][name], kept_of[1][name]) for name in kept_of[0])
    stays = dpo(prefs, *lora, *steady, "--steps", "6")
    quietly(*stays, "--out", tmp_path / "stays")
    other = [row["loss"] for row in metrics_in(tmp_path / "stays" / "metrics.jsonl")]
    assert other[:2] == pytest.approx(whole[:2], rel=1e-4)
    assert other[2] != pytest.approx(whole[2], rel=1e-3)


def test_the_plan_shows_the_reference_that_follows_and_none_where_none_is_asked(prefs, capsys):
    def planned(*words):
        assert run(*dpo(prefs, *words), "--out", "nowhere", "--dry-run") == 0
        return capsys.readouterr().out

    following = planned("--objective", "ipo", "--follow", "0.6")
    assert "objective ipo*" in following
    assert "beta 0.1 ·" in following
    assert "follow 0.6*" in following
    assert "weights: reference" in following
    without = planned("--objective", "simpo")
    assert "beta 2.0 ·" in without
    assert "gamma 1.0" in without
    assert not any(line.startswith("  reference ") for line in without.splitlines())
    assert "weights: reference" not in planned()  # asked before the first step


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--objective", "simpo", "--follow", "0.6"], "this objective asks none"),
        (["--follow-every", "3"], "without --follow the reference stays"),
        (["--follow", "1.5"], "--follow"),
    ],
)
def test_a_reference_that_cannot_follow_is_refused(prefs, tmp_path, capsys, words, message):
    assert run(*dpo(prefs, *words), "--out", tmp_path / "run") == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_replies_judged_one_by_one_are_sent_to_their_own_command(tmp_path, capsys):
    rows = [{"prompt": row["prompt"], "completion": row["chosen"], "label": True} for row in PREFS]
    data = written(tmp_path / "unpaired.jsonl", rows)
    assert run(*dpo(data), "--out", tmp_path / "run") == 2
    said = capsys.readouterr().err
    assert "line 1: not comparisons: label judges each completion alone." in said
    assert "`preferent kto` learns from these." in said


def test_the_model_that_is_written_is_the_policy_and_not_its_reference(prefs, tmp_path):
    words = dpo(prefs, "--follow", "0.5", "--steps", "2")
    quietly(*words, "--out", tmp_path / "run")
    (last,) = [row for row in metrics_in(tmp_path / "run" / "metrics.jsonl") if row["step"] == 2]
    assert last["margin"] != pytest.approx(0, abs=1e-6)
    made = load_policy(tmp_path / "run" / "model", device="cpu")
    start = load_policy(base(), device="cpu")
    assert not torch.equal(next(made.parameters()), next(start.parameters()))


def test_odpo_without_margins_is_warned_of(tmp_path, capsys):
    for name, rows in {"none": PREFS, "some": [row | {"margin": 1.0} for row in PREFS]}.items():
        data = written(tmp_path / f"{name}.jsonl", rows)
        words = ["dpo", "--model", base(), "--data", data, "--objective", "odpo", "--steps", "1", *SMALL]
        assert run(*words, "--out", tmp_path / name) == 0
        assert ("no row has a column margin" in capsys.readouterr().err) == (name == "none")
