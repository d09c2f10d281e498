"""Policies against demonstrations, a reference, a mixture, a teacher, and against what they were."""

import math
from dataclasses import replace
from itertools import pairwise

import pytest
import torch

from bandit import BETA, PROMPTS, QUESTION, REWARD, distance, many_fives, said
from preferent.algorithms import objectives
from preferent.algorithms.answers import referred
from preferent.algorithms.distill import distill
from preferent.algorithms.dpo import Referred
from preferent.algorithms.nash_md import fought, nash_md
from preferent.algorithms.online_dpo import online_dpo
from preferent.algorithms.raft import raft
from preferent.algorithms.said import said as asked
from preferent.algorithms.sft import DFT, sft
from preferent.algorithms.spin import spin
from preferent.algorithms.tr_dpo import following
from preferent.algorithms.xpo import exploring, sided, xpo
from preferent.data.collate import demonstrations, replies
from preferent.data.comparisons import pairs
from preferent.models.policy import Follower
from preferent.rewards.annotating import Rewarded, soft
from preferent.rewards.implicit import ImplicitReward
from preferent.runtime.learner import LocalLearner, Schedule, local_learner
from preferent.testing import Bigram, ToySampler
from preferent.types import Comparison, Demonstration, Preference
from toys import reply


def started(lr=0.1, steps=100, seed=0):
    policy = Bigram(seed=seed)
    return policy, Follower(policy), local_learner(policy, lr=lr, schedule=Schedule("linear", total=steps))


# --- SPIN --------------------------------------------------------------------------------------------


def people(goal, rows, steps):
    """Batches of demonstrations whose tokens are distributed as ``goal``, evenly spread over each batch."""
    key = torch.Generator().manual_seed(2)
    start = torch.rand(steps, 1, generator=key)
    places = (torch.arange(rows) + start) / rows  # stratified: little noise from the data itself
    tokens = torch.searchsorted(goal.cumsum(0), places).clamp(max=7)
    return [[Demonstration(QUESTION, reply(token)) for token in row] for row in tokens.tolist()]


def test_spin_at_beta_one_is_at_the_data_after_an_iteration_and_stays_there():
    policy, opponent, learner = started(steps=160)
    goal = torch.tensor([0.02, 0.08, 0.3, 0.1, 0.2, 0.15, 0.05, 0.1])
    assert distance(said(policy), goal) > 0.3
    steps = spin(
        learner, opponent, ToySampler(policy, length=1), people(goal, 64, 160), objective=objectives.dpo(beta=1.0)
    )
    told = list(following(steps, learner, opponent, every=80))
    assert distance(said(policy), goal) <= 0.03
    assert torch.equal(said(opponent.policy), said(policy))
    assert sum(step["accuracy"] for step in told[:5]) > sum(step["accuracy"] for step in told[-5:])


def test_spin_raises_the_likelihood_of_demonstrations():
    policy, opponent, learner = started(lr=0.05, steps=60)
    rows = [Demonstration(prompt, reply(5, 2, 1)) for prompt in PROMPTS]
    x = demonstrations(rows)
    before = policy.read(x).logprobs.sum().item()
    steps = spin(learner, opponent, ToySampler(policy), [rows] * 60)
    list(following(steps, learner, opponent, every=20))
    assert policy.read(x).logprobs.sum().item() > before + 5


# --- XPO ---------------------------------------------------------------------------------------------


def test_xpo_raises_the_reward_and_learns_who_wins():
    policy, reference, learner = started(lr=0.05)
    steps = xpo(
        learner, reference, ToySampler(policy), ToySampler(policy, seed=1), Rewarded(many_fives), [PROMPTS] * 40,
        objective=exploring(beta=0.3), watched=many_fives,
    )  # fmt: skip
    told = list(steps)
    assert sum(step["reward"] for step in told[-5:]) / 5 > told[0]["reward"] + 1
    assert told[-1]["accuracy"] > 0.7


# --- Nash-MD -----------------------------------------------------------------------------------------

CIRCLE = torch.zeros(8, 8)  # P(row beats column) - ½: 2 beats 4, 4 beats 6, 6 beats 2; all three beat the others
for winner, loser in ((2, 4), (4, 6), (6, 2)):
    CIRCLE[winner, loser], CIRCLE[loser, winner] = 0.4, -0.4
