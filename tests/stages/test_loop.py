"""The loop of rounds: what it leaves, how it goes on after a kill in any part, and how it waits for people."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time

import pytest
import torch
import yaml
from tiny_runs import PROMPTS, base, left, reward, rows_of, run, written

from preferent.feedback.asking import work
from preferent.feedback.records import Choice, canonical
from preferent.feedback.store import open_engine
from preferent.feedback.store.store import UNFIT, add_annotator, read_judgements
from preferent.models.load import load_policy, load_scorer
from preferent.runtime import files
from preferent.runtime.provenance import judgements, trace
from preferent.runtime.track import rows as metrics_in

PARTS = ["comparisons.jsonl", "evaluation.json", "held_out.jsonl", "policy", "prompts.jsonl", "replies.jsonl", "reward"]
SHORT = {"batch": 4, "lr": 0.01, "save_every": 1}


class Killed(BaseException):
    """What no code expects."""


def loop_of(folder, **changed):
    """A file for a short loop in this folder; its words may be changed, and left out with None."""
    said = {
        "model": base(),
        "prompts": written(folder / "prompts.jsonl", PROMPTS[:8]),
        "held_out": written(folder / "held_out.jsonl", PROMPTS[8:]),
        "annotator": reward("brief"),
        "out": str(folder / "out"),
        "rounds": 2,
        "replies": 3,
        "comparisons": 6,
        "max_length": 96,
        "max_new_tokens": 8,
        "threads": 1,
        "reward": SHORT,
        "ppo": {**SHORT, "mini_batch": 4, "ppo_epochs": 1},
        **changed,
    }
    path = folder / "loop.yaml"
    path.write_text(yaml.safe_dump({word: value for word, value in said.items() if value is not None}))
    return path


def state(out):
    """Everything that a loop has learned, to the last bit."""
    found = {}
    for folder in sorted(out.glob("round-*")):
        for part, load in (("policy", load_policy), ("reward", load_scorer)):
            if (folder / part).exists():
                weights = load(folder / part, device="cpu").state_dict()
                found |= {f"{folder.name} {part} {name}": weight for name, weight in weights.items()}
    return found


def same(a, b):
    return a.keys() == b.keys() and len(a) > 0 and all(torch.equal(a[name], b[name]) for name in a)


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """A loop that nothing disturbed."""
    folder = tmp_path_factory.mktemp("loop")
    assert run("loop", loop_of(folder)) == 0
    return folder / "out"


def test_a_loop_leaves_a_folder_for_each_round_and_a_table(straight):
    assert [left(straight / f"round-{i}") for i in (1, 2)] == [PARTS, PARTS]
    table = json.loads((straight / "rounds.json").read_text())
    assert [row["round"] for row in table] == [1, 2]
    assert [row["judgements"] for row in table] == [6, 12]
    assert "agreement" not in table[0]
    assert all({"reward", "truth", "win_rate", "win_rate_last", "kl", "length"} <= row.keys() for row in table)
    metrics = list(metrics_in(straight / "metrics.jsonl"))
    assert [row["eval/truth"] for row in metrics] == [row["truth"]["mean"] for row in table]
    last = json.loads((straight / "round-2" / "evaluation.json").read_text())["models"]
    assert [row["name"] for row in last] == ["start", "round 1", "round 2"]


def test_each_round_asks_the_newest_policy_and_trains_on_every_judgement_so_far(straight):
    manifests = [json.loads((straight / f"round-{i}" / "reward" / "manifest.json").read_text()) for i in (1, 2)]
    assert [manifest["judgements"] for manifest in manifests] == [6, 12]
    engine = open_engine(straight / "judgements.db")
    kept = {each.id: of for of, group in read_judgements(engine) for each in group}
    asked = {of.sources for of in kept.values()}
    assert asked == {(base(),) * 2, (str(straight / "round-1" / "policy"),) * 2}
    named, broken = judgements(trace(straight / "round-2" / "policy"))
    assert (sorted(named), broken) == (sorted(kept), [])
    engine.dispose()


def test_the_annotator_prefers_what_it_marks_higher_and_is_marked_as_simulated(straight):
    for row in (row for i in (1, 2) for row in rows_of(straight / f"round-{i}" / "comparisons.jsonl")):
        chosen, rejected = (len(row[side][0]["content"]) for side in ("chosen", "rejected"))
        assert row["choice"] == (1.0 if chosen < rejected else 0.5)
        assert chosen <= rejected
        assert row["annotators"] == ["rewards.py:brief, person 1"]


def test_a_simulated_crowd_sees_the_marks_through_noise_and_its_answers_become_soft_labels(tmp_path):
    assert run("loop", loop_of(tmp_path, rounds=1, comparisons=16, noise="crowd", sharpness=2.0)) == 0
    rows = rows_of(tmp_path / "out" / "round-1" / "comparisons.jsonl")
    assert len(rows) == 16
    assert {len(row["judgements"]) for row in rows} == {3}
    assert len({row["choice"] for row in rows}) > 2
    assert len({who for row in rows for who in row["annotators"]}) == 9


def test_each_round_asks_about_other_prompts_until_all_had_their_turn(tmp_path):
    assert run("loop", loop_of(tmp_path, rounds=2, asked=4, comparisons=None)) == 0
    asked = [[row["prompt"] for row in rows_of(tmp_path / "out" / f"round-{i}" / "prompts.jsonl")] for i in (1, 2)]
    assert [len(set(each)) for each in asked] == [4, 4]
    assert set(asked[0]) | set(asked[1]) == {row["prompt"] for row in PROMPTS[:8]}
    judged = rows_of(tmp_path / "out" / "round-1" / "comparisons.jsonl")
    assert sorted(row["prompt"][0]["content"] for row in judged) == sorted(asked[0])


def test_a_share_of_the_pairs_are_exploits_of_the_last_reward_model(tmp_path):
    words = {"adversarial": 0.5, "reward": SHORT | {"members": 2}, "method": "grpo", "grpo": SHORT | {"group": 2}}
    assert run("loop", loop_of(tmp_path, **words)) == 0
    assert not (tmp_path / "out" / "round-1" / "exploits.jsonl").exists()
    doubted = rows_of(tmp_path / "out" / "round-2" / "exploits.jsonl")
    fit = [row["completions"] for row in doubted if not UNFIT.search("".join(row["completions"]))]
    judged = rows_of(tmp_path / "out" / "round-2" / "comparisons.jsonl")
    assert (len(doubted), len(fit) > 0, len(judged)) == (3, True, 6)
    asked = {frozenset((row["chosen"][0]["content"], row["rejected"][0]["content"])) for row in judged}
    assert {frozenset(pair) for pair in fit} <= asked


def test_adapters_are_trained_round_upon_round(tmp_path):
    method = {"method": "grpo", "grpo": SHORT | {"group": 2, "lora": 4}, "reward": SHORT | {"lora": 4}}
    assert run("loop", loop_of(tmp_path, start="last", **method)) == 0
    first, second = (tmp_path / "out" / f"round-{i}" / "policy" / "model" for i in (1, 2))
    assert json.loads((second / "adapter_config.json").read_text())["base_model_name_or_path"] == str(first)


PLACES = ["replies.jsonl", "comparisons.jsonl", "reward", "policy", "evaluation.json", "rounds.json"]


@pytest.mark.parametrize("place", PLACES)
def test_a_loop_that_was_stopped_in_any_part_ends_where_an_undisturbed_one_does(place, straight, tmp_path, monkeypatch):
    """In the second round: while a file gets its name, or between the two checkpoints of a training."""
    file = loop_of(tmp_path)
    trains = place in ("reward", "policy")
    seen = []

    def failpoint(operation, *paths):
        target = paths[-1]
        if operation != "rename" or not (target.parent.name == "checkpoints" if trains else target.name == place):
            return
        if not trains or (target.parts[-3] == place and target.name == "step-2"):
            seen.append(target)
        if len(seen) == 2:
            raise Killed

    monkeypatch.setattr(files, "failpoint", failpoint)
    with pytest.raises(Killed):
        run("loop", file)
    monkeypatch.undo()
    assert run("loop", file) == 2
    assert run("loop", file, "--resume") == 0
    out = tmp_path / "out"
    assert same(state(out), state(straight))
    ours, theirs = (json.loads((each / "rounds.json").read_text()) for each in (out, straight))
    assert ours == theirs
    assert [row["step"] for row in metrics_in(out / "metrics.jsonl")] == [1, 2]


def test_iterated_dpo_that_was_stopped_goes_on_with_its_own_reference(tmp_path, monkeypatch):
    words = {"method": "dpo", "start": "last", "anchor": "first", "dpo": SHORT}
    for name in ("straight", "stopped"):
        (tmp_path / name).mkdir()
    assert run("loop", loop_of(tmp_path / "straight", **words)) == 0

    def failpoint(operation, *paths):
        if operation == "rename" and paths[-1].parts[-4:] == ("round-2", "policy", "checkpoints", "step-2"):
            raise Killed

    monkeypatch.setattr(files, "failpoint", failpoint)
    file = loop_of(tmp_path / "stopped", **words)
    with pytest.raises(Killed):
        run("loop", file)
    monkeypatch.undo()
    assert run("loop", file, "--resume") == 0
    assert same(*(state(tmp_path / name / "out") for name in ("straight", "stopped")))


def prefer_the_shorter(of, shown):
    a, b = (len(option[0]["content"]) for option in of.options)
    return Choice((0.5, 0.5) if a == b else (1.0, 0.0) if a < b else (0.0, 1.0)), 1.0


def undecided(of, shown):
    return Choice((0.5, 0.5)), 1.0


def answered(store, campaign, says=prefer_the_shorter):
    engine = open_engine(store)
    add_annotator(engine, "somebody")
    done = work(engine, campaign, "somebody", says)
    engine.dispose()
    return done


def test_a_loop_waits_for_people_and_learns_from_them_what_it_would_from_a_function(straight, tmp_path, capsys):
    file = loop_of(tmp_path, annotator="people")
    for number, resume in ((1, []), (2, ["--resume"])):
        assert run("loop", file, *resume) == 3
        assert run("loop", file, "--resume") == 3
        said = capsys.readouterr().err
        assert f'0 of 6 comparisons of the campaign "out, round {number}" are answered' in said
        assert answered(tmp_path / "out" / "judgements.db", f"out, round {number}") == 6
    assert run("loop", file, "--resume") == 0
    assert same(state(tmp_path / "out"), state(straight))
    table = json.loads((tmp_path / "out" / "rounds.json").read_text())
    assert [("truth" in row, "agreement" in row) for row in table] == [(False, False), (False, True)]


def test_a_round_says_when_there_is_less_to_ask_than_was_wanted_and_when_nobody_decided(tmp_path, capsys):
    file = loop_of(tmp_path, annotator="people", rounds=1, comparisons=1000)
    assert run("loop", file) == 3
    asked = len(rows_of(tmp_path / "out" / "round-1" / "asked.jsonl"))
    assert 0 < asked <= 8 * 3  # pairs of three replies
    assert f"Round 1 has {asked} pairs of replies that differ to ask about, fewer than 1000" in capsys.readouterr().err
    assert answered(tmp_path / "out" / "judgements.db", "out, round 1", undecided) == asked
    assert run("loop", file, "--resume") == 0
    assert f"Round 1: all {asked} answers are ties" in capsys.readouterr().err


def test_people_may_be_asked_which_policy_is_better(tmp_path, capsys):
    """They prefer the shorter reply; what the policies say is in the round's folder."""
    file = loop_of(tmp_path, annotator="people", rounds=1, compared=3)
    store, place = tmp_path / "out" / "judgements.db", tmp_path / "out" / "round-1"
    assert run("loop", file) == 3
    answered(store, "out, round 1")
    assert run("loop", file, "--resume") == 3
    assert 'of the campaign "out, round 1, held out" are answered' in capsys.readouterr().err
    asked = rows_of(place / "asked_held_out.jsonl")
    assert answered(store, "out, round 1, held out") == len(asked) <= 3
    assert run("loop", file, "--resume") == 0
    said = {canonical(row["prompt"]): (row["round 1"], row["start"]) for row in rows_of(place / "held_out.jsonl")}
    pairs = [said[canonical(row["prompt"])] for row in asked]
    results = [0.5 if len(ours) == len(first) else float(len(ours) < len(first)) for ours, first in pairs]
    (row,) = json.loads((tmp_path / "out" / "rounds.json").read_text())
    assert row["judge"] == "people"
    assert row["win_rate"]["value"] == pytest.approx(sum(results + [0.5] * (3 - len(asked))) / 3)
    assert [row["judgements"] for row in json.loads((tmp_path / "out" / "rounds.json").read_text())] == [6]


