"""Attention that follows a tree, against the same scores under a dense mask."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import scaled_dot_product_attention as sdpa

from preferent.models.attention import TREE, TreeAttention, attention
from preferent.models.linear import rounded
from preferent.models.load import save_folder
from preferent.models.plan import flat, token_budget
from preferent.models.probe import can_share
from preferent.types import Replies
from tiny_models import tiny

GROUPS = st.lists(
    st.tuples(st.integers(1, 9), st.lists(st.integers(0, 7), min_size=1, max_size=5)), min_size=1, max_size=4
)


def replies(groups):
    """Prompts and replies of these lengths; their tokens do not matter here."""
    lengths = torch.tensor([length for _, own in groups for length in own])
    present = torch.arange(int(lengths.max())) < lengths[:, None]
    prompt_length = torch.tensor([prompt for prompt, _ in groups])
    return Replies(
        prompts=torch.zeros(len(groups), int(prompt_length.max()), dtype=torch.long),
        prompt_length=prompt_length,
        prompt_of=torch.tensor([i for i, (_, own) in enumerate(groups) for _ in own]),
        tokens=torch.zeros(present.shape, dtype=torch.long),
        present=present,
        learn=present,
    )


def drawn(n, heads, few, *, d=8, seed=0, dtype=torch.double):
    key = torch.Generator().manual_seed(seed)
    return [torch.randn(1, h, n, d, generator=key, dtype=dtype, requires_grad=True) for h in (heads, few, few)]


@settings(max_examples=30)
@given(groups=GROUPS, few=st.sampled_from([1, 2, 4]))
def test_a_tree_says_what_a_mask_says_and_pulls_back_alike(groups, few):
    plan = flat(replies(groups))
    q, k, v = drawn(plan.tokens.shape[1], 4, few)
    ours = TreeAttention.apply(q, k, v, plan.tree, 0.3)
    real = plan.group[0] >= 0
    seen = plan.allowed()[:, None] | ~real[:, None]  # of padding, whatever a softmax can be made of
    masked = sdpa(q, k, v, attn_mask=seen, scale=0.3, enable_gqa=True) * real[:, None]
    pull = torch.randn(ours.shape, generator=torch.Generator().manual_seed(1), dtype=ours.dtype)
    torch.testing.assert_close(ours, masked)
    torch.testing.assert_close(torch.autograd.grad(ours, (q, k, v), pull), torch.autograd.grad(masked, (q, k, v), pull))


@given(groups=GROUPS)
def test_a_flat_plan_holds_every_token_once_and_then_padding_up_to_a_usual_length(groups):
    plan = flat(replies(groups))
    held = [
        at
        for block in (*plan.tree.trunks, *plan.tree.branches)
        for at in range(block.queries.start, block.queries.stop)
    ]
    n = sum(prompt + sum(own) for prompt, own in groups)
    assert sorted(held) == list(range(n))
    assert plan.tokens.shape == (1, rounded(n))
    assert (plan.group[0] >= 0).tolist() == [True] * n + [False] * (rounded(n) - n)


def test_replies_of_one_length_are_one_block():
    """A prompt of 3 with its first reply of 2, and three other replies of 2, which see the prompt in one block."""
    tree = flat(replies([(3, [2, 2, 2, 2])])).tree
    assert [(b.queries, b.times) for b in tree.trunks] == [(slice(0, 5), 1)]
    assert [(b.queries, b.times) for b in tree.branches] == [(slice(5, 11), 3)]
    assert [(b.queries, b.keys, b.causal) for b in tree.across] == [(slice(5, 11), slice(0, 3), False)]


def test_bf16_is_as_near_as_bf16_can_be():
    plan = flat(replies([(9, [7, 5]), (4, [6])]))
    q, k, v = drawn(plan.tokens.shape[1], 4, 2, dtype=torch.float32)
    exact = TreeAttention.apply(q, k, v, plan.tree, 0.3)
    short = TreeAttention.apply(q.bfloat16(), k.bfloat16(), v.bfloat16(), plan.tree, 0.3)
    torch.testing.assert_close(short.float(), exact, atol=0.03, rtol=0.03)


def test_attention_with_more_than_keys_and_values_is_refused():
    """Sinks, windows and caps would be left out without a word."""
    plan = flat(replies([(3, [2])]))
    q, k, v = drawn(5, 4, 4)
    with pytest.raises(ValueError, match="sliding_window"):
        attention(None, q, k, v, None, tree=plan.tree, sliding_window=4)


def test_a_saved_model_does_not_name_an_attention_that_others_do_not_have(tmp_path):
    model = tiny("Qwen2")
    assert can_share(model)
    assert model.config._attn_implementation == TREE
    save_folder(model, None, tmp_path)
    assert TREE not in (tmp_path / "config.json").read_text()


def test_generate_of_a_model_that_can_branch_is_what_it_was():
    """Without a tree the layer attends as before: ``generate`` and other callers notice nothing."""
    before, model = tiny("Llama"), tiny("Llama")
    assert can_share(model)
    prompt = torch.arange(5)[None]
    said = [each.generate(prompt, max_new_tokens=6, do_sample=False) for each in (before, model)]
    assert said[0].tolist() == said[1].tolist()


def test_a_cpu_reads_few_tokens_at_a_time():
    assert token_budget(torch.device("cpu")) < token_budget(torch.device("cuda"))
