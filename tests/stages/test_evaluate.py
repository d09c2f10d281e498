"""`preferent evaluate`: models against a baseline, and rewards against annotators."""

import json
import math

import pytest
import torch
from tiny_runs import PREFS, PROMPTS, SMALL, base, kept, quietly, reward, reward_models, run, written

from preferent.data.collate import episodes as collate
from preferent.data.collate import logprobs
from preferent.evaluation.best_of_n import kl_bound
from preferent.models.load import load_policy
from preferent.stages.evaluate import kl_between, standard_error
from preferent.stages.options import SamplingOptions, UseOptions
from preferent.stages.speaking import speaker
from preferent.stages.trial import accuracy
from preferent.types import Comparison, Preference, Prompt, Ranking, Reply, Score

SHORT = ["--max-new-tokens", "8"]


@pytest.fixture(scope="module")
def prompts():
    return written(kept() / "asked.jsonl", PROMPTS)


@pytest.fixture(scope="module")
def other():
    """A model that has moved away from the base."""
    folder = kept() / "other"
    data = written(kept() / "other.jsonl", [{"prompt": row["prompt"], "completion": "no."} for row in PROMPTS])
    quietly("sft", "--model", base(), "--data", data, "--out", folder, "--lr", "3e-2", "--steps", "4", *SMALL)
    return str(folder)


def evaluated(tmp_path, *words):
    assert run("evaluate", *words, "--out", tmp_path / "eval.json") == 0
    return json.loads((tmp_path / "eval.json").read_text())


def test_a_model_against_itself_wins_half_and_has_no_kl(tmp_path, prompts, capsys):
    """Same noise, same replies: every prompt is a tie, and log π - log π₀ is 0 for each token."""
    found = evaluated(tmp_path, base(), base(), "--prompts", prompts, "--reward", reward_models(), *SHORT)
    one, two = found["models"]
    assert (one["name"], one["n"], found["missing"]) == (base(), 12, [])
    assert "win_rate" not in one
    assert two["win_rate"]["value"] == 0.5
    assert two["win_rate"]["low"] < 0.5 < two["win_rate"]["high"]
    assert abs(two["kl"]) < 1e-4
    assert two["reward"] == one["reward"]
    said = capsys.readouterr().out
    assert "one reply to each of 12 prompts" in said
    assert "wins against base" in said
    assert "50.0%" in said


def test_the_numbers_are_those_of_the_replies(tmp_path, prompts, other):
    found = evaluated(tmp_path, base(), other, "--prompts", prompts, "--reward", reward("brief"), *SHORT)
    baseline, moved = found["models"]
    voices = [speaker(name, SamplingOptions(max_new_tokens=8), UseOptions(device="cpu")) for name in (base(), other)]
    asked = [voices[0].template.prompt([{"role": "user", "content": row["prompt"]}]) for row in PROMPTS]
    ours, theirs = ([group[0] for group in voice.sampler.sample(asked, 1)] for voice in voices)
    marks = [[-len(episode.text) / 10 for episode in drawn] for drawn in (ours, theirs)]
    assert [row["reward"]["mean"] for row in (baseline, moved)] == pytest.approx([sum(m) / 12 for m in marks])
    wins = sum((b > a) + (a == b) / 2 for a, b in zip(*marks, strict=True)) / 12
    assert moved["win_rate"]["value"] == pytest.approx(wins)
    assert moved["length"] == sum(len(episode.tokens) for episode in theirs) / 12
    with torch.no_grad():
        said = voices[0].policy.read(collate([[episode] for episode in theirs])).logprobs
    by_hand = (logprobs([[episode] for episode in theirs]) - said).sum() / 12
    assert moved["kl"] == pytest.approx(by_hand.item(), abs=1e-4)
    assert moved["kl"] > 0.1


def test_kl_is_the_kullback_leibler_divergence_on_average(other):
    """Replies of one token, whose exact KL is a sum over the vocabulary; 1500 draws, within five standard errors."""
    voice = speaker(other, SamplingOptions(max_new_tokens=1), UseOptions(device="cpu"))
    baseline = load_policy(base(), device="cpu")
    prompt = voice.template.prompt([{"role": "user", "content": "what is the sun?"}])
    row = torch.tensor([prompt.tokens])
    with torch.no_grad():
        p, q = (model.base(row).logits[0, -1].log_softmax(-1) for model in (voice.policy, baseline))
    exact = (p.exp() * (p - q)).sum().item()
    spread = ((p.exp() * (p - q) ** 2).sum().item() - exact**2) ** 0.5
    drawn = voice.sampler.sample([prompt], 1500)[0]
    assert abs(kl_between(drawn, baseline) - exact) < 5 * spread / 1500**0.5


def test_best_of_n_is_a_row_that_does_not_compete_with_its_own_replies(tmp_path, prompts):
    words = [base(), "--prompts", prompts, "--reward", reward_models(), *SHORT]
    found = evaluated(tmp_path, *words, "--best-of", "4")
    alone = json.loads(json.dumps(found["models"][0]))
    (tmp_path / "eval.json").unlink()
    assert evaluated(tmp_path, *words)["models"] == [alone]
    best = found["models"][1]
    assert best["name"] == "best of 4"
    assert best["kl_bound"] == kl_bound(4)
    assert best["reward"]["mean"] > alone["reward"]["mean"]


