"""`preferent data import` and `preferent data export`, as a person types them."""

import gzip
import json
import sqlite3
import subprocess
import sys
from contextlib import closing

import pytest
from tiny_runs import DEMOS, PREFS, run, written

from preferent.data.load import load_demonstrations, load_preferences
from preferent.feedback.store import open_engine
from preferent.feedback.store.log import verify
from preferent.feedback.store.store import read_judgements
from toys import tokenizer

TASK = {
    "data": {"prompt": "sky?", "answer1": "green.", "answer2": "blue."},
    "annotations": [
        {"completed_by": 1, "result": [{"from_name": "pw", "type": "pairwise", "value": {"selected": "right"}}]}
    ],
}


def imported(tmp_path, rows=PREFS, name="judgements.db", **flags):
    """A store that holds these rows."""
    store = tmp_path / name
    words = [word for flag, value in flags.items() for word in (f"--{flag}", value)]
    assert run("data", "import", written(tmp_path / "given.jsonl", rows), "--store", store, *words) == 0
    return store


def test_what_is_exported_trains_a_reward_model(tmp_path, capsys):
    store = imported(tmp_path, [{**row, "choice": 0.75, "strength": 2} for row in PREFS])
    assert run("data", "export", "--store", store, "--to", tmp_path / "out.jsonl") == 0
    assert "24 rows of 24 judgements" in capsys.readouterr().out
    loaded = load_preferences(tmp_path / "out.jsonl", tokenizer())
    given = load_preferences(tmp_path / "given.jsonl", tokenizer())
    assert len(loaded.rows) == len(given.rows) == 24
    said = {(row.comparison.context.tokens, row.comparison.options): row for row in given.rows}
    for row in loaded.rows:
        same = said[row.comparison.context.tokens, row.comparison.options]
        assert (row.choice, row.strength) == (same.choice, same.strength) == ((0.75, 0.25), 2.0)
        assert len(row.judgements) == 1


def test_what_was_said_of_aspects_goes_through_a_store_to_the_rows_that_train_heads(tmp_path):
    """For the chosen one, whose place in the store is another; with the same bytes at the second export."""
    store = imported(tmp_path, [{**row, "choice": 0.75, "aspects": {"brief": 0.25}} for row in PREFS[:-1]] + PREFS[-1:])
    assert run("data", "export", "--store", store, "--to", tmp_path / "out.jsonl") == 0
    rows = load_preferences(tmp_path / "out.jsonl", tokenizer()).rows
    said = [row.comparison.context.info.get("aspects") for row in rows]
    assert said.count({"brief": 0.25}) == len(PREFS) - 1
    assert said.count(None) == 1
    again = tmp_path / "again.db"
    assert run("data", "import", tmp_path / "out.jsonl", "--store", again) == 0
    assert run("data", "export", "--store", again, "--to", tmp_path / "again.jsonl") == 0
    assert (tmp_path / "again.jsonl").read_bytes() == (tmp_path / "out.jsonl").read_bytes()


def test_an_aspect_that_is_no_chance_is_refused(tmp_path, capsys):
    rows = [{**PREFS[0], "aspects": {"brief": 3}}]
    given = written(tmp_path / "given.jsonl", rows)
    assert run("data", "import", given, "--store", tmp_path / "x.db") == 2
    assert "aspects, brief: expected 0 … 1" in capsys.readouterr().err


def test_what_people_wrote_is_exported_as_demonstrations(tmp_path):
    store = imported(tmp_path, DEMOS)
    assert run("data", "export", "--store", store, "--to", tmp_path / "out.jsonl", "--kind", "demonstration") == 0
    out, given = (load_demonstrations(tmp_path / name, tokenizer()).rows for name in ("out.jsonl", "given.jsonl"))
    assert {(row.prompt.tokens, row.reply.tokens) for row in out} == {
        (row.prompt.tokens, row.reply.tokens) for row in given
    }


