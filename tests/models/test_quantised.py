"""A base in four bits under an adapter (QLoRA): through bitsandbytes, which computes on a CPU too."""

import json
import sys
from dataclasses import replace
from importlib.util import find_spec

import pytest
import torch

from preferent.algorithms.sft import Likelihood
from preferent.config import UsageError
from preferent.models.load import actor_critic, load_policy, load_scorer, save
from preferent.models.policy import Follower, LanguagePolicy
from preferent.models.probe import can_share, can_use_own_head
from preferent.models.quantised import bitsandbytes, in_four_bits
from preferent.models.recompute import recompute_layers
from preferent.models.scratch import Size, new_model
from preferent.runtime.learner import local_learner
from preferent.sampling.local import LocalSampler
from preferent.stages import merge, training
from preferent.stages.anchor import another
from preferent.stages.options import ModelOptions
from preferent.types import Prompt
from toys import replies_of, tokenizer

X = replies_of([(9, [6, 3, 8]), (4, [5])], high=300)
SIZE = Size(hidden=64, layers=2, heads=2, context=128)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A folder of a model whose layers are large enough to be worth four bits."""
    folder = tmp_path_factory.mktemp("whole")
    save(LanguagePolicy(new_model(tokenizer(), SIZE, seed=0), tokenizer(), sharing=True), folder)
    return folder


needs_bitsandbytes = pytest.mark.skipif(not find_spec("bitsandbytes"), reason="bitsandbytes is not installed")


@needs_bitsandbytes
def test_the_base_is_in_four_bits_and_near_what_it_was(whole):
    policy, exact = load_policy(whole, lora=4, four_bits="float32", device="cpu"), load_policy(whole, device="cpu")
    assert in_four_bits(policy.base)
    bits = {n: p for n, p in policy.named_parameters() if n.endswith("proj.base_layer.weight")}
    assert len(bits) == 2 * 7
    assert all(p.dtype == torch.uint8 and not p.requires_grad for p in bits.values())
    before = sum(p.numel() for n, p in exact.named_parameters() if n.endswith("proj.weight"))
    assert sum(p.numel() for p in bits.values()) == before / 2  # bytes
    from bitsandbytes.functional import dequantize_4bit

    name = "model.layers.0.mlp.up_proj"
    four = bits[f"model.base_model.model.{name}.base_layer.weight"]
    weight = dict(exact.named_parameters())[f"model.{name}.weight"]
    error = dequantize_4bit(four.data, four.quant_state) - weight
    assert 0.05 < error.std() / weight.std() < 0.11  # of normal numbers, rounded to the 16 NormalFloats


@needs_bitsandbytes
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_it_shares_prefixes_and_uses_its_own_head(whole, dtype):
    policy = load_policy(whole, lora=4, four_bits=dtype, device="cpu")
    assert policy.sharing
    assert policy.own_head
    assert can_share(policy.base)
    assert can_use_own_head(policy.base)


@needs_bitsandbytes
def test_sampling_does_not_change_what_it_says(whole):
    """On some processors the library lays weights out anew, rounding their scales, where no gradient is asked for."""
    policy = load_policy(whole, lora=4, four_bits="float32", device="cpu")
    before = policy.read(X).logprobs
    weights = {n: p.clone() for n, p in policy.named_parameters()}
    LocalSampler(policy, max_new_tokens=4).sample([Prompt((3, 4, 5))], 2)
    with torch.no_grad():
        assert torch.equal(before, policy.read(X).logprobs)
    assert torch.equal(before, policy.read(X).logprobs)
    assert all(torch.equal(p, weights[n]) for n, p in policy.named_parameters())


@needs_bitsandbytes
def test_it_learns_and_resumes_to_the_bit_and_its_reference_stays(whole):
    def begun():
        policy = load_policy(whole, lora=4, four_bits="float32", device="cpu")
        recompute_layers(policy)
        return local_learner(policy, lr=0.01)

    straight = begun()
    reference = straight.model.frozen()
    at_first = reference.read(X).logprobs
    losses = [straight.update(X, Likelihood())["loss"]]
    state = straight.state_dict()
    state = {**state, "model": {name: p.clone() for name, p in state["model"].items()}}
    state["optimizer"] = {n: {k: v.clone() for k, v in of.items()} for n, of in state["optimizer"].items()}
    resumed = begun()
    resumed.load_state_dict(state)
    losses += [straight.update(X, Likelihood())["loss"] for _ in range(4)]
    assert [resumed.update(X, Likelihood())["loss"] for _ in range(4)] == losses[1:]
    assert losses[-1] < losses[0] - 1
    assert torch.equal(reference.read(X).logprobs, at_first)


@needs_bitsandbytes
def test_merging_adds_the_adapter_to_the_whole_base(whole, tmp_path):
    policy = load_policy(whole, lora=4, four_bits="float32", device="cpu")
    learner = local_learner(policy, lr=0.01)
    for _ in range(3):
        learner.update(X, Likelihood())
    save(policy, tmp_path / "adapter")
    said = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert said["base_model_name_or_path"] == str(whole)
    merge.run(merge.Options(models=(str(tmp_path / "adapter"),), out=tmp_path / "merged"))
    config = json.loads((tmp_path / "merged" / "model" / "config.json").read_text())
    assert "quantization_config" not in config
    merged, base = (dict(load_policy(f, device="cpu").named_parameters()) for f in (tmp_path / "merged", whole))
    trained = dict(policy.named_parameters())
    name = "model.layers.1.mlp.up_proj"
    a, b = (trained[f"model.base_model.model.{name}.lora_{x}.default.weight"] for x in "AB")
    expected = base[f"model.{name}.weight"] + 32.0 / 4 * b @ a
    assert torch.allclose(merged[f"model.{name}.weight"], expected, atol=1e-6)
    assert not torch.equal(merged[f"model.{name}.weight"], base[f"model.{name}.weight"])


@needs_bitsandbytes
def test_a_reference_of_the_same_name_is_the_policy_as_it_starts_in_four_bits_too(whole):
    how = ModelOptions(model=str(whole), device="cpu", lora=4, load_4bit=True, dtype="float32")
    policy = training.policy_of(how, seed=0)
    for reference in (another(str(whole), "--reference", how, policy), Follower(policy)):
        assert reference.read(X).logprobs.equal(policy.frozen().read(X).logprobs)
    other = another(str(whole), "--reference", replace(how, lora=0, load_4bit=False), policy)
    assert not other.read(X).logprobs.equal(policy.frozen().read(X).logprobs)


@needs_bitsandbytes
def test_a_reward_model_in_four_bits_trains_its_whole_head(whole):
    scorer = load_scorer(whole, lora=4, four_bits="float32", device="cpu")
    assert in_four_bits(scorer.base)
    (scorer.scores(X) ** 2).sum().backward()
    head = [p for n, p in scorer.named_parameters() if "score" in n and p.requires_grad]
    assert [p.dtype for p in head] == [torch.float32]
    assert head[0].grad.abs().max() > 0


@needs_bitsandbytes
def test_a_critic_cannot_start_from_a_policy_in_four_bits(whole):
    with pytest.raises(UsageError, match="--reward"):
        actor_critic(load_policy(whole, lora=4, four_bits="float32", device="cpu"))


def test_weights_in_four_bits_are_not_trained_themselves(whole):
    with pytest.raises(UsageError, match="--load-4bit needs --lora"):
        load_policy(whole, four_bits="auto", device="cpu")


def test_an_adapter_is_not_rounded_into_four_bits(whole, tmp_path):
    save(load_policy(whole, lora=2, device="cpu"), tmp_path)
    with pytest.raises(UsageError, match="preferent merge"):
        load_policy(tmp_path, lora=2, four_bits="auto", device="cpu")


def test_where_the_library_is_missing_its_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)  # what Python itself takes for a missing module
    with pytest.raises(UsageError, match=r"--load-4bit needs bitsandbytes.*preferent\[quantised\]"):
        bitsandbytes("--load-4bit")
