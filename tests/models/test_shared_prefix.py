"""One forward over packed rows in which a prompt stands once, against one padded row for each reply."""

import logging

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from preferent.data.collate import replies
from preferent.models.forward import Backbone
from preferent.models.plan import NOWHERE, first_fit, shared, unshared
from preferent.models.policy import LanguagePolicy
from preferent.models.probe import can_share, can_use_own_head
from preferent.models.scorer import ScoringModel
from preferent.types import Prompt, Reply
from tiny_models import PLAIN, SHARING, VOCABULARY, tiny


def drawn(key, length):
    return tuple(torch.randint(3, VOCABULARY, (length,), generator=key).tolist())


def batch(sizes, seed=0):
    """(prompt length, reply lengths) for each prompt; every third reply token is not learned."""
    key = torch.Generator().manual_seed(seed)
    return replies(
        [
            (Prompt(drawn(key, s)), [Reply(drawn(key, t), tuple(i % 3 != 2 for i in range(t))) for t in lengths])
            for s, lengths in sizes
        ]
    )


MIXED = [(12, (7, 3, 9)), (5, (4,)), (9, (2, 8)), (1, (1, 1))]


def said(model, x, *, sharing, own_head=True):
    policy = LanguagePolicy(model, sharing=sharing, own_head=own_head)
    model.zero_grad()
    reading = policy.read(x, entropy=True)
    (reading.logprobs.sum() + reading.entropy.sum()).backward()
    gradient = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
    return reading.logprobs.detach(), reading.entropy.detach(), gradient


def by_the_books(model, x):
    """Each reply alone, no padding, the model's own logits."""
    logp = torch.zeros(x.tokens.shape)
    for r, p in enumerate(x.prompt_of.tolist()):
        s, t = int(x.prompt_length[p]), int(x.present[r].sum())
        row = torch.cat([x.prompts[p, :s], x.tokens[r, :t]])[None]
        scores = model(input_ids=row).logits[0].float().log_softmax(-1)
        logp[r, :t] = scores[s - 1 : s + t - 1].gather(1, row[0, s:, None]).squeeze(1)
    return logp.where(x.learn, 0)


