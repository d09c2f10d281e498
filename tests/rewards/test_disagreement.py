"""What members disagree on weighs less in DPO, and is asked about first."""

import math
from dataclasses import replace

import pytest
import torch

from preferent.algorithms.dpo import dpo
from preferent.data.batches import Batches
from preferent.data.comparisons import pairs
from preferent.data.template import Template
from preferent.models.load import load_policy, load_scorer
from preferent.rewards.disagreement import Exploit, exploits, reweighted
from preferent.rewards.learned import LearnedReward, Scale
from preferent.runtime.learner import local_learner
from preferent.types import Prompt, Reply, Score
from toys import drawn, preference, saved_policy

KEY = torch.Generator().manual_seed(3)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return saved_policy(tmp_path_factory.mktemp("base") / "model")


@pytest.fixture(scope="module")
def ensemble(base):
    members = [load_scorer(base, seed=seed) for seed in range(3)]
    return LearnedReward(members, [Scale(0.1 * i, 0.02 * (i + 1)) for i in range(3)])


def said():
    tokens = drawn(KEY, 4, 6, 300)
    return Reply((*tokens, 1), (True,) * 5)


OPINIONS = [preference(Prompt(drawn(KEY, 3, 6, 300)), said(), said()) for _ in range(6)]


def test_a_pair_weighs_what_the_members_margins_say(base, ensemble):
    """By hand: each member's score of each reply alone, on its scale; e^(−deviation of the margins / τ)."""
    learner = local_learner(load_policy(base), lr=0.0, token_budget=20)
    (batch,) = reweighted([pairs(OPINIONS)], ensemble, learner, temperature=0.5)
    for i, opinion in enumerate(OPINIONS):
        rows = [(opinion.comparison.context, option) for option in opinion.comparison.options]
        better, worse = (ensemble.score_rows([row])[:, 0] for row in rows)
        spread = (better - worse).std(correction=0).item()
        assert batch.weight[i].item() == pytest.approx(math.exp(-spread / 0.5), rel=1e-3)
    assert batch.weight.min() < 0.9 * batch.weight.max()
    assert torch.equal(batch.better, pairs(OPINIONS).better)


def test_members_that_agree_change_nothing(base, ensemble):
    twins = LearnedReward([ensemble.members[0]] * 2, [Scale()] * 2)
    learner = local_learner(load_policy(base), lr=0.0)
    (batch,) = reweighted([pairs(OPINIONS)], twins, learner)
    torch.testing.assert_close(batch.weight, pairs(OPINIONS).weight)


def test_dpo_learns_more_from_what_is_agreed_on_and_goes_on_where_it_was(base, ensemble):
    """Straight, and stopped after one of three steps."""

    def job(lr=1e-3):
        policy, data = load_policy(base), Batches(OPINIONS, 2, pairs, steps=3)
        learner = local_learner(policy, lr=lr)
        return policy, data, learner, dpo(learner, policy.frozen(), reweighted(data, ensemble, learner))

    policy, _, _, steps = job()
    told = list(steps)
    _, data, learner, steps = job()
    first = next(steps)
    states = data.state_dict(), learner.state_dict()
    assert first == told[0]
    resumed, data, learner, steps = job()
    data.load_state_dict(states[0]), learner.load_state_dict(states[1])
    assert list(steps) == told[1:]
    assert all(torch.equal(a, b) for a, b in zip(policy.parameters(), resumed.parameters(), strict=True))


def test_what_cannot_weigh_pairs_is_refused(base, ensemble):
    learner = local_learner(load_policy(base), lr=0.0)
    one = LearnedReward(ensemble.members[:1], [Scale()])
    with pytest.raises(ValueError, match="does not disagree with itself"):
        next(reweighted([pairs(OPINIONS)], one, learner))
    other = replace(ensemble, template=Template(ensemble.members[0].tokenizer))
    with pytest.raises(ValueError, match="another tokenizer"):
        next(reweighted([pairs(OPINIONS)], other, learner))


# --- exploits ------------------------------------------------------------------------------------


def marked(*means_and_spreads):
    return [Score(m, {"members_mean": m, "members_spread": s}) for m, s in means_and_spreads]


def test_an_exploit_is_what_could_be_the_best_and_is_asked_beside_what_surely_is_good():
    """1 + 3 > 3 + .1 is the suspect; of the others 3 − .1 is trusted more than 2.95 − .2."""
    (found,) = exploits([marked((3.0, 0.1), (1.0, 3.0), (2.95, 0.2))], 5)
    assert found == Exploit(0, suspect=1, trusted=0, spread=3.0)
    (calm,) = exploits([marked((3.0, 0.1), (1.0, 3.0), (2.95, 0.2))], 5, caution=0.0)
    assert (calm.suspect, calm.trusted) == (0, 2)


def test_what_members_disagree_on_most_is_asked_first_and_what_they_agree_on_never():
    groups = [marked((1.0, 0.2), (0.0, 0.1)), marked((1.0, 0.0), (0.0, 0.0)), marked((5.0, 0.9), (0.0, 0.1))]
    groups.append(marked((9.0, 9.0)))  # a single reply has nothing to be compared with
    assert [each.prompt for each in exploits(groups, 5)] == [2, 0]
    assert [each.prompt for each in exploits(groups, 1)] == [2]
    assert exploits([[Score(1.0), Score(2.0)]], 3) == []
