"""The linear maps, norms and the head that are done by hand, against PyTorch's own."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from transformers.models.gemma3.modeling_gemma3 import Gemma3RMSNorm
from transformers.models.llama.modeling_llama import LlamaRMSNorm
from transformers.models.qwen3_next.modeling_qwen3_next import Qwen3NextRMSNormGated

from preferent.models import head as heads
from preferent.models.compiled import Fused
from preferent.models.fast import fast
from preferent.models.head import Head, token_logprobs
from preferent.models.linear import Linear, products
from preferent.models.load import save_folder
from preferent.models.norm import Norm
from tiny_models import PLAIN, SHARING, tiny


def pulled(f, *inputs):
    """What f says, and the gradients of a fixed combination of it."""
    out = f()
    key = torch.Generator().manual_seed(1)
    pull = torch.randn(out.shape, generator=key)
    return [out.detach(), *torch.autograd.grad(out, inputs, pull)]


def close(ours, theirs):
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("shape", [(5,), (3, 7), (2, 3, 4)])
@pytest.mark.parametrize(("inputs", "outputs"), [(8, 24), (24, 8)])
@pytest.mark.parametrize("bias", [True, False])
def test_a_linear_map_and_its_gradients_are_those_of_pytorch(shape, inputs, outputs, bias):
    torch.manual_seed(0)
    plain = nn.Linear(inputs, outputs, bias=bias)
    fast = copy.deepcopy(plain)
    fast.__class__ = Linear
    x = torch.randn(*shape, inputs, requires_grad=True)
    ours, theirs = (pulled(lambda: each(x), x, *each.parameters()) for each in (fast, plain))  # noqa: B023
    close(ours, theirs)


@pytest.mark.parametrize("biases", [(False, False), (True, True), (True, False)])
@pytest.mark.parametrize("kind", [Linear, nn.Linear])
@pytest.mark.parametrize("rows", [1, 5, 70])
def test_a_product_for_several_layers_is_what_each_of_them_makes(biases, kind, rows):
    torch.manual_seed(0)
    layers = [kind(24, size, bias=bias) for size, bias in zip((32, 8), biases, strict=True)]
    x = torch.randn(rows, 24)
    with torch.no_grad():
        close(products(layers, copied=True)(x), [layer(x) for layer in layers])


def test_only_what_wants_a_gradient_gets_one():
    fast = Linear(4, 6)
    fast.weight.requires_grad_(False)
    x = torch.randn(3, 4)
    fast(x).sum().backward()
    assert fast.weight.grad is None
    assert fast.bias.grad.tolist() == [3.0] * 6


def test_other_numbers_than_fp32_go_the_usual_way():
    fast = Linear(4, 6).double()
    x = torch.randn(3, 4, dtype=torch.double)
    assert fast(x).dtype == torch.double
    assert fast(x[:0]).shape == (0, 6)


def test_a_model_keeps_its_parameters_names_and_folder(tmp_path):
    model = tiny("Qwen2")
    names = list(model.state_dict())
    fast(model)
    assert list(model.state_dict()) == names
    save_folder(model, None, tmp_path)
    again = type(model).from_pretrained(tmp_path)
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), again.state_dict().values(), strict=True))


def drawn(n):
    """A head of 37 tokens, and n states with their targets."""
    torch.manual_seed(0)
    linear = nn.Linear(8, 37, bias=False)
    return linear, torch.randn(n, 8, requires_grad=True), torch.randint(37, (n,))


def by_head(linear, hidden, targets, factor, temperature):
    def said():
        return token_logprobs(Head(linear, factor), hidden, targets, vocabulary=37, temperature=temperature)[0]

    return pulled(said, hidden, linear.weight)


def by_cross_entropy(linear, hidden, targets, factor, temperature):
    def said():
        return -cross_entropy(linear(hidden) * factor / temperature, targets, reduction="none")

    return pulled(said, hidden, linear.weight)


@pytest.mark.parametrize("chunk", [1 << 24, 1])  # the softmax kept, and computed again
@pytest.mark.parametrize(("n", "factor", "temperature"), [(5, 1.0, 1.0), (130, 0.5, 0.7), (200, 1.0, 2.0)])
def test_a_plain_heads_log_probabilities_are_those_of_cross_entropy(monkeypatch, chunk, n, factor, temperature):
    monkeypatch.setattr(heads, "CHUNK", chunk)
    monkeypatch.setattr(heads, "CACHED", 64 * 37)  # several pieces
    given = (*drawn(n), factor, temperature)
    close(by_head(*given), by_cross_entropy(*given))


def test_a_head_with_a_bias_or_a_cap_is_not_plain():
    assert not Head(nn.Linear(4, 6)).plain
    assert not Head(nn.Linear(4, 6, bias=False), cap=30.0).plain
    assert Head(nn.Linear(4, 6, bias=False)).plain


def test_under_autocast_a_heads_gradients_are_nearer_to_fp32_than_autograds(monkeypatch):
    """Over many pieces: autograd sums the weight's gradient in bf16. What is said of tokens is as near as before."""
    monkeypatch.setattr(heads, "CHUNK", 64)  # 64 rows at a time
    torch.manual_seed(0)
    linear = nn.Linear(32, 300, bias=False)
    hidden, targets = torch.randn(64 * 40, 32, requires_grad=True), torch.randint(300, (64 * 40,))

    def read(head):
        return pulled(lambda: token_logprobs(head, hidden, targets, vocabulary=300)[0], hidden, linear.weight)

    exact = read(Head(linear))
    with torch.autocast("cpu", torch.bfloat16):
        ours, theirs = read(Head(linear)), read(linear)  # the module itself is none that can be done by hand
    said, of_hidden, of_weight = (
        ((a - c).norm() / (b - c).norm()).item() for a, b, c in zip(ours, theirs, exact, strict=True)
    )
    assert said == pytest.approx(1, abs=0.05)
    assert of_hidden < 1.05
    assert of_weight < 0.7
    assert [x.dtype for x in ours] == [torch.float32] * 3


