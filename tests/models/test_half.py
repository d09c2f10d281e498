"""A copy in bf16 from which replies are drawn: it says what the policy says, follows it, and is made anew on resume."""

import copy

import pytest
import torch
from transformers import AutoModelForCausalLM, GPT2Config

from preferent.algorithms import grpo, ppo
from preferent.algorithms.drawing import Drawing
from preferent.data.collate import episodes, logprobs
from preferent.models.half import can_halve, halved, halves, size_of_half
from preferent.models.load import actor_critic, load_policy, with_adapter
from preferent.models.merging import adapted, merged
from preferent.models.policy import LanguagePolicy
from preferent.models.probe import can_share, can_use_own_head
from preferent.models.recompute import recompute_layers
from preferent.rewards.shaping import AdaptiveKL
from preferent.runtime.learner import local_learner
from preferent.sampling.local import LocalSampler
from preferent.types import Prompt, Score
from tiny_models import PLAIN, SHARING, tiny
from toys import saved_policy

BARE = {"end_tokens": []}
PROMPTS = [Prompt((3, 4, 5)), Prompt((6, 7)), Prompt(tuple(range(3, 20)))]


def policy_of(name="Qwen2", lora=0):
    model = tiny(name)
    sharing, own_head = can_share(model), can_use_own_head(model)
    if lora:
        model = with_adapter(model, base="nowhere", rank=lora, alpha=8, seed=0)
        for layer in adapted(model):
            torch.nn.init.normal_(layer.lora_B["default"].weight, std=0.2)
    return LanguagePolicy(model, sharing=sharing, own_head=own_head, temperature=0.9).eval()


def spoken(groups):
    return [(episode.tokens, episode.logprobs) for group in groups for episode in group]


@pytest.mark.parametrize(
    ("name", "lora"), [*((name, 0) for name in SHARING | PLAIN), *((name, 4) for name in ("Qwen3", "Gemma 2", "Bloom"))]
)
def test_the_copy_says_what_the_policy_says_but_for_rounding(name, lora):
    policy = policy_of(name, lora)
    made = halved(policy)
    assert made is not policy
    assert not made.has_adapter
    assert {p.dtype for p in made.parameters()} == {torch.bfloat16}
    assert {p.dtype for p in policy.parameters()} == {torch.float32}
    assert {b.dtype for b in made.buffers() if b.is_floating_point()} <= {torch.float32}
    drawn = LocalSampler(policy, max_new_tokens=12, **BARE).sample(PROMPTS, 3)
    with torch.no_grad():
        said, copied = (each.read(episodes(drawn)).logprobs for each in (policy, made))
    error = ((copied - said).norm() / said.norm()).item()
    assert 1e-5 < error < 2e-2
    told = LocalSampler(policy, max_new_tokens=12, **BARE, half=True).sample(PROMPTS, 3)
    with torch.no_grad():
        read = made.read(episodes(told)).logprobs
    assert ((logprobs(told) - read).norm() / read.norm()).item() < 2e-2


def test_weights_that_are_one_in_the_policy_are_one_in_the_copy():
    model = tiny("Qwen2", tie_word_embeddings=True)
    made = halved(LanguagePolicy(model, sharing=can_share(model)).eval())
    assert made.base.lm_head.weight is made.base.model.embed_tokens.weight


@pytest.mark.parametrize("lora", [0, 4])
def test_after_an_update_the_copy_is_the_new_weights_rounded_once(lora):
    policy = policy_of(lora=lora)
    sampler = LocalSampler(policy, max_new_tokens=4, **BARE, half=True)
    learned = [p for p in policy.parameters() if p.requires_grad]
    with torch.no_grad():
        for p in learned:
            p += 0.01 * torch.randn(p.shape, generator=torch.Generator().manual_seed(0))
    sampler.load(dict(policy.named_parameters()), 7)
    assert sampler.version == 7
    own = dict(sampler.policy.base.named_parameters())
    with merged(policy):
        exact = {name.replace(".base_layer.", "."): p for name, p in policy.base.named_parameters()}
        assert all(torch.equal(p, exact[name].to(torch.bfloat16)) for name, p in own.items())


def test_an_adapter_that_says_little_is_not_rounded_away():
    """Updates far below a step of bf16: on the whole the copy moves by as much, if not each weight. Rounded apart from
    the weights, half of it would be lost here, where many weights are close to 0, and nearly all where few are.
    """
    policy = policy_of(lora=4)
    for layer in adapted(policy.model):
        torch.nn.init.normal_(layer.lora_B["default"].weight, std=1e-4)
    layer = next(adapted(policy.model))
    weight, delta = layer.base_layer.weight.detach(), layer.get_delta_weight("default").detach()
    assert delta.abs().mean() < weight.abs().mean() / 512
    half = weight.to(torch.bfloat16)
    once = halved(policy).base.model.layers[0].self_attn.q_proj.weight.float() - half.float()
    twice = (half + delta.to(torch.bfloat16)).float() - half.float()
    share = [((moved * delta).sum() / delta.square().sum()).item() for moved in (once, twice)]
    assert share[0] == pytest.approx(1, abs=0.25)
    assert share[1] < 0.6