@pytest.mark.parametrize("format_", ["trl", "openai", "argilla", "label-studio"])
@pytest.mark.parametrize("ending", [".json", ".jsonl"])
def test_a_store_that_was_exported_and_imported_is_exported_as_the_same_bytes(tmp_path, format_, ending):
    store, again = imported(tmp_path), tmp_path / "again.db"
    first, second = (tmp_path / f"{name}{ending}" for name in ("first", "second"))
    assert run("data", "export", "--store", store, "--to", first, "--format", format_) == 0
    assert run("data", "import", first, "--store", again) == 0
    assert run("data", "export", "--store", again, "--to", second, "--format", format_) == 0
    assert first.read_bytes() == second.read_bytes()


def test_importing_twice_says_that_it_adds_nothing(tmp_path, capsys):
    imported(tmp_path)
    imported(tmp_path)
    assert capsys.readouterr().out.endswith("0 new judgements; 24 were there already\n")


def test_what_is_there_already_stays_in_its_campaign_and_that_is_said(tmp_path, capsys):
    imported(tmp_path, PREFS[:3])
    imported(tmp_path, PREFS[2:4], campaign="spring")
    capsys.readouterr()
    store = imported(tmp_path, PREFS[:5], campaign="autumn")
    assert "1 new judgements; 4 were there already, and stay where they are: " in (said := capsys.readouterr().out)
    assert "3 of no campaign" in said
    assert '1 of "spring"' in said
    imported(tmp_path, PREFS[4:5], campaign="autumn")
    assert capsys.readouterr().out.endswith("0 new judgements; 1 were there already\n")
    assert run("data", "export", "--store", store, "--to", tmp_path / "o.jsonl", "--campaign", "autumn") == 0
    assert "1 rows of 1 judgements" in capsys.readouterr().out


def test_what_was_imported_is_under_seal(tmp_path):
    engine = open_engine(imported(tmp_path))
    found = verify(engine)
    engine.dispose()
    assert (found.judgements, found.unsealed, found.faults) == (24, 0, ())


def test_a_store_whose_answers_were_changed_is_named_and_not_exported(tmp_path, capsys):
    store = imported(tmp_path, PREFS[:3])
    with closing(sqlite3.connect(store)) as connection, connection:
        (id,) = connection.execute("SELECT id FROM judgements LIMIT 1").fetchone()
        wrong = json.dumps({"said": "choice", "choice": [1.0]})
        connection.execute("UPDATE judgements SET answer = ? WHERE id = ?", (wrong, id))
    assert run("data", "export", "--store", store, "--to", tmp_path / "o.jsonl") == 2
    said = capsys.readouterr().err
    assert f"judgement {id}: choice: expected 2 shares that sum to 1; got (1.0,)." in said
    assert "preferent data verify" in said
    assert not (tmp_path / "o.jsonl").exists()


def plain_rows(tmp_path, rows, kind):
    """What a plain export of these rows of ours holds; and these rows imported again, as a list of answers."""
    store, out = imported(tmp_path, rows), tmp_path / "plain.jsonl"
    assert run("data", "export", "--store", store, "--to", out, "--plain", "--kind", kind) == 0
    assert run("data", "import", out, "--store", tmp_path / "again.db") == 0
    again = open_engine(tmp_path / "again.db")
    answers = [each.answer for _, said in read_judgements(again) for each in said]
    again.dispose()
    return [json.loads(line) for line in out.read_text().splitlines()], answers


def test_thumbs_are_plain_labels_by_majority(tmp_path, capsys):
    """Two of three say good; one of two does, which is no majority."""
    rows = [
        {"prompt": prompt, "completion": "a", "label": label, "annotator": who}
        for prompt, labels in (("p", [True, True, False]), ("q", [True, False]), ("r", [False]))
        for who, label in zip("abc", labels, strict=False)
    ]
    plain, answers = plain_rows(tmp_path, rows, "rating")
    assert {row["prompt"][0]["content"]: row["label"] for row in plain} == {"p": True, "r": False}
    assert {tuple(row) for row in plain} == {("prompt", "completion", "label")}
    assert sorted(answer.ratings for answer in answers) == [(0.0,), (1.0,)]
    assert "2 rows of 4 judgements; left out: 1 items with no answer" in capsys.readouterr().out


