"""Reward models from whole rankings, and from the best of several."""

import math
from itertools import permutations

import pytest
import torch

from preferent.algorithms.listwise import Listwise, best_only, in_order, lists
from preferent.algorithms.reward_model import BradleyTerry, reward_model
from preferent.data.comparisons import pairs
from preferent.runtime.learner import local_learner
from preferent.testing import Bigram
from preferent.types import Preference, Prompt
from toys import preference, ranking, reply

PROMPT = Prompt((3,))
UTILITY = torch.tensor([0.0, 0.0, 1.0, -0.5, 0.3, -1.2])
OPTIONS = [reply(token) for token in range(2, 6)]


def learned(batch, steps=200):
    learner = local_learner(Bigram(seed=1), lr=0.05)
    told = list(reward_model(learner, [batch] * steps, objective=Listwise()))
    scores = learner.model.score.weight.detach()[2:6, 0]
    return scores - scores.mean(), told


def test_rankings_drawn_as_plackett_and_luce_say_bring_back_the_utility():
    """Every order of four replies, as often as its chance: the scores become u but for a constant."""
    weights, shown = UTILITY[2:].double().exp(), []
    for order in permutations(range(4)):
        left, chance = list(order), 1.0
        for i in order:
            chance *= (weights[i] / weights[left].sum()).item()
            left.remove(i)
        ranks = tuple(order.index(i) for i in range(4))
        shown += [ranking(PROMPT, *OPTIONS, ranks=ranks)] * round(400 * chance)
    scores, told = learned(lists([shown]))
    torch.testing.assert_close(scores, UTILITY[2:] - UTILITY[2:].mean(), rtol=0, atol=0.05)
    assert told[-1]["accuracy"] > told[0]["accuracy"]


def test_the_best_picked_out_with_the_softmaxs_chances_brings_it_back_too():
    soft = Preference(preference(PROMPT, *OPTIONS[:2]).comparison, (0.5, 0.5))
    soft = Preference(type(soft.comparison)(PROMPT, tuple(OPTIONS)), tuple(UTILITY[2:].softmax(-1).tolist()))
    for told in (in_order, best_only):
        scores, _ = learned(lists([[soft]], told=told))
        torch.testing.assert_close(scores, UTILITY[2:] - UTILITY[2:].mean(), rtol=0, atol=0.02)


def test_only_the_best_of_a_ranking_counts_where_only_that_is_asked():
    """In which order the others come is then the same."""
    rankings = [ranking(PROMPT, *OPTIONS, ranks=ranks) for ranks in ((0, 1, 2, 3), (0, 3, 1, 2))]
    for told, alike in ((best_only, True), (in_order, False)):
        one, other = (Listwise()(Bigram(seed=5), lists([[each]], told=told)) for each in rankings)
        assert torch.equal(one.terms["preference"][1].total, other.terms["preference"][1].total) == alike


def test_of_pairs_lists_learn_what_bradley_and_terry_do():
    said = [preference(PROMPT, OPTIONS[0], OPTIONS[1], choice=(0.8, 0.2)), preference(PROMPT, OPTIONS[2], OPTIONS[3])]
    said.append(preference(PROMPT, OPTIONS[1], OPTIONS[2], choice=(0.5, 0.5)))
    model = Bigram(seed=3)
    one, other = Listwise()(model, lists([said])), BradleyTerry()(model, pairs(said))
    torch.testing.assert_close(one.terms["preference"][1].total, other.terms["preference"][1].total)
    assert one.metrics["accuracy"].value == pytest.approx(other.metrics["accuracy"].value)
    torch.testing.assert_close(one.metrics["accuracy"].count, other.metrics["accuracy"].count)


def test_accuracy_is_over_a_lists_pairs_first():
    """Ranks 0 1 1 with scores 1, 2, 0: one of two pairs is right; a list of ties has none and does not count."""

    class Scored:
        def scores(self, x):
            return torch.tensor([[1.0], [2.0], [0.0], [5.0], [6.0]])

    said = [ranking(PROMPT, *OPTIONS[:3], ranks=(0, 1, 1)), ranking(PROMPT, *OPTIONS[:2], ranks=(0, 0))]
    accuracy = Listwise()(Scored(), lists([said])).metrics["accuracy"]
    assert (accuracy.value, accuracy.count.item()) == (0.5, 1)


def test_a_batch_of_lists_may_be_cut_between_them():
    said = [
        [ranking(Prompt((3, i)), *OPTIONS[: 2 + i % 3], ranks=tuple(range(2 + i % 3)))] * (1 + i % 2) for i in range(5)
    ]
    x, objective, model = lists(said), Listwise(), Bigram(seed=4)
    whole = objective(model, x).terms["preference"][1]
    parts = [objective(model, x[cut]).terms["preference"][1] for cut in (slice(0, 2), slice(2, 3), slice(3, len(x)))]
    torch.testing.assert_close(sum(part.total for part in parts), whole.total)
    assert sum(int(part.count) for part in parts) == int(whole.count) == len(x) == 7
    assert objective.counts(x)["preference"] == 7


def test_what_is_told_of_lists_by_hand():
    assert in_order(ranking(PROMPT, *OPTIONS[:3], ranks=(1, 0, 1))) == ((1, 0, 1), [0.5, 1.0, 0.5])
    assert best_only(ranking(PROMPT, *OPTIONS[:3], ranks=(1, 0, 0))) == ([0, 0, 0], [0.0, 0.5, 0.5])
    assert in_order(preference(PROMPT, *OPTIONS[:2], choice=(0.3, 0.7))) == ([0, 0], (0.3, 0.7))


def test_a_list_decided_by_chance_alone_costs_its_entropy():
    class Alike:
        def scores(self, x):
            return torch.zeros(len(x.tokens), 1)

    loss = Listwise()(Alike(), lists([[ranking(PROMPT, *OPTIONS, ranks=(0, 1, 2, 3))]]))
    assert loss.terms["preference"][1].value == pytest.approx(math.log(24))
