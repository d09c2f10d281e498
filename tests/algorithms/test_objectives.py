"""DPO's relatives: each learns, honours soft labels and margins, and is what its paper says on whole replies."""

import math
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch.nn.functional import logsigmoid

from preferent.algorithms import objectives
from preferent.algorithms.aot import aot, matched
from preferent.algorithms.dpo import DPO, Objective, Referred, Side, dpo, mixed, referred, together
from preferent.algorithms.tr_dpo import tr_dpo
from preferent.algorithms.wpo import weighted
from preferent.data.batches import Batches
from preferent.data.comparisons import pairs
from preferent.losses import preference as losses
from preferent.models.load import load_policy
from preferent.models.policy import Follower
from preferent.runtime.learner import LocalLearner, local_learner
from preferent.testing import END, Bigram
from preferent.types import Prompt
from toys import pairs_of, preference, referred_of, replies_of, reply, saved_policy

PROMPTS = [Prompt((5,)), Prompt((6, 3))]
# Replies with a 2 are preferred to those with a 4.
ROWS = [
    preference(PROMPTS[0], reply(2, 3, END), reply(4, 3, END)),
    preference(PROMPTS[1], reply(3, 2, END), reply(3, 4, 4, END)),
    preference(PROMPTS[1], reply(7, 4, END), reply(2, END), choice=(0.0, 1.0)),
]
ALL = {
    "dpo": objectives.dpo(),
    "cdpo": objectives.dpo(flip=0.1),
    "odpo": objectives.odpo(),
    "robust": objectives.robust_dpo(),
    "ipo": objectives.ipo(),
    "hinge": objectives.hinge(),
    "slic": objectives.slic(),
    "simpo": objectives.simpo(),
    "cpo": objectives.cpo(),
    "orpo": objectives.orpo(),
    "apo_zero": objectives.apo_zero(),
    "apo_down": objectives.apo_down(),
    "nca": objectives.nca(),
    "sppo": objectives.sppo(),
    "exo": objectives.exo(),
    "discopop": objectives.discopop(),
    "dpop": objectives.dpop(),
    "rdpo": objectives.rdpo(),
    "ld_dpo": objectives.ld_dpo(),
    "sigmoid_norm": objectives.sigmoid_norm(),
    "f_dpo": objectives.f_dpo(),
    "f_dpo, forward": objectives.f_dpo(divergence="forward"),
    "aot": aot(),
    "wpo": weighted(objectives.dpo()),
    "several": together([(objectives.dpo(), 0.8), (objectives.simpo(), 0.2)]),
}


def descent(policy, *, rate, **rest):
    """Without momentum; with a rate of 1, an update is the gradient."""
    return LocalLearner(policy, torch.optim.SGD(policy.parameters(), lr=rate), max_grad_norm=math.inf, **rest)


def gradient(objective, batch, **rest):
    """What one step of plain descent takes off the weights, and what it told."""
    policy = Bigram(seed=1).double()
    before = policy.next.weight.detach().clone()
    told = descent(policy, rate=1.0, **rest).update(batch, objective)
    return before - policy.next.weight.detach(), told


def batch(seed=0, sizes=((2, (3, 5)), (1, (4, 2, 2)), (3, (1, 3)))):
    """Pairs with random labels, margins and weights, and a random reference, in float64."""
    x = referred_of(replies_of(sizes, seed), seed)
    numbers = {name: getattr(x.pairs, name).double() for name in ("choice", "margin", "weight")}
    return Referred(replace(x.pairs, **numbers), x.reference.double())


def loss_of(objective, x, policy=None):
    """Σ over terms of weight · total / count."""
    terms = objective(policy or Bigram(seed=1).double(), x).terms
    counts = objective.counts(x)
    return sum(weight * mean.total / counts[name] for name, (weight, mean) in terms.items())


# --- learning -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(ALL.keys() - {"discopop"}))
def test_every_objective_learns_what_was_preferred(name):
    policy = Bigram(seed=3)
    learner = local_learner(policy, lr=0.05)
    told = list(dpo(learner, policy.frozen(), Batches(ROWS, 3, pairs, steps=60), objective=ALL[name]))
    assert told[0]["accuracy"] < 1
    assert told[-1]["accuracy"] == 1
    assert told[-1]["margin"] > told[0]["margin"]
    assert told[-1]["preference"] < told[0]["preference"]
    assert told[-1]["loss"] < told[0]["loss"]
    assert told[-1]["margin"] == pytest.approx(told[-1]["chosen"] - told[-1]["rejected"], abs=1e-4)


