"""`preferent sample`: replies in a file that the other commands read."""

import pytest
import torch
from tiny_runs import PROMPTS, base, left, reward, reward_models, rows_of, run, written

from preferent.data.load import load_demonstrations, load_preferences, load_prompts
from preferent.models.load import load_policy, load_tokenizer
from preferent.types import Ranking

SHORT = ["--max-new-tokens", "8"]


@pytest.fixture
def prompts(tmp_path):
    return written(tmp_path / "prompts.jsonl", PROMPTS[:4])


def sampled(tmp_path, prompts, *words, name="out.jsonl"):
    assert run("sample", base(), "--prompts", prompts, "--out", tmp_path / name, *SHORT, *words) == 0
    return rows_of(tmp_path / name)


def test_a_row_has_the_prompt_its_columns_and_one_reply(tmp_path, prompts, capsys):
    rows = sampled(tmp_path, prompts)
    assert capsys.readouterr().out == f"4 prompts, 4 replies drawn → {tmp_path / 'out.jsonl'}\n"
    assert [row["prompt"][0]["content"] for row in rows] == [row["prompt"] for row in PROMPTS[:4]]
    assert [row["topic"] for row in rows] == [row["topic"] for row in PROMPTS[:4]]
    assert all(row["stop"] in ("end", "length") and row["logprob"] < 0 for row in rows)
    assert len(load_demonstrations(tmp_path / "out.jsonl", load_tokenizer(base()))) == 4
    assert left(tmp_path) == ["out.jsonl", "prompts.jsonl"]


def test_several_replies_are_lists_and_with_a_reward_a_ranking(tmp_path, prompts):
    rows = sampled(tmp_path, prompts, "--n", "3", "--reward", reward("brief"))
    for row in rows:
        assert len(row["completions"]) == len(row["logprobs"]) == len(row["stops"]) == 3
        assert row["rewards"] == [-len(text) / 10 for text in row["completions"]]
        assert row["ranks"] == [sum(other > mark for other in set(row["rewards"])) for mark in row["rewards"]]
    read = load_preferences(tmp_path / "out.jsonl", load_tokenizer(base()))
    assert all(isinstance(row, Ranking) for row in read)


def test_best_of_n_is_the_reply_that_the_reward_likes_most(tmp_path, prompts):
    every = sampled(tmp_path, prompts, "--n", "5", "--reward", reward_models(), name="every.jsonl")
    best = sampled(tmp_path, prompts, "--best-of", "5", "--reward", reward_models(), name="best.jsonl")
    assert [row["reward"] for row in best] == [max(row["rewards"]) for row in every]
    assert [row["completion"] for row in best] == [row["completions"][row["ranks"].index(0)] for row in every]


def test_a_seed_draws_the_same_replies_again_and_a_prompt_that_stands_twice_gets_two(tmp_path):
    twice = written(tmp_path / "prompts.jsonl", [PROMPTS[0], PROMPTS[0], PROMPTS[1]])
    rows, again, other = (
        sampled(tmp_path, twice, "--seed", seed, name=name) for name, seed in (("a", "3"), ("b", "3"), ("c", "4"))
    )
    assert rows == again != other
    assert rows[0]["completion"] != rows[1]["completion"]


@torch.no_grad()
def test_temperature_0_takes_the_likeliest_token_and_scores_it_at_temperature_1(tmp_path, prompts):
    """Against the argmax of the model's own logits, one full forward for each token."""
    rows = sampled(tmp_path, prompts, "--temperature", "0")
    policy = load_policy(base(), device="cpu")
    for row, prompt in zip(rows, load_prompts(prompts, policy.tokenizer), strict=True):
        tokens, total = list(prompt.tokens), 0.0
        for _ in range(8):
            logp = policy.base(torch.tensor([tokens])).logits[0, -1].log_softmax(-1)
            tokens.append(int(logp.argmax()))
            total += float(logp.max())
            if tokens[-1] == policy.tokenizer.eos_token_id:
                break
        drawn = policy.tokenizer.decode(tokens[len(prompt.tokens) :], skip_special_tokens=True).strip()
        assert row["completion"] == drawn
        assert row["logprob"] == pytest.approx(total, abs=1e-4)


def test_a_file_is_written_over_only_with_force(tmp_path, prompts, capsys):
    first = sampled(tmp_path, prompts)
    words = ["sample", base(), "--prompts", prompts, "--out", tmp_path / "out.jsonl", *SHORT, "--seed", "1"]
    assert run(*words) == 2
    assert "exists already: choose another --out, or say --force" in capsys.readouterr().err
    assert rows_of(tmp_path / "out.jsonl") == first
    assert run(*words, "--force") == 0
    assert rows_of(tmp_path / "out.jsonl") != first


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--best-of", "4"], "--best-of needs a --reward"),
        (["--best-of", "4", "--n", "2", "--reward", "x.py:f"], "--best-of writes one reply to each prompt"),
        (["--temperature", "0", "--n", "2"], "--temperature 0 always draws the same reply"),
        (["--max-new-tokens", "200"], "--max-new-tokens 200 leaves no room for a prompt"),
        (["--max-length", "500"], "--max-length 500 is more than the model can read: its context is 128 tokens."),
        (["--reward", reward("nothing")], "The reward of a reply to 'what is the sun number 0?' is nan"),
    ],
)
def test_what_makes_no_sense_is_refused_and_nothing_is_written(tmp_path, prompts, capsys, words, message):
    assert run("sample", base(), "--prompts", prompts, "--out", tmp_path / "out.jsonl", *SHORT, *words) == 2
    assert message in capsys.readouterr().err
    assert left(tmp_path) == ["prompts.jsonl"]


def test_bad_rows_are_left_out_and_listed_beside_the_file(tmp_path):
    bad = written(tmp_path / "asked.jsonl", [PROMPTS[0], {"prompt": ""}, PROMPTS[1]])
    assert len(sampled(tmp_path, bad, "--skip-bad-rows")) == 2
    assert [row["line"] for row in rows_of(tmp_path / "asked.bad.jsonl")] == [2]
