"""From a model back to the judgements that made it, and the store that holds them."""

import json
from pathlib import Path

import pytest

from preferent.cli import main
from preferent.feedback.asking import ask_crowd
from preferent.feedback.crowd import Crowd
from preferent.feedback.store import open_engine
from preferent.runtime.provenance import ids_in, judgements, trace
from preferent.runtime.run import Run
from preferent.types import Comparison

PAIRS = [Comparison(f"question {i}", (f"a rather long reply {i}", f"short {i}")) for i in range(4)]


@pytest.fixture
def chain(tmp_path, monkeypatch):
    """A store; a reward run on what a crowd said; a policy run on that reward model. The models are only files."""
    monkeypatch.chdir(tmp_path)
    engine = open_engine("judgements.db")
    answers = ask_crowd(engine, Crowd(lambda _, reply: -len(reply[0]["content"]), seed=0), PAIRS)
    engine.dispose()
    ids = [id for said in answers for id in said.judgements]
    rows = [{"prompt": "q", "chosen": "a", "rejected": "b", "judgements": ids[i::4]} for i in range(4)]
    Path("comparisons.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    Path("questions.jsonl").write_text('{"prompt": "q"}\n')
    finished("runs/reward", ["comparisons.jsonl"], {"lr": 0.001})
    finished("runs/ppo", ["questions.jsonl", "runs/reward/model", "some/hub-name"], {"kl": 0.1})
    return sorted(ids)


def finished(folder, inputs, options):
    with Run(folder, {**options, "out": folder}, inputs=inputs) as run:
        (run.folder / "metrics.jsonl").write_text('{"step": 1}\n')
        run.model_folder.mkdir()
        (run.model_folder / "config.json").write_text("{}")


def test_a_model_leads_back_to_every_judgement_and_the_store_confirms_them(chain, capsys):
    assert main(["provenance", "runs/ppo/model", "--ids", "ids.txt"]) == 0
    said = capsys.readouterr().out
    assert "12 judgements stand behind it; their ids are in ids.txt." in said
    assert "run   runs/reward   seed 0" in said
    assert sorted(Path("ids.txt").read_text().split()) == chain
    assert main(["data", "verify", "judgements.db", "--ids", "ids.txt"]) == 0
    assert "12 judgements, 12 found" in capsys.readouterr().out
    Path("ids.txt").write_text("made-up\n")
    assert main(["data", "verify", "judgements.db", "--ids", "ids.txt"]) == 1
    assert "judgement made-up is not in this store" in capsys.readouterr().out


def test_what_was_changed_or_removed_since_is_said(chain, capsys):
    Path("comparisons.jsonl").write_text("{}\n")
    Path("questions.jsonl").unlink()
    assert main(["provenance", "runs/ppo"]) == 0
    said = capsys.readouterr().out
    assert "comparisons.jsonl" in next(line for line in said.splitlines() if "CHANGED since" in line)
    assert "questions.jsonl" in next(line for line in said.splitlines() if "GONE since" in line)
    assert "some/hub-name   by name, not local" in said
    assert sorted(judgements(trace(Path("runs/ppo")))) == chain  # the run noted them when it began


def test_options_are_shown_when_asked_for(chain, capsys):
    assert main(["provenance", "runs/ppo", "--options"]) == 0
    assert "      kl: 0.1" in capsys.readouterr().out


def test_a_run_is_found_from_another_folder(chain, tmp_path, monkeypatch):
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert sorted(judgements(trace(tmp_path / "runs" / "ppo"))) == chain


def test_a_list_of_judgements_that_is_gone_is_an_error(chain, capsys):
    Path("runs/reward/judgements.txt").unlink()
    assert main(["provenance", "runs/ppo"]) == 2
    assert "judgements.txt is gone: it named 12 judgements" in capsys.readouterr().err


def test_a_folder_that_is_no_run_is_an_error(tmp_path, capsys):
    assert main(["provenance", str(tmp_path)]) == 2
    assert "There is no run in" in capsys.readouterr().err


@pytest.mark.parametrize(
    "line", ["", "{", '{"judgements": 3}', '["judgements"]', '{"judgements": [1, null]}', '"judgements"']
)
def test_a_line_that_names_no_judgement_gives_none(line):
    assert ids_in(line) == []