def test_discopop_learns_what_it_nearly_knew_and_elsewhere_the_opposite_up_to_its_local_optimum():
    """Its loss falls beyond h = 1.44012 and, below that, towards h = -2.3714, on both sides of which it is more.

    These are the optima that Lu et al. 2024 give for β = τ = 0.05; a policy equal to its reference, h = 0, is between.
    """
    for start, low, high in ((2.0, 5.0, math.inf), (0.0, -2.375, -2.367)):
        policy = Bigram(seed=3)
        ahead = objectives.ipo(beta=0.5 / start) if start else objectives.dpo()
        reference = policy.frozen()
        list(dpo(local_learner(policy, lr=0.05), reference, [pairs(ROWS[:1])] * 100 * bool(start), objective=ahead))
        learner = local_learner(policy, lr=0.05)
        told = list(dpo(learner, reference, [pairs(ROWS[:1])] * 300, objective=ALL["discopop"]))
        assert told[0]["margin"] == pytest.approx(start, abs=0.05)
        assert told[-1]["loss"] < told[0]["loss"]
        assert low < told[-1]["margin"] < high


@pytest.mark.parametrize("name", ["slic", "simpo", "cpo", "orpo"])
def test_what_needs_no_reference_asks_none(name):
    class Nobody:
        def read(self, x, *, entropy=False):
            raise AssertionError("asked")

    policy = Bigram()
    learner = local_learner(policy, lr=0.05)
    with_one, without = (referred(learner, who, pairs(ROWS), ALL[name]) for who in (Nobody(), None))
    assert with_one.reference.equal(without.reference)
    assert not ALL[name].referred
    (told,) = dpo(learner, Nobody(), [pairs(ROWS)], objective=ALL[name])
    assert told["skipped"] == 0


# --- labels ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(ALL.keys() - {"exo", "slic", "wpo", "several"}))
def test_a_soft_label_is_the_loss_of_both_orders_by_their_chances(name):
    """P·L(better, worse) + (1 - P)·L(worse, better), where the lead of the other order is its negative."""
    x = batch(1)
    one, zero = torch.ones_like(x.pairs.choice), torch.zeros_like(x.pairs.choice)
    swapped = replace(x.pairs, better=x.pairs.worse, worse=x.pairs.better, margin=-x.pairs.margin, choice=one)

    def each(pairs):
        """[b] losses, one pair at a time by weight."""
        found = []
        for i in range(len(pairs.choice)):
            alone = replace(pairs, weight=zero.index_fill(0, torch.tensor(i), 1.0))
            found.append(loss_of(ALL[name], replace(x, pairs=alone)))
        return torch.stack(found)

    p = x.pairs.choice
    expected = p * each(replace(x.pairs, choice=one)) + (1 - p) * each(swapped)
    torch.testing.assert_close(each(x.pairs), expected)


TOGETHER = ("dpo", "cdpo", "odpo", "robust", "ipo", "nca", "sppo", "exo", "rdpo", "ld_dpo", "sigmoid_norm",
            "f_dpo", "f_dpo, forward", "aot", "wpo")  # fmt: skip


@pytest.mark.parametrize("name", TOGETHER)
def test_a_tie_pulls_a_pair_back_together(name):
    policy = Bigram()
    reference = policy.frozen()
    list(dpo(local_learner(policy, lr=0.1), reference, [pairs(ROWS[:1])] * 20, objective=objectives.dpo(beta=1.0)))
    tie = [preference(PROMPTS[0], reply(2, 3, END), reply(4, 3, END), choice=(0.5, 0.5))]
    told = list(dpo(local_learner(policy, lr=0.05), reference, [pairs(tie)] * 150, objective=ALL[name]))
    assert told[0]["margin"] > 1
    assert abs(told[-1]["margin"]) < 0.1


