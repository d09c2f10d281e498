"""The commands whose policy learns from its own replies, end to end, as a person types them."""

import re
import tempfile

import pytest
import torch
from tiny_runs import DEMOS, PROMPTS, SMALL, base, kept, left, older, quietly, reward, rows_of, run, written

from preferent.feedback.asking import work
from preferent.feedback.records import Choice
from preferent.feedback.store import open_engine
from preferent.feedback.store.store import add_annotator, read_judgements
from preferent.models.load import load_policy
from preferent.runtime.provenance import judgements, trace
from preferent.runtime.track import rows as metrics_in

SHORT = [*SMALL, "--lr", "1e-2", "--batch", "6", "--max-new-tokens", "8"]


@pytest.fixture(scope="module")
def data():
    """Names of the data files, by what they hold."""
    return {
        name: written(kept() / f"{name}-online.jsonl", rows)
        for name, rows in {"prompts": PROMPTS, "demos": DEMOS}.items()
    }


def command(name, data):
    """A short run of each command."""
    brief = ["--reward", reward("brief")]
    prompts = ["--data", data["prompts"]]
    return {
        "online dpo": ["online-dpo", *prompts, *brief],
        "best against worst": ["online-dpo", *prompts, *brief, "--replies", "4", "--compare", "once"],
        "iterated dpo": ["online-dpo", *prompts, *brief, "--follow", "1", "--follow-every", "2", "--labels", "soft"],
        "raft": ["raft", *prompts, *brief, "--replies", "4", "--keep", "2"],
        "raft from older weights": ["raft", *prompts, *brief, "--replies", "4", "--draw-every", "2"],
        "best-of-n distillation": ["raft", *prompts, *brief, "--replies", "4", "--draw-every", "0"],
        "judging itself": [
            "online-dpo",
            *prompts,
            "--self-reward",
            older(),
            "--follow",
            "1",
            "--follow-every",
            "2",
            "--self-cost",
            ".1",
        ],
        "xpo": ["xpo", *prompts, *brief, "--alpha", "1e-3"],
        "nash-md": ["nash-md", *prompts, *brief, "--replies", "2"],
        "spin": ["spin", "--data", data["demos"]],
        "distillation": ["distill", *prompts, "--teacher", older()],
        "rso": ["rso", *prompts, *brief, "--replies", "4"],
    }[name] + ["--model", base(), *SHORT]


COMMANDS = (
    "online dpo", "best against worst", "iterated dpo", "judging itself", "xpo", "nash-md", "spin", "raft",
    "raft from older weights", "best-of-n distillation", "rso", "distillation",
)  # fmt: skip
MARKED = {"eval/reward", "eval/kl", "eval/length", "eval/ended"}
MEASURED = {"spin": {"eval/nll"}, "distillation": MARKED - {"eval/reward"}, "judging itself": MARKED - {"eval/reward"}}
TIMES = {"time"}


def told(folder):
    """Every number of a run that is not a time."""
    return [{k: v for k, v in row.items() if k not in TIMES} for row in metrics_in(folder / "metrics.jsonl")]


def same(a, b):
    ours, theirs = (dict(load_policy(folder, device="cpu").named_parameters()) for folder in (a, b))
    return all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.parametrize("name", COMMANDS)
def test_a_run_leaves_what_it_promises_and_goes_on_to_the_bit(name, data, tmp_path):
    """Four steps at once, and in two sittings, the second from a checkpoint between evaluations."""
    words = [
        *command(name, data),
        "--eval-data",
        data["demos" if name == "spin" else "prompts"],
        "--eval-every",
        "2",
        "--save-every",
        "1",
    ]
    words += ["--schedule", "constant", "--warmup", "0"]
    quietly(*words, "--steps", "4", "--out", tmp_path / "straight")
    rows = told(tmp_path / "straight")
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    assert rows[1].keys() >= MEASURED.get(name, MARKED)
    assert "length" in rows[0]
    assert len({row["grad_norm"] for row in rows}) == 4
    quietly(*words, "--steps", "3", "--out", tmp_path / "resumed")
    quietly(*words, "--steps", "4", "--resume", "--out", tmp_path / "resumed")
    assert [row for row in told(tmp_path / "resumed") if row["step"] != 3] == [r for r in rows if r["step"] != 3]
    assert same(tmp_path / "straight", tmp_path / "resumed")
    assert not same(tmp_path / "straight", base())


