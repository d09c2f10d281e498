"""Attention that follows a tree, against the same scores under a dense mask."""

from functools import partial

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.nn.attention.flex_attention import create_block_mask, flex_attention
from torch.nn.functional import scaled_dot_product_attention as sdpa

from preferent.models import flex
from preferent.models import plan as plans
from preferent.models.attention import TREE, TreeAttention, attention
from preferent.models.linear import rounded
from preferent.models.load import save_folder
from preferent.models.plan import WIDE, flat, row_length, token_budget
from preferent.models.policy import LanguagePolicy
from preferent.models.probe import can_share, random_replies
from preferent.types import Replies
from tiny_models import tiny

CPU = torch.device("cpu")
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


@pytest.fixture
def formula(monkeypatch):
    """A GPU's way on a CPU, where FlexAttention is a formula; it refuses gradients to a CPU otherwise."""
    monkeypatch.setattr(plans, "in_blocks", lambda _: True)
    monkeypatch.setattr("torch.nn.attention.flex_attention._validate_device", lambda *_: None)
    monkeypatch.setattr("torch.nn.attention.flex_attention._FLEX_ATTENTION_DISABLE_COMPILE_DEBUG", True)


LONG = st.lists(
    st.tuples(st.integers(1, 300), st.lists(st.integers(0, 200), min_size=1, max_size=4)), min_size=1, max_size=3
)


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(groups=GROUPS, few=st.sampled_from([1, 2, 4]))
def test_the_kernel_of_a_gpu_says_what_the_tree_says_and_pulls_back_alike(formula, groups, few):
    tree = flat(replies(groups)).tree
    q, k, v = drawn(WIDE, 4, few)
    ours, flexed = TreeAttention.apply(q, k, v, tree, 0.3), flex.attended(q, k, v, flex.followed(tree, WIDE, CPU), 0.3)
    real = slice(0, tree.tokens)
    assert flexed.isfinite().all()
    torch.testing.assert_close(flexed[:, :, real], ours[:, :, real])
    pull = torch.randn(ours.shape, generator=torch.Generator().manual_seed(1), dtype=ours.dtype)
    pull[:, :, tree.tokens :] = 0
    found, expected = (torch.autograd.grad(out, (q, k, v), pull) for out in (flexed, ours))
    torch.testing.assert_close(found, expected)


@settings(max_examples=15, deadline=None)
@given(groups=LONG)
def test_the_blocks_that_a_gpu_reads_are_those_in_which_something_is_seen(groups):
    """Against PyTorch's own search through every pair of tokens."""
    tree = flat(replies(groups)).tree
    n = rounded(tree.tokens, WIDE)
    blocks = flex.followed(tree, n, CPU)
    found = create_block_mask(blocks.mask_mod, None, None, n, n, device="cpu")
    assert torch.equal(blocks.to_dense(), found.to_dense())
    for name in ("kv_num_blocks", "full_kv_num_blocks", "q_num_blocks", "full_q_num_blocks"):
        assert torch.equal(getattr(blocks, name), getattr(found, name))
    for name in ("full_kv", "full_q"):
        assert listed(blocks, name) == listed(found, name)


def listed(blocks, name):
    """Which blocks are read: behind them, the order means nothing."""
    counts, places = (getattr(blocks, f"{name}_{each}")[0, 0].tolist() for each in ("num_blocks", "indices"))
    return [sorted(row[:n]) for n, row in zip(counts, places, strict=True)]


def test_a_gpu_reads_rows_of_few_lengths():
    """And never one block alone, for which the kernel would be compiled anew."""
    gpu = torch.device("cuda")
    lengths = {row_length(n, gpu) for n in range(1, 16_385)}
    assert lengths == {1024 * i for i in range(1, 17)}
    assert min(lengths) > flex.BLOCK


def test_a_kernel_is_trusted_when_it_agrees_with_a_mask_and_only_then(formula, monkeypatch):
    config = tiny("Qwen2").config
    assert flex.agrees(config, CPU)
    monkeypatch.setattr(flex, "kernel", lambda _: partial(wrong, flex_attention))
    assert not flex.agrees(config, CPU)


def wrong(kernel, query, key, value, **rest):
    """Right values, and a gradient that is not theirs."""
    out = kernel(query, key, value, **rest)
    return out + 0.1 * (query - query.detach())


def missing(*_, **__):
    raise torch._dynamo.exc.BackendCompilerFailed(missing, RuntimeError("Cannot find a working triton"), None)


def test_the_mask_that_a_kernel_is_tried_with_is_that_of_a_plan():
    plan = flat(replies([(300, [200, 170, 90]), (100, [30])]))
    assert plan.tree == flex.TRIED
    n = plan.tree.tokens
    assert torch.equal(flex.dense(plan.tree, WIDE)[:n, :n], plan.allowed()[0, :n, :n])


def test_a_model_on_a_gpu_is_given_blocks_and_says_the_same(request):
    """The way from a plan through a model's layers to the kernel, on a CPU."""
    model = tiny("Qwen2")
    assert can_share(model)
    x, policy = random_replies(model), LanguagePolicy(model, sharing=True)
    told = [policy.read(x).logprobs]
    request.getfixturevalue("formula")
    assert can_share(model)
    assert policy.plan(x).tokens.shape == (1, WIDE)
    told.append(policy.read(x).logprobs)
    torch.testing.assert_close(*told, atol=1e-5, rtol=1e-4)
    pulled = (torch.autograd.grad(said.sum(), list(model.parameters())) for said in told)
    torch.testing.assert_close(*pulled, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize(
    ("kernel", "why"),
    [
        (partial(wrong, flex_attention), "it says something else"),
        (missing, "BackendCompilerFailed: backend='missing' raised: RuntimeError: Cannot find a working triton"),
    ],
)
def test_where_the_kernel_fails_or_errs_there_are_masks_and_one_line_that_says_so(
    formula, monkeypatch, caplog, kernel, why
):
    monkeypatch.setattr(flex, "kernel", lambda _: kernel)
    model = tiny("Qwen2")
    assert can_share(model)
    assert not LanguagePolicy(model, sharing=True).branching
    assert [r.getMessage() for r in caplog.records if r.name.startswith("preferent")] == [
        f"Qwen2ForCausalLM attends under masks, not with the kernel for trees: {why}."
    ]
