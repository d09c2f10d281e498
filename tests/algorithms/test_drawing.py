"""Drawing for the step at hand, and ahead of it: which weights drew, which prompts came, what a checkpoint knows."""

import threading
import time
from dataclasses import replace
from itertools import islice

import pytest
import torch

from preferent.algorithms import ppo as ppo_
from preferent.algorithms.ahead import Ahead, lagged
from preferent.algorithms.drawing import Drawing, draws
from preferent.algorithms.grpo import DAPO, GRPO, RLOO, Config, grpo
from preferent.algorithms.rollouts import Rollouts, averaged, learned, marked, minibatches
from preferent.data.batches import Batches
from preferent.data.collate import episodes, logprobs
from preferent.losses import policy as surrogates
from preferent.losses.advantage import standardised
from preferent.models.load import load_policy
from preferent.models.policy import twin
from preferent.rewards.combined import SoftOverlong
from preferent.rewards.shaping import AdaptiveKL
from preferent.runtime.learner import local_learner
from preferent.sampling.local import LocalSampler
from preferent.testing import END, Bigram, ToySampler
from preferent.types import Episode, Prompt, Score
from toys import saved_policy

PROMPTS = [Prompt((2 + i % 6, 2 + i // 6)) for i in range(12)]
SMALL = Config(group=4)


def twos_that_end(episodes):
    return [Score(e.tokens.count(2) + 2.0 * (e.stop == "end"), {"twos": e.tokens.count(2)}) for e in episodes]


class Recorded(ToySampler):
    """Keeps the weights, the version and the prompts of each draw; takes a while where asked to."""

    def __init__(self, model, wait=0.0, **rest):
        super().__init__(model, **rest)
        self.drew, self.wait, self.threads = [], wait, set()

    def sample(self, prompts, n):
        time.sleep(self.wait)
        self.threads.add(threading.current_thread().name)
        self.drew.append((self.model.next.weight.clone(), self.version, list(prompts)))
        return super().sample(prompts, n)


def run_of(steps, how, wait=0.0, slow=0.0, objective=GRPO, prompts=None):
    """(metrics, the weights after each step from none on, the sampler, the policy)."""
    policy = Bigram()
    learner, sampler = local_learner(policy, lr=0.05), Recorded(policy, wait)
    data = prompts or Ahead(Batches(PROMPTS, 3, list, steps=steps))
    left, told = [policy.next.weight.detach().clone()], []
    for metrics in grpo(
        learner, policy.frozen(), sampler, twos_that_end, data, objective=objective, config=SMALL, how=how
    ):
        time.sleep(slow)
        told.append(metrics)
        left.append(policy.next.weight.detach().clone())
    return told, left, sampler, policy


def test_on_time_it_is_the_plain_loop_to_the_bit():
    """Sample, score, compare, update, written out once more."""
    policy = Bigram()
    learner, sampler, reference = local_learner(policy, lr=0.05), ToySampler(policy), policy.frozen()
    expected = []
    for questions in Batches(PROMPTS, 3, list, steps=5):
        sampler.load(learner.weights(), learner.version)
        groups = sampler.sample(questions, 4)
        scores, parts = marked(twos_that_end, [e for group in groups for e in group])
        x, old = episodes(groups), logprobs(groups)
        gain = standardised(scores.view(-1, 4)).view(-1, 1).expand(old.shape)
        batch = Rollouts(x, old, reference.read(x).logprobs, gain)
        for mini in minibatches(batch, 2, 2, key=learner.version):
            metrics = learner.update(mini, GRPO)
        kl = surrogates.k1(old, batch.reference).sum(-1).mean().item()
        expected.append({**metrics, **averaged(parts), "reward": scores.mean().item(), "kl": kl})
    other = Bigram()
    steps = grpo(
        local_learner(other, lr=0.05), other.frozen(), ToySampler(other), twos_that_end,
        Batches(PROMPTS, 3, list, steps=5), config=Config(group=4, grpo_epochs=2, mini_batch=2),
    )  # fmt: skip
    for told, wanted in zip(steps, expected, strict=True):
        assert {name: told[name] for name in wanted if "mismatch" not in name} == {
            name: value for name, value in wanted.items() if "mismatch" not in name
        }
    assert all(map(torch.equal, policy.parameters(), other.parameters()))


@pytest.mark.parametrize("staleness", [0, 1, 2, 5])
def test_a_batch_is_drawn_with_the_weights_of_so_many_steps_before_to_the_bit(staleness):
    told, left, sampler, _ = run_of(8, Drawing(max_staleness=staleness))
    assert len(told) == len(sampler.drew) == 8
    for step, (weights, version, _) in enumerate(sampler.drew):
        assert version == max(0, step - staleness)
        assert weights.equal(left[max(0, step - staleness)])
    assert (threading.current_thread().name in sampler.threads) == (staleness == 0)
    assert len(sampler.threads) == 1


def test_who_is_faster_does_not_matter():
    how = Drawing(max_staleness=2)
    quick, slow_to_draw, slow_to_learn = (run_of(6, how, *waits)[:2] for waits in ((0, 0), (0.01, 0), (0, 0.01)))
    for told, left in (slow_to_draw, slow_to_learn):
        assert told == quick[0]
        assert all(map(torch.equal, left, quick[1]))


def test_the_next_replies_are_drawn_while_the_learner_updates():
    """Each update waits until the draw after it has begun, which it could not if they took turns."""
    begun = [threading.Event() for _ in range(6)]

    class Told(Recorded):
        def sample(self, prompts, n):
            begun[len(self.drew)].set()
            return super().sample(prompts, n)

    policy = Bigram()
    learner = Consumed(policy)
    waited = []

    def update(batch, objective):
        step = len(waited)
        waited.append(step == 5 or begun[step + 1].wait(timeout=10))
        return learner.inner.update(batch, objective)

    learner.update = update
    steps = grpo(
        learner, policy.frozen(), Told(policy), twos_that_end, [PROMPTS[:3]] * 6, config=SMALL,
        how=Drawing(max_staleness=1),
    )  # fmt: skip
    assert len(list(steps)) == 6
    assert waited == [True] * 6


def test_every_prompt_comes_once_and_in_order_and_the_last_batch_too():
    for staleness in (0, 1, 3, 50):
        _, _, sampler, _ = run_of(6, Drawing(max_staleness=staleness))
        assert [q for _, _, q in sampler.drew] == list(Batches(PROMPTS, 3, list, steps=6))


@pytest.mark.parametrize("correction", [None, surrogates.truncated, surrogates.masked])
def test_it_learns_from_what_older_weights_drew(correction):
    told, _, _, _ = run_of(40, Drawing(max_staleness=1, correction=correction))
    assert sum(t["reward"] for t in told[-5:]) / 5 > told[0]["reward"] + 1
    assert told[0]["mismatch"] < 1e-6
    assert told[3]["mismatch"] > 1e-3  # the weights did move in between, and that is told
    assert told[3]["mismatch_k3"] > 0


def test_ppo_learns_from_them_too():
    policy = Bigram()
    sampler = Recorded(policy)
    steps = ppo_.ppo(
        local_learner(policy, lr=0.05), policy.frozen(), sampler, twos_that_end, [PROMPTS] * 45,
        price=AdaptiveKL(0.02), config=ppo_.Config(value_clip=5.0, value_weight=1.0, ppo_epochs=2),
        how=Drawing(max_staleness=1, correction=surrogates.truncated),
    )  # fmt: skip
    told = list(steps)
    assert sum(t["reward"] for t in told[-5:]) / 5 > told[0]["reward"] + 1
    assert [version for _, version, _ in sampler.drew] == [0, *range(0, 88, 2)]  # two updates a step


# --- going on -------------------------------------------------------------------------------------


class Consumed:
    """A learner that notes the prompts of each update."""

    def __init__(self, policy):
        self.inner, self.seen = local_learner(policy, lr=0.05), []
        self.model = self.inner.model
        self.weights, self.map = self.inner.weights, self.inner.map

    @property
    def version(self):
        return self.inner.version

    def update(self, batch, objective):
        x = batch.replies
        self.seen.append(sorted(tuple(x.prompts[i, : x.prompt_length[i]].tolist()) for i in range(len(x))))
        return self.inner.update(batch, objective)


def sitting(learner, policy, state, steps, how):
    data = Ahead(Batches(PROMPTS, 3, list, steps=10))
    data.load_state_dict(state)
    sampler = ToySampler(policy)
    going = grpo(learner, policy.frozen(), sampler, twos_that_end, data, objective=RLOO, config=SMALL, how=how)
    list(islice(going, steps))
    time.sleep(0.02)  # so that what is under way has been taken from the data
    state = dict(data.state_dict())
    going.close()
    return state


@pytest.mark.parametrize("staleness", [0, 1, 3])
def test_a_resumed_run_neither_skips_nor_repeats_a_prompt(staleness):
    how = Drawing(max_staleness=staleness)
    policy = Bigram()
    learner = Consumed(policy)
    state, done = {"position": 0}, 0
    for steps in (2, 1, 3, 4):
        state = sitting(learner, policy, state, steps, how)
        done += steps
        assert state == {"position": done}
    wanted = [sorted(prompt.tokens for prompt in batch) for batch in Batches(PROMPTS, 3, list, steps=10)]
    assert learner.seen == wanted


def test_what_is_under_way_is_not_in_the_state():
    data = Ahead(Batches(PROMPTS, 3, list, steps=4))
    coming = iter(data)
    assert [next(coming), next(coming)] == list(Batches(PROMPTS, 3, list, steps=2))
    assert data.state_dict() == {"position": 0}
    data.consumed(1)
    assert data.state_dict() == {"position": 1}
    data.consumed(1)
    assert data.state_dict() == {"position": 2}
    assert len(list(coming)) == 2


# --- the thread -----------------------------------------------------------------------------------


def test_an_error_while_drawing_is_raised_where_its_batch_was_wanted():
    def fussy(episodes):
        if any(e.version == 2 for e in episodes):
            raise ValueError("no such thing")
        return twos_that_end(episodes)

    policy = Bigram()
    steps = grpo(
        local_learner(policy, lr=0.05), policy.frozen(), ToySampler(policy), fussy, [PROMPTS[:3]] * 9,
        config=SMALL, how=Drawing(max_staleness=1),
    )  # fmt: skip
    assert len(list(islice(steps, 3))) == 3
    with pytest.raises(ValueError, match="no such thing"):
        next(steps)


def test_a_run_that_is_dropped_leaves_no_thread():
    before = threading.active_count()
    policy = Bigram()
    learner = local_learner(policy, lr=0.05)
    steps = draws(learner, ToySampler(policy), twos_that_end, [PROMPTS] * 9, 2, Drawing(max_staleness=3))
    next(steps)
    assert threading.active_count() == before + 1
    steps.close()
    assert threading.active_count() == before


def test_jobs_begin_as_early_as_the_lag_says():
    for lag in (0, 1, 2):
        begun, given = [], []

        def begin(lag=lag, begun=begun, given=given):
            i = len(begun)
            begun.append(len(given))
            return lambda: i if i < 6 else None

        for i in lagged(begin, lag):
            given.append(i)
        assert given == list(range(6))
        assert begun[:6] == [max(0, i - lag) for i in range(6)]


@pytest.mark.parametrize("lora", [0, 2])
def test_a_language_models_twin_draws_while_it_learns(tmp_path, lora):
    """It shares what is frozen, and follows what is trained; twice the same run gives the same weights."""
    folder = saved_policy(tmp_path)

    def once():
        policy = load_policy(folder, lora=lora)
        copy = twin(policy)
        for mine, other in zip(policy.parameters(), copy.parameters(), strict=True):
            assert mine is not other
            assert (mine.data_ptr() == other.data_ptr()) == (not mine.requires_grad)
            assert mine.equal(other)
        base = [p.clone() for p in policy.parameters() if not p.requires_grad]
        sampler = LocalSampler(copy, max_new_tokens=8)
        by_length = lambda es: [Score(float(len(set(e.tokens)))) for e in es]  # noqa: E731
        prompts = [[Prompt(tuple(range(6, 6 + n))) for n in (3, 5)]] * 5
        learner = local_learner(policy, lr=1e-2)
        told = list(
            grpo(learner, policy.frozen(), sampler, by_length, prompts, config=SMALL, how=Drawing(max_staleness=1))
        )
        after = [p for p in policy.parameters() if not p.requires_grad]
        assert all(map(torch.equal, base, after))
        return told, [p.clone() for p in policy.parameters()]

    (told, weights), (again, same) = once(), once()
    assert told == again
    assert all(map(torch.equal, weights, same))
    assert told[0]["mismatch"] < 1e-5 < told[-1]["mismatch"]


# --- which replies count --------------------------------------------------------------------------


def by_prompt(rare):
    """A reward without spread on prompts whose first token is among ``rare``."""
    return lambda es: [Score(0.0 if e.prompt.tokens[0] in rare else float(e.tokens[0])) for e in es]


def drawn_with(reward, attempts, batches):
    policy = Bigram()
    learner = local_learner(policy)
    return list(draws(learner, ToySampler(policy), reward, batches, 4, Drawing(attempts=attempts)))


def test_groups_without_spread_are_replaced_by_others_of_the_next_batches():
    """DAPO's dynamic sampling: 2 and 3 never have spread, so the next batch's 4 and 5 stand in; there are no more."""
    batches = [[Prompt((t,)) for t in batch] for batch in ((2, 4, 3), (2, 5, 6), (7, 3, 2), (3, 3, 3))]
    (first, second) = drawn_with(by_prompt({2, 3}), 1, batches)
    assert [g[0].prompt.tokens for g in first.groups] == [(5,), (4,), (6,)]
    assert first.batches == second.batches == 2
    assert first.even() == [False] * 3
    for group, scores in zip(first.groups, first.marks.scores.view(3, 4).tolist(), strict=True):
        assert [float(e.tokens[0]) for e in group] == scores
    assert [g[0].prompt.tokens for g in second.groups] == [(7,), (3,), (2,)]  # nothing better came
    assert [len(d.groups) for d in drawn_with(by_prompt({2, 3}), 0, batches)] == [3] * 4


def test_the_attempts_are_bounded_and_the_same_prompt_is_not_asked_twice():
    batches = [[Prompt((2,)), Prompt((3,))]] * 9
    steps = drawn_with(by_prompt({2, 3}), 2, batches)
    assert [d.batches for d in steps] == [3, 3, 3]
    assert all(d.even() == [True, True] for d in steps)


def test_a_step_that_resampled_tells_so_and_a_checkpoint_counts_all_that_it_took():
    data = Ahead(Batches([Prompt((t,)) for t in (2, 4, 3, 5, 6, 7, 2, 3)], 2, list, steps=4, shuffle=False))
    policy = Bigram()
    steps = grpo(
        local_learner(policy, lr=0.05), policy.frozen(), ToySampler(policy), by_prompt({2, 3}), data,
        objective=DAPO, config=SMALL, how=Drawing(attempts=3, max_staleness=1),
    )  # fmt: skip
    told = next(steps)
    assert (told["even_groups"], told["prompt_batches"]) == (0, 2)
    assert data.state_dict() == {"position": 2}
    assert len(list(steps)) == 2  # 6 and 7; then 2 and 3, which nothing can replace
    assert data.state_dict() == {"position": 4}


def test_dapo_learns_with_all_its_parts():
    """Clip-higher, token mean; groups without spread replaced, what is cut off masked, what is long paid."""
    policy = Bigram()
    reward = SoftOverlong(twos_that_end, 5, 2)
    how = Drawing(attempts=2, mask_truncated=True)
    steps = grpo(
        local_learner(policy, lr=0.05), policy.frozen(), ToySampler(policy), reward, [PROMPTS[:6], PROMPTS[6:]] * 60,
        objective=DAPO, config=SMALL, how=how,
    )  # fmt: skip
    told = list(islice(steps, 40))
    assert sum(t["reward"] for t in told[-5:]) / 5 > told[0]["reward"] + 1
    assert max(t["prompt_batches"] for t in told) > 1


def test_a_score_that_is_no_number_is_not_resampled_away():
    nothing = lambda es: [Score(float("nan")) for _ in es]  # noqa: E731
    (first, *_) = drawn_with(nothing, 1, [[Prompt((2,))], [Prompt((3,))]])
    assert first.batches == 1


def test_truncated_replies_leave_the_loss_and_its_counts_but_not_the_comparison():
    """Their tokens cannot matter, and their siblings' advantages are as before."""
    policy = Bigram()
    given = []

    class Noted(Consumed):
        def update(self, batch, objective):
            given.append(batch)
            return self.inner.update(batch, objective)

    def reward(es):
        return [Score(float(e.stop == "end")) for e in es]

    for mask in (False, True):
        start = Bigram()
        how = Drawing(mask_truncated=mask)
        list(grpo(Noted(start), policy, ToySampler(policy), reward, [PROMPTS[:4]], config=SMALL, how=how))
    kept, masked = given
    x, y = kept.replies, masked.replies
    ended = (x.tokens == END).any(-1)
    assert 0 < ended.sum() < len(ended)
    assert kept.advantage.equal(masked.advantage)
    assert y.learn.equal(x.learn & ended.unsqueeze(-1))
    assert y.present.equal(x.present)
    assert GRPO.counts(masked)["policy"] == ended.sum()


def test_episodes_say_which_weights_drew_them():
    policy = Bigram()
    learner = local_learner(policy)
    steps = draws(learner, ToySampler(policy), twos_that_end, [PROMPTS] * 4, 2, Drawing(max_staleness=1))
    for step, drawn in enumerate(steps):
        assert {e.version for e in drawn.flat} == {max(0, step - 1)}
        assert all(isinstance(e, Episode) for e in drawn.flat)
        learner.version += 1


def test_a_correction_weighs_the_advantage_by_what_the_learner_would_have_drawn():
    """The batch's advantage is GRPO's times min(p/p_behaviour, cap); the ratio starts at 1."""
    stale, fresh = Bigram(), Bigram(seed=1)
    batches = []
    for correction in (None, surrogates.truncated):
        learner = Consumed(replace_model(fresh))
        learner.update = lambda batch, objective: (batches.append(batch), {"skipped": 0.0})[1]
        sampler = ToySampler(stale)
        sampler.load = lambda weights, version: None  # as if behind
        how = Drawing(correction=correction)
        list(grpo(learner, stale, sampler, twos_that_end, [PROMPTS[:3]], config=SMALL, how=how))
    plain, corrected = batches
    x = corrected.replies
    own = fresh.read(x).logprobs.detach()
    torch.testing.assert_close(corrected.old, own)
    weight = (own - plain.old).exp().clamp(max=2.0).where(x.learn, 0)
    torch.testing.assert_close(corrected.advantage, plain.advantage * weight)


def replace_model(model):
    made = Bigram()
    made.load_state_dict(model.state_dict())
    return made


def test_the_mismatch_is_the_first_mini_batchs_whose_policy_has_not_moved():
    """Four mini-batches at a high rate: the policy moves, and the sampler, which is the policy, is still no other."""
    policy = Bigram()
    steps = grpo(
        local_learner(policy, lr=0.3), policy.frozen(), ToySampler(policy), twos_that_end, [PROMPTS],
        config=replace(SMALL, mini_batch=3),
    )  # fmt: skip
    (told,) = steps
    assert told["drift"] > 0.05
    assert told["mismatch"] < 1e-6
    assert abs(told["mismatch_k3"]) < 1e-9


def test_a_ratio_to_what_older_weights_drew_is_not_lost_where_the_learner_would_be_asked():
    """In one arithmetic, asking changes nothing on time; behind, the sampler's word stays: the same run to the bit."""
    for lag in (0, 2):
        plain, asked = (run_of(6, Drawing(max_staleness=lag, recompute=asked)) for asked in (False, True))
        for one, other in zip(plain[1], asked[1], strict=True):
            torch.testing.assert_close(one, other, atol=1e-5 if not lag else 0, rtol=0)
        assert lag == 0 or plain[0] == asked[0]
        assert (asked[0][-1]["mismatch"] > 1e-3) == (lag > 0)


@pytest.mark.parametrize("divergence", [surrogates.reverse, surrogates.reverse_off_policy])
def test_a_correction_weighs_the_kl_in_the_loss_too_so_that_it_has_the_reverse_kls_gradient(divergence):
    """Each of eight replies of a token, weighed by how likely the sampler's weights drew it: the gradient is exact."""
    fresh, stale, reference = (Bigram(seed=seed) for seed in range(3))
    question, given = Prompt((3,)), []
    every = [Episode(question, (token,), (True,), (0.0,), "end", 0) for token in range(8)]
    x = episodes([every])
    q = stale.read(x).logprobs.detach()

    class Each(ToySampler):
        def sample(self, prompts, n):
            return [[replace(e, logprobs=(said.item(),)) for e, said in zip(every, q[:, 0], strict=True)]]

    learner = Consumed(fresh)
    learner.update = lambda batch, objective: (given.append(batch[[0]]), {"skipped": 0.0})[1]
    how = Drawing(correction=lambda *said: surrogates.truncated(*said, cap=1e9))
    asked = replace(GRPO, kl=1.0, divergence=divergence)
    nothing = lambda es: [Score(0.0) for _ in es]  # noqa: E731
    list(grpo(learner, reference, Each(fresh), nothing, [[question]], objective=asked, config=Config(8), how=how))

    drew = replace(asked, average=replace(asked.average, divisor=lambda _: 1 / q.exp()[:, 0]))
    weight, kl = drew(fresh, given[0]).terms["kl_loss"]
    (estimated,) = torch.autograd.grad(weight * kl.total, fresh.next.weight)
    p, r = fresh.next.weight[3].log_softmax(-1), reference.next.weight[3].detach().log_softmax(-1)
    (exact,) = torch.autograd.grad((p.exp() * (p - r)).sum(), fresh.next.weight)
    torch.testing.assert_close(estimated, exact)


def test_a_mini_batch_that_nobody_read_does_not_pass_the_mismatch_on_to_one_whose_policy_has_moved():
    policy = Bigram()
    learner = local_learner(policy, lr=0.3)
    groups = ToySampler(policy).sample(PROMPTS[:3], 4)
    x = episodes(groups)
    gain = torch.linspace(-1, 1, len(x.tokens))[:, None].expand(x.tokens.shape)
    even, uneven = (Rollouts(x, logprobs(groups), logprobs(groups), each) for each in (0 * gain, gain))
    told = learned(learner, [even, uneven, uneven], DAPO)
    assert told["drift"] > 0.05
    assert told["mismatch"] < 1e-6
    assert "mismatch" not in learned(learner, [even], DAPO)


def test_a_step_of_which_nothing_is_learned_tells_the_mismatch_where_the_learner_was_asked():
    for how in (Drawing(), Drawing(recompute=True), Drawing(correction=surrogates.truncated)):
        policy = Bigram()
        nothing = lambda es: [Score(0.0) for _ in es]  # noqa: E731
        given = local_learner(policy), policy.frozen(), ToySampler(policy), nothing, [PROMPTS]
        (told,) = grpo(*given, objective=DAPO, config=SMALL, how=how)
        assert ("mismatch" in told) == ("mismatch_k3" in told) == how.asked
