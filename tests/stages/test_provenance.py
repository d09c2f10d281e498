"""From a model back to the judgements that made it, and the store that holds them."""

import gzip
import json
from pathlib import Path

import pytest

from preferent.cli import main
from preferent.feedback.asking import ask_crowd
from preferent.feedback.crowd import Crowd
from preferent.feedback.store import open_engine
from preferent.runtime.provenance import judgement_ids, judgements, trace
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
    assert main(["provenance", "runs/ppo"]) == 1
    said = capsys.readouterr().out
    assert "comparisons.jsonl" in next(line for line in said.splitlines() if "CHANGED since" in line)
    assert "questions.jsonl" in next(line for line in said.splitlines() if "GONE since" in line)
    assert "some/hub-name   by name, not local" in said
    ids, broken = judgements(trace(Path("runs/ppo")))
    assert (sorted(ids), broken) == (chain, ["questions.jsonl is gone"])  # the run noted them when it began


def test_options_are_shown_when_asked_for(chain, capsys):
    assert main(["provenance", "runs/ppo", "--options"]) == 0
    assert "      kl: 0.1" in capsys.readouterr().out


def test_a_run_is_found_from_another_folder(chain, tmp_path, monkeypatch):
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    ids, broken = judgements(trace(tmp_path / "runs" / "ppo"))
    assert (sorted(ids), broken) == (chain, [])


@pytest.mark.parametrize("moved", ["runs", "."])
def test_runs_that_were_moved_together_find_one_another(chain, tmp_path, monkeypatch, capsys, moved):
    """The runs alone: data, which stay where they were, are found there. Or all there is, with its folder."""
    if moved == "runs":
        (tmp_path / "deep" / "er").mkdir(parents=True)
        Path("runs").rename("deep/er/old_runs")
        folder = tmp_path / "deep" / "er" / "old_runs"
    else:
        elsewhere = tmp_path.with_name(f"{tmp_path.name}-moved")
        monkeypatch.chdir(tmp_path.parent)
        tmp_path.rename(elsewhere)
        folder = elsewhere / "runs"
    assert main(["provenance", str(folder / "ppo")]) == 0
    said = capsys.readouterr().out
    assert "GONE" not in said
    assert "\n12 judgements stand behind it" in said
    assert sorted(judgements(trace(folder / "ppo"))[0]) == chain


def test_a_run_that_was_moved_alone_says_where_its_chain_is_broken(chain, tmp_path, capsys):
    Path("runs/ppo").rename("ppo")
    Path("runs").rename("gone")
    assert main(["provenance", "ppo"]) == 1
    said = capsys.readouterr().out
    assert "At least 0 judgements stand behind it." in said
    assert "The chain is broken at: runs/reward/model is gone." in said


def test_a_list_of_judgements_that_is_gone_or_changed_breaks_the_chain(chain, capsys):
    """Fewer, more, none, or others in their place; what the list says then is not relied on."""
    path = Path("runs/reward/judgements.txt")
    lines = path.read_text().splitlines()
    for other in (lines[1:], [*lines, "made-up"], [], ["made-up", *lines[1:]], lines[::-1]):
        path.write_text("".join(f"{line}\n" for line in other))
        assert main(["provenance", "runs/ppo", "--ids", "ids.txt"]) == 1
        said = capsys.readouterr().out
        assert f"judgements.txt was changed: it named 12 judgements, now {len(other)}" in said
        assert "At least 0 judgements" in said
        assert Path("ids.txt").read_text() == ""
    path.unlink()
    assert main(["provenance", "runs/ppo"]) == 1
    assert "runs/reward/judgements.txt is gone: it named 12 judgements" in capsys.readouterr().out


def test_a_list_of_judgements_that_no_run_wrote_breaks_the_chain(chain, capsys):
    Path("runs/ppo/judgements.txt").write_text("made-up\n")
    assert main(["provenance", "runs/ppo"]) == 1
    said = capsys.readouterr().out
    assert "At least 12 judgements" in said
    assert "runs/ppo/judgements.txt was changed: it named 0 judgements, now 1" in said


@pytest.mark.parametrize("name", ["rows.json", "rows.parquet", "rows.jsonl", "rows.jsonl.gz"])
def test_judgements_are_named_whatever_the_data_are_written_in(tmp_path, name):
    rows = [{"prompt": "q", "judgements": ["a", "b"]}, {"prompt": "r", "judgements": ["b", "c"]}]
    path = tmp_path / name
    if path.suffix == ".parquet":
        pyarrow = pytest.importorskip("pyarrow")
        pytest.importorskip("pyarrow.parquet").write_table(pyarrow.Table.from_pylist(rows), path)
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows, indent=1))
    else:
        lines = "".join(json.dumps(row) + "\n" for row in rows).encode()
        path.write_bytes(gzip.compress(lines) if path.suffix == ".gz" else lines)
    assert judgement_ids([path, tmp_path / "missing.jsonl", "some/hub-name", tmp_path]) == ["a", "b", "c"]
    with Run(tmp_path / "run", {}, inputs=[path]) as run:
        assert (run.folder / "judgements.txt").read_text() == "a\nb\nc\n"
        (run.folder / "metrics.jsonl").write_text('{"step": 1}\n')
    noted = json.loads((tmp_path / "run" / "manifest.json").read_text())
    # printf 'a\nb\nc\n' | sha256sum
    assert noted["judgements_sha256"] == "880553fca8fcea94e325ee2cfb48e5a985cc797f39a14cc6d3cedecfeb2ae4d2"
    assert noted["judgements"] == 3


@pytest.mark.parametrize(
    "damage",
    [
        lambda said: "{",
        lambda said: json.dumps({**said, "inputs": {"comparisons.jsonl": 5}}),
        lambda said: json.dumps({**said, "inputs": {"comparisons.jsonl": {"sha256": "ab"}}}),
        lambda said: json.dumps({**said, "sittings": []}),
        lambda said: json.dumps({**said, "judgements": "many"}),
        lambda said: json.dumps({name: value for name, value in said.items() if name != "seed"}),
        lambda said: json.dumps({**said, "sittings": [{**said["sittings"][0], "cwd": 3}]}),
    ],
)
def test_a_damaged_manifest_is_named(chain, capsys, damage):
    path = Path("runs/reward/manifest.json")
    path.write_text(damage(json.loads(path.read_text())))
    assert main(["provenance", "runs/ppo"]) == 2
    assert "runs/reward/manifest.json is damaged" in capsys.readouterr().err


def test_the_ids_go_to_a_folder_that_is_made_or_cannot_be_which_is_said(chain, capsys):
    assert main(["provenance", "runs/ppo", "--ids", "new/folder/ids.txt"]) == 0
    assert sorted(Path("new/folder/ids.txt").read_text().split()) == chain
    assert main(["provenance", "runs/ppo", "--ids", "comparisons.jsonl/ids.txt"]) == 2
    assert "--ids comparisons.jsonl/ids.txt cannot be written" in capsys.readouterr().err


def test_a_folder_that_is_no_run_is_an_error(tmp_path, capsys):
    assert main(["provenance", str(tmp_path)]) == 2
    assert "There is no run in" in capsys.readouterr().err


@pytest.mark.parametrize(
    "line", ["", "{", '{"judgements": 3}', '["judgements"]', '{"judgements": [1, null]}', '"judgements"']
)
def test_a_line_that_names_no_judgement_gives_none(tmp_path, line):
    (tmp_path / "rows.jsonl").write_text(line)
    assert judgement_ids([tmp_path / "rows.jsonl"]) == []
