"""Run folders are read whole or not at all."""

import json
import math
import shutil
import sqlite3
from contextlib import closing

import pytest
from told_runs import (
    evaluation,
    manifest,
    results,
    run_folder,
    weights,
    whole,
    write_judged,
    write_samples,
    write_store,
)

from preferent.config import UsageError
from preferent.report.outcomes import standings_of, what
from preferent.report.reading import found


def told(*paths):
    return found(list(paths))


# --- what is found -----------------------------------------------------------------------------------


def test_a_folder_of_runs_stands_for_the_runs_in_it_and_the_evaluations_beside_them(tmp_path):
    all_ = told(whole(tmp_path / "demo"))
    assert [run.name for run in all_.runs] == ["sft", "reward", "dpo", "grpo", "ppo"]
    assert [each.truth for each in all_.evaluations] == ["reward", "gold utility"]
    assert all_.damaged == []


def test_what_a_shell_makes_of_a_star_is_sorted_out(tmp_path):
    """Data files and models lie beside runs; they are passed over."""
    folder = whole(tmp_path / "demo")
    (folder / "questions.jsonl").write_text('{"prompt": "a"}\n')
    (folder / "base").mkdir()
    (folder / "base" / "config.json").write_text("{}")
    (folder / "other.json").write_text('{"a": 1}')
    all_ = told(*sorted(folder.iterdir()))
    assert len(all_.runs) == 5
    assert sorted(path.name for path in all_.passed_over) == ["base", "other.json", "questions.jsonl"]


@pytest.mark.parametrize("kind", ["sft", "reward", "dpo", "ppo", "grpo"])
def test_the_command_of_a_run_is_known_by_its_options(kind, tmp_path):
    """The manifest says that the demo was typed, for whichever part."""
    [run] = told(run_folder(tmp_path / "anything", kind)).runs
    assert run.kind == kind


def test_options_of_no_known_command_are_a_run_of_its_own(tmp_path):
    folder = run_folder(tmp_path / "odd", "sft")
    (folder / "config.yaml").write_text("temperature: 1\nwhat: else\n")
    assert told(folder).runs[0].kind == "run"


def test_runs_that_are_called_alike_are_told_apart(tmp_path):
    folders = [run_folder(tmp_path / where / "ppo", "ppo") for where in ("first", "second")]
    assert [run.name for run in told(*folders).runs] == ["first/ppo", "second/ppo"]


def test_a_folder_that_is_named_twice_is_told_of_once(tmp_path):
    folder = run_folder(tmp_path / "runs" / "ppo", "ppo")
    assert len(told(folder, folder.parent).runs) == 1


def test_the_numbers_of_a_model_are_counted_without_loading_it(tmp_path):
    folder = run_folder(tmp_path / "reward", "reward", finished=False)
    assert told(folder).runs[0].parameters is None
    for member in range(2):
        (folder / "model" / f"member-{member}").mkdir(parents=True)
        weights(folder / "model" / f"member-{member}" / "model.safetensors")
    assert told(folder).runs[0].parameters == 12


def test_the_chosen_step_is_the_best_one_or_the_last(tmp_path):
    """Of steps 10, 20, 30 and 40 the truth is best at 30."""
    last = told(run_folder(tmp_path / "a", "ppo")).runs[0]
    best = told(run_folder(tmp_path / "b", "ppo", keep_best="max:eval/gold")).runs[0]
    assert (last.chosen, best.chosen) == (40, 30)


def test_what_is_still_being_written_is_no_damage(tmp_path):
    folder = run_folder(tmp_path / "ppo", "ppo", steps=3, finished=False)
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "rew')
    write_samples(folder, [1])
    (folder / "samples" / "step-2.jsonl").write_text('{"prompt": [{"role"')
    [run] = told(folder).runs
    assert run.steps == 3
    assert list(run.samples) == [1]
    assert not run.finished


def test_a_run_without_any_step_is_a_run(tmp_path):
    folder = run_folder(tmp_path / "ppo", "ppo", steps=0, finished=False)
    [run] = told(folder).runs
    assert (run.steps, run.values("reward")) == (0, [])


def test_numbers_that_are_not_finite_are_read_as_they_were_written(tmp_path):
    folder = run_folder(tmp_path / "sft", "sft", steps=1)
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"step": 2, "time": 1.0, "nll": "NaN", "loss": "Infinity"}\n')
    [run] = told(folder).runs
    assert math.isnan(run.values("nll")[1][1])
    assert run.values("loss")[1] == (2, math.inf)


# --- what is damaged -----------------------------------------------------------------------------------

SITTINGS = ("[]", "[1]", '[{"after_step": "x"}]', '[{"command": 3}]')
DAMAGE = {
    "config.yaml": ["", "a: [", "- a list\n", "a: 1\na: 2\n", "\x00", "keep_best: what\n"],
    "manifest.json": ["", "{", "[]", "{}", *(f'{{"sittings": {each}}}' for each in SITTINGS)],
    "metrics.jsonl": [
        '{"step": 1, "loss": 0.5}\nrubbish\n{"step": 3, "loss": 0.5}\n',
        "[1]\n",
        '{"step": 1, "loss": []}\n',
        '{"step": 1, "loss": "low"}\n',
    ],
    "judged.jsonl": ["{\n", '{"prompt": 0}\n'],
    "samples/step-1.jsonl": ["rubbish\n", '{"reply": "a"}\n', "3\n", '{"prompt": "", "reply": "", "reward": "high"}\n'],
    "model/model.safetensors": [" ", "\xff" * 9, "\x02\0\0\0\0\0\0\0[]"],
}


