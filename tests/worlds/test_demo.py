"""The demo end to end, on a few rows: what it writes, and that it goes on where it stopped."""

import json

import pytest

from preferent.cli import main
from preferent.worlds.support_desk import demo, pipeline

FEW = pipeline.Sizes(demonstrations=64, asked=12, replies=3, pairs=2, members=2, judged=6, evaluated=12)


@pytest.fixture
def short(monkeypatch):
    monkeypatch.setattr(pipeline, "SIZES", FEW)
    monkeypatch.setattr(pipeline.Demo, "sizes", FEW)
    once = {name: {**words, "steps": 2} for name, words in pipeline.TRAINING.items()}
    once["reward"]["members"] = 2
    monkeypatch.setattr(pipeline, "TRAINING", once)


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
