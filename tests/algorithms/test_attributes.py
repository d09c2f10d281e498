"""Several heads: ratings are regressed on, and each aspect's comparisons train its own head."""

import math

import pytest
import torch

from preferent.algorithms.attributes import ByAspect, Rated, Regression, by_aspect, rated, spread
from preferent.algorithms.reward_model import THURSTONE, BradleyTerry, reward_model
from preferent.data.collate import replies
from preferent.data.comparisons import pairs
from preferent.losses import preference as losses
from preferent.runtime.learner import local_learner
from preferent.testing import Bigram
from preferent.types import Demonstration, Pairs, Prompt
from toys import preference, reply

TOKENS = range(2, 8)


class TwoHeads(Bigram):
    """A bigram whose replies have two scores, each a sum over tokens."""

    def __init__(self, seed=0):
        super().__init__(seed=seed)
        self.score = torch.nn.Embedding(8, 2)
        torch.nn.init.normal_(self.score.weight, generator=torch.Generator().manual_seed(seed))

    def scores(self, x):
        return (self.score(x.tokens) * x.present.unsqueeze(-1)).sum(1)


def row(token, **ratings):
    return Demonstration(Prompt((3,), ratings), reply(token))


ROWS = [row(t, helpful=t % 4, brief=None if t == 5 else 10.0 * t) for t in TOKENS]
HEADS = {name: spread(ROWS, name) for name in ("helpful", "brief")}


def test_each_head_comes_to_say_its_rating_and_a_missing_one_is_left_out():
    learner = local_learner(TwoHeads(), lr=0.05)
    batch = rated([[each] for each in ROWS], heads=HEADS)
    told = list(reward_model(learner, [batch] * 200, objective=Regression(("helpful", "brief"))))
    said = learner.model.scores(replies([(Prompt((3,)), [reply(t) for t in TOKENS])])).detach()
    for i, (name, known) in enumerate([("helpful", list(TOKENS)), ("brief", [2, 3, 4, 6, 7])]):
        of = HEADS[name]
        ratings = [said[t - 2, i].item() * of.std + of.mean for t in known]
        assert ratings == pytest.approx([ROWS[t - 2].prompt.info[name] for t in known], abs=0.2)
        assert told[-1][f"error/{name}"] < 0.01 < told[0][f"error/{name}"]
    before = TwoHeads().score.weight[5, 1].item()
    assert learner.model.score.weight[5, 1].item() == before


def test_ratings_are_averaged_over_all_that_were_given():
    """Scores 0 against 1, −1 and, where nobody rated, nothing: (1 + 1) / 2; the second head (4) alone: 4."""

    class Scored:
        def scores(self, x):
            return torch.zeros(2, 2)

    nan = math.nan
    x = Rated(replies([(Prompt((3,)), [reply(2), reply(3)])]), torch.tensor([[1.0, 2.0], [-1.0, nan]]))
    loss = Regression(("a", "b"))(Scored(), x)
    assert loss.terms["rating"][1].value == pytest.approx(2)
    assert {name: mean.value for name, mean in loss.metrics.items()} == {"error/a": 1, "error/b": 4}
    assert Regression(("a", "b")).counts(x)["rating"] == loss.terms["rating"][1].count == 3


def test_ratings_that_teach_nothing_are_refused():
    with pytest.raises(ValueError, match="kind: no row has this column"):
        spread(ROWS, "kind")
    with pytest.raises(ValueError, match="kind: all 2 ratings are 3"):
        spread([row(2, kind=3), row(3, kind=3)], "kind")
    with pytest.raises(ValueError, match="column kind: expected a rating, a number or null; got 'good'"):
        spread([row(2, kind="good")], "kind")


def said(a, b, *, choice=(1.0, 0.0), **aspects):
    return preference(Prompt((3,), {"aspects": aspects}), reply(a), reply(b), choice=choice)


