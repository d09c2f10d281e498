"""KTO and BCO start at their reference, move good replies up and bad ones down, and keep their baselines' word."""

import math
from dataclasses import replace
from functools import partial

import pytest
import torch

from bandit import BETA, REWARD, distance
from preferent.algorithms.kto import BCO, KTO, Held, Shift, bco, drift, held, kto
from preferent.data.batches import Batches
from preferent.data.columns import Unpaired
from preferent.data.rated import Collate, Neighbours, Rated
from preferent.losses import unpaired
from preferent.runtime.learner import LocalLearner, Schedule, local_learner
from preferent.testing import END, Bigram
from preferent.testing.conformance import check_learner
from preferent.types import Prompt
from toys import replies_of, reply

PROMPTS = [Prompt((5,)), Prompt((6, 3)), Prompt((3, 7))]
# Replies with a 2 are good and those with a 4 are bad.
GROUPS = [
    [Unpaired(PROMPTS[0], reply(2, 3, END), True), Unpaired(PROMPTS[0], reply(4, 3, END), False)],
    [Unpaired(PROMPTS[1], reply(3, 2, END), True)],
    [Unpaired(PROMPTS[2], reply(7, 4, 4, END), False), Unpaired(PROMPTS[2], reply(2, END), True)],
]
ROWS = Neighbours(GROUPS)
ALL = Collate()(list(ROWS))


def trained(name, steps=60, rate=0.05):
    policy = Bigram()
    reference, learner = policy.frozen(), local_learner(policy, lr=rate)
    batches = Batches(ROWS, 3, Collate(), steps=steps)
    if name == "apo-zero":
        batches = Batches(Neighbours(GROUPS, others=False), 3, Collate(), steps=steps)
    if name in ("kto", "apo-zero"):
        return policy, list(kto(learner, reference, batches))
    return policy, list(bco(learner, reference, batches, shift=Shift()))


def log_ratio(policy, x):
    return policy.read(x).logprobs.sum(-1) - Bigram().read(x).logprobs.sum(-1)


@pytest.mark.parametrize(("name", "loss"), [("kto", 0.5), ("apo-zero", 0.5), ("bco", math.log(2))])
def test_it_starts_at_its_reference_with_a_known_loss_and_parts_good_from_bad(name, loss):
    """1 - σ(0) = ½; -logσ(0) = log 2."""
    policy, told = trained(name)
    assert told[0]["rating"] == pytest.approx(loss)
    assert (told[0]["accuracy"], told[0]["baseline"], told[0]["margin"]) == (0.5, 0, 0)
    assert told[0]["desirable"] == pytest.approx(3 / 5)
    assert told[-1]["accuracy"] == 1
    assert told[-1]["chosen"] > 1 > -1 > told[-1]["rejected"]
    with torch.no_grad():
        assert (log_ratio(policy, ALL.replies) > told[-1]["baseline"]).equal(ALL.desirable > 0.5)


def test_the_baseline_of_kto_is_the_mean_ratio_of_replies_to_other_prompts_and_never_below_zero():
    policy, reference = Bigram(seed=1), Bigram(seed=2)
    with torch.no_grad():
        ratios = policy.read(ALL.others).logprobs.sum(-1) - reference.read(ALL.others).logprobs.sum(-1)
    assert len(ratios) == 5
    both = [drift(local_learner(one), two, ALL) for one, two in ((policy, reference), (reference, policy))]
    assert sorted(both) == [0.0, pytest.approx(abs(ratios.mean().item()))]
    assert drift(local_learner(policy), reference, Collate()(list(Neighbours(GROUPS, others=False)))) == 0


def test_without_others_it_is_apo_zero():
    """1 - σ(β·ratio) for the good ones, σ(β·ratio) for the bad, whatever the policy's drift."""
    policy, reference = Bigram(seed=1), Bigram(seed=2).frozen()
    alone = replace(ALL, others=None)
    with torch.no_grad():
        ratio = policy.read(ALL.replies).logprobs.sum(-1) - reference.read(ALL.replies).logprobs.sum(-1)
    expected = torch.where(ALL.desirable > 0.5, 1 - (0.1 * ratio).sigmoid(), (0.1 * ratio).sigmoid()).mean()
    (step,) = kto(local_learner(policy), reference, [alone])
    assert (step["loss"], step["baseline"]) == (pytest.approx(expected.item(), rel=1e-5), 0)


@pytest.mark.parametrize("budget", [1, 9, 1000])
def test_the_update_and_the_baseline_do_not_depend_on_the_cuts(budget):
    """The baseline is that of the whole step, whatever the learner may read at once."""
    policy, reference = Bigram(seed=1), Bigram(seed=2).frozen()
    whole, cut = (local_learner(policy, token_budget=size) for size in (1000, budget))
    z = [drift(learner, reference, ALL) for learner in (whole, cut)]
    assert z[0] == pytest.approx(z[1], rel=1e-6)
    found = [held(learner, reference, ALL, z[0]) for learner in (whole, cut)]
    torch.testing.assert_close(found[0].reference, found[1].reference)
    assert found[0].baseline.unique().tolist() == [pytest.approx(z[0])]