def test_a_loop_that_is_to_wait_goes_on_by_itself(straight, tmp_path):
    file = loop_of(tmp_path, annotator="people", rounds=1, poll=0.05, wait=True)
    store = tmp_path / "out" / "judgements.db"

    def somebody():
        while not (tmp_path / "out" / "round-1" / "replies.jsonl").exists():
            time.sleep(0.02)
        for _ in range(200):
            time.sleep(0.05)
            try:
                if answered(store, "out, round 1"):
                    return
            except ValueError:  # nothing was asked yet
                continue

    person = threading.Thread(target=somebody)
    person.start()
    assert run("loop", file) == 0
    person.join()
    first = {name: weight for name, weight in state(straight).items() if name.startswith("round-1")}
    assert same(state(tmp_path / "out"), first)


def test_a_finished_loop_goes_on_with_more_rounds(straight, tmp_path):
    file = loop_of(tmp_path, rounds=1)
    assert run("loop", file) == 0
    assert run("loop", file, "--rounds", "2", "--resume") == 0
    assert same(state(tmp_path / "out"), state(straight))


def test_a_round_may_start_from_the_policy_of_the_last_one(tmp_path):
    assert run("loop", loop_of(tmp_path, method="grpo", start="last", grpo=SHORT | {"group": 2})) == 0
    config = yaml.safe_load((tmp_path / "out" / "round-2" / "policy" / "config.yaml").read_text())
    assert config["model"] == str(tmp_path / "out" / "round-1" / "policy")