for winner in (2, 4, 6):
    for loser in (0, 1, 3, 5, 7):
        CIRCLE[winner, loser], CIRCLE[loser, winner] = 0.3, -0.3
TAU = 0.3


def circle(comparisons):
    """Soft answers that go in circles: no score explains them."""
    answers = []
    for comparison in comparisons:
        a, b = comparison.options
        chance = 0.5 + CIRCLE[a.tokens[0], b.tokens[0]].item()
        answers.append(Preference(comparison, (chance, 1 - chance)))
    return answers


class ToyMixture(ToySampler):
    """Draws from a geometric mixture of two bigrams."""

    def __init__(self, model, other, share, **rest):
        super().__init__(model, **rest)
        self.other, self.share = other.next.weight.detach().clone(), share

    def load(self, weights, version):
        mixed = torch.lerp(weights["next.weight"].detach(), self.other, self.share)
        super().load({**weights, "next.weight": mixed}, version)


def nash(reference, share):
    """π ∝ π_ref·exp(P(· beats its opponent)/τ), by damped iteration."""
    policy = reference.clone()
    for _ in range(2000):
        opponent = ((1 - share) * policy.log() + share * reference.log()).softmax(-1)
        answer = (reference.log() + CIRCLE @ opponent / TAU).softmax(-1)
        policy = (0.95 * policy.log() + 0.05 * answer.log()).softmax(-1)
    assert distance(policy, answer) < 1e-5
    return policy


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_nash_md_reaches_its_equilibrium_where_preferences_go_in_circles(share):
    """Total variation ≤ 0.02 of the averaged later iterates."""
    policy, _, learner = started(lr=0.05, steps=120)
    reference, start = policy.frozen(), said(policy)
    goal = nash(start, share)
    assert distance(start, goal) > 0.2
    opponent = ToyMixture(policy, reference, share, length=1, seed=1)
    average = torch.zeros(8)
    steps = nash_md(
        learner, reference, ToySampler(policy, length=1), opponent, circle, [[QUESTION]] * 120, tau=TAU, n=192
    )
    for i, _ in enumerate(steps):
        if i >= 60:
            average += said(policy) / 60
    assert distance(average, goal) <= 0.02


def test_nash_md_beats_its_opponent_and_skips_a_step_without_answers():
    policy, _, learner = started(lr=0.05)
    reference = policy.frozen()
    opponent = ToyMixture(policy, reference, 0.9, seed=1)
    steps = nash_md(
        learner, reference, ToySampler(policy), opponent, Rewarded(many_fives), [PROMPTS] * 40,
        tau=0.02, n=4, watched=many_fives,
    )  # fmt: skip
    told = list(steps)
    assert sum(step["reward"] for step in told[-5:]) / 5 > told[0]["reward"] + 1
    assert sum(step["won"] for step in told[-5:]) / 5 > 0.6
    (step,) = nash_md(learner, reference, ToySampler(policy), opponent, lambda _: [], [PROMPTS[:2]])
    assert step["skipped"] == 1
    assert step["answered"] == 0
    assert learner.version == 41


def test_a_duels_chance_is_that_of_the_policys_own_reply():
    (mine, other), (alike, twin) = (
        [group[i] for i in range(2)] for group in ToySampler(Bigram()).sample([PROMPTS[0], PROMPTS[1]], 2)
    )

    def turned(comparisons):
        (one,) = comparisons
        options = one.options[::-1]
        return [Preference(Comparison(one.context, options), choice) for choice in ((0.2, 0.8), (0.0, 1.0))]

    assert fought(turned, [(mine, other), (alike, alike)]) == {id(mine): 0.9, id(alike): 0.5}
    assert twin.tokens != alike.tokens
    thrice = fought(turned, [(mine, other), (mine, mine), (mine, mine)])
    assert thrice == {id(mine): pytest.approx((0.8 + 1.0 + 0.5 + 0.5) / 4)}


# --- distillation and DFT ----------------------------------------------------------------------------


def test_a_student_comes_to_say_what_its_teacher_says():
    policy, _, learner = started(lr=0.2, steps=100)
    teacher = Bigram(seed=5).frozen()
    told = list(distill(learner, teacher, ToySampler(policy, length=3), [PROMPTS] * 100, n=8))
    assert told[0]["kl"] > 1
    assert told[-1]["kl"] < 0.05 * told[0]["kl"]
    assert distance(said(policy), said(teacher)) <= 0.02


