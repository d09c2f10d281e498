"""The learner: how a batch is cut cannot matter, steps have the right length, and what is no number moves nothing."""

import math
from dataclasses import dataclass, fields, replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import nn

from preferent.algorithms import dpo, grpo, objectives, ppo
from preferent.algorithms.aot import aot, matched
from preferent.algorithms.reward_model import BradleyTerry
from preferent.algorithms.rollouts import Rollouts
from preferent.algorithms.sft import Likelihood
from preferent.algorithms.wpo import weighted
from preferent.losses.means import over_sequences, over_tokens
from preferent.models.load import actor_critic
from preferent.runtime.learner import LocalLearner, NotFinite, Schedule, joined, local_learner
from preferent.testing import Bigram, check_learner
from preferent.types import Loss, Mean, Reading
from toys import SIZES, referred_of, replies_of, tiny_policy

law = settings(deadline=None, max_examples=10)
SEEDS = st.integers(0, 2**31 - 1)


def descent(model, *, rate=1.0, **rest):
    """Plain gradient descent: an update is the gradient."""
    return LocalLearner(model, torch.optim.SGD(model.parameters(), lr=rate), **rest)


def noise(x, seed, n):
    key = torch.Generator().manual_seed(seed)
    return [torch.randn(x.tokens.shape, generator=key, dtype=torch.float64) for _ in range(n)]


def rollouts(x, seed):
    old, reference, advantage = noise(x, seed, 3)
    return Rollouts(x, old - 2, reference - 2, advantage)


def critiqued(x, seed):
    old, reference, advantage, value, target = noise(x, seed, 5)
    return ppo.Critiqued(x, old - 2, reference - 2, advantage, value, target)


# What each algorithm gives its learner: (objective, batch from replies and a seed).
OBJECTIVES = {
    "sft": (Likelihood(), lambda x, seed: x),
    "sft over sequences": (Likelihood(over_sequences), lambda x, seed: x),
    "reward, centred": (BradleyTerry(centring=0.3), lambda x, seed: referred_of(x, seed).pairs),
    "dpo with likelihood": (replace(dpo.DPO, likelihood=0.5), referred_of),
    "relatives with a reference": (
        dpo.together(
            [
                (objectives.odpo(), 0.7),
                (objectives.robust_dpo(), 0.6),
                (objectives.ipo(), 0.1),
                (objectives.hinge(), 0.8),
                (objectives.apo_zero(), 0.9),
                (objectives.apo_down(), 1.1),
                (objectives.nca(), 1.2),
                (objectives.sppo(beta=0.1), 0.1),
                (objectives.exo(), 1.3),
                (objectives.discopop(), 1.4),
                (objectives.dpop(), 0.1),
                (objectives.rdpo(), 1.5),
                (objectives.ld_dpo(), 1.6),
                (objectives.sigmoid_norm(), 0.5),
                (objectives.f_dpo(), 0.4),
            ]
        ),
        referred_of,
    ),
    "relatives without": (
        dpo.together(
            [(objectives.slic(), 1.0), (objectives.simpo(), 2.0), (objectives.cpo(), 3.0), (objectives.orpo(), 4.0)]
        ),
        referred_of,
    ),
    "wpo": (weighted(objectives.ipo()), referred_of),
    "aot": (aot(), lambda x, seed: matched(local_learner(Bigram(), lr=0.1), referred_of(x, seed), beta=0.1)),
    "grpo": (grpo.GRPO, rollouts),
    "dr-grpo": (grpo.DR_GRPO, rollouts),
    "rloo": (grpo.RLOO, rollouts),
    "dapo": (grpo.DAPO, rollouts),
    "ppo": (ppo.Objective(ppo.Config()), critiqued),
}
every_objective = pytest.mark.parametrize("name", OBJECTIVES)


# --- cuts -----------------------------------------------------------------------------------------