@pytest.mark.parametrize(("name", "content"), [(name, each) for name, every in DAMAGE.items() for each in every])
def test_a_damaged_file_is_named_and_nothing_of_its_run_is_used(name, content, tmp_path):
    sound = run_folder(tmp_path / "runs" / "sound", "sft")
    broken = run_folder(tmp_path / "runs" / "broken", "ppo")
    (broken / name).parent.mkdir(exist_ok=True)
    (broken / name).write_bytes(content.encode("latin-1"))
    all_ = told(tmp_path / "runs")
    assert [run.folder for run in all_.runs] == [sound]
    [(path, why)] = all_.damaged
    assert path == broken
    assert name in why
    with pytest.raises(UsageError, match=name):
        told(broken)


@pytest.mark.parametrize("name", ["config.yaml", "manifest.json"])
def test_a_run_that_lost_a_file_is_damaged(name, tmp_path):
    folder = run_folder(tmp_path / "ppo", "ppo")
    (folder / name).unlink()
    with pytest.raises(UsageError, match=name):
        told(folder)


def test_a_comparison_whose_runs_lie_deeper_is_told_of_with_the_time_that_each_took(tmp_path):
    run_folder(tmp_path / "compare" / "seed-0" / "dpo", "dpo")
    said = results(["SFT", "DPO"])
    said["policies"]["DPO"]["seconds"] = 21.4
    (tmp_path / "compare" / "results.json").write_text(json.dumps(said))
    [found] = told(tmp_path / "compare").evaluations
    assert [(row.name, row.seconds) for row in found.standings] == [("SFT", None), ("DPO", 21.4)]
    table = standings_of(found)
    assert [row[-1] for row in table.rows] == ["–", "21"]
    assert table.columns[-1] == "seconds"


def test_an_evaluation_with_a_hole_in_it_is_damaged(tmp_path):
    folder = tmp_path / "runs"
    run_folder(folder / "sft", "sft")
    said = evaluation(["sft", "ppo"])
    del said["models"][1]["name"]
    (folder / "evaluation.json").write_text(json.dumps(said))
    gone = results(["sft", "ppo"])
    gone["policies"]["ppo"]["gold"] = float("nan")
    (folder / "results.json").write_text(json.dumps(gone))
    all_ = told(folder)
    assert all_.evaluations == []
    assert [path.name for path, _ in all_.damaged] == ["evaluation.json", "results.json"]


@pytest.mark.parametrize("statement", ["DROP TABLE judgements", "UPDATE judgements SET label = 'x'", None])
def test_a_damaged_store_beside_the_runs_is_named_and_the_runs_are_told_of(statement, tmp_path):
    run_folder(tmp_path / "runs" / "sft", "sft")
    store = tmp_path / "runs" / "judgements.db"
    write_store(store)
    assert len(told(tmp_path / "runs").annotators) == 1
    if statement:
        with closing(sqlite3.connect(store)) as connection, connection:
            connection.execute(statement)
    else:
        content = bytearray(store.read_bytes())
        content[8192:] = b"\xa5" * (len(content) - 8192)
        store.write_bytes(content)
    all_ = told(tmp_path / "runs")
    assert len(all_.runs) == 1
    assert all_.annotators == []
    [(path, why)] = all_.damaged
    assert path == store
    assert "damaged" in why


def test_a_number_that_is_text_in_a_manifest_does_no_harm(tmp_path):
    folder = run_folder(tmp_path / "ppo", "ppo")
    (folder / "manifest.json").write_text(json.dumps(manifest(started="once", threads="many", device=None)))
    assert told(folder).runs[0].steps == 40


# --- what is not there -----------------------------------------------------------------------------------


def test_a_name_that_leads_nowhere_is_said(tmp_path):
    with pytest.raises(UsageError, match=r"There is no .*nowhere"):
        told(run_folder(tmp_path / "ppo", "ppo"), tmp_path / "nowhere")


def test_an_empty_folder_is_no_run(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match=r"There is no run in .*empty"):
        told(tmp_path / "empty")


def test_reading_changes_nothing(tmp_path):
    folder = whole(tmp_path / "demo")
    write_judged(folder / "dpo")
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    told(folder)
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    shutil.rmtree(folder)


def test_a_run_is_called_by_its_objective_where_that_has_a_name_of_its_own(tmp_path):
    runs = {"a": ("dpo", {}), "b": ("dpo", {"objective": ("simpo", "ipo")}), "c": ("grpo", {"objective": "rloo"})}
    for name, (kind, options) in runs.items():
        run_folder(tmp_path / name, kind, **options)
    called = {run.name: what(run) for run in told(tmp_path).runs}
    assert called == {"a": "DPO", "b": "DPO · simpo + ipo", "c": "GRPO · rloo"}
