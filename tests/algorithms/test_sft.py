"""Supervised fine-tuning finds the distribution of its demonstrations, and learns from nothing else."""

from dataclasses import replace

import pytest
import torch

from preferent.algorithms.sft import Likelihood, sft
from preferent.data.batches import Batches
from preferent.data.collate import demonstrations
from preferent.losses.means import over_sequences
from preferent.runtime.learner import Schedule, local_learner
from preferent.testing import END, Bigram
from toys import demonstration, replies_of

ROWS = [
    demonstration((5,), (2, 3, END)),
    demonstration((5,), (2, 4, END)),
    demonstration((6,), (3, END)),
    demonstration((2, 6), (4, 4, 2, END)),
]


def test_the_likelihood_of_the_demonstrations_rises_to_what_their_distribution_allows():
    """Counts of what follows what: the best bigram says each next token with its frequency."""
    batches = Batches(ROWS, 3, demonstrations, epochs=150)
    learner = local_learner(Bigram(), lr=0.1, schedule=Schedule("linear", total=200))
    told = list(sft(learner, batches))
    assert len(told) == len(batches) == 200
    counts = torch.zeros(8, 8)
    for row in ROWS:
        for before, after in zip((row.prompt.tokens[-1], *row.reply.tokens), row.reply.tokens, strict=False):
            counts[before, after] += 1
    seen = counts.sum(-1) > 0
    best = counts[seen] / counts[seen].sum(-1, keepdim=True)
    assert (learner.model.next.weight[seen].softmax(-1) - best).abs().sum(-1).max() / 2 < 0.06
    floor = -torch.xlogy(counts[seen], best).sum() / counts.sum()
    assert learner.measure([demonstrations(ROWS)], Likelihood())["nll"] == pytest.approx(floor.item(), abs=0.04)
    assert told[0]["nll"] > floor + 1


def test_what_is_not_to_be_learned_is_not():
    """The gradient of a batch does not change when the tokens that are not learned are other ones."""
    x = replies_of([(2, (4, 8)), (1, (5,))])
    other = replace(x, learn=x.learn & (torch.arange(8) < 3))
    gradients = []
    for batch in (x, other, replace(other, tokens=other.tokens.where(torch.arange(8) < 3, 7))):
        model = Bigram()
        Likelihood()(model, batch).terms["nll"][1].total.backward()
        gradients.append(model.next.weight.grad)
    assert gradients[1].equal(gradients[2])
    assert not gradients[0].equal(gradients[1])


def test_the_step_is_the_mean_over_tokens_or_over_replies():
    x = demonstrations(ROWS[2:])
    logp = Bigram().read(x).logprobs
    by_token = (-logp.sum() / 6).item()
    by_reply = (-(logp[0].sum() / 2 + logp[1].sum() / 4) / 2).item()
    for objective, expected in ((Likelihood(), by_token), (Likelihood(over_sequences), by_reply)):
        (metrics,) = sft(local_learner(Bigram()), [x], objective=objective)
        assert metrics["nll"] == pytest.approx(expected)
        assert metrics["loss"] == pytest.approx(expected)
        assert metrics["tokens"] == 9