@pytest.mark.parametrize("name", COMMANDS)
def test_a_dry_run_shows_the_plan_and_writes_nothing(name, data, tmp_path, monkeypatch, capsys):
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    assert run(*command(name, data), "--steps", "2", "--out", tmp_path / "run", "--dry-run") == 0
    assert "peak while updating" in capsys.readouterr().out
    assert not (tmp_path / "run").exists()
    assert left(tmp_path / "temporary") == []


# --- people ------------------------------------------------------------------------------------------


def answer_all(store, campaign):
    """One person prefers the shorter reply; how often they were asked."""
    engine = open_engine(store)
    add_annotator(engine, "ann")

    def say(item, _):
        lengths = [len(option[0]["content"]) for option in item.options]
        return Choice((1.0, 0.0) if lengths[0] <= lengths[1] else (0.0, 1.0)), 1.0

    return work(engine, campaign, "ann", say)


def test_people_are_asked_through_a_store_and_the_run_goes_on_when_they_have_answered(data, tmp_path, capsys):
    store = tmp_path / "answers.db"
    words = [
        "online-dpo",
        "--data",
        data["prompts"],
        "--annotator",
        "people",
        "--store",
        store,
        "--model",
        base(),
        *SHORT,
    ]
    words += ["--steps", "2", "--save-every", "1", "--out", tmp_path / "asked", "--campaign", "round"]
    assert run(*words) == 3
    said = capsys.readouterr().err
    assert f'0 of 6 questions of this step are answered in the campaign "round" in {store}; 6 wait' in said
    assert str(tmp_path / "asked" / "asked.jsonl") in said
    assert run(*words, "--resume") == 3
    capsys.readouterr()
    assert answer_all(store, "round") == 6  # asked twice, and there once
    assert run(*words, "--resume") == 3
    assert [row["answered"] for row in told(tmp_path / "asked")] == [1.0]
    assert "0 of 6" in capsys.readouterr().err
    assert answer_all(store, "round") == 6
    assert run(*words, "--resume") == 0
    rows = told(tmp_path / "asked")
    assert [row["step"] for row in rows] == [1, 2]
    assert "reward" not in rows[0]
    kept = {each.id for _, group in read_judgements(open_engine(store)) for each in group}
    named, broken = judgements(trace(tmp_path / "asked"))
    assert (set(named), len(named), broken) == (kept, 12, [])
    assert not same(tmp_path / "asked", base())