@pytest.mark.parametrize(("factor", "temperature"), [(1.0, 1.0), (0.5, 0.7)])
def test_under_autocast_scale_and_temperature_are_heeded(factor, temperature):
    given = (*drawn(130), factor, temperature)
    with torch.autocast("cpu", torch.bfloat16):
        ours = by_head(*given)
    for a, b in zip(ours, by_cross_entropy(*given), strict=True):
        assert (a - b).norm() < 0.02 * b.norm()


def test_what_cannot_be_compiled_is_computed_as_it_is_and_said_once(caplog):
    def refuse(_):
        raise torch._dynamo.exc.BackendCompilerFailed(refuse, RuntimeError("Cannot find a working triton"), None)

    double = Fused(lambda x: 2 * x)
    double.compiled = refuse
    elsewhere = torch.ones(2, device="meta")  # any device but a CPU
    assert [double(elsewhere).shape for _ in range(2)] == [(2,)] * 2
    assert [r.getMessage().count("working triton") for r in caplog.records] == [1]


def test_memory_that_runs_out_is_no_reason_not_to_compile():
    def full(_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    double = Fused(lambda x: 2 * x)
    double.compiled = full
    with pytest.raises(torch.OutOfMemoryError):
        double(torch.ones(2, device="meta"))
    assert double.compiled is full


# --- norms -------------------------------------------------------------------------------------------
@pytest.mark.parametrize("shape", [(5, 24), (2, 3, 4, 24)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_norm_and_its_gradients_are_those_of_the_models_own(shape, dtype):
    torch.manual_seed(0)
    own = LlamaRMSNorm(24, eps=1e-5).to(dtype)
    nn.init.normal_(own.weight)
    ours = fast(copy.deepcopy(own))
    assert type(ours) is Norm
    x = (3 * torch.randn(shape)).to(dtype).requires_grad_()
    said, expected = (pulled(lambda: each(x).float(), x, each.weight) for each in (ours, own))  # noqa: B023
    if dtype == torch.float32:
        close(said, expected)
    else:
        assert torch.equal(said[0], expected[0])


def test_a_norm_of_frozen_weights_still_hands_the_gradient_on():
    norm = fast(LlamaRMSNorm(8)).requires_grad_(False)
    x = torch.randn(3, 8, requires_grad=True)
    norm(x).sum().backward()
    assert norm.weight.grad is None
    assert x.grad.abs().sum() > 0


def test_other_norms_stay_what_they_are():
    others = [nn.LayerNorm(8), Gemma3RMSNorm(8), nn.RMSNorm(8), Qwen3NextRMSNormGated(8)]
    assert [type(fast(copy.deepcopy(norm))) for norm in others] == [type(norm) for norm in others]


@pytest.mark.parametrize("name", [*SHARING, *PLAIN])
def test_a_model_with_faster_layers_says_the_same(name):
    model = tiny(name)
    tokens = torch.arange(3, 33).view(2, 15)
    with torch.no_grad():
        before = model(tokens).logits
        torch.testing.assert_close(fast(model)(tokens).logits, before, rtol=1e-4, atol=1e-4)