def test_one_star_of_five_is_no_thumb_up(tmp_path, capsys):
    """Where any reply that is rated alone has another number than 0 and 1, none of them is a thumb."""

    def rated(id, prompt, value):
        said = {"id": id, "annotator": "a", "at": "2026-01-01", "answer": {"said": "ratings", "ratings": [value]}}
        return {"kind": "rating", "prompt": prompt, "completions": ["a"], "said": [said]}

    store, out = imported(tmp_path, [rated("j", "p", 1.0), rated("k", "q", 5.0)]), tmp_path / "o.jsonl"
    assert run("data", "export", "--store", store, "--to", out, "--plain", "--kind", "rating") == 2
    assert "nothing to write; left out: 2 replies rated alone on a scale" in capsys.readouterr().err
    assert run("data", "export", "--store", store, "--to", out, "--kind", "rating") == 0
    assert (
        run("data", "export", "--store", store, "--to", out, "--kind", "rating", "--plain", "--format", "argilla") == 0
    )


def test_plain_step_labels_are_booleans_by_majority(tmp_path):
    """Bad where more than half say so, of those who went that far: 1 of 3, 1 of 2, 2 of 2, and nobody on the last."""
    said = [
        {"id": id, "annotator": id, "at": "2026-01-01", "answer": {"said": "steps", "labels": labels}}
        for id, labels in {"a": [-1, 1, -1], "b": [0, -1, -1], "c": [0]}.items()
    ]
    row = {"kind": "steps", "prompt": "p", "completions": ["1", "2", "3", "4"], "steps": ["1", "2", "3", "4"]}
    (plain,), (answer,) = plain_rows(tmp_path, [{**row, "said": said}], "steps")
    assert (plain["completions"], plain["labels"]) == (["1", "2", "3"], [True, True, False])
    assert answer.labels == (1, 1, -1)


def test_an_error_names_row_and_field_and_nothing_is_imported(tmp_path, capsys):
    store = imported(tmp_path, PREFS[:2])
    bad = written(tmp_path / "bad.jsonl", [*PREFS, {**PREFS[0], "choice": 3}])
    assert run("data", "import", bad, "--store", store) == 2
    said = capsys.readouterr().err
    assert "bad.jsonl: line 25: choice: expected 0 … 1, how likely chosen is better; got 3." in said
    assert "Nothing was imported." in said
    assert run("data", "export", "--store", store, "--to", tmp_path / "out.jsonl") == 0
    assert "2 rows" in capsys.readouterr().out


def test_a_line_that_is_no_json_or_cannot_be_kept_is_named(tmp_path, capsys):
    for line, said in (
        ("{", "line 2"),
        ('{"prompt": "p", "chosen": "a", "rejected": "b", "x": NaN}', "line 2: x: cannot"),
    ):
        (tmp_path / "bad.jsonl").write_text(json.dumps(PREFS[0]) + "\n" + line + "\n")
        assert run("data", "import", tmp_path / "bad.jsonl", "--store", tmp_path / "s.db") == 2
        assert said in capsys.readouterr().err


def test_names_of_the_files_own_are_told(tmp_path, capsys):
    title = {**TASK, "data": {"title": "sky?", "answer1": "green.", "answer2": "blue."}}
    tasks = written(tmp_path / "tasks.jsonl", [title])
    assert run("data", "import", tasks, "--store", tmp_path / "s.db") == 2
    assert "--columns prompt=" in capsys.readouterr().err
    assert run("data", "import", tasks, "--store", tmp_path / "s.db", "--columns", "prompt=title") == 0
    assert run("data", "import", tasks, "--store", tmp_path / "s.db", "--columns", "title") == 2
    assert "expected our name, =" in capsys.readouterr().err