@pytest.mark.parametrize("name", SHARING)
def test_a_shared_prefix_changes_neither_log_probabilities_nor_gradients(name):
    model, x = tiny(name), batch(MIXED)
    assert can_share(model)
    assert can_use_own_head(model)
    together, plain = said(model, x, sharing=True), said(model, x, sharing=False, own_head=False)
    for ours, theirs in zip(together, plain, strict=True):
        assert (ours - theirs).norm() <= 1e-5 * theirs.norm()
    assert torch.allclose(together[0], by_the_books(model, x).detach(), rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("name", PLAIN)
def test_a_model_that_cannot_share_says_so_once_and_gives_the_same_numbers(name, caplog):
    model, x = tiny(name), batch(MIXED)
    with caplog.at_level(logging.WARNING):
        assert not can_share(model)
    assert len(caplog.messages) == 1
    assert "a prompt of its own" in caplog.messages[0]
    logp, _, _ = said(model, x, sharing=False, own_head=can_use_own_head(model))
    assert torch.allclose(logp, by_the_books(model, x).detach(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["Mistral with a window", "Gemma 3"])
def test_the_probe_notices_a_window_that_the_masks_forget(name, monkeypatch):
    model = tiny(name, sliding_window=4096)
    honest = Backbone.inputs

    def forgetful(self, plan):
        if not self.sharing:
            return honest(self, plan)
        window, self.text_config.sliding_window = self.text_config.sliding_window, 4096
        try:
            return honest(self, plan)
        finally:
            self.text_config.sliding_window = window

    assert can_share(model)
    monkeypatch.setattr(Backbone, "inputs", forgetful)
    assert not can_share(model)


@pytest.mark.parametrize("name", ["Qwen2", "Gemma 3"])
def test_scores_and_values_equal_those_of_each_reply_alone(name):
    model, x = tiny(name, "AutoModelForSequenceClassification", num_labels=2), batch(MIXED)
    together, plain = ScoringModel(model, sharing=True), ScoringModel(model, sharing=False)
    assert torch.allclose(together.scores(x), plain.scores(x), rtol=1e-5, atol=1e-6)
    assert together.scores(x).shape == (len(x.tokens), 2)
    before = torch.cat([torch.ones(len(x.tokens), 1, dtype=torch.bool), x.present], 1)
    values = [scorer.values(x).where(before, 0) for scorer in (together, plain)]
    assert torch.allclose(*values, rtol=1e-5, atol=1e-6)
    last = x.present.sum(-1, keepdim=True)
    assert torch.equal(together.values(x).gather(1, last).squeeze(1), together.scores(x)[:, 0])


def test_a_score_is_the_one_that_transformers_reads():
    model, x = tiny("Qwen2", "AutoModelForSequenceClassification", num_labels=1), batch([(6, (4,)), (3, (5,))])
    theirs = []
    for p in range(2):
        s, t = int(x.prompt_length[p]), int(x.present[p].sum())
        theirs.append(model(input_ids=torch.cat([x.prompts[p, :s], x.tokens[p, :t]])[None]).logits[0])
    assert torch.allclose(ScoringModel(model, sharing=True).scores(x), torch.stack(theirs), rtol=1e-5, atol=1e-6)


def test_temperature_is_the_policys_when_it_scores():
    model, x = tiny("Qwen2"), batch(MIXED)
    hot = LanguagePolicy(model, sharing=True, temperature=2.0).read(x).logprobs
    with torch.no_grad():
        model.lm_head.weight.div_(2)
    cold = LanguagePolicy(model, sharing=True).read(x).logprobs
    assert torch.allclose(hot, cold, rtol=1e-5, atol=1e-6)


def test_chunks_of_the_head_change_nothing(monkeypatch):
    model, x = tiny("Qwen2"), batch(MIXED)
    whole = said(model, x, sharing=True)
    monkeypatch.setattr("preferent.models.head.CHUNK", 5 * VOCABULARY)
    chunked = said(model, x, sharing=True)
    for ours, theirs in zip(chunked, whole, strict=True):
        assert (ours - theirs).norm() <= 1e-5 * theirs.norm()


def test_an_empty_prompt_is_refused():
    with pytest.raises(ValueError, match="at least one token"):
        LanguagePolicy(tiny("Qwen2"), sharing=True).read(batch([(0, (3,))]))


sizes = st.lists(
    st.tuples(st.integers(1, 9), st.lists(st.integers(1, 7), min_size=1, max_size=4)), min_size=1, max_size=6
)


@given(sizes=sizes, width=st.integers(1, 500))
@settings(deadline=None)
def test_in_every_layout_each_token_stands_once_and_sees_its_own_past_only(sizes, width):
    x = batch(sizes)
    plan = shared(x, hidden_size=width)
    assert int((plan.group != NOWHERE).sum()) == sum(x.tokens_each())
    seen = plan.allowed().sum(-1)
    real = plan.group != NOWHERE
    assert torch.equal(seen[real], plan.positions[real] + 1)
    for layout in (plan, unshared(x)):
        tokens, positions = layout.tokens.flatten(), layout.positions.flatten()
        for r, p in enumerate(x.prompt_of.tolist()):
            s, t = int(x.prompt_length[p]), int(x.present[r].sum())
            path = layout.states[r, : t + 1]
            assert tokens[path].tolist() == [int(x.prompts[p, s - 1]), *x.tokens[r, :t].tolist()]
            assert positions[path].tolist() == list(range(s - 1, s + t))


@given(lengths=st.lists(st.integers(1, 30), min_size=1, max_size=40), extra=st.integers(0, 60))
def test_first_fit_overlaps_nothing_and_fits_every_row(lengths, extra):
    width = max(lengths) + extra
    start, rows = first_fit(lengths, width)
    taken = [range(at, at + length) for at, length in zip(start, lengths, strict=True)]
    assert all(each.start // width == (each.stop - 1) // width < rows for each in taken)
    assert len({place for each in taken for place in each}) == sum(lengths)