@pytest.mark.parametrize("name", ["online-dpo", "xpo", "nash-md"])
def test_people_may_answer_elsewhere_and_by_default_the_store_is_in_the_run(name, data, tmp_path, capsys):
    """The step's questions are in asked.jsonl, and what is imported into the campaign finds them."""
    out = tmp_path / "alone"
    words = [name, "--data", data["prompts"], "--annotator", "people", "--model", base(), *SHORT, "--steps", "1"]
    assert run(*words, "--out", out) == 3
    assert f'campaign "alone" in {out}/judgements.db' in capsys.readouterr().err
    rows = [(row["prompt"], *row["completions"]) for row in rows_of(out / "asked.jsonl")]
    said = [{"prompt": about, "chosen": a, "rejected": b, "annotator": "Ada"} for about, a, b in rows]
    answers = written(tmp_path / "answers.jsonl", said)
    assert run("data", "import", answers, "--store", out / "judgements.db", "--campaign", "alone") == 0
    assert run(*words, "--out", out, "--resume") == 0
    assert [row["step"] for row in told(out)] == [1]


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--annotator", "peple"], r'expected "people" \(did you mean people\?\)'),
        (["--annotator", "answers.db"], "The store that they answer in is --store"),
        (["--annotator", "postgresql://ada:secret@host/db"], r"--annotator postgresql://ada:\*\*\*@host/db"),
        (["--annotator", "runs/rm"], "judges as --reward"),
        (["--store", "answers.db"], "--store says where people answer: it needs --annotator people"),
    ],
)
def test_who_compares_is_people_or_a_reward_and_no_store_is_made_of_anything_else(
    words, complaint, data, tmp_path, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    assert run("online-dpo", "--data", data["prompts"], "--model", base(), "--out", "run", *words) == 2
    said = capsys.readouterr().err
    assert re.search(complaint, said)
    assert "secret" not in said
    assert left(tmp_path) == []


def test_the_password_of_a_store_is_not_shown_where_it_cannot_be_opened(data, tmp_path, capsys):
    store = "postgresql://ada:secret@127.0.0.1:1/db"
    words = ["online-dpo", "--data", data["prompts"], "--annotator", "people", "--store", store, "--model", base()]
    assert run(*words, *SHORT, "--steps", "1", "--out", tmp_path / "run") == 2
    said = capsys.readouterr().err
    assert "cannot be opened" in said
    assert "secret" not in said


def test_one_has_to_compare_and_only_one(data, tmp_path, capsys):
    words = ["online-dpo", "--data", data["prompts"], "--model", base(), "--out", tmp_path / "run"]
    assert run(*words) == 2
    assert "--reward, or people" in capsys.readouterr().err
    assert run(*words, "--self-reward", older(), "--reward", reward("brief")) == 2
    assert "judges itself" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["online-dpo", "xpo", "nash-md", "grpo", "ppo"])
def test_the_reference_may_be_another_model(name, data, tmp_path, capsys):
    """The KL is to that model, and so is not 0 at the first step."""
    words = [name, "--data", data["prompts"], "--reward", reward("brief"), "--model", base(), *SHORT, "--steps", "1"]
    quietly(*words, "--out", tmp_path / "start")
    quietly(*words, "--reference", older(), "--out", tmp_path / "other")
    (start,), (other,) = told(tmp_path / "start"), told(tmp_path / "other")
    assert abs(start["kl"]) < 1e-4 < abs(other["kl"])
    assert start["length"] == other["length"]
    assert run(*words, "--reference", older(), "--out", tmp_path / "plan", "--dry-run") == 0
    assert re.search(r"reference  +[\d,]+ parameters, 0 of them trained", capsys.readouterr().out)


def test_a_reference_that_follows_is_no_other_model(data, tmp_path, capsys):
    words = [*command("iterated dpo", data), "--reference", older(), "--out", tmp_path / "run"]
    assert run(*words) == 2
    assert "leave --reference out" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["online-dpo", "raft", "rso"])
def test_a_reward_that_gives_no_number_is_refused_in_one_message(name, data, tmp_path, capsys):
    words = [name, "--data", data["prompts"], "--reward", reward("nothing"), "--model", base(), *SHORT]
    assert run(*words, "--steps", "2", "--out", tmp_path / "run") == 2
    said = capsys.readouterr().err
    assert "expected finite numbers" in said
    assert "Traceback" not in said


def test_a_teacher_has_to_have_the_same_tokens(data, tmp_path, capsys):
    other = kept() / "stranger"
    text = written(kept() / "stranger.jsonl", PROMPTS)
    quietly("init", "--text", text, "--out", other, "--hidden", 32, "--layers", 1, "--heads", 2, "--vocabulary", 300)
    words = ["distill", "--data", data["prompts"], "--teacher", other, "--model", base(), *SHORT]
    assert run(*words, "--steps", "1", "--out", tmp_path / "run") == 2
    assert "makes other tokens of the same text" in capsys.readouterr().err