@pytest.mark.parametrize("method", ["ppo", "grpo", "online-dpo"])
def test_the_policy_goes_on_and_its_kl_stays_one_to_where_the_loop_began(method, tmp_path):
    words = {"start": "last", "anchor": "first", "grpo": SHORT | {"group": 2}, "online-dpo": SHORT}
    assert run("loop", loop_of(tmp_path, method=method, **words)) == 0
    first, second = (tmp_path / "out" / f"round-{i}" / "policy" for i in (1, 2))
    config = yaml.safe_load((second / "config.yaml").read_text())
    assert (config["model"], config["reference"]) == (str(first), base())
    kl = [next(metrics_in(folder / "metrics.jsonl"))["kl"] for folder in (first, second)]
    assert abs(kl[0]) < 1e-4 < abs(kl[1])


def test_the_policy_may_imitate_the_best_of_its_replies(tmp_path):
    assert run("loop", loop_of(tmp_path, method="raft", raft=SHORT, rounds=1)) == 0
    assert left(tmp_path / "out" / "round-1") == PARTS


@pytest.mark.parametrize("anchor", ["first", "last"])
def test_iterated_dpo_moves_its_reference_or_keeps_it(anchor, tmp_path):
    """It leaves out the reward model. At the first step the margin is 0 to where it starts, and else is not."""
    assert run("loop", loop_of(tmp_path, method="dpo", start="last", anchor=anchor, dpo=SHORT)) == 0
    second = tmp_path / "out" / "round-2"
    assert left(second) == [part for part in PARTS if part != "reward"]
    config = yaml.safe_load((second / "policy" / "config.yaml").read_text())
    assert config["reference"] == (base() if anchor == "first" else None)
    margin = next(metrics_in(second / "policy" / "metrics.jsonl"))["margin"]
    assert (abs(margin) < 1e-5) == (anchor == "last")
    table = json.loads((tmp_path / "out" / "rounds.json").read_text())
    assert ["reward" in row for row in table] == [False, False]
    assert table[1]["judge"] == "truth"