@pytest.mark.parametrize("name", ["apo_zero", "hinge"])
def test_of_a_tie_some_say_nothing(name):
    """½[1 - σ(c) + σ(r)] + ½[1 - σ(r) + σ(c)] = 1; and a hinge is flat while both orders are within its margin."""
    x = batch(2)
    tie = replace(x, pairs=replace(x.pairs, choice=torch.full_like(x.pairs.choice, 0.5)))
    pull, told = gradient(ALL[name], tie)
    assert pull.abs().max() < 1e-12
    assert told["preference"] == pytest.approx(1)


LOGIT = math.log(0.8 / 0.2)


@pytest.mark.parametrize(
    ("objective", "h"),
    [
        (objectives.dpo(beta=0.5), LOGIT / 0.5),
        (objectives.exo(beta=0.5, flip=1e-6), LOGIT / 0.5),
        (objectives.ipo(beta=0.5), (0.8 - 0.5) / 0.5),
        (objectives.sppo(beta=0.5), 2 * (0.8 - 0.5) / 0.5),
        (objectives.odpo(beta=0.5), (1.5 + LOGIT) / 0.5),
        (objectives.rdpo(beta=0.5, alpha=0.3), (LOGIT + 0.3) / 0.5),  # the better reply is one token shorter
        (objectives.sigmoid_norm(beta=0.5), None),
    ],
    ids=["dpo", "exo", "ipo", "sppo", "odpo", "rdpo", "sigmoid_norm"],
)
def test_where_a_soft_label_ends_by_hand(objective, h):
    """One pair with P = 0.8 and a margin of 1.5; replies of 2 and 3 tokens. Mostly, β·h is the label's logit."""
    prompt = Prompt((5,), {"margin": 1.5})
    pair = pairs([preference(prompt, reply(2, END), reply(4, 3, END), choice=(0.8, 0.2))])
    policy = Bigram()
    told = list(dpo(local_learner(policy, lr=0.03), policy.frozen(), [pair] * 400, objective=objective))
    assert told[-1]["margin"] == pytest.approx(LOGIT / 0.5 if h is None else h, abs=0.02)


def test_odpo_asks_for_the_datas_margin_and_dpo_does_not_read_it():
    x = batch(3)
    more = replace(x, pairs=replace(x.pairs, margin=x.pairs.margin + 1))
    assert not torch.allclose(loss_of(objectives.odpo(), more), loss_of(objectives.odpo(), x), rtol=1e-3)
    assert loss_of(objectives.dpo(), more) == loss_of(objectives.dpo(), x)
    none = replace(x, pairs=replace(x.pairs, margin=torch.zeros_like(x.pairs.margin)))
    torch.testing.assert_close(loss_of(objectives.odpo(), none), loss_of(objectives.dpo(), none))


# --- several at once ------------------------------------------------------------------------------


def test_several_at_once_are_the_weighted_sum_in_value_and_gradient():
    x = batch(4)
    parts = [(objectives.dpo(), 0.8), (objectives.slic(), 0.3), (weighted(objectives.ipo()), 0.1)]
    pull, told = gradient(together(parts), x)
    apart = [(weight, *gradient(part, x)) for part, weight in parts]
    torch.testing.assert_close(pull, sum(weight * each for weight, each, _ in apart))
    assert told["loss"] == pytest.approx(sum(weight * said["loss"] for weight, _, said in apart))
    whole = together(parts)
    assert whole.referred
    assert whole.entropy
    assert whole.likelihood == pytest.approx(0.3)
    assert not together([(objectives.simpo(), 1.0), (objectives.cpo(), 1.0)]).referred


def test_what_one_prepares_the_others_see():
    """AOT beside DPO: the batch is prepared once, and both losses are as they are alone."""
    x, learner = batch(5), local_learner(Bigram(seed=1).double(), lr=0.1)
    ready = matched(learner, x, beta=0.1)
    both = together([(objectives.dpo(), 0.5), (aot(), 2.0)])
    assert both.prepare(learner, x).pairs.margin.equal(ready.pairs.margin)
    expected = 0.5 * loss_of(objectives.dpo(), x) + 2 * loss_of(aot(), ready)
    torch.testing.assert_close(loss_of(both, ready), expected)


# --- lengths --------------------------------------------------------------------------------------