@every_objective
@law
@given(sizes=SIZES, seed=SEEDS, budget=st.integers(1, 40))
def test_the_update_does_not_depend_on_the_token_budget(name, sizes, seed, budget):
    objective, collate = OBJECTIVES[name]
    batch = cast(collate(replies_of(sizes, seed), seed), torch.float64)
    whole, cut = (descent(Bigram().double(), token_budget=size) for size in (10**6, budget))
    for _ in range(2):
        told, said = whole.update(batch, objective), cut.update(batch, objective)
        for metric in told.keys() - {"accuracy"}:  # which jumps where rounding makes or breaks a tie
            assert said[metric] == pytest.approx(told[metric], rel=1e-9, abs=1e-9), metric
    for one, other in zip(whole.model.parameters(), cut.model.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


@every_objective
def test_the_learner_keeps_its_law_under_every_objective(name):
    objective, collate = OBJECTIVES[name]
    batch = collate(replies_of([(2, (3, 5)), (1, (2, 2, 1)), (4, (1, 2))], 3), 3)
    check_learner(lambda budget: local_learner(Bigram(), lr=0.1, token_budget=budget), batch, objective)


@pytest.mark.parametrize("name", ["sft", "dpo with likelihood", "grpo", "ppo"])
def test_the_learner_keeps_its_law_on_a_language_model(name):
    """The packed rows differ from cut to cut, too. Adam would blow up the rounding of the smallest gradients."""
    objective, collate = OBJECTIVES[name]
    batch = collate(replies_of([(4, (3, 5)), (3, (6, 2, 1)), (5, (4, 2)), (2, (3, 3))], 1, high=60), 1)

    def make(budget):
        policy = tiny_policy()
        return descent(actor_critic(policy) if name == "ppo" else policy, rate=0.05, token_budget=budget)

    check_learner(make, cast(batch, torch.float32), objective, tolerance=1e-5)


def cast(batch, dtype):
    """The batch with its numbers, and those of the batches in it, in one precision."""
    made = {}
    for f in fields(batch):
        value = getattr(batch, f.name)
        if isinstance(value, torch.Tensor):
            made[f.name] = value.to(dtype) if value.is_floating_point() else value
        else:
            made[f.name] = cast(value, dtype)
    return replace(batch, **made)


def test_every_term_is_divided_by_its_own_count_over_the_whole_step():
    """Terms 2·Σa/4 and Σb/10 over three prompts with a = 1, 2, 3 and b = 10, 20, 30: 2·6/4 + 60/10 = 9."""

    @dataclass(frozen=True)
    class TwoTerms:
        def counts(self, x):
            n = torch.tensor(len(x))
            return {"a": n + (x.prompt_length == 2).sum(), "b": 3 * n + (x.prompt_length == 3).sum()}

        def __call__(self, model, x):
            a = model.weight.sum() * x.prompt_length.sum()
            counts = self.counts(x)
            return Loss({"a": (2.0, Mean(a, counts["a"])), "b": (1.0, Mean(10 * a, counts["b"]))})

    for budget in (1, 100):
        model = nn.Linear(1, 1, bias=False)
        nn.init.ones_(model.weight)
        metrics = descent(model, token_budget=budget, max_grad_norm=math.inf).update(
            replies_of([(1, (1,)), (2, (1,)), (3, (1,))]), TwoTerms()
        )
        assert metrics["loss"] == pytest.approx(9)
        assert metrics["grad_norm"] == pytest.approx(9)
        assert model.weight.item() == pytest.approx(1 - 9)
        assert (metrics["a"], metrics["b"]) == (pytest.approx(1.5), pytest.approx(6))


def test_what_is_left_out_of_a_step_counts_in_the_loss_that_is_told():
    """Σa/3 over prompts with a = 1, 2, 3 of which the last has nothing to say: (1 + 2)/3, in loss and gradient."""

    @dataclass(frozen=True)
    class Sparing:
        def counts(self, x):
            return {"a": torch.tensor(len(x))}

        def moving(self, x):
            return (x.prompt_length < 3).nonzero().flatten().tolist()

        def __call__(self, model, x):
            a = model.weight.sum() * x.prompt_length.sum()
            return Loss({"a": (2.0, Mean(a, self.counts(x)["a"]))}, {"seen": Mean(a, self.counts(x)["a"])})

    for budget in (1, 100):
        model = nn.Linear(1, 1, bias=False)
        nn.init.ones_(model.weight)
        metrics = descent(model, token_budget=budget).update(replies_of([(1, (1,)), (2, (1,)), (3, (1,))]), Sparing())
        assert (metrics["loss"], metrics["grad_norm"], metrics["a"]) == (2, 2, 1)
        assert metrics["seen"] == 1.5  # a metric is of what was read


def test_cuts_keep_to_the_budget_and_never_split_a_prompt():
    batch = replies_of([(2, (3, 5)), (1, (2, 2, 1)), (4, (1, 2)), (1, (1,)), (1, (1,))])  # 10, 6, 7, 2, 2 tokens
    sizes = [[sum(cut.tokens_each()), len(cut)] for cut in descent(Bigram(), token_budget=9).cuts(batch)]
    assert sizes == [[10, 1], [6, 1], [9, 2], [2, 1]]


def test_a_term_that_nothing_counts_for_is_no_loss_and_moves_nothing():
    x = replies_of([(2, (3,)), (1, (2,))])
    nothing = replace(x, learn=torch.zeros_like(x.learn))
    learner = descent(Bigram())
    before = learner.model.next.weight.clone()
    metrics = learner.update(nothing, Likelihood())
    assert (metrics["loss"], metrics["skipped"]) == (0, 0)
    assert learner.model.next.weight.equal(before)


# --- map and measure ------------------------------------------------------------------------------


@law
@given(sizes=SIZES, budget=st.integers(1, 30))
def test_map_gives_back_rows_in_their_order_whatever_the_cuts(sizes, budget):
    x = replies_of(sizes)
    learner = descent(Bigram(), token_budget=budget)

    def everything(model, cut):
        return Reading(cut.tokens, None), (model.scores(cut), model.values(cut))

    reading, (scores, values) = learner.map(x, everything)
    assert isinstance(reading, Reading)
    assert reading.entropy is None
    assert reading.logprobs.equal(x.tokens)
    torch.testing.assert_close(scores, learner.model.scores(x).detach())
    torch.testing.assert_close(values, learner.model.values(x).detach())
    assert not values.requires_grad


def test_map_says_what_it_cannot_join():
    with pytest.raises(TypeError, match="joins tensors and tuples of them; f gave dict"):
        joined([{}])


@law
@given(sizes=SIZES, seed=SEEDS)
def test_what_is_measured_is_what_an_update_would_say_and_nothing_moves(sizes, seed):
    objective, collate = OBJECTIVES["dpo with likelihood"]
    batch = collate(replies_of(sizes, seed), seed)
    learner = descent(Bigram().double(), token_budget=9)
    before = learner.model.next.weight.clone()
    measured = learner.measure([batch], objective)
    assert learner.model.next.weight.equal(before)
    assert learner.version == 0
    told = learner.update(batch, objective)
    assert measured == {name: pytest.approx(told[name], rel=1e-6, abs=1e-6) for name in measured}


# --- the step -------------------------------------------------------------------------------------


@pytest.mark.parametrize("longest", [0.01, 0.3, math.inf])
def test_a_long_gradient_is_clipped_and_a_short_one_is_not(longest):
    x = replies_of([(2, (3, 5)), (1, (2,))])
    learner = descent(Bigram().double(), max_grad_norm=longest)
    before = torch.cat([p.detach().flatten() for p in learner.model.parameters()])
    norm = learner.update(x, Likelihood())["grad_norm"]
    moved = torch.cat([p.detach().flatten() for p in learner.model.parameters()]) - before
    assert norm > 0.3  # as it was before clipping
    assert moved.norm().item() == pytest.approx(min(norm, longest), rel=1e-4)


SCHEDULES = {
    # Ten steps, two of them warm-up: 1/3, 2/3, then 1 down to 1/8 of the way before the end.
    Schedule("constant", total=10, warmup=0.2): [1 / 3, 2 / 3] + [1] * 8,
    Schedule("linear", total=10, warmup=0.2): [1 / 3, 2 / 3] + [1 - i / 8 for i in range(8)],
    Schedule("cosine", total=4): [1, (1 + math.sqrt(0.5)) / 2, 0.5, (1 - math.sqrt(0.5)) / 2],
    Schedule("linear", total=4, floor=0.2): [1, 0.8, 0.6, 0.4],
    Schedule("linear", total=2): [1, 0.5, 0, 0],  # past the end nothing rises again
    Schedule(): [1, 1, 1],
}


@pytest.mark.parametrize(("schedule", "expected"), SCHEDULES.items())
def test_a_schedule_by_hand(schedule, expected):
    assert [schedule(i) for i in range(len(expected))] == pytest.approx(expected)


@given(kind=st.sampled_from(["constant", "linear", "cosine"]), total=st.integers(1, 200), warmup=st.floats(0, 0.99))
def test_a_schedule_rises_then_falls_and_never_stands_still_at_nothing(kind, total, warmup):
    rates = [Schedule(kind, total=total, warmup=warmup)(i) for i in range(total)]
    top = rates.index(max(rates))
    assert rates[: top + 1] == sorted(rates[: top + 1])
    assert rates[top:] == sorted(rates[top:], reverse=True)
    assert all(0 < rate <= 1 for rate in rates)


def test_rates_follow_the_schedule_each_from_its_own_height():
    model = nn.ModuleDict({"policy": Bigram(), "critic": Bigram()})
    learner = local_learner(model, lr=0.1, critic_lr=0.4, schedule=Schedule("linear", total=2), token_budget=99)

    @dataclass(frozen=True)
    class Both:
        def counts(self, x):
            return {"nll": over_tokens.count(x.learn)}

        def __call__(self, model, x):
            nll = -sum(part.read(x).logprobs for part in model.values())
            return Loss({"nll": (1.0, over_tokens(nll, x.learn))})

    x = replies_of([(2, (3,)), (1, (2,))])
    told = [learner.update(x, Both())["lr"] for _ in range(2)]
    assert told == pytest.approx([0.1, 0.05])
    assert [group["lr"] for group in learner.optimizer.param_groups] == pytest.approx([0.05, 0.2])


def test_a_model_with_nothing_to_learn_is_refused():
    with pytest.raises(ValueError, match="nothing to learn"):
        local_learner(Bigram().requires_grad_(False))


# --- what is no number ----------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_step_that_gives_no_number_is_skipped_and_its_batch_written_down(tmp_path, bad):
    x = replies_of([(2, (3, 5)), (1, (2,))])
    batch = cast(rollouts(x, 0), torch.float32)
    batch.advantage[1, 0] = bad
    learner = local_learner(Bigram(), lr=0.1, token_budget=7, bad_batches=tmp_path / "bad")
    learner.update(x, Likelihood())  # so that the optimiser has moments to spoil
    weights = [p.detach().clone() for p in learner.model.parameters()]
    moments = [m.clone() for state in learner.optimizer.state.values() for m in state.values()]

    metrics = learner.update(batch, grpo.GRPO)

    assert metrics["skipped"] == 1
    assert learner.version == 2
    assert all(a.equal(b) for a, b in zip(weights, learner.model.parameters(), strict=True))
    after = [m for state in learner.optimizer.state.values() for m in state.values()]
    assert all(a.equal(b) for a, b in zip(moments, after, strict=True))
    (path,) = (tmp_path / "bad").iterdir()
    held = load_file(path)
    assert held["replies.tokens"].equal(x.tokens)
    torch.testing.assert_close(held["advantage"], batch.advantage, equal_nan=True)
    assert learner.stuck
    assert learner.skip() == {"skipped": 1}
    assert learner.stuck  # a step with nothing to learn from tells nothing new
    assert learner.update(x, Likelihood())["skipped"] == 0  # and it goes on
    assert not learner.stuck


def test_a_batch_whose_fields_share_memory_is_written_down_too(tmp_path):
    x = replies_of([(2, (3, 5)), (1, (2,))])
    spoilt = x.tokens * math.nan
    learner = local_learner(Bigram(), bad_batches=tmp_path)
    learner.update(Rollouts(x, spoilt, spoilt, spoilt.expand(x.tokens.shape)), grpo.GRPO)
    (path,) = tmp_path.iterdir()
    assert load_file(path)["advantage"].isnan().all()


def test_the_third_batch_that_gives_no_number_ends_the_run_in_this_sitting_or_the_next(tmp_path):
    x = replies_of([(2, (3, 5)), (1, (2,))])
    batch = cast(rollouts(x, 0), torch.float32)
    batch.advantage.fill_(math.nan)
    first = local_learner(Bigram(), bad_batches=tmp_path)
    assert [first.update(batch, grpo.GRPO)["skipped"] for _ in range(2)] == [1, 1]
    second = local_learner(Bigram(), bad_batches=tmp_path)
    second.load_state_dict(first.state_dict())
    with pytest.raises(NotFinite, match=r"loss nan, .* 3 batches gave none.*update-2\.safetensors"):
        second.update(batch, grpo.GRPO)
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"update-{i}.safetensors" for i in range(3)]


def test_a_gradient_that_is_no_number_is_refused_though_the_loss_is_one():
    class Cusp:
        def counts(self, x):
            return {"root": torch.tensor(1)}

        def __call__(self, model, x):
            return Loss({"root": (1.0, Mean((model.next.weight * 0).sum().sqrt(), torch.tensor(1)))})

    learner = descent(Bigram())
    before = learner.model.next.weight.clone()
    metrics = learner.update(replies_of([(1, (1,))]), Cusp())
    assert (metrics["loss"], metrics["skipped"]) == (0, 1)
    assert learner.model.next.weight.equal(before)