def test_each_aspect_trains_its_own_head():
    """The smaller token is more helpful, the larger briefer; the overall choice goes with neither."""
    rows = [
        said(a, b, choice=(1.0, 0.0) if (a + b) % 2 else (0.0, 1.0), helpful=0.9, brief=0.2)
        for a in TOKENS
        for b in TOKENS
        if a < b
    ]
    learner = local_learner(TwoHeads(), lr=0.05)
    batch = by_aspect([rows], heads=("helpful", "brief"))
    told = list(reward_model(learner, [batch] * 150, objective=ByAspect(("helpful", "brief"))))
    scores = learner.model.score.weight.detach()[2:8]
    assert scores[:, 0].tolist() == sorted(scores[:, 0].tolist(), reverse=True)
    assert scores[:, 1].tolist() == sorted(scores[:, 1].tolist())
    assert told[-1]["accuracy/helpful"] == told[-1]["accuracy/brief"] == 1


def test_an_aspect_is_about_the_chosen_one_whichever_is_better_and_what_nobody_said_is_left_out():
    x = by_aspect([[said(2, 3, choice=(0.1, 0.9), helpful=0.7), said(2, 4, brief=0.5)]], heads=("helpful", "brief"))
    assert x.aspects[0, 0].item() == pytest.approx(0.3)
    assert x.aspects.isnan().tolist() == [[False, True], [True, False]]
    objective = ByAspect(("helpful", "brief"))
    assert objective.counts(x)["preference"] == objective(TwoHeads(), x).terms["preference"][1].count == 2
    with pytest.raises(ValueError, match="aspects, helpful: expected of a pair a number from 0 to 1; got 3"):
        by_aspect([[said(2, 3, helpful=3)]], heads=("helpful",))


def test_one_aspect_that_says_what_the_choice_says_is_bradley_and_terry():
    rows = [said(2, 3, all=1.0), said(4, 3, choice=(0.3, 0.7), all=0.3)]
    x, model = by_aspect([rows], heads=("all",)), Bigram(seed=2)
    for link in (losses.bradley_terry, losses.thurstone):
        one = ByAspect(("all",), smoothing=0.1, link=link)(model, x).terms["preference"][1]
        other = BradleyTerry(smoothing=0.1, link=link)(model, x).terms["preference"][1]
        torch.testing.assert_close(one.total, other.total)


def test_batches_with_several_heads_may_be_cut_between_prompts():
    rows = [[Demonstration(Prompt((3, i), {"helpful": i, "brief": -i}), reply(2 + i))] for i in range(4)]
    x, objective, model = rated(rows, heads=HEADS), Regression(("helpful", "brief")), TwoHeads(seed=1)
    whole = objective(model, x).terms["rating"][1].total
    torch.testing.assert_close(sum(objective(model, x[i : i + 1]).terms["rating"][1].total for i in range(4)), whole)
    groups = [[preference(Prompt((3, i), {"aspects": {"a": i / 4}}), reply(2), reply(3))] for i in range(4)]
    pairs_ = by_aspect(groups, heads=("a",))
    assert [pairs_[i : i + 1].aspects.item() for i in range(4)] == [0, 0.25, 0.5, 0.75]


# --- what pairs teach by other links -------------------------------------------------------------


def test_thurstone_brings_back_a_utility_that_decides_by_normal_chances():
    utility = [0.0, 0.4, -0.8, 1.1]
    normal = torch.distributions.Normal(0.0, 1.0)
    rows = [
        preference(Prompt((3,)), reply(2 + i), reply(2 + j), choice=(p, 1 - p))
        for i in range(4)
        for j in range(i)
        for p in [normal.cdf(torch.tensor(utility[i] - utility[j])).item()]
    ]
    learner = local_learner(Bigram(), lr=0.05)
    list(reward_model(learner, [pairs(rows)] * 300, objective=THURSTONE))
    scores = learner.model.score.weight.detach()[2:6, 0]
    assert (scores - scores[0]).tolist() == pytest.approx(utility, abs=0.02)


def test_smoothing_bounds_how_far_apart_a_certain_pair_is_driven():
    """A label that is wrong with chance .1: log-odds log 9."""
    learner = local_learner(Bigram(), lr=0.05)
    said_once: list[Pairs] = [pairs([preference(Prompt((3,)), reply(2), reply(3))])]
    list(reward_model(learner, said_once * 300, objective=BradleyTerry(smoothing=0.1)))
    score = learner.model.score.weight
    assert (score[2] - score[3]).item() == pytest.approx(math.log(9), abs=0.02)