def by_hand():
    """Two pairs of replies of 3 and 1, and 2 and 4 learned tokens; what a policy and a reference say of each token."""
    x = pairs(
        [
            preference(PROMPTS[0], reply(2, 3, END), reply(END)),
            preference(PROMPTS[1], reply(4, END), reply(2, 2, 3, END), choice=(0.0, 1.0)),
        ]
    )
    policy, reference = Bigram(seed=1).double(), Bigram(seed=2).double()
    ratio = (policy.read(x.replies).logprobs - reference.read(x.replies).logprobs).detach()
    return policy, Referred(x, reference.read(x.replies).logprobs.detach()), ratio


def test_ld_dpo_weighs_what_is_longer_less_by_hand():
    """Pair 1: 3 tokens against 1, so two of the first count α; pair 2: 4 against 2, and two of the better count α."""
    policy, x, ratio = by_hand()
    assert x.pairs.better.tolist() == [0, 3]
    alpha = 0.25
    first = ratio[0, 0] + alpha * (ratio[0, 1] + ratio[0, 2]) - ratio[1, 0]
    second = ratio[3, 0] + ratio[3, 1] + alpha * (ratio[3, 2] + ratio[3, 3]) - ratio[2, 0] - ratio[2, 1]
    expected = -logsigmoid(0.1 * torch.stack([first, second])).mean()
    torch.testing.assert_close(loss_of(objectives.ld_dpo(alpha=alpha), x, policy), expected)
    whole = loss_of(objectives.ld_dpo(alpha=1.0), x, policy)
    torch.testing.assert_close(whole, loss_of(objectives.dpo(), x, policy))


def test_ld_dpo_counts_learned_tokens_only():
    x = batch(6)
    length = x.pairs.replies.learn.sum(-1)
    alike = length[x.pairs.better] == length[x.pairs.worse]
    assert alike.any()
    assert not alike.all()
    same = replace(x, pairs=replace(x.pairs, weight=x.pairs.weight.where(alike, 0)))
    torch.testing.assert_close(loss_of(objectives.ld_dpo(alpha=0.1), same), loss_of(objectives.dpo(), same))


def test_length_normalised_ratios_and_r_dpos_lengths_by_hand():
    policy, x, ratio = by_hand()
    sums, lengths = ratio.sum(-1), torch.tensor([3, 1, 2, 4])
    better, worse = [0, 3], [1, 2]
    mean = sums / lengths
    expected = -logsigmoid(5.0 * (mean[better] - mean[worse])).mean()
    torch.testing.assert_close(loss_of(objectives.sigmoid_norm(), x, policy), expected)
    longer = 0.2 * (lengths[better] - lengths[worse])
    expected = -logsigmoid(0.1 * (sums[better] - sums[worse]) + longer).mean()
    torch.testing.assert_close(loss_of(objectives.rdpo(alpha=0.2), x, policy), expected)


def test_losses_without_a_reference_by_hand():
    policy, x, _ = by_hand()
    logp, lengths = policy.read(x.pairs.replies).logprobs.sum(-1).detach(), torch.tensor([3, 1, 2, 4])
    better, worse = [0, 3], [1, 2]
    mean = logp / lengths
    odds = mean - (1 - mean.exp()).log()
    expected = {
        "simpo": -logsigmoid(2 * (mean[better] - mean[worse]) - 1),
        "cpo": -logsigmoid(0.1 * (logp[better] - logp[worse])) - mean[better],
        "orpo": -0.1 * logsigmoid(odds[better] - odds[worse]) - mean[better],
        # The likelihood is a term of its own, averaged over all 7 tokens of the better replies.
        "slic": (1 - (logp[better] - logp[worse])).relu() - logp[better].sum() / 7,
    }
    for name, each in expected.items():
        torch.testing.assert_close(loss_of(ALL[name], x, policy), each.mean(), msg=name)


# --- WPO ------------------------------------------------------------------------------------------


def test_wpo_weighs_a_pair_by_what_the_policy_would_say_and_is_not_pulled_by_the_weight():
    """Some pairs are likelier than what the policy draws, and weigh 1; others less."""
    policy, x = Bigram(seed=1).double(), batch(6)
    replies = x.pairs.replies
    read, lengths = policy.read(replies, entropy=True), replies.learn.sum(-1)
    surprise = (read.logprobs + read.entropy).detach().sum(-1) / lengths
    weights = (surprise[x.pairs.better] + surprise[x.pairs.worse]).exp()
    assert weights.min() < 0.9
    assert weights.max() > 1.1
    weighed = replace(x, pairs=replace(x.pairs, weight=x.pairs.weight * weights.clamp(max=1)))
    total = weighted(DPO)(policy, x).terms["preference"][1].total
    expected = DPO(policy, weighed).terms["preference"][1].total
    torch.testing.assert_close(total, expected)
    both = [torch.autograd.grad(each, policy.next.weight)[0] for each in (total, expected)]
    torch.testing.assert_close(*both)


