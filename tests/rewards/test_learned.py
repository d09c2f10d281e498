"""Rewards from reward models: the scorers' own scores, scaled, combined, and the same text for another tokenizer."""

from dataclasses import replace

import pytest
import torch

from preferent.data.batches import replies
from preferent.data.template import Template
from preferent.models.load import load_policy, load_scorer, save_folder
from preferent.models.scratch import Size, new_model, train_tokenizer
from preferent.rewards.learned import LearnedReward, Scale, scale_of
from preferent.sampling.local import LocalSampler
from preferent.testing import check_reward
from preferent.types import Prompt, Reply
from toys import TEXTS, preference, saved_policy

CONVERSATIONS = [
    [{"role": "user", "content": "Hello, how are you?"}],
    [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Where is my parcel?"}],
    [
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": "Hello!"},
        {"role": "user", "content": "Thank you"},
    ],
    [{"role": "assistant", "content": "Welcome."}, {"role": "user", "content": "Where is it?"}],
]


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return saved_policy(tmp_path_factory.mktemp("base") / "model")


@pytest.fixture(scope="module")
def members(base):
    return [load_scorer(base, seed=seed) for seed in range(3)]


@pytest.fixture(scope="module")
def policy(base):
    return load_policy(base)


@pytest.fixture(scope="module")
def drawn(policy):
    prompts = [Template(policy.tokenizer).prompt(messages) for messages in CONVERSATIONS]
    return [e for group in LocalSampler(policy, max_new_tokens=7).sample(prompts, 3) for e in group]


def alone(scorer, episodes):
    with torch.no_grad():
        return [scorer.scores(replies([(e.prompt, [e])])).item() for e in episodes]


def test_one_model_gives_its_own_scores(members, drawn):
    reward = LearnedReward(members[:1], [Scale()])
    check_reward(reward, drawn)
    assert [s.value for s in reward(drawn)] == pytest.approx(alone(members[0], drawn), abs=1e-5)
    assert all(s.parts == {} for s in reward(drawn))


@pytest.mark.parametrize("budget", [1, 40, 10**6])
def test_the_token_budget_changes_nothing(members, drawn, budget):
    whole = LearnedReward(members[:1], [Scale(0.3, 2.0)])(drawn)
    cut = LearnedReward(members[:1], [Scale(0.3, 2.0)], token_budget=budget)(drawn)
    assert [s.value for s in cut] == pytest.approx([s.value for s in whole], abs=1e-5)


@pytest.mark.parametrize(
    ("how", "caution", "combined"),
    [
        ("mean", 0.0, lambda x: x.mean(0)),
        ("worst", 0.0, lambda x: x.min(0).values),
        ("uncertain", 0.5, lambda x: x.mean(0) - 0.5 * x.var(0, correction=0)),
    ],
)
def test_members_are_scaled_then_combined_and_their_spread_is_told(members, drawn, how, caution, combined):
    scales = [Scale(0.1, 1.0), Scale(-0.2, 0.5), Scale(0.0, 3.0)]
    reward = LearnedReward(members, scales, how=how, caution=caution)
    check_reward(reward, drawn)
    each = torch.tensor([alone(member, drawn) for member in members])
    each = (each - torch.tensor([[s.mean] for s in scales])) / torch.tensor([[s.std] for s in scales])
    said = reward(drawn)
    assert [s.value for s in said] == pytest.approx(combined(each).tolist(), abs=1e-4)
    assert [s.parts["members_mean"] for s in said] == pytest.approx(each.mean(0).tolist(), abs=1e-4)
    assert [s.parts["members_spread"] for s in said] == pytest.approx(each.std(0, correction=0).tolist(), abs=1e-4)


def test_the_scale_brings_the_scores_of_what_it_saw_to_mean_0_and_deviation_1(members):
    a, b, c = (Reply((7 + i, 8, 1), (True,) * 3) for i in range(3))
    seen = [
        preference(Prompt((4, 5)), a, b),
        preference(Prompt((6,)), a, c, choice=(0.5, 0.5)),
    ]
    scale = scale_of(members[0], seen)
    reward = LearnedReward(members[:1], [scale])
    scaled = reward.score_rows([(o.comparison.context, option) for o in seen for option in o.comparison.options])[0]
    assert scaled.mean().item() == pytest.approx(0, abs=1e-5)
    assert scaled.std(correction=0).item() == pytest.approx(1, abs=1e-5)


# --- another tokenizer ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def stranger(tmp_path_factory):
    """A reward model with another vocabulary, other ids and another template than the policy's."""
    words = train_tokenizer([text.upper() + text for text in TEXTS] * 5, vocabulary=380)
    words.chat_template = (
        "{% for m in messages %}{{ '<|' + m.role + '|> ' + m.content + '<|end|>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|assistant|> ' }}{% endif %}"
    )
    model = new_model(words, Size(hidden=16, layers=1, heads=2, context=128), seed=4)
    folder = tmp_path_factory.mktemp("stranger")
    save_folder(model, words, folder)
    return load_scorer(folder, seed=7)


def test_a_stranger_is_fed_the_same_messages_in_its_own_words(stranger, drawn):
    words = stranger.tokenizer
    reward = LearnedReward([stranger], [Scale()], template=Template(words))
    check_reward(reward, drawn)
    for e, score in zip(drawn, reward(drawn), strict=True):
        asked = words.apply_chat_template(e.prompt.info["messages"], tokenize=False, add_generation_prompt=True)
        prompt, said = words(asked)["input_ids"], words(e.text + "<|end|>")["input_ids"]
        row = torch.tensor([[*prompt, *said]])
        with torch.no_grad():
            assert score.value == pytest.approx(stranger.model(row).logits.item(), abs=1e-4)


def test_all_of_the_conversation_before_the_reply_is_its_prompt(stranger, drawn):
    """Also where the assistant spoke before: a greeting, or an earlier answer."""
    reward = LearnedReward([stranger], [Scale()], template=Template(stranger.tokenizer))
    for e in drawn:
        prompt, reply = reward.rendered(e)
        text = stranger.tokenizer.decode(prompt.tokens)
        assert all(message["content"] in text for message in e.prompt.info["messages"])
        assert prompt.info["messages"] == e.prompt.info["messages"]
        assert e.text in stranger.tokenizer.decode(reply.tokens)


def test_an_empty_reply_has_a_score_too(stranger, members, drawn):
    end = stranger.tokenizer.eos_token_id
    empty = replace(drawn[0], tokens=(end,), learn=(True,), logprobs=(-1.0,), text="")
    for reward in (
        LearnedReward(members, [Scale()] * 3),
        LearnedReward([stranger], [Scale()], template=Template(stranger.tokenizer)),
    ):
        check_reward(reward, [empty, drawn[1]])
