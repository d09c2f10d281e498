"""Every folder that can be loaded as a model has a card."""

import pytest
from tiny_runs import PREFS, SMALL, base, quietly, reward_models, written


@pytest.mark.parametrize("kept", [[], ["--keep-best", "eval/loss"]])
def test_each_member_of_an_ensemble_has_the_card_of_the_whole_run(kept, tmp_path):
    """With --keep-best members are saved on the way; the card still tells of the last step."""
    data, out = written(tmp_path / "prefs.jsonl", PREFS), tmp_path / "run"
    words = ["reward", "--model", base(), "--data", data, "--eval-data", data, "--members", "2", "--batch", "6", *SMALL]
    quietly(*words, "--eval-every", "1", "--lr", "1e-2", "--steps", "2", *kept, "--out", out)
    whole = (out / "model" / "README.md").read_text()
    assert "At the last step of the run, 2." in whole
    table = whole[whole.index("## What was measured") : whole.index("## What to know")]
    for i in range(2):
        page = (out / "model" / f"member-{i}" / "README.md").read_text()
        assert f"# A model trained by reward: member {i}" in page
        assert table in page


def test_a_merged_model_has_a_card_that_names_what_it_is_made_of(tmp_path):
    quietly("merge", reward_models(), "--average", "--out", tmp_path / "average")
    page = (tmp_path / "average" / "model" / "README.md").read_text()
    assert "# A merged model" in page
    assert all(f"model/member-{i}/model.safetensors" in page for i in range(2))
    assert "was not trained since" in page
