"""The demo end to end, on a few rows: what it writes, and that it goes on where it stopped."""

import json

import pytest

from preferent import __version__
from preferent.cli import main
from preferent.config import UsageError
from preferent.worlds.support_desk import demo, pipeline

FEW = pipeline.Sizes(demonstrations=64, asked=12, replies=3, pairs=2, members=2, judged=6, evaluated=12)


@pytest.fixture
def short(monkeypatch):
    monkeypatch.setattr(pipeline, "SIZES", FEW)
    monkeypatch.setattr(pipeline.Demo, "sizes", FEW)
    once = {name: {**words, "steps": 2} for name, words in pipeline.TRAINING.items()}
    once["reward"]["members"] = 2
    monkeypatch.setattr(pipeline, "TRAINING", once)


def begun(out, *, seed=0, resume=True):
    pipeline.begin(out, seed, resume=resume)
    return json.loads((out / "demo.json").read_text())


def test_a_demo_goes_on_with_its_own_folder_alone(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "demonstrations.jsonl").write_text("mine")
    for resume in (True, False):
        with pytest.raises(UsageError, match=r"mine is not empty and holds no demo: choose another --out\.$"):
            begun(tmp_path / "mine", resume=resume)
    (tmp_path / "mine" / "demo.json").write_text("[]")
    with pytest.raises(UsageError, match="holds no demo"):
        begun(tmp_path / "mine")
    with pytest.raises(UsageError, match=r"demo\.json is a file; expected a folder"):
        pipeline.begin(tmp_path / "mine" / "demo.json", 0, resume=True)
    with pytest.raises(UsageError, match="cannot be written"):
        pipeline.begin(tmp_path / "mine" / "demo.json" / "demo", 0, resume=True)


def test_a_demo_goes_on_with_its_own_seed_alone(tmp_path):
    first = begun(tmp_path / "new" / "demo", seed=3)
    assert first == {"seed": 3, "version": __version__} == begun(tmp_path / "new" / "demo", seed=3)
    with pytest.raises(UsageError, match=r"holds the demo of seed 3, not of seed 0: choose another --out\.$"):
        begun(tmp_path / "new" / "demo")
    with pytest.raises(UsageError, match=r"is not empty: go on with the demo in it \(--resume\), or choose"):
        begun(tmp_path / "new" / "demo", seed=3, resume=False)


def test_a_demo_that_was_killed_before_it_wrote_its_name_begins_again(tmp_path):
    (tmp_path / ".demo.json.partial").write_text('{"se')
    assert begun(tmp_path)["seed"] == 0
    assert [path.name for path in tmp_path.iterdir()] == ["demo.json"]


@pytest.mark.slow
def test_the_demo_writes_every_part_and_goes_on_where_it_stopped(tmp_path, short, monkeypatch, capsys):
    monkeypatch.setattr(demo, "evaluate", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    assert main(["demo", "--out", str(tmp_path / "demo")]) == 130
    trained = {p.parent.name: p.stat().st_mtime_ns for p in tmp_path.glob("demo/*/model")}
    assert set(trained) == {"sft", "reward", "ppo"}
    monkeypatch.undo()
    monkeypatch.setattr(pipeline.Demo, "sizes", FEW)
    assert main(["demo", "--out", str(tmp_path / "demo")]) == 2
    assert "--resume" in capsys.readouterr().err
    assert main(["demo", "--resume", "--out", str(tmp_path / "demo")]) == 0
    assert {p.parent.name: p.stat().st_mtime_ns for p in tmp_path.glob("demo/*/model")} == trained
    shown = capsys.readouterr().out
    assert "simulated crowd" in shown
    assert "customer:" in shown
    results = json.loads((tmp_path / "demo" / "results.json").read_text())
    assert set(results["policies"]) == {"sft", "ppo", "SFT again"}
    told = [json.loads(line) for line in (tmp_path / "demo" / "comparisons.jsonl").read_text().splitlines()]
    assert all(row["chosen"] != row["rejected"] and 0.5 <= row["choice"] <= 1 for row in told)
    assert all("gold" not in row for row in told)