def rewarded(drawn):
    return [Score(float(sum(e.tokens) % 7)) for e in drawn]


def steps_of(kind, policy, bf16):
    learner = local_learner(policy if kind == "grpo" else actor_critic(policy), lr=1e-3, bf16=bf16)
    given = (learner, policy.frozen(), LocalSampler(policy, max_new_tokens=8, half=True), rewarded, [PROMPTS] * 3)
    if kind == "grpo":
        return learner, grpo.grpo(*given, config=grpo.Config(group=4), how=Drawing(recompute=True))
    config = ppo.Config(ppo_epochs=1)
    return learner, ppo.ppo(*given, price=AdaptiveKL(0.1), config=config, how=Drawing(recompute=True))


@pytest.mark.parametrize("kind", ["grpo", "ppo"])
@pytest.mark.parametrize("lora", [0, 2])
def test_the_ratio_starts_at_one_where_a_copy_drew_the_replies(tmp_path, kind, lora):
    policy = load_policy(saved_policy(tmp_path), device="cpu", lora=lora)
    _, steps = steps_of(kind, policy, bf16=True)
    told = list(steps)
    assert all(step["drift"] <= 1e-6 for step in told)
    assert told[0]["kl"] == pytest.approx(0, abs=1e-6)
    assert told[2]["kl"] != 0


@pytest.mark.parametrize("lora", [0, 2])
def test_a_run_that_draws_from_a_copy_goes_on_from_a_checkpoint_as_if_it_had_not_stopped(tmp_path, lora):
    folder = saved_policy(tmp_path)
    straight = load_policy(folder, device="cpu", lora=lora)
    learner, steps = steps_of("grpo", straight, bf16=True)
    next(steps)
    state = copy.deepcopy(learner.state_dict())
    expected = next(steps)

    resumed = load_policy(folder, device="cpu", lora=lora)
    again, steps = steps_of("grpo", resumed, bf16=True)  # the sampler's copy is made before the checkpoint is read
    again.load_state_dict(state)
    found = next(steps)
    assert found == expected
    assert all(map(torch.equal, straight.parameters(), resumed.parameters()))


def test_layers_that_are_computed_again_are_those_of_the_copy():
    policy = policy_of()
    recompute_layers(policy)
    sampler = LocalSampler(policy, max_new_tokens=6, **BARE, half=True)
    before = spoken(sampler.sample(PROMPTS, 2))
    with torch.no_grad():
        policy.base.model.layers[0].mlp.down_proj.weight.zero_()
    assert spoken(sampler.sample(PROMPTS, 2)) == before
    sampler.load(dict(policy.named_parameters()), 0)
    assert spoken(sampler.sample(PROMPTS, 2)) != before


def test_weights_that_are_not_the_policys_own_reach_the_copy_too():
    here, there = policy_of(), policy_of()
    with torch.no_grad():
        for p in there.parameters():
            p *= 1.1
    sampler = LocalSampler(here, max_new_tokens=6, **BARE, half=True)
    sampler.load(dict(there.named_parameters()), 0)
    expected = LocalSampler(there, max_new_tokens=6, **BARE, half=True)
    assert spoken(sampler.sample(PROMPTS, 2)) == spoken(expected.sample(PROMPTS, 2))


def test_no_copy_is_made_on_a_cpu_in_fp32_or_of_an_adapter_that_cannot_be_added():
    policy = policy_of()
    assert can_halve(policy)
    assert not halves(policy, bf16=True)
    nowhere = LanguagePolicy(copy.deepcopy(policy.model).to("meta"), sharing=True)
    assert halves(nowhere, bf16=True)
    assert not halves(nowhere, bf16=False)
    gpt = AutoModelForCausalLM.from_config(GPT2Config(vocab_size=64, n_embd=32, n_layer=1, n_head=2))
    gpt = LanguagePolicy(with_adapter(gpt, base="nowhere", rank=2, alpha=2, seed=0, fan_in_fan_out=True), sharing=False)
    assert not can_halve(gpt)
    assert halved(gpt) is gpt


def test_a_model_that_bf16_does_not_suit_is_drawn_from_as_it_is(caplog):
    policy = policy_of()
    with torch.no_grad():
        policy.base.lm_head.weight += 1000  # the same for every token, and rounding takes all that differs
    assert LocalSampler(policy, max_new_tokens=2, **BARE, half=True).policy is policy
    assert "a copy in bf16 says something else" in caplog.text


@pytest.mark.parametrize("lora", [0, 4])
def test_the_copys_size_is_known_before_it_is_made(lora):
    policy = policy_of(lora=lora)
    assert size_of_half(policy) == sum(p.nbytes for p in halved(policy).parameters())