def test_a_campaign_is_imported_and_exported_by_its_name(tmp_path, capsys):
    store = imported(tmp_path, PREFS[:3], campaign="spring")
    imported(tmp_path, PREFS[3:8], campaign="autumn")
    assert run("data", "export", "--store", store, "--to", tmp_path / "o.jsonl", "--campaign", "autumn") == 0
    assert "5 rows" in capsys.readouterr().out
    assert run("data", "export", "--store", store, "--to", tmp_path / "o.jsonl", "--campaign", "winter") == 2
    said = capsys.readouterr().err
    assert 'nothing to write; there is no campaign "winter" with judgements. There are: "autumn", "spring".' in said
    assert len((tmp_path / "o.jsonl").read_text().splitlines()) == 5
    assert run("data", "import", tmp_path / "o.jsonl", "--store", store, "--campaign", "c" * 65) == 2


def test_what_is_left_out_is_counted(tmp_path, capsys):
    ranking = {"prompt": "p", "completions": ["a", "b", "c"], "ranks": [0, 1, 2]}
    store = imported(tmp_path, [*PREFS, *DEMOS[:2], ranking, {**PREFS[0], "prompt": "tie", "choice": 0.5}])
    assert run("data", "export", "--store", store, "--to", tmp_path / "o.jsonl", "--plain") == 0
    said = capsys.readouterr().out
    assert (
        "24 rows of 24 judgements; left out: 2 items of --kind demonstration, 1 items of --kind ranking, 1 items with"
        in said
    )
    rows = [json.loads(line) for line in (tmp_path / "o.jsonl").read_text().splitlines()]
    assert {tuple(row) for row in rows} == {("prompt", "chosen", "rejected")}


def test_a_store_that_is_not_there_is_not_made_by_exporting(tmp_path, capsys):
    assert run("data", "export", "--store", tmp_path / "none.db", "--to", tmp_path / "o.jsonl") == 2
    assert "There is no store" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
    assert run("data", "export", "--store", imported(tmp_path), "--to", tmp_path / "o.csv") == 2
    assert "expected a name ending in .jsonl or .json" in capsys.readouterr().err


KILLED = """
import os, sys
from preferent.cli import main
from preferent.runtime import files

files.failpoint = lambda operation, *paths: os._exit(9) if operation == sys.argv[1] else None
sys.exit(main(sys.argv[2:]))
"""


@pytest.mark.parametrize("operation", ["write", "sync", "rename"])
def test_a_kill_at_any_moment_leaves_the_old_file(tmp_path, operation):
    store, out = imported(tmp_path), tmp_path / "out.jsonl"
    out.write_text("old")
    words = ["data", "export", "--store", store, "--to", out]
    assert subprocess.run([sys.executable, "-c", KILLED, operation, *words]).returncode == 9
    assert out.read_text() == "old"
    assert run(*words) == 0
    assert len(out.read_text().splitlines()) == 24


@pytest.mark.real_data
@pytest.mark.parametrize(
    "name",
    [
        "hh_rlhf/harmless_base_test.preference.jsonl.gz",
        "llmfao/majority.preference.jsonl.gz",
        "tldr_summarize_feedback/comparisons_train.preference.jsonl.gz",
    ],
)
def test_real_pairs_go_in_and_out_without_loss(real_data, tmp_path, capsys, name):
    """A judgement for each row; and the same rows again after a second store."""
    one, two = tmp_path / "one.db", tmp_path / "two.db"
    first, second = tmp_path / "first.jsonl", tmp_path / "second.jsonl"
    assert run("data", "import", real_data / name, "--store", one) == 0
    with gzip.open(real_data / name) as file:
        assert f"{len(file.readlines())} new judgements\n" in capsys.readouterr().out
    assert run("data", "export", "--store", one, "--to", first) == 0
    assert run("data", "import", first, "--store", two) == 0
    assert run("data", "export", "--store", two, "--to", second) == 0
    assert first.read_bytes() == second.read_bytes()