@pytest.mark.parametrize(
    ("changed", "complaint"),
    [
        ({"reply": 3}, r'loop.yaml: "reply" is not known here \(did you mean "replies"'),
        ({"annotator": None}, "annotator is missing"),
        ({"ppo": {"learning_rate": 1}}, r'ppo: "learning_rate" is not known here \(did you mean .*"lr"'),
        ({"reward": {"members": 0}}, 'reward: "members": expected a whole number greater than 0; got 0'),
        ({"ppo": {"out": "x"}}, 'ppo: "out" is for the loop to say'),
        (
            {"method": "raft", "anchor": "last"},
            "`preferent raft` has no reference but where it starts: give --anchor as",
        ),
        ({"held_out": "nothing.jsonl"}, "nothing.jsonl"),
        ({"adversarial": 0.5}, "--adversarial asks where members disagree"),
        ({"data": "old.jsonl=0.3"}, "a loop's files have no weights"),
        ({"guideline": "nothing.txt"}, "--guideline nothing.txt: cannot be read"),
        ({"campaign": "long" * 16}, "--campaign: expected 64 characters at most; got 73"),
        ({"rewards": {"members": 2}}, r'"rewards" is no section \(did you mean "reward"\?\)'),
        ({"ppo": [1]}, r'"ppo": expected options of `preferent ppo`'),
        ({"annotator": "nobody.py:brief"}, "there is no file nobody.py"),
        ({"store": "nowhere/x.db"}, "The store nowhere/x.db cannot be opened"),
        ({"annotator": "poeple"}, r'--annotator poeple: expected "people".* \(did you mean "people"\?\)'),
        ({"model": "runs/none"}, "runs/none: there is no such folder"),
        ({"replies": 1}, '"replies": expected a whole number greater than or equal to 2'),
    ],
)
def test_what_is_wrong_in_the_file_is_named_before_anything_is_written(changed, complaint, tmp_path, capsys):
    assert run("loop", loop_of(tmp_path, **changed)) == 2
    assert re.search(complaint, capsys.readouterr().err)
    assert left(tmp_path / "out") == []