def test_dynamic_fine_tuning_weighs_a_token_by_its_own_probability():
    """By hand: -Σ sg(p)·log p over two tokens; its gradient is SFT's, each token's times p."""
    policy = Bigram()
    x = replies([(QUESTION, [reply(4, 1)])])
    first, last = (policy.next.weight[a].log_softmax(-1)[b] for a, b in ((3, 4), (4, 1)))
    loss = DFT(policy, x)
    weight, mean = loss.terms["weighted_nll"]
    by_hand = -first.exp().detach() * first - last.exp().detach() * last
    assert weight == 1
    assert mean.total.item() == pytest.approx(by_hand.item())
    assert mean.count == DFT.counts(x)["weighted_nll"] == 2
    assert loss.metrics["nll"].value == pytest.approx(-(first + last).item() / 2)
    (ours,) = torch.autograd.grad(mean.total, policy.next.weight)
    (theirs,) = torch.autograd.grad(by_hand, policy.next.weight)
    torch.testing.assert_close(ours, theirs)


def test_dynamic_fine_tuning_learns():
    _, _, learner = started(steps=40)
    rows = demonstrations([Demonstration(prompt, reply(5, 2, 1)) for prompt in PROMPTS])
    told = list(sft(learner, [rows] * 40, objective=DFT))
    assert told[-1]["nll"] < told[0]["nll"] - 1


# --- a policy that judges itself ---------------------------------------------------------------------


def test_the_reward_within_a_policy_is_its_log_ratio_less_what_length_costs():
    policy, base = Bigram(seed=1), Bigram(seed=2)
    learner = local_learner(policy)
    episodes = [e for group in ToySampler(policy).sample(PROMPTS[:2], 2) for e in group]
    reward = ImplicitReward(learner, policy, base, beta=0.7, cost=0.1)
    for episode, score in zip(episodes, reward(episodes), strict=True):
        last, gap = episode.prompt.tokens[-1], 0.0
        for token in episode.tokens:
            gap += (policy.next.weight[last].log_softmax(-1) - base.next.weight[last].log_softmax(-1))[token].item()
            last = token
        assert score.value == pytest.approx(0.7 * gap - 0.1 * len(episode.tokens), abs=1e-5)
    assert reward([]) == []


def test_a_policy_that_judges_itself_goes_on_where_preferences_led_it():
    """It was tilted by r/β once. On its own judgement, at the same β, it is tilted by that once more."""
    base = Bigram()
    policy = Bigram()
    with torch.no_grad():
        policy.next.weight[3] += REWARD
    judge, learner = policy.frozen(), local_learner(policy, lr=0.1, schedule=Schedule("linear", total=100))
    reward = ImplicitReward(learner, judge, base, beta=BETA)
    steps = online_dpo(
        learner, judge, ToySampler(policy, length=1), Rewarded(reward, soft), [[QUESTION] * 32] * 100,
        objective=objectives.dpo(beta=BETA),
    )  # fmt: skip
    list(steps)
    assert distance(said(policy), (said(base).log() + 2 * REWARD).softmax(-1)) <= 0.02
    assert math.isclose(said(policy).sum(), 1, rel_tol=1e-5)


def test_of_a_pair_the_policys_reply_leads_whoever_won():
    policy, _, learner = started()
    groups = ToySampler(policy).sample(PROMPTS[:3], 2)
    said = asked(learner, policy, groups)
    answers = [
        Preference(Comparison(a.prompt, options), choice)
        for (a, b), options, choice in zip(
            groups,
            [(a, b) if turned else (b, a) for (a, b), turned in zip(groups, (True, True, False), strict=True)],
            [(1.0, 0.0), (0.2, 0.8), (0.7, 0.3)],
            strict=True,
        )
    ]
    batch = sided(referred(said, answers), answers, {id(a) for a, _ in groups}).pairs
    assert batch.margin.tolist() == [1.0, -1.0, -1.0]
    own = batch.better.where(batch.margin > 0, batch.worse)
    rows = [batch.replies.tokens[row, : len(a.tokens)].tolist() for row, (a, _) in zip(own, groups, strict=True)]
    assert rows == [list(a.tokens) for a, _ in groups]
    assert batch.choice.tolist() == pytest.approx([1.0, 0.8, 0.7])