def test_what_a_certain_policy_says_weighs_one_and_what_it_never_would_nothing():
    policy = Bigram()
    with torch.no_grad():
        policy.next.weight.zero_()
        policy.next.weight[:, 3] = 50.0
    said, never = reply(3, 3), reply(2, 2)
    x = pairs([preference(PROMPTS[0], said, reply(3, 3, 3)), preference(PROMPTS[1], said, never)])
    ones = Objective(lambda better, worse: torch.ones_like(better.chance))
    batch = Referred(x, torch.zeros(x.replies.tokens.shape))
    learner = local_learner(policy, lr=0.0)
    assert learner.measure([batch], weighted(ones))["preference"] == pytest.approx((1 + 0) / 2, abs=1e-5)


# --- AOT ------------------------------------------------------------------------------------------


def sorted_differences(x, policy, beta, choice=1.0):
    """The paper's loss, as TRL writes it: both sides' differences sorted over the whole step."""
    logp = policy.read(x.pairs.replies).logprobs.sum(-1)
    reference = x.reference.sum(-1)
    own = (logp[x.pairs.better] - logp[x.pairs.worse]).sort().values
    other = (reference[x.pairs.better] - reference[x.pairs.worse]).sort().values
    delta = beta * (own - other)
    return -(choice * logsigmoid(delta) + (1 - choice) * logsigmoid(-delta)).mean()


@pytest.mark.parametrize("choice", [1.0, 0.9])
@pytest.mark.parametrize("budget", [1, 14, 1000])
def test_aot_compares_sorted_differences_in_value_and_gradient_however_the_step_is_cut(choice, budget):
    x, policy = batch(7), Bigram(seed=1).double()
    ones = torch.ones_like(x.pairs.choice)
    x = replace(x, pairs=replace(x.pairs, choice=choice * ones, weight=ones))
    expected = sorted_differences(x, policy, 0.7, choice)
    (pull,) = torch.autograd.grad(expected, policy.next.weight)
    learner = descent(Bigram(seed=1).double(), rate=1.0, token_budget=budget)
    got, told = gradient(aot(beta=0.7), matched(learner, x, beta=0.7), token_budget=budget)
    assert told["loss"] == pytest.approx(expected.item())
    torch.testing.assert_close(got, pull)
    one_by_one, _ = gradient(objectives.dpo(beta=0.7), x)
    assert not torch.allclose(got, one_by_one)


def test_a_tie_has_no_rank_in_aot_in_whichever_order_its_options_stand():
    """It has no offset, and the others' are those of a step without it."""
    learner = local_learner(Bigram(seed=1), lr=0.1)
    tie = [reply(2, 3, END), reply(4, 5, 6, END)]
    rows = [
        preference(Prompt((2, 5)), reply(2, 3, END), reply(END)),
        preference(Prompt((6,)), reply(4, END), reply(2, 2, 3, END)),
        preference(Prompt((7,)), reply(5, 5, END), reply(3, END)),
        preference(Prompt((7, 2)), reply(6, 4, 4, END), reply(2, END)),
    ]
    offsets = []
    for options in (tie, tie[::-1], None):
        own = [preference(PROMPTS[0], *options, choice=(0.5, 0.5))] if options else []
        x = referred(learner, Bigram(seed=2).frozen(), pairs([*own, *rows]), aot(beta=1.0))
        offsets.append(x.pairs.margin.tolist())
    assert offsets[0] == offsets[1] == [0.0, *offsets[2]]
    assert any(offsets[2])


def test_aot_of_one_pair_is_dpo():
    one = pairs(ROWS[:1])
    losses = []
    for objective in (aot(beta=0.3), objectives.dpo(beta=0.3)):
        policy = Bigram(seed=1)
        steps = dpo(descent(policy, rate=0.5), Bigram(seed=2).frozen(), [one] * 3, objective=objective)
        losses.append([told["loss"] for told in steps])
    assert losses[0] == pytest.approx(losses[1])


