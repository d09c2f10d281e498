"""Replies of a policy with an adapter, drawn with the adapter added to the weights."""

import pytest
import torch

from preferent.data.collate import episodes, logprobs
from preferent.models.fast import fast
from preferent.models.load import with_adapter
from preferent.models.merging import adapted, merged
from preferent.models.policy import LanguagePolicy
from preferent.models.probe import can_share
from preferent.sampling.local import LocalSampler
from preferent.types import Prompt
from tiny_models import tiny

PROMPTS = [Prompt((3, 4, 5)), Prompt((6, 7)), Prompt(tuple(range(3, 20)))]


@pytest.fixture
def policy():
    model = fast(tiny("Llama"))
    sharing = can_share(model)
    model = with_adapter(model, base="nowhere", rank=4, alpha=8, seed=0)
    for layer in adapted(model):
        torch.nn.init.normal_(layer.lora_B["default"].weight, std=0.2)
    return LanguagePolicy(model, sharing=sharing).eval()


def test_a_merged_policy_says_the_same_and_its_weights_come_back_to_the_bit(policy):
    drawn = LocalSampler(policy, max_new_tokens=8, end_tokens=[]).sample(PROMPTS, 3)
    before = {name: value.clone() for name, value in policy.state_dict().items()}
    with torch.no_grad():
        x = episodes(drawn)
        apart = policy.read(x).logprobs
        with merged(policy):
            together = policy.read(x).logprobs
            assert not all(torch.equal(value, before[name]) for name, value in policy.state_dict().items())
    torch.testing.assert_close(together, apart, atol=1e-5, rtol=0)
    torch.testing.assert_close(logprobs(drawn), apart, atol=1e-5, rtol=0)
    assert all(torch.equal(value, before[name]) for name, value in policy.state_dict().items())


def test_an_error_meanwhile_leaves_nothing_merged(policy):
    before = {name: value.clone() for name, value in policy.state_dict().items()}
    with pytest.raises(KeyError), merged(policy):
        raise KeyError
    assert all(torch.equal(value, before[name]) for name, value in policy.state_dict().items())
    assert policy.base.model.layers[0].self_attn.q_proj.disable_adapters is False


def test_merged_weights_lie_in_one_piece_of_memory_which_goes_back_whole(policy):
    apart = [layer.base_layer.weight.untyped_storage().data_ptr() for layer in adapted(policy.model)]
    with merged(policy):
        together = {layer.base_layer.weight.untyped_storage().data_ptr() for layer in adapted(policy.model)}
    assert len(together) == 1
    assert not together & set(apart)
    assert [layer.base_layer.weight.untyped_storage().data_ptr() for layer in adapted(policy.model)] == apart
