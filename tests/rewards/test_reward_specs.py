"""What ``--reward`` names: folders, ensembles, functions, several with weights, and what is refused."""

import json

import pytest
import torch

from preferent.config import UsageError
from preferent.data.template import Template
from preferent.models.load import load_policy, load_scorer, save
from preferent.models.scratch import train_tokenizer
from preferent.rewards.combined import Weighted
from preferent.rewards.function import FunctionReward
from preferent.rewards.learned import LearnedReward, Scale
from preferent.rewards.load import load_reward, same_text, weighted
from preferent.sampling.local import LocalSampler
from preferent.testing import check_reward
from toys import TEXTS, saved_policy, tokenizer


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A language model, two reward models, an ensemble of three, and a file of functions."""
    folder = tmp_path_factory.mktemp("rewards")
    base = saved_policy(folder / "base" / "model")
    for name in ("a", "b"):
        save(load_scorer(base, seed=ord(name)), folder / name / "model")
    for i in (0, 1, 10):
        member = folder / "ensemble" / "model" / f"member-{i}"
        save(load_scorer(base, seed=i), member)
        (member / "score.json").write_text(json.dumps({"mean": 0.1 * i, "std": 1.0 + i}))
    (folder / "mine.py").write_text(
        "def brief(episodes):\n    return [-len(e.tokens) for e in episodes]\n"
        "def first(episodes):\n    return [e.tokens[0] for e in episodes]\n"
    )
    return folder


@pytest.fixture(scope="module")
def policy(place):
    return load_policy(place / "base")


@pytest.fixture(scope="module")
def drawn(policy):
    prompts = [Template(policy.tokenizer).prompt([{"role": "user", "content": text}]) for text in TEXTS]
    return [e for group in LocalSampler(policy, max_new_tokens=5).sample(prompts, 2) for e in group]


def values(reward, drawn):
    return torch.tensor([score.value for score in reward(drawn)])


def test_a_run_folder_names_its_reward_model(place, policy, drawn):
    reward = load_reward([f"{place}/a"], policy.tokenizer)
    assert isinstance(reward, LearnedReward)
    assert reward.template is None
    assert reward.scales == [Scale(0.0, 1.0)]
    assert not any(p.requires_grad for p in reward.members[0].parameters())
    check_reward(reward, drawn)
    scorer = load_scorer(place / "a")
    torch.testing.assert_close(values(reward, drawn), values(LearnedReward([scorer], [Scale()]), drawn))


@pytest.mark.parametrize("inside", ["", "/model"])
def test_a_run_of_several_members_is_an_ensemble_in_their_order_each_on_its_scale(place, policy, drawn, inside):
    reward = load_reward([f"{place}/ensemble{inside}"], policy.tokenizer, how="worst")
    assert [scale.mean for scale in reward.scales] == pytest.approx([0.0, 0.1, 1.0])
    assert reward.how == "worst"
    check_reward(reward, drawn)


def test_several_rewards_are_weighed_and_named(place, policy, drawn):
    specs = [f"{place}/a=0.5", f"{place}/mine.py:brief=-2", f"{place}/mine.py:first"]
    reward = load_reward(specs, policy.tokenizer)
    assert isinstance(reward, Weighted)
    check_reward(reward, drawn)
    one = values(load_reward([f"{place}/a"], policy.tokenizer), drawn)
    expected = [0.5 * score + 2 * len(e.tokens) + e.tokens[0] for score, e in zip(one.tolist(), drawn, strict=True)]
    assert values(reward, drawn).tolist() == pytest.approx(expected, abs=1e-5)
    assert set(reward(drawn)[0].parts) == {"a", "mine.py:brief", "mine.py:first"}


def test_two_rewards_whose_folders_are_called_the_same_both_count(place, policy, drawn):
    specs = [f"{place}/a/model", f"{place}/b/model=2"]
    both = values(load_reward(specs, policy.tokenizer), drawn)
    a, b = (values(load_reward([f"{place}/{name}"], policy.tokenizer), drawn) for name in "ab")
    torch.testing.assert_close(both, a + 2 * b)
    assert set(load_reward(specs, policy.tokenizer)(drawn)[0].parts) == {f"{place}/a/model", f"{place}/b/model"}


def test_a_single_reward_may_have_a_weight(place, policy, drawn):
    once = values(load_reward([f"{place}/mine.py:first"], policy.tokenizer), drawn)
    assert isinstance(load_reward([f"{place}/mine.py:first"], policy.tokenizer), FunctionReward)
    torch.testing.assert_close(values(load_reward([f"{place}/mine.py:first=3"], policy.tokenizer), drawn), 3 * once)


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("runs/rm", ("runs/rm", 1.0)),
        ("runs/rm=0.7", ("runs/rm", 0.7)),
        ("a.py:f=-1", ("a.py:f", -1.0)),
        ("org/name=2e-1", ("org/name", 0.2)),
    ],
)
def test_a_weight_stands_behind_an_equals_sign(spec, expected):
    assert weighted(spec) == expected


@pytest.mark.parametrize(
    ("specs", "sentence"),
    [
        (["rm=much"], "expected a number behind =, such as rm=0.5; got 'much'"),
        (["rm="], "expected a number behind =, such as rm=0.5; got ''"),
        (["rm=nan"], "expected a number behind =, such as rm=0.5; got 'nan'"),
        ([], "--reward is missing"),
        (["{place}/mine.py:brief", "{place}/mine.py:brief=2"], "is named twice"),
        (["{place}/base"], "is a language model, not a reward model"),
        (["{place}/nowhere/rm"], "there is no such folder"),
        (["{place}/mine.py:nothing"], "has no function 'nothing'"),
    ],
)
def test_what_cannot_be_a_reward_is_refused(place, specs, sentence):
    with pytest.raises(UsageError, match=sentence):
        load_reward([spec.format(place=place) for spec in specs], tokenizer())


def test_another_tokenizer_or_template_is_noticed(place, policy):
    other = train_tokenizer([text.upper() for text in TEXTS] * 5, vocabulary=340)
    assert load_reward([f"{place}/a"], other).template is not None
    assert same_text(policy.tokenizer, load_policy(place / "base").tokenizer)
    assert not same_text(policy.tokenizer, other)
    changed = load_policy(place / "base").tokenizer
    changed.chat_template = changed.chat_template.replace("<|end|>", "<|end|>\n")
    assert not same_text(policy.tokenizer, changed)
    assert same_text(changed, changed)