@pytest.mark.parametrize("objective", [KTO, BCO], ids=["kto", "bco"])
def test_the_learners_law_holds(objective):
    x = replies_of([(2, (3, 5)), (1, (4,)), (3, (2, 6, 3))])
    key = torch.Generator().manual_seed(0)
    good, weight, said = torch.rand(3, 6, generator=key)
    batch = Held(x, good, weight + 0.5, said - 20, torch.full((6,), 0.3))
    check_learner(lambda budget: local_learner(Bigram(), lr=0.1, token_budget=budget), batch, objective)


def test_the_gradient_of_a_step_is_that_of_its_own_replies_alone():
    """By hand: good against bad with one baseline; the others, on which it is measured, get none of it."""
    policy, reference = Bigram(seed=1), Bigram(seed=2).frozen()
    learner = LocalLearner(policy, torch.optim.SGD(policy.parameters(), lr=0.0))
    batch = held(learner, reference, ALL, drift(learner, reference, ALL))
    learner.update(batch, KTO)
    got = policy.next.weight.grad.clone()
    fresh = Bigram(seed=1)
    x, good = batch.replies, batch.desirable
    ratio = fresh.read(x).logprobs.sum(-1) - reference.read(x).logprobs.sum(-1)
    gain = torch.sigmoid(0.1 * (ratio - batch.baseline))
    torch.where(good > 0.5, 1 - gain, gain).mean().backward()
    norm = fresh.next.weight.grad.norm().clamp(min=1)  # the learner clips at 1
    torch.testing.assert_close(got, fresh.next.weight.grad / norm)


def test_the_shift_is_midway_between_both_kinds_and_keeps_what_a_step_says_nothing_of():
    shift = Shift(decay=0.5)
    shift.see({"desirable": 0.5, "chosen": 2.0, "rejected": -4.0})
    assert (shift.chosen, shift.rejected, shift.value) == (1, -2, -0.5)
    shift.see({"desirable": 1.0, "chosen": 3.0, "rejected": 0.0})
    assert (shift.chosen, shift.rejected) == (2, -2)
    shift.see({"desirable": 0.0, "chosen": 0.0, "rejected": math.nan})
    assert (shift.chosen, shift.rejected) == (2, -2)
    other = Shift()
    other.load_state_dict(shift.state_dict())
    assert other.value == shift.value == 0


def test_bco_takes_its_shift_from_the_steps_before():
    _, told = trained("bco", steps=3)
    shift = Shift()
    for step in told:
        assert step["baseline"] == pytest.approx(shift.value, abs=1e-6)
        shift.see(step)
    assert told[2]["baseline"] != 0


# --- where they end, on a bandit: one prompt, all replies of one token, each as common in the data ---

CENTRE = 0.186803  # REWARD less this has class means with 0 midway, under the labels that it makes


def ended(run, good, steps=150):
    """How often each reply is said in the end, as the reference has it, and at π* ∝ π_ref·exp(r/β)."""
    policy = Bigram()
    reference, x = policy.frozen(), replies_of([(1, (1,) * 8)])
    x = replace(x, prompts=torch.tensor([[3]]), tokens=torch.arange(8)[:, None])
    learner = local_learner(policy, lr=0.1, schedule=Schedule("linear", total=steps))
    told = list(run(learner, reference, [Rated(x, good, torch.ones(8))] * steps))
    found, start = (one.next.weight.detach()[3].softmax(-1) for one in (policy, reference))
    return found, start, (start.log() + REWARD / BETA).softmax(-1), told


def test_bco_on_soft_labels_reaches_the_best_policy_where_its_shift_lies_where_a_reply_is_neither_good_nor_bad():
    """Labels σ(r - c): the logit β·ratio - δ is r - c, so π = π*, if δ may be what lets all sum to 1.

    δ is midway between the means of good and of bad, so r - c must have them at equal distance from 0. Where it has
    not, what BCO ends at is not π*.
    """
    mean = [(p * (REWARD - CENTRE)).sum() / p.sum() for p in ((REWARD - CENTRE).sigmoid(), (CENTRE - REWARD).sigmoid())]
    assert sum(mean).item() == pytest.approx(0, abs=1e-5)
    run = partial(bco, objective=replace(BCO, loss=partial(unpaired.bco, beta=BETA)))
    found, start, goal, _ = ended(partial(run, shift=Shift()), (REWARD - CENTRE).sigmoid())
    assert distance(start, goal) > 0.3
    assert distance(found, goal) <= 0.02
    found, _, goal, _ = ended(partial(run, shift=Shift()), REWARD.sigmoid())
    assert distance(found, goal) > 0.1


def test_kto_has_no_optimum_but_goes_on_raising_what_is_more_often_good_than_bad():
    """Its loss is monotone in a ratio, up or down by whether the label is above ½: how far above is lost."""
    run = partial(kto, objective=replace(KTO, loss=partial(unpaired.kto, beta=BETA)))
    ends = [ended(run, REWARD.sigmoid(), steps) for steps in (100, 400)]
    told = [told[-1]["rating"] for *_, told in ends]
    assert told[1] < told[0] < ends[0][-1][0]["rating"]
    found, start, goal, _ = ends[1]
    assert distance(found, goal) > 0.1
    assert (found < start)[REWARD < 0].all()
