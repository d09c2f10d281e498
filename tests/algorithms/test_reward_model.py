"""Reward models find the utility behind comparisons, and an ensemble disagrees where nobody compared."""

import math
from itertools import combinations

import pytest
import torch

from preferent.algorithms.reward_model import BradleyTerry, ensemble, reward_model
from preferent.data.batches import Batches
from preferent.data.collate import replies
from preferent.data.comparisons import pairs
from preferent.runtime.learner import local_learner
from preferent.testing import Bigram
from preferent.types import Prompt
from toys import preference, ranking, reply

PROMPT = Prompt((3,))
UTILITY = torch.tensor([0.0, 0.0, 1.0, -0.5, 0.3, -1.2, 0.8, 0.1])
KEY = torch.Generator()


def random_replies(n, seed, low=2, high=8):
    key = KEY.manual_seed(seed)
    return [reply(*torch.randint(low, high, (3,), generator=key).tolist()) for _ in range(n)]


def utility(option):
    return UTILITY[list(option.tokens)].sum().item()


def comparisons(n, seed):
    """Decided by the utility; no ties."""
    options = random_replies(2 * n, seed)
    made = zip(options[::2], options[1::2], strict=True)
    return [
        preference(PROMPT, a, b, choice=(1.0, 0.0) if utility(a) > utility(b) else (0.0, 1.0))
        for a, b in made
        if utility(a) != utility(b)
    ]


def test_it_ranks_replies_that_it_never_saw():
    learner = local_learner(Bigram(seed=1), lr=0.05)
    held_out = [pairs(comparisons(200, seed=9))]
    before = learner.measure(held_out, BradleyTerry())
    told = list(reward_model(learner, Batches(comparisons(60, seed=0), 16, pairs, epochs=20)))
    after = learner.measure(held_out, BradleyTerry())
    assert before["accuracy"] < 0.7
    assert after["accuracy"] > 0.93
    assert after["loss"] < before["loss"]
    assert told[-1]["margin"] > told[0]["margin"]


def test_soft_labels_bring_back_the_utility_itself():
    """P(i beats j) = σ(u_i - u_j) for all pairs: the scores become u but for a constant."""
    options = [reply(token) for token in range(2, 8)]
    soft = [
        preference(PROMPT, a, b, choice=(p, 1 - p))
        for a, b in combinations(options, 2)
        for p in [1 / (1 + math.exp(utility(b) - utility(a)))]
    ]
    learner = local_learner(Bigram(), lr=0.05)
    list(reward_model(learner, [pairs(soft)] * 300))
    scores = learner.model.score.weight.detach()[2:, 0]
    torch.testing.assert_close(scores - scores.mean(), UTILITY[2:] - UTILITY[2:].mean(), rtol=0, atol=0.01)


def test_a_ranking_teaches_what_its_pairs_teach():
    options = [reply(token) for token in (6, 2, 5, 4)]
    ranked = pairs([ranking(PROMPT, *options, ranks=(1, 0, 3, 2))])
    order = [options[i] for i in (1, 0, 3, 2)]
    paired = pairs([preference(PROMPT, a, b) for a, b in combinations(order, 2)])
    weights = []
    for batch in (ranked, paired):
        learner = local_learner(Bigram(), lr=0.1)
        list(reward_model(learner, [batch] * 20))
        weights.append(learner.model.score.weight.detach())
    torch.testing.assert_close(*weights, rtol=1e-4, atol=1e-4)
    assert [int(i) for i in weights[0][[2, 6, 4, 5], 0].argsort(descending=True)] == [0, 1, 2, 3]


def test_a_margin_drives_scores_further_apart():
    def apart(margin):
        learner = local_learner(Bigram(), lr=0.05)
        said = [preference(PROMPT, reply(2), reply(3), choice=(0.9, 0.1), strength=1.0)]
        list(reward_model(learner, [pairs(said, margins={1: margin})] * 300))
        score = learner.model.score.weight
        return (score[2] - score[3]).item()

    assert apart(0.0) == pytest.approx(math.log(9), abs=0.02)  # the log-odds of the label
    assert apart(1.5) == pytest.approx(math.log(9) + 1.5, abs=0.02)


def test_centring_keeps_scores_near_zero_and_hardly_moves_their_differences():
    said = pairs([preference(PROMPT, reply(2), reply(3), choice=(0.8, 0.2))])
    sums, differences = [], []
    for weight in (0.0, 0.1):
        learner = local_learner(Bigram(seed=4), lr=0.05)
        told = list(reward_model(learner, [said] * 300, objective=BradleyTerry(centring=weight)))
        assert ("centring" in told[0]) == bool(weight)
        score = learner.model.score.weight.detach()
        sums.append(abs((score[2] + score[3]).item()))
        differences.append((score[2] - score[3]).item())
    assert sums[0] > 0.1
    assert sums[1] < 0.01
    assert differences == pytest.approx([math.log(4)] * 2, abs=0.02)


def test_ties_are_left_out_of_the_accuracy_and_equal_scores_are_half_right():
    """Three pairs: right, a tie in the data, and equal scores: (1 + ½) / 2."""

    class Scored:
        def scores(self, x):
            return torch.tensor([[2.0 if t == 2 else 1.0] for t in x.tokens[:, 0]])

    said = [
        preference(PROMPT, reply(2), reply(3)),
        preference(PROMPT, reply(2), reply(4), choice=(0.5, 0.5)),
        preference(PROMPT, reply(3), reply(4)),
    ]
    metrics = BradleyTerry()(Scored(), pairs(said)).metrics
    assert metrics["accuracy"].value == pytest.approx(0.75)
    assert metrics["margin"].value == pytest.approx(0.5)


def test_members_agree_on_what_was_compared_and_disagree_on_what_was_not():
    """Tokens 6 and 7 stand in no training reply: there each member says what its seed said."""
    rows = [
        preference(PROMPT, a, b, choice=(1.0, 0.0) if utility(a) > utility(b) else (0.0, 1.0))
        for a, b in combinations(random_replies(12, seed=3, high=6), 2)
        if utility(a) != utility(b)
    ]
    learners = [local_learner(Bigram(seed=seed), lr=0.1) for seed in range(4)]
    members = [
        reward_model(learner, Batches(rows, 16, pairs, seed=i, steps=80), objective=BradleyTerry(centring=0.01))
        for i, learner in enumerate(learners)
    ]
    told = list(ensemble(members))
    assert len(told) == 80

    def spread(options):
        x = replies([(PROMPT, options)])
        scores = torch.stack([learner.model.scores(x)[:, 0] for learner in learners]).detach()
        return (scores - scores.mean(1, keepdim=True)).std(0).mean().item() / scores.std(1).mean().item()

    assert spread(random_replies(40, 5, 6, 8)) > 3 * spread(random_replies(40, 5, 2, 6))


def test_an_ensembles_metrics_are_its_members_mean():
    members = [iter([{"loss": 1.0}, {"loss": 2.0}]), iter([{"loss": 3.0}, {"loss": 5.0}])]
    assert list(ensemble(members)) == [{"loss": 2.0}, {"loss": 3.5}]
    with pytest.raises(ValueError, match="shorter"):
        list(ensemble([iter([{"loss": 1.0}, {"loss": 1.0}]), iter([{"loss": 1.0}])]))
