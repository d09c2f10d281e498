"""The local sampler: what it says of its tokens is true, its noise is keyed, and it draws from the policy."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from preferent.config import UsageError
from preferent.data.collate import episodes, logprobs
from preferent.models.fast import fast
from preferent.models.policy import LanguagePolicy
from preferent.models.probe import can_share, can_use_own_head
from preferent.sampling.direct import Direct, can_decode
from preferent.sampling.local import LocalSampler, closed
from preferent.sampling.noise import drawn, row_keys, uniforms
from preferent.sampling.support import Support
from preferent.types import Prompt
from tiny_models import PLAIN, SHARING, Spaced, tiny

PROMPTS = [Prompt((7, 8, 9, 10, 11, 12, 13)), Prompt((5, 6)), Prompt((20, 21, 22, 23)), Prompt((5, 9))]


def policy_of(name="Qwen2", **extra):
    model = fast(tiny(name, **extra))
    sharing = can_share(model)
    return LanguagePolicy(model, Spaced(), sharing=sharing, own_head=can_use_own_head(model))


def spoken(groups):
    return [[episode.tokens for episode in group] for group in groups]


@pytest.mark.parametrize("name", [*SHARING, *PLAIN])
def test_log_probabilities_are_the_policys(name):
    policy = policy_of(name)
    groups = LocalSampler(policy, max_new_tokens=12).sample(PROMPTS, 3)
    with torch.no_grad():
        read = policy.read(episodes(groups)).logprobs
    assert (read - logprobs(groups)).abs().max() < 1e-4


@pytest.mark.parametrize("name", ["Qwen2", "Gemma 3", "Bloom"])
def test_a_reply_does_not_depend_on_what_else_is_drawn(name):
    policy = policy_of(name)
    every = spoken(LocalSampler(policy, max_new_tokens=10).sample(PROMPTS, 3))
    few = spoken(LocalSampler(policy, max_new_tokens=10, cache_tokens=40).sample([PROMPTS[2], PROMPTS[0]], 2))
    assert few == [every[2][:2], every[0][:2]]


def test_seed_version_and_a_prompt_that_stands_twice_give_other_replies():
    policy = policy_of()

    def draw(seed, version, prompts):
        sampler = LocalSampler(policy, max_new_tokens=8, seed=seed)
        sampler.load(dict(policy.named_parameters()), version)
        return spoken(sampler.sample(prompts, 2))

    once = draw(0, 0, PROMPTS[:1])
    assert draw(0, 0, PROMPTS[:1]) == once
    assert draw(1, 0, PROMPTS[:1]) != once
    assert draw(0, 1, PROMPTS[:1]) != once
    first, second = draw(0, 0, [PROMPTS[0], PROMPTS[0]])
    assert [first] == once
    assert second != first


def test_what_is_drawn_has_the_policys_distribution():
    """χ² over the first two tokens of 4,000 replies against exact probabilities; p ≥ 0.001."""
    policy = policy_of(vocab_size=6, bos_token_id=None, eos_token_id=None, pad_token_id=None)
    sampler = LocalSampler(policy, max_new_tokens=2, end_tokens=[])
    prompt, n = Prompt((3, 1, 4)), 4000
    (group,) = sampler.sample([prompt], n)
    rows = torch.tensor([[*prompt.tokens, first] for first in range(6)])
    with torch.no_grad():
        logits = policy.model(input_ids=rows).logits
    expected = n * logits[0, 2].softmax(-1)[:, None] * logits[:, 3].softmax(-1)
    observed = torch.zeros(6, 6)
    for episode in group:
        observed[episode.tokens] += 1
    likely = expected >= 5
    other = (observed[~likely].sum() - expected[~likely].sum()) ** 2 / expected[~likely].sum().clamp(min=1)
    chi2 = ((observed - expected) ** 2 / expected)[likely].sum() + other
    freedom = int(likely.sum())
    assert freedom > 20
    z = torch.tensor(3.09)  # of p = 0.001; Wilson and Hilferty's approximation of the χ² quantile
    assert chi2 < freedom * (1 - 2 / (9 * freedom) + z * (2 / (9 * freedom)) ** 0.5) ** 3


def test_a_cold_policy_repeats_itself_and_a_hot_one_is_scored_hot():
    policy = policy_of()
    policy.temperature = 1e-4
    (group,) = spoken(LocalSampler(policy, max_new_tokens=6).sample(PROMPTS[:1], 4))
    assert len(set(group)) == 1
    policy.temperature = 3.0
    groups = LocalSampler(policy, max_new_tokens=6).sample(PROMPTS, 4)
    with torch.no_grad():
        assert (policy.read(episodes(groups)).logprobs - logprobs(groups)).abs().max() < 1e-4


def test_replies_end_at_an_end_token_a_stop_string_or_their_length():
    policy = policy_of()
    (group,) = LocalSampler(policy, max_new_tokens=9, end_tokens=range(32)).sample(PROMPTS[:1], 40)
    for episode in group:
        assert (episode.stop == "end") == (episode.tokens[-1] < 32)
        assert all(token >= 32 for token in episode.tokens[:-1])
    assert {episode.stop for episode in group} >= {"end"}
    (group,) = LocalSampler(policy, max_new_tokens=9, end_tokens=[], stop=["4"]).sample(PROMPTS[:1], 40)
    stopped = [episode for episode in group if episode.stop == "stop_string"]
    assert stopped
    assert all("4" not in e.text and "4" in str(e.tokens[-1]) for e in stopped)
    assert all(len(e.tokens) == 9 for e in group if e.stop == "length")


def test_the_sampler_copies_weights_that_are_not_the_policys_own():
    here, there = policy_of(), policy_of(seed=1)
    sampler = LocalSampler(here, max_new_tokens=6)
    sampler.load(dict(there.named_parameters()), 0)
    assert spoken(sampler.sample(PROMPTS, 2)) == spoken(LocalSampler(there, max_new_tokens=6).sample(PROMPTS, 2))


LOGPROBS = torch.tensor([[0.5, 0.3, 0.15, 0.05]]).log()


@pytest.mark.parametrize(
    ("support", "kept"),
    [
        (Support(), 4),
        (Support(top_k=2), 2),
        (Support(top_p=0.49), 1),
        (Support(top_p=0.79), 2),
        (Support(top_p=0.81), 3),
        (Support(min_p=0.2), 3),
        (Support(top_k=3, top_p=0.6), 2),
        (Support(top_p=1e-9), 1),
    ],
)
def test_support_keeps_the_likeliest(support, kept):
    assert support(LOGPROBS).isfinite().sum() == kept
    assert support(LOGPROBS).isfinite()[0, :kept].all()


@pytest.mark.parametrize("wrong", [{"top_p": 0.0}, {"top_p": 1.5}, {"top_k": -1}, {"min_p": 2.0}])
def test_support_refuses_what_makes_no_sense(wrong):
    with pytest.raises(ValueError, match="expected"):
        Support(**wrong)


@given(seed=st.integers(-(2**31), 2**31 - 1), position=st.integers(0, 10_000))
@settings(max_examples=20, deadline=None)
def test_noise_is_uniform_whatever_its_key(seed, position):
    """Mean ½ and variance 1/12 within five standard errors, and no two replies alike."""
    keys = torch.stack([torch.full((20_000,), seed), torch.arange(20_000)], 1).int()
    noise = uniforms(keys.flip(1) if seed % 2 else keys, torch.tensor([[position]], dtype=torch.int32))[:, 0]
    assert 0 < noise.min() < noise.max() < 1
    assert abs(noise.mean() - 1 / 2) < 5 * (1 / 12 / 20_000) ** 0.5
    assert abs(noise.var() - 1 / 12) < 5 * (1 / 180 / 20_000) ** 0.5
    assert len(noise.unique()) == 20_000


def test_noise_of_neighbouring_keys_and_positions_is_unrelated():
    keys = torch.tensor([row_keys(0, 0, (1, 2), reply) for reply in range(4000)], dtype=torch.int32)
    everything = uniforms(keys, torch.arange(8, dtype=torch.int32)[None]).t()
    correlation = torch.corrcoef(everything) - torch.eye(8)
    assert correlation.abs().max() < 5 / 4000**0.5
    following = torch.corrcoef(torch.stack([everything[0, :-1], everything[0, 1:]]))[0, 1]
    assert abs(following) < 5 / 4000**0.5


def test_a_number_becomes_the_token_at_its_place_in_the_distribution():
    """Of ½, 0, ¼, ¼, whatever they are multiplied by: 0.499 is the first, 0.5 and 0.749 the third, 0.75 the last."""
    weights = 20 * torch.tensor([[0.5, 0.0, 0.25, 0.25]])
    said = [
        drawn(weights, torch.tensor([u], dtype=torch.double)).item() for u in (1e-300, 0.499, 0.5, 0.749, 0.75, 1.0)
    ]
    assert said == [0, 0, 2, 2, 3, 3]


def test_a_token_of_small_probability_behind_many_others_is_drawn_as_often_as_it_should_be():
    """The last of 5,000 has 1e-12: in single precision no running sum could tell it from nothing."""
    weights = torch.full((1, 5000), 1 / 4999)
    weights[0, -1] = 1e-12
    edge = 1 / (1 + 1e-12)
    below, above = (drawn(weights, torch.tensor([u], dtype=torch.double)).item() for u in (edge - 2e-13, edge + 2e-13))
    assert (below, above) == (4998, 4999)


# --- decoding by hand --------------------------------------------------------------------------------
BY_HAND = ("Qwen2", "Qwen3", "Llama", "Granite")


@pytest.mark.parametrize("name", [*SHARING, *PLAIN])
def test_models_of_llamas_kind_are_decoded_by_hand_and_no_others(name):
    assert can_decode(policy_of(name)) == (name in BY_HAND)


@pytest.mark.parametrize("multiplier", ["residual_multiplier", "embedding_multiplier"])
def test_what_a_configuration_multiplies_elsewhere_is_noticed(multiplier):
    assert not can_decode(policy_of("Granite", **{multiplier: 0.5}))


@pytest.mark.parametrize("name", BY_HAND)
@pytest.mark.parametrize(("ends", "room"), [([], 1 << 17), (range(12), 1 << 17), (range(6), 400)])
def test_decoding_by_hand_draws_what_the_models_own_forward_draws(name, ends, room):
    """Over more tokens than a buffer holds at first, with rows that end and others that take their places."""
    sampler = LocalSampler(policy_of(name), max_new_tokens=80, end_tokens=ends, cache_tokens=room)
    assert sampler.direct
    by_hand = spoken(sampler.sample(PROMPTS, 5))
    sampler.direct = False
    assert spoken(sampler.sample(PROMPTS, 5)) == by_hand


class Watched(LocalSampler):
    """Writes down how many replies were alive when others began, and what all might come to hold."""

    def admitted(self, waiting, alive):
        new = super().admitted(waiting, alive)
        if new:
            self.begins.append((len(alive), self.held([*alive, *(row for rows in new for row in rows)])))
        return new


@pytest.mark.parametrize("name", ["Qwen2", "Gemma 3", "Bloom"])
def test_replies_begin_as_soon_as_others_have_left_room_where_a_model_is_decoded_by_hand(name):
    sampler = Watched(policy_of(name), max_new_tokens=40, end_tokens=range(8), cache_tokens=500)
    sampler.begins = []
    groups = sampler.sample(PROMPTS * 3, 4)
    assert all(len(group) == 4 and all(e.stop in ("end", "length") for e in group) for group in groups)
    assert len(sampler.begins) > 2
    assert all(held <= 500 for _, held in sampler.begins)
    assert any(alive for alive, _ in sampler.begins) == sampler.direct


@pytest.mark.parametrize("name", ["Qwen2", "Gemma 3"])
def test_short_prompts_do_not_wait_beside_a_long_one_for_the_places_that_it_takes(name):
    """Twenty of three tokens beside one of 200 would take 4,200 places. What all draw is what each draws alone."""
    policy = policy_of(name)
    prompts = [Prompt(tuple(3 + i % 50 for i in range(200))), *(Prompt((5, 6, 7 + i)) for i in range(20))]
    sampler = Watched(policy, max_new_tokens=6, end_tokens=[])
    sampler.begins = []
    drawn = spoken(sampler.sample(prompts, 2))
    assert all(held < 1000 for _, held in sampler.begins)
    assert drawn == [spoken(LocalSampler(policy, max_new_tokens=6, end_tokens=[]).sample([p], 2))[0] for p in prompts]


def test_buffers_hold_the_rows_alive_and_no_more_tokens_than_they_may_have():
    state = Direct(policy_of(), longest=100)
    with torch.no_grad():
        state.admit([(3, 4, 5), (6, 7)], [20, 20])
        for _ in range(60):
            state.step(torch.full((len(state.group),), 9))
        state.keep(torch.tensor([39, 1]))
        state.admit([(8, 9)], [5])
        for _ in range(40):
            state.step(torch.full((7,), 9))
        assert {tuple(own.shape[::2]) for layer in state.layers for own in layer.own} == {(7, 124)}
        state.keep(torch.arange(2, 7))  # the older have all of their 100
        for _ in range(60):
            state.step(torch.full((5,), 9))
    assert {tuple(own.shape[::2]) for layer in state.layers for own in layer.own} == {(5, 100)}


class Full(LocalSampler):
    """Memory runs out at the token that it is told, once."""

    def choose(self, logits, uniform):
        self.left -= 1
        if self.left == 0:
            raise torch.OutOfMemoryError
        return super().choose(logits, uniform)


@pytest.mark.parametrize("at", [1, 7, 20])
def test_replies_are_the_same_after_memory_ran_out(at):
    policy = policy_of()
    whole = LocalSampler(policy, max_new_tokens=12, end_tokens=range(8)).sample(PROMPTS, 4)
    sampler = Full(policy, max_new_tokens=12, end_tokens=range(8), cache_tokens=120)
    sampler.left = at
    assert spoken(sampler.sample(PROMPTS, 4)) == spoken(whole)
    assert sampler.left < 0
    assert 0 < sampler.state_dict()["cache_tokens"] <= 60


def test_memory_that_runs_out_before_anything_is_drawn_is_an_error():
    policy = policy_of()
    sampler = LocalSampler(policy, max_new_tokens=4)
    with pytest.raises(UsageError, match="begin drawing"):
        sampler.again(sampler.begun(PROMPTS, 2), [], "")


def test_what_cannot_be_drawn_is_refused():
    policy = policy_of()
    with pytest.raises(ValueError, match="max_new_tokens"):
        LocalSampler(policy, max_new_tokens=0)
    with pytest.raises(ValueError, match="at least one reply"):
        LocalSampler(policy, max_new_tokens=2).sample(PROMPTS, 0)
    with torch.no_grad():
        policy.base.get_input_embeddings().weight.fill_(torch.nan)
    with pytest.raises(UsageError, match="not numbers"):
        LocalSampler(policy, max_new_tokens=2).sample(PROMPTS, 2)


def test_a_prompt_with_more_replies_than_there_is_room_for_gets_them_in_parts():
    sampler = Watched(policy_of(), max_new_tokens=10, end_tokens=[], cache_tokens=60)
    sampler.begins = []
    (group,) = sampler.sample(PROMPTS[:1], 12)
    assert len(sampler.begins) >= 3
    assert spoken([group]) == spoken(
        LocalSampler(policy_of(), max_new_tokens=10, end_tokens=[]).sample(PROMPTS[:1], 12)
    )


@given(st.lists(st.booleans(), min_size=1, max_size=20))
def test_rows_that_go_on_close_the_gaps_and_few_are_moved(alive):
    going = [place for place, goes_on in enumerate(alive) if goes_on]
    order = closed(going)
    assert sorted(order) == going
    assert sum(place != i for i, place in enumerate(order)) == sum(place >= len(going) for place in going)