def test_dynamic_fine_tuning_is_an_objective_of_sft(data, tmp_path):
    words = ["sft", "--objective", "dft", "--data", data["demos"], "--model", base(), *SMALL, "--lr", "1e-2"]
    quietly(*words, "--epochs", "4", "--batch", "6", "--eval-data", data["demos"], "--out", tmp_path / "run")
    rows = told(tmp_path / "run")
    assert rows[-1]["nll"] < rows[0]["nll"] - 0.5
    assert rows[-1]["weighted_nll"] < rows[-1]["nll"]
    assert "eval/nll" in rows[-1]


def test_prompts_may_be_streamed_and_the_best_kept(data, tmp_path, capsys):
    words = [*command("online dpo", data), "--streaming", "--steps", "2", "--eval-every", "1"]
    words += ["--eval-data", data["prompts"], "--keep-best", "eval/reward"]
    quietly(*words, "--out", tmp_path / "run")
    assert len(told(tmp_path / "run")) == 2
    assert run(*command("spin", data), "--streaming", "--steps", "2", "--out", tmp_path / "spin") == 2
    assert "--move-every" in capsys.readouterr().err


def test_demonstrations_may_be_streamed_to_self_play(data, tmp_path):
    words = [*command("spin", data), "--streaming", "--steps", "2", "--move-every", "1"]
    quietly(*words, "--eval-data", data["demos"], "--out", tmp_path / "run")
    assert [row["skipped"] for row in told(tmp_path / "run")] == [0, 0]


@pytest.mark.parametrize("name", ["online dpo", "spin", "rso"])
def test_odpo_is_refused_where_pairs_have_no_margins(name, data, tmp_path, capsys):
    for words in (["odpo"], ["dpo=.5", "--objective", "odpo=.5"]):
        assert run(*command(name, data), "--objective", *words, "--out", tmp_path / "run") == 2
        assert "pairs made here have none" in capsys.readouterr().err


def test_a_policy_that_judges_itself_pays_for_replies_that_do_not_end(data, tmp_path):
    words = [*command("judging itself", data), "--max-new-tokens", "1", "--steps", "1"]
    for penalty in ("0", "100"):
        quietly(*words, "--end-penalty", penalty, "--out", tmp_path / penalty)
    (free,), (dear,) = (told(tmp_path / penalty) for penalty in ("0", "100"))
    assert free["ended"] < 1
    assert free["reward"] - dear["reward"] == pytest.approx(100 * (1 - free["ended"]), rel=1e-3)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["raft", "--replies", "2", "--keep", "4"], "--keep 4 of --replies 2 chooses nothing"),
        (["raft", "--replies", "2", "--keep", "2"], "--keep 2 of --replies 2 chooses nothing"),
        (["rso", "--replies", "4", "--accept", "8"], "--accept 8 of --replies 4 rejects nothing"),
    ],
)
def test_choosing_all_replies_or_more_is_refused(words, message, data, tmp_path, capsys):
    said = [*words, "--model", base(), "--data", data["prompts"], "--reward", reward("brief")]
    assert run(*said, "--out", tmp_path / "run") == 2
    assert message in " ".join(capsys.readouterr().err.split())


def test_imitating_nothing_is_said_and_is_no_success(data, tmp_path, capsys):
    said = ["raft", "--model", base(), "--data", data["prompts"], "--reward", reward("brief"), "--replies", "3", *SHORT]
    assert run(*said, "--least", "1000", "--steps", "2", "--out", tmp_path / "run") == 2
    told = " ".join(capsys.readouterr().err.split())
    assert told.count("0 of 18 replies reached --least 1000") == 1
    assert "nothing was learned" in told
    assert not (tmp_path / "run" / "model").exists()