def test_what_is_missing_is_said_with_its_reason(tmp_path, prompts, other, capsys):
    found = evaluated(tmp_path, base(), other, "--prompts", prompts, "--temperature", "0", *SHORT)
    assert found["missing"] == [
        "KL: it is estimated from replies drawn with full support, not with temperature 0, top-p and kin.",
        "Reward and win rate: they need a --reward.",
    ]
    assert "reward" not in found["models"][1]
    assert capsys.readouterr().out.endswith("\n".join(found["missing"]) + "\n")


def test_a_model_with_another_tokenizer_is_compared_by_reward_and_not_by_kl(tmp_path, prompts):
    text = written(tmp_path / "text.jsonl", PREFS)
    size = ["--hidden", "32", "--layers", "1", "--heads", "2", "--vocabulary", "310", "--context", "128"]
    quietly("init", "--text", text, "--out", tmp_path / "stranger", *size)
    words = [base(), tmp_path / "stranger", "--prompts", prompts, "--reward", reward_models(), *SHORT]
    found = evaluated(tmp_path, *words)
    assert "kl" not in found["models"][1]
    assert 0 <= found["models"][1]["win_rate"]["value"] <= 1
    assert found["missing"] == [f"KL of {tmp_path / 'stranger'}: its tokenizer is not that of {base()}."]


def test_a_reward_model_is_tried_on_held_out_comparisons_member_by_member(tmp_path, capsys):
    prefs = written(tmp_path / "prefs.jsonl", [*PREFS[:8], {**PREFS[9], "choice": 0.5}])
    found = evaluated(tmp_path, "--reward", reward_models(), "--preferences", prefs)
    assert [row["name"] for row in found["reward"]] == [reward_models(), "member 0", "member 1"]
    assert all(row["pairs"] == 9 and row["ties"] == pytest.approx(1 / 9) for row in found["reward"])
    assert all(0 <= row["accuracy"]["value"] <= 1 and row["accuracy"]["n"] == 8 for row in found["reward"])
    assert "reward on held-out comparisons" in capsys.readouterr().out


def test_accuracy_by_hand():
    """Prompt 1: right and wrong: ½. Prompt 2: a tie of the reward: ½. Prompt 3: a ranking, 2 of 3 pairs right: ⅔.

    Over the three prompts (½ + ½ + ⅔)/3 = 5/9; of the seven pairs one, an undecided one, is a tie.
    """

    def reply(mark):
        return Reply((mark,), (True,), str(mark))

    def preferred(prompt, better, worse, choice=(1.0, 0.0)):
        return Preference(Comparison(Prompt((prompt,)), (reply(better), reply(worse))), choice)

    rows = [
        preferred(1, 5, 3),
        preferred(1, 2, 4),
        preferred(2, 7, 17),
        preferred(3, 1, 2, (0.5, 0.5)),
        Ranking(Comparison(Prompt((3,)), (reply(5), reply(6), reply(4))), (0, 1, 2)),
    ]

    def judged(episodes):
        return [Score(float(episode.tokens[0] % 10)) for episode in episodes]

    from preferent.stages.trial import replied

    found = accuracy("x", rows, [list(replied(row)) for row in rows], judged)
    assert found["accuracy"]["value"] == pytest.approx(5 / 9)
    assert (found["pairs"], found["ties"]) == (7, pytest.approx(1 / 7))


def test_the_standard_error_by_hand():
    """Of 1, 2, 3: variance 1, over 3 values: √(1/3). Of one value there is none."""
    assert standard_error([1.0, 2.0, 3.0]) == pytest.approx(math.sqrt(1 / 3))
    assert standard_error([1.0]) is None


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "There is nothing to evaluate"),
        (["runs/x"], "--prompts is missing"),
        (["--preferences", "p.jsonl"], "--preferences needs a --reward."),
        (["runs/x", "--prompts", "p.jsonl", "--best-of", "4"], "--best-of needs a --reward."),
        (["--reward", reward("brief"), "--preferences", "p.jsonl"], "Name a model"),
    ],
)
def test_what_makes_no_sense_is_refused(tmp_path, monkeypatch, capsys, words, message):
    monkeypatch.chdir(tmp_path)
    assert run("evaluate", *words, "--out", "eval.json") == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "eval.json").exists()


def test_every_model_is_looked_at_before_anything_is_drawn(tmp_path, prompts, capsys):
    member = f"{reward_models()}/model/member-0"
    assert run("evaluate", base(), member, "--prompts", prompts, *SHORT) == 2
    said = capsys.readouterr().err
    assert said == f"{member} is a reward model, which says no text: expected a language model.\n"


def test_a_prompt_is_a_step_of_the_progress(prompts, capsys, monkeypatch):
    """12 prompts of at most 32 tokens with replies of 8; room for 100 tokens is room for at least two prompts."""
    monkeypatch.setattr("preferent.stages.speaking.HELD", 100)
    voice = speaker(base(), SamplingOptions(max_new_tokens=8), UseOptions(device="cpu"))
    asked = [voice.template.prompt([{"role": "user", "content": row["prompt"]}]) for row in PROMPTS]
    assert voice.draw(asked, 1, title="x") == voice.sampler.sample(asked, 1)
    assert f"x  done  step {len(asked)}/{len(asked)}  " in capsys.readouterr().err


def test_comparisons_that_are_all_undecided_are_no_measure(tmp_path, capsys):
    prefs = written(tmp_path / "prefs.jsonl", [{**PREFS[0], "choice": 0.5}])
    assert run("evaluate", "--reward", reward_models(), "--preferences", prefs) == 2
    assert "left every pair undecided" in capsys.readouterr().err
