"""`preferent init`: a model and a tokenizer out of text, for machines that have neither."""

import json

import pytest
import torch
from tiny_runs import DEMOS, left, run, written

from preferent.models.load import load_policy
from preferent.stages.init import texts

SIZE = ["--hidden", "32", "--layers", "1", "--heads", "2", "--vocabulary", "320", "--context", "64"]


def weights(folder):
    return dict(load_policy(folder, device="cpu").named_parameters())


def test_a_model_folder_is_written_that_plain_transformers_loads(tmp_path, capsys):
    import transformers

    text = written(tmp_path / "demos.jsonl", DEMOS)
    assert run("init", "--text", text, "--out", tmp_path / "base", *SIZE) == 0
    said = capsys.readouterr().out
    assert "The weights are random" in said
    assert "A pretrained model" in said
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "base" / "model")
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "base" / "model")
    assert f"{model.num_parameters():,} · 1 layers · hidden 32 · 2 heads · context 64 tokens" in said
    assert f"{len(tokenizer)} tokens" in said
    assert model.config.vocab_size == len(tokenizer) <= 320
    assert tokenizer.decode(tokenizer("the sun is number 3.")["input_ids"]) == "the sun is number 3."
    assert left(tmp_path / "base") == [".lock", "config.yaml", "manifest.json", "model"]
    assert "# A model from scratch" in (tmp_path / "base" / "model" / "README.md").read_text()


def test_tokens_per_character_are_those_of_the_text(tmp_path, capsys):
    (tmp_path / "a.txt").write_text("ab ab\n\nab ab ab\n")
    assert run("init", "--text", tmp_path / "a.txt", "--out", tmp_path / "base", *SIZE) == 0
    tokenizer = load_policy(tmp_path / "base", device="cpu").tokenizer
    tokens = sum(len(tokenizer(line)["input_ids"]) for line in ("ab ab", "ab ab ab"))
    assert f"2 pieces · 13 characters · {tokens / 13:.2f} tokens per character" in capsys.readouterr().out


def test_the_same_config_draws_the_same_weights_and_another_seed_others(tmp_path):
    text = written(tmp_path / "demos.jsonl", DEMOS)
    assert run("init", "--text", text, "--out", tmp_path / "a", *SIZE) == 0
    assert run("init", "--config", tmp_path / "a", "--out", tmp_path / "b") == 0
    assert run("init", "--config", tmp_path / "a", "--out", tmp_path / "c", "--seed", "1") == 0
    a, b, c = (weights(tmp_path / name) for name in "abc")
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert not all(torch.equal(a[name], c[name]) for name in a)


def test_text_is_every_line_of_a_text_file_and_everything_said_in_rows(tmp_path):
    (tmp_path / "a.txt").write_text("one\n\n two \n")
    assert list(texts(str(tmp_path / "a.txt"))) == ["one", " two "]
    messages = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": [{"type": "text", "text": "ho"}]}]
    rows = [
        {"messages": messages},
        {"prompt": "a", "chosen": "same", "rejected": "same", "score": 3},
        {"prompt": "b", "completions": ["c", "d"], "ranks": [0, 1]},
    ]
    file = tmp_path / "rows.json"
    file.write_text(json.dumps(rows))
    assert sorted(texts(str(file))) == ["a", "b", "c", "d", "hi", "ho", "same", "same"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--hidden", "30", "--heads", "4"], "hidden 30 must be a multiple of twice the heads, 8."),
        (["--vocabulary", "200"], "A byte-level tokenizer needs a vocabulary of at least 300"),
        (["--text", "missing.txt"], "missing.txt: there is no such file."),
        (["--text", "missing.jsonl"], "missing.jsonl: there is no such file"),
    ],
)
def test_what_cannot_be_made_is_said_and_leaves_nothing(tmp_path, capsys, words, message):
    text = written(tmp_path / "demos.jsonl", DEMOS)
    assert run("init", "--text", text, "--out", tmp_path / "base", *SIZE, *words) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "base").exists()


def test_a_file_without_text_is_refused(tmp_path, capsys):
    (tmp_path / "blank.txt").write_text("\n \n")
    assert run("init", "--text", tmp_path / "blank.txt", "--out", tmp_path / "base") == 2
    assert "there is no text in it" in capsys.readouterr().err
    rows = written(tmp_path / "rows.jsonl", [{"prompt": "x"}, {"question": "x"}])
    assert run("init", "--text", rows, "--out", tmp_path / "base") == 2
    assert "line 2: no text in known columns: got question." in capsys.readouterr().err


def test_a_folder_in_use_is_refused_without_talk_of_resuming(tmp_path, capsys):
    text = written(tmp_path / "base.jsonl", DEMOS)
    assert run("init", "--text", text, "--out", tmp_path) == 2
    assert capsys.readouterr().err == f"{tmp_path} is not empty: choose another --out.\n"
    assert (tmp_path / "base.jsonl").exists()
