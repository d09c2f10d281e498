"""What ``--reward`` names: folders, ensembles, functions, several with weights, and what is refused."""

import json

import pytest
import torch

from preferent.config import UsageError
from preferent.data.collate import episodes
from preferent.data.template import Template
from preferent.models.load import actor_critic, load_policy, load_scorer, save
from preferent.models.scratch import train_tokenizer
from preferent.rewards.combined import Weighted
from preferent.rewards.function import FunctionReward
from preferent.rewards.learned import LearnedReward, Scale
from preferent.rewards.load import load_reward, same_text, scales_in, weighted, write_scales
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
        ("runs/rm:helpful=0.7,brief=-0.2", ("runs/rm", 1.0)),
        ("runs/rm:helpful", ("runs/rm", 1.0)),
    ],
)
def test_a_weight_stands_behind_an_equals_sign(spec, expected):
    assert weighted(spec) == expected


@pytest.fixture(scope="module")
def headed(place):
    """A reward model with three heads, each on a scale of its own, and an ensemble of two."""
    for name, seed in (("headed/model", 1), ("both/model/member-0", 1), ("both/model/member-1", 2)):
        save(load_scorer(place / "base", heads=3, seed=seed), place / name)
        write_scales(place / name, {"helpful": Scale(0.1, 2.0), "brief": Scale(), "kind": Scale(-0.3 * seed, 0.5)})
    return place


def test_heads_are_weighed_where_they_are_used(headed, policy, drawn):
    """By hand: each head of the model on its scale, and 0.7 of the first less 0.2 of the second."""
    reward = load_reward([f"{headed}/headed:helpful=0.7,brief=-0.2"], policy.tokenizer)
    check_reward(reward, drawn)
    plain = load_scorer(headed / "headed")
    raw = LearnedReward([plain], [Scale()]).head_rows([(e.prompt, e) for e in drawn])[0]
    helpful, brief, kind = (raw[:, 0] - 0.1) / 2.0, raw[:, 1], (raw[:, 2] + 0.3) / 0.5
    torch.testing.assert_close(values(reward, drawn), 0.7 * helpful - 0.2 * brief, rtol=1e-4, atol=1e-5)
    parts = [score.parts for score in reward(drawn)]
    assert [p["kind"] for p in parts] == pytest.approx(kind.tolist(), abs=1e-5)
    assert [p["helpful"] for p in parts] == pytest.approx(helpful.tolist(), abs=1e-5)
    assert set(parts[0]) == {"helpful", "brief", "kind"}


def test_an_ensemble_with_heads_disagrees_about_the_weighed_score(headed, policy, drawn):
    reward = load_reward([f"{headed}/both:kind=2"], policy.tokenizer, how="worst")
    each = [
        (LearnedReward([load_scorer(headed / f"both/model/member-{i}")], [Scale()]), Scale(-0.3 * (i + 1), 0.5))
        for i in range(2)
    ]
    raw = [one.head_rows([(e.prompt, e) for e in drawn])[0, :, 2] for one, _ in each]
    said = torch.stack([2 * (s - scale.mean) / scale.std for s, (_, scale) in zip(raw, each, strict=True)])
    torch.testing.assert_close(values(reward, drawn), said.amin(0), rtol=1e-4, atol=1e-4)
    spread = [score.parts["members_spread"] for score in reward(drawn)]
    assert spread == pytest.approx(said.std(0, correction=0).tolist(), abs=1e-4)


def test_a_critic_starts_from_the_weighed_score(headed, policy, drawn):
    reward = load_reward([f"{headed}/headed:helpful=1,kind=0.5"], policy.tokenizer)
    model = actor_critic(policy, reward.members[0], mean=reward.scales[0].mean, std=reward.scales[0].std)
    x = episodes([[e] for e in drawn])
    ends = model.values(x).gather(1, x.present.sum(-1, keepdim=True))[:, 0]
    torch.testing.assert_close(ends, values(reward, drawn), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("spec", "sentence"),
    [
        ("headed", "has several heads: helpful, brief, kind. Say what they are worth, as in"),
        ("headed=2", "has several heads"),
        ("headed:honest=1", "has no head 'honest'; it has helpful, brief, kind"),
        ("a:helpful=1", "has no head 'helpful'; its one score has no name"),
        ("headed:helpful=much", "expected a number behind =, such as helpful=0.5; got 'much'"),
    ],
)
def test_heads_that_are_not_there_or_not_weighed_are_refused(headed, policy, spec, sentence):
    with pytest.raises(UsageError, match=sentence):
        load_reward([f"{headed}/{spec}"], policy.tokenizer)


def test_scales_are_read_as_they_were_written(tmp_path):
    for scales in ({"": Scale(0.5, 2.0)}, {"a": Scale(1.0, 3.0), "b": Scale()}):
        write_scales(tmp_path, scales)
        assert scales_in(tmp_path) == scales
    assert scales_in(tmp_path / "nowhere") == {"": Scale()}


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