def test_the_folder_of_another_commands_run_is_no_loops_file(straight, capsys):
    assert run("loop", straight / "round-1" / "reward") == 2
    said = capsys.readouterr().err
    assert "reward is a run of `preferent reward`; expected a file or a run of `preferent loop`" in said


def test_a_dry_run_shows_a_rounds_commands_and_writes_nothing(tmp_path, capsys):
    assert run("loop", loop_of(tmp_path), "--dry-run") == 0
    said = capsys.readouterr().out
    assert [f"preferent {name} " in said for name in ("sample", "reward", "ppo")] == [True] * 3
    assert left(tmp_path / "out") == []


def test_a_loop_whose_first_part_fails_leaves_nothing_behind(tmp_path, capsys):
    assert run("loop", loop_of(tmp_path, annotator=reward("nothing"))) == 2
    assert "expected a finite number" in capsys.readouterr().err
    assert left(tmp_path / "out") == []


def test_a_loop_is_resumed_with_its_own_options_and_inputs_alone(straight, tmp_path, capsys):
    file = loop_of(tmp_path, rounds=1)
    assert run("loop", file) == 0
    assert run("loop", loop_of(tmp_path, comparisons=5), "--resume") == 2
    assert "comparisons: 6 → 5" in capsys.readouterr().err
    loop_of(tmp_path)
    written(tmp_path / "prompts.jsonl", PROMPTS[:7])
    assert run("loop", file, "--resume") == 2
    assert "Changed since the run began" in capsys.readouterr().err


@pytest.mark.slow
def test_a_loop_that_is_killed_again_and_again_ends_where_an_undisturbed_one_does(straight, tmp_path):
    file = loop_of(tmp_path)
    command = [sys.executable, "-m", "preferent", "loop", str(file), "--resume"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    for reached in ("1/replies.jsonl", "1/reward/checkpoints/step-1", "2/prompts.jsonl", "2/policy/checkpoints/step-1"):
        process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        place = tmp_path / "out" / f"round-{reached}"
        while process.poll() is None and not place.exists():
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    assert run("loop", file, "--resume") == 0
    assert same(state(tmp_path / "out"), state(straight))
