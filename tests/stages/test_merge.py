"""`preferent merge`: adapters into models, several models into one."""

import json

import pytest
import torch
from tiny_runs import DEMOS, PREFS, SMALL, base, kept, quietly, reward_models, run, written

from preferent.models.load import load_policy, load_scorer
from preferent.models.probe import random_replies


def sft(name, *words):
    folder = kept() / name
    if not folder.exists():
        data = written(kept() / "demos.jsonl", DEMOS)
        quietly("sft", "--data", data, "--out", folder, "--lr", "1e-2", "--steps", "2", *SMALL, *words)
    return str(folder)


@torch.no_grad()
def said(folder):
    policy = load_policy(folder, device="cpu")
    return policy.read(random_replies(policy.base)).logprobs


@torch.no_grad()
def scored(folder):
    scorer = load_scorer(folder, device="cpu")
    return scorer.scores(random_replies(scorer.base))


def test_an_adapter_on_an_adapter_becomes_one_plain_model(tmp_path):
    first = sft("lora", "--model", base(), "--lora", "4")
    second = sft("lora-on-lora", "--model", first, "--lora", "2")
    assert run("merge", second, "--out", tmp_path / "merged") == 0
    assert (tmp_path / "merged" / "model" / "config.json").exists()
    assert not (tmp_path / "merged" / "model" / "adapter_config.json").exists()
    assert torch.allclose(said(tmp_path / "merged"), said(second), atol=1e-5)
    assert not torch.allclose(said(tmp_path / "merged"), said(first), atol=1e-3)


def test_a_reward_models_adapter_keeps_its_head_and_its_scale(tmp_path):
    prefs = written(tmp_path / "prefs.jsonl", PREFS)
    words = ["--model", base(), "--data", prefs, "--out", tmp_path / "rm", "--lora", "4", "--lr", "1e-2"]
    assert run("reward", *words, "--steps", "2", *SMALL) == 0
    assert run("merge", tmp_path / "rm", "--out", tmp_path / "merged") == 0
    assert torch.allclose(scored(tmp_path / "merged"), scored(tmp_path / "rm"), atol=1e-5)
    scales = [(tmp_path / name / "model" / "score.json").read_text() for name in ("rm", "merged")]
    assert json.loads(scales[0]) == json.loads(scales[1])


def test_the_average_of_an_ensemble_has_the_mean_of_every_weight(tmp_path):
    assert run("merge", reward_models(), "--average", "--out", tmp_path / "average") == 0
    members = [load_scorer(f"{reward_models()}/model/member-{i}", device="cpu") for i in range(2)]
    average = dict(load_scorer(tmp_path / "average", device="cpu").named_parameters())
    a, b = (dict(member.named_parameters()) for member in members)
    assert not torch.equal(a["model.score.weight"], b["model.score.weight"])
    assert all(torch.allclose(value, (a[name] + b[name]) / 2, atol=1e-7) for name, value in average.items())
    scale = json.loads((tmp_path / "average" / "model" / "score.json").read_text())
    own = [json.loads((kept() / "rm" / "model" / f"member-{i}" / "score.json").read_text()) for i in range(2)]
    assert scale["std"] == pytest.approx((own[0]["std"] + own[1]["std"]) / 2)


def test_a_model_averaged_with_itself_stays_as_it_is(tmp_path):
    assert run("merge", base(), f"{base()}/model", "--average", "--out", tmp_path / "same") == 0
    assert torch.equal(said(tmp_path / "same"), said(base()))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (lambda: [base()], "is no adapter (no adapter_config.json), so there is nothing to merge."),
        (lambda: [base(), "--average"], "--average needs several models, or an ensemble"),
        (lambda: [reward_models()], "These are 2 models: --average makes one of them"),
        (lambda: [base(), reward_models(), "--average"], "is a Qwen2ForCausalLM and"),
    ],
)
def test_what_cannot_be_merged_is_said_and_leaves_nothing(tmp_path, capsys, words, message):
    assert run("merge", *words(), "--out", tmp_path / "out") == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_models_of_other_shapes_or_tokenizers_have_no_average(tmp_path, capsys):
    same = written(tmp_path / "same.jsonl", [*DEMOS, *PREFS])
    other = written(tmp_path / "other.jsonl", PREFS[:12])
    size = ["--hidden", "32", "--layers", "1", "--heads", "2", "--context", "128"]
    quietly("init", "--text", same, "--out", tmp_path / "deep", *size, "--vocabulary", "360", "--layers", "2")
    quietly("init", "--text", same, "--out", tmp_path / "a", *size, "--vocabulary", "305")
    quietly("init", "--text", other, "--out", tmp_path / "b", *size, "--vocabulary", "305")
    assert run("merge", base(), tmp_path / "deep", "--average", "--out", tmp_path / "out") == 2
    assert "differ in shape: model.model.layers.1.input_layernorm.weight is not there and (32,)" in (
        capsys.readouterr().err
    )
    assert run("merge", tmp_path / "a", tmp_path / "b", "--average", "--out", tmp_path / "out") == 2
    assert "have different tokenizers or chat templates" in capsys.readouterr().err
