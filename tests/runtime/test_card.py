"""The card of a model says what made it, and the same for the same run."""

import json

import pytest
import yaml

from preferent.runtime.card import card
from preferent.runtime.run import Run


@pytest.fixture
def made(tmp_path):
    data = tmp_path / "pairs.jsonl"
    data.write_text(json.dumps({"prompt": "q", "chosen": "a", "rejected": "b", "judgements": ["j1", "j2"]}) + "\n")

    def run(name):
        options = {"model": "some/base", "lr": 0.001, "data": [str(data)], "lora": None, "out": str(tmp_path / name)}
        with Run(tmp_path / name, options, inputs=["some/base", data], command="reward", seed=3) as run:
            lines = [
                {"step": 1, "time": 1.0, "loss": 0.7},
                {"step": 2, "time": 2.0, "loss": 0.5, "eval/accuracy": 0.75},
            ]
            (run.folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        return run.folder

    return run


def test_a_card_names_data_options_judgements_and_what_was_measured(made):
    page = card(made("one"))
    _, header, body = page.split("---\n", 2)
    assert yaml.safe_load(header) == {
        "library_name": "transformers",
        "tags": ["preferent", "reward"],
        "base_model": "some/base",
    }
    for said in ("names 2 judgements", "| some/base | by name |", "lr: 0.001", "| eval/accuracy | 0.75 |", "last step"):
        assert said in body
    assert "step of the run, 2." in body
    assert "lora" not in body
    assert "proxy of what annotators wanted" in body


def test_equal_runs_have_equal_cards_wherever_they_lie(made):
    assert card(made("one")) == card(made("another"))


def test_a_card_counts_the_judgements_behind_the_models_that_it_was_made_from(made, tmp_path):
    reward = made("reward")
    (reward / "model").mkdir()
    with Run(tmp_path / "ppo", {"model": "some/base"}, inputs=[reward / "model"], command="ppo") as run:
        page = card(run.folder)
    assert "names no judgements; with the runs that it was made from, 2 stand behind it." in page
    (reward / "judgements.txt").unlink()
    assert "names no judgements. There may be more" in card(tmp_path / "ppo")
    (reward / "manifest.json").write_text("{")
    assert "names no judgements. There may be more" in card(tmp_path / "ppo")


def test_a_member_of_an_ensemble_says_that_it_is_one(tmp_path):
    with Run(tmp_path / "run", {"model": "some/base", "members": 3}, command="reward") as run:
        page = card(run.folder, member=1)
    assert "# A model trained by reward: member 1" in page
    assert "one of 3 models" in page


def test_what_was_not_trained_has_a_card_without_numbers(tmp_path):
    with Run(tmp_path / "run", {"text": ["a.txt"], "hidden": 32}, command="init") as run:
        page = card(run.folder)
    assert "base_model" not in page
    assert "Nothing: it was not trained." in page
    assert "weights are random" in page