# --- TR-DPO ---------------------------------------------------------------------------------------


def test_the_reference_goes_its_share_of_the_way_every_so_many_steps():
    policy = Bigram()
    start = policy.next.weight.detach().clone()
    follower = Follower(policy)
    steps = tr_dpo(local_learner(policy, lr=0.1), follower, [pairs(ROWS)] * 4, share=0.25, every=2)
    next(steps)
    assert follower.policy.next.weight.equal(start)
    next(steps)
    first = start.lerp(policy.next.weight.detach(), 0.25)
    torch.testing.assert_close(follower.policy.next.weight, first)
    next(steps)
    torch.testing.assert_close(follower.policy.next.weight, first)
    next(steps)
    torch.testing.assert_close(follower.policy.next.weight, first.lerp(policy.next.weight.detach(), 0.25))
    assert not follower.policy.next.weight.requires_grad


def test_the_whole_way_is_the_policy_itself_and_the_margin_starts_anew():
    policy = Bigram()
    follower = Follower(policy)
    told = list(tr_dpo(local_learner(policy, lr=0.1), follower, [pairs(ROWS)] * 5, share=1.0, every=4))
    assert told[3]["margin"] > 0.5
    assert told[4]["margin"] == pytest.approx(0, abs=1e-6)
    assert told[4]["loss"] == pytest.approx(math.log(2))


def test_where_the_reference_has_come_to_is_kept_and_restored():
    policy = Bigram()
    follower, fresh = Follower(policy), Follower(policy)
    list(tr_dpo(local_learner(policy, lr=0.1), follower, [pairs(ROWS)] * 3, share=0.5, every=1))
    state = {"weights": {name: p.clone() for name, p in follower.state_dict()["weights"].items()}}
    fresh.load_state_dict(state)
    x = pairs_of(replies_of([(2, (3, 5))])).replies
    assert fresh.read(x).logprobs.equal(follower.read(x).logprobs)
    assert not fresh.read(x).logprobs.equal(Bigram().read(x).logprobs)


@pytest.mark.parametrize("lora", [0, 2])
def test_a_following_language_model_shares_what_is_frozen_and_says_what_the_policy_said(tmp_path, lora):
    policy = load_policy(saved_policy(tmp_path), lora=lora, device="cpu")
    follower = Follower(policy)
    owned = {p.data_ptr() for p in policy.parameters()}
    apart = {name for name, p in follower.policy.named_parameters() if p.data_ptr() not in owned}
    trained = {name for name, p in policy.named_parameters() if p.requires_grad}
    assert apart == trained == set(follower.state_dict()["weights"])
    assert (len(trained) < len(owned)) == bool(lora)
    x = replies_of([(4, (3, 5)), (3, (6, 2))], high=60)
    told = list(tr_dpo(local_learner(policy, lr=1e-2), follower, [pairs_of(x)] * 3, share=1.0, every=3))
    assert told[-1]["margin"] != pytest.approx(0, abs=1e-4)
    torch.testing.assert_close(follower.read(x).logprobs, policy.read(x).logprobs.detach())
    assert {name for name, p in policy.named_parameters() if p.requires_grad} == trained
    assert not any(p.requires_grad for p in follower.policy.parameters() if id(p) not in owned)


# --- numbers that cannot be -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (partial(objectives.robust_dpo, flip=0.5), "for ties use dpo"),
        (partial(objectives.exo, flip=0.0), "0 < flip < 1"),
        (partial(objectives.f_dpo, divergence="alpha", alpha=1.0), "needs 0 < alpha < 1"),
        (partial(objectives.f_dpo, divergence="forward", alpha=0.5), "the α-divergence only"),
    ],
)
def test_numbers_that_a_loss_cannot_take_are_refused_where_it_is_made(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_loss_of_ones_own_is_a_function_of_two_sides():
    """What docs say of a new objective: a function in losses, or here one of one's own, and three lines."""

    def loss(better: Side, worse: Side):
        return losses.dpo(better.mean_ratio(), worse.mean_ratio(), beta=5.0)

    policy, x, _ = by_hand()
    torch.testing.assert_close(
        loss_of(Objective(mixed(loss)), x, policy), loss_of(objectives.sigmoid_norm(), x, policy)
    )