def test_the_explorers_loss_by_hand():
    """Soft label 0.8 for the reference's reply: cross-entropy of both orders, plus α times that reply's log p."""
    policy = Bigram()
    ours, theirs = reply(4, 1), reply(6, 1)
    batch = Referred(pairs([Preference(Comparison(QUESTION, (theirs, ours)), (0.8, 0.2))]), torch.zeros(2, 2))
    batch = replace(batch, pairs=replace(batch.pairs, margin=-batch.pairs.margin - 1))
    first, second = (
        sum(policy.next.weight[a].log_softmax(-1)[b].item() for a, b in ((3, said.tokens[0]), (said.tokens[0], 1)))
        for said in (theirs, ours)
    )
    won = 1 / (1 + math.exp(-0.5 * (first - second)))
    by_hand = -0.8 * math.log(won) - 0.2 * math.log(1 - won) + 0.01 * first
    _, mean = exploring(beta=0.5, alpha=0.01)(policy, batch).terms["preference"]
    assert mean.value == pytest.approx(by_hand, abs=1e-6)


# --- laws --------------------------------------------------------------------------------------------


def spin_once(policy, reference, learner):
    rows = [Demonstration(prompt, reply(5, 2, 1)) for prompt in PROMPTS]
    return spin(learner, reference, ToySampler(policy), [rows])


def xpo_once(policy, reference, learner):
    samplers = ToySampler(policy), ToySampler(policy, seed=1)
    objective = exploring(beta=0.3, alpha=0.1)
    return xpo(learner, reference, *samplers, Rewarded(many_fives, soft), [PROMPTS], objective=objective)


def nash_once(policy, reference, learner):
    samplers = ToySampler(policy), ToyMixture(policy, reference.policy, 0.3, seed=1)
    return nash_md(learner, reference, *samplers, Rewarded(many_fives, soft), [PROMPTS], n=3)


def distill_once(policy, _, learner):
    return distill(learner, Bigram(seed=5).frozen(), ToySampler(policy), [PROMPTS])


def raft_once(policy, reference, learner):
    return raft(learner, reference, ToySampler(policy), many_fives, [PROMPTS])


@pytest.mark.parametrize("once", [spin_once, xpo_once, nash_once, distill_once, raft_once])
def test_where_a_step_is_cut_does_not_matter(once):
    """Prompt by prompt or all at once: the same gradient, and the same metrics."""
    found = []
    for budget in (1, 10_000):
        policy = Bigram()
        learner = LocalLearner(policy, torch.optim.SGD(policy.parameters(), lr=1.0), token_budget=budget)
        learner.max_grad_norm = math.inf
        (step,) = once(policy, Follower(Bigram(seed=3)), learner)
        found.append((step, policy.next.weight.detach()))
    (first, ours), (again, theirs) = found
    assert first == pytest.approx(again, abs=1e-5)
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)
    assert not torch.equal(ours, Bigram().next.weight)


def test_nash_mds_gradient_by_hand():
    """Two tokens: -(P - ½ - τ·(what is left of the log-ratio))·log π, summed."""
    policy, reference = Bigram(), Bigram(seed=3)
    learner = LocalLearner(policy, torch.optim.SGD(policy.parameters(), lr=1.0), max_grad_norm=math.inf)
    before = policy.next.weight.detach().clone().requires_grad_()
    (group,) = ToySampler(policy, length=2).sample([QUESTION], 1)
    (mine,) = group
    samplers = ToySampler(policy, length=2), ToySampler(reference, length=2, seed=9)
    samplers[1].load = lambda weights, version: None

    def nine_tenths(comparisons):
        return [Preference(comparison, (0.9, 0.1)) for comparison in comparisons]

    list(nash_md(learner, reference, *samplers, nine_tenths, [[QUESTION]], tau=0.2))
    tokens = (QUESTION.tokens[-1], *mine.tokens)
    own = [before[a].log_softmax(-1)[b] for a, b in pairwise(tokens)]
    other = [reference.next.weight[a].log_softmax(-1)[b] for a, b in pairwise(tokens)]
    ratios = [(a - b).item() for a, b in zip(own, other, strict=True)]
    loss = -sum((0.4 - 0.2 * sum(ratios[t:])) * each for t, each in enumerate(own))
    (gradient,) = torch.autograd.grad(loss, before)
    torch.testing.assert_close(policy.next.weight.detach(), before.detach() - gradient, atol=1e-5, rtol=1e-4)
