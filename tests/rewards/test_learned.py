"""Rewards from reward models: the scorers' own scores, scaled, combined, and the same text for another tokenizer."""

from dataclasses import replace

import pytest
import torch

from preferent.config import UsageError
from preferent.data.collate import replies
from preferent.data.template import Template
from preferent.models.load import load_policy, load_scorer, save_folder
from preferent.models.scorer import ScoringModel
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


# --- memory that does not suffice -----------------------------------------------------------------


class Cramped(ScoringModel):
    """A reward model that says, as PyTorch does, that memory ran out where it is to read more than ``room`` tokens."""

    room = 60

    def scores(self, x):
        if sum(x.tokens_each()) > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.\nand more words")
        return super().scores(x)


def cramped(scorer, room):
    scorer = Cramped(scorer.model, scorer.tokenizer, sharing=scorer.sharing)
    scorer.room = room
    return scorer


def test_what_does_not_fit_is_read_fewer_at_a_time_from_then_on_and_scores_the_same(members, drawn, caplog):
    whole = LearnedReward(members, [Scale(0.1, 2.0)] * 3)
    reward = LearnedReward([*members[:2], cramped(members[2], 60)], [Scale(0.1, 2.0)] * 3)
    assert [s.value for s in reward(drawn)] == pytest.approx([s.value for s in whole(drawn)], abs=1e-5)
    warned = len(caplog.records)
    assert f"reward models read {reward.token_budget} from here on" in caplog.text
    assert [s.value for s in reward(drawn)] == pytest.approx([s.value for s in whole(drawn)], abs=1e-5)
    assert len(caplog.records) == warned == 2  # 12 replies to 4 prompts: about 200 tokens, 100, 50


def test_a_resumed_run_reads_as_few_at_a_time_and_so_scores_to_the_bit_the_same(members, drawn):
    first, second = (LearnedReward([cramped(members[0], 60)], [Scale()]) for _ in range(2))
    first(drawn)
    assert second.state_dict() == {"token_budget": None}
    second.load_state_dict(first.state_dict())
    assert second.token_budget == first.token_budget
    assert [s.value for s in second(drawn)] == [s.value for s in first(drawn)]


def test_a_single_reply_that_does_not_fit_is_named_with_its_prompt_and_what_helps(members, drawn):
    sizes = [len(e.prompt.tokens) + len(e.tokens) for e in drawn]
    longest = max(range(len(drawn)), key=sizes.__getitem__)
    with pytest.raises(UsageError) as refused:
        LearnedReward([cramped(members[0], sizes[longest] - 1)], [Scale()])(drawn)
    said, e = str(refused.value), drawn[longest]
    assert f"number {longest + 1} of the {len(drawn)} in this batch" in said
    assert f"a prompt of {len(e.prompt.tokens)} tokens and {len(e.tokens)} of its own" in said
    assert f"begins with the tokens {e.prompt.tokens[0]} {e.prompt.tokens[1]} " in said
    assert members[0].tokenizer.decode(e.prompt.tokens[:8]) in said
    assert said.endswith("(CUDA out of memory. Tried to allocate 20.00 MiB.)")
    for option in ("--max-length", "--max-new-tokens", "--lora", "--load-4bit"):
        assert option in said


def test_another_error_is_not_taken_for_memory(members, drawn):
    class Broken(ScoringModel):
        def scores(self, x):
            raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    reward = LearnedReward([Broken(members[0].model, sharing=False)], [Scale()])
    with pytest.raises(RuntimeError, match="mat1"):
        reward(drawn)
    assert reward.token_budget is None
