"""Learning from replies that the policy itself has just drawn, and that somebody compares."""

from functools import partial

import pytest
import torch

from bandit import BETA, PROMPTS, QUESTION, REWARD, best, by_token, distance, many_fives, said
from preferent.algorithms import objectives
from preferent.algorithms.answers import at_once, in_pairs, referred
from preferent.algorithms.nash_md import nash_md
from preferent.algorithms.online_dpo import online_dpo
from preferent.algorithms.raft import raft, top
from preferent.algorithms.rso import HINGE, accepted, rso
from preferent.algorithms.said import said as asked
from preferent.algorithms.tr_dpo import following
from preferent.algorithms.wpo import weighted
from preferent.algorithms.xpo import exploring, xpo
from preferent.data.comparisons import pairs
from preferent.models.policy import Follower
from preferent.rewards.annotating import Once, Rewarded, extremes, hard, soft
from preferent.rewards.finite import NoScore
from preferent.runtime.learner import Schedule, local_learner
from preferent.stages.objective import builders
from preferent.testing import Bigram, ToySampler
from preferent.types import Comparison, Preference, Prompt, Score
from toys import referred_of, replies_of


def started(lr=0.1, steps=100):
    policy = Bigram()
    return policy, policy.frozen(), local_learner(policy, lr=lr, schedule=Schedule("linear", total=steps))


# --- fixed points ------------------------------------------------------------------------------------


def test_each_move_of_the_reference_begins_another_optimisation_from_there():
    """Two rounds at 2β end where one at β does: π_0·exp(2r/2β)."""
    policy, reference, learner = started(steps=200)
    follower, goal = Follower(policy), best(reference)
    steps = online_dpo(
        learner, follower, ToySampler(policy, length=1), Rewarded(by_token, soft), [[QUESTION] * 32] * 200,
        objective=objectives.dpo(beta=2 * BETA),
    )  # fmt: skip
    every = following(steps, learner, follower, every=100)
    for _ in range(99):
        next(every)
    assert distance(said(policy), best(reference, beta=2 * BETA)) <= 0.04
    assert torch.equal(said(follower.policy), said(reference))
    next(every)
    assert torch.equal(said(follower.policy), said(policy))
    list(every)
    assert distance(said(policy), goal) <= 0.02


# --- learning ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "asking"), [(2, in_pairs), (4, in_pairs), (4, at_once)])
def test_online_dpo_raises_the_reward(n, asking):
    policy, reference, learner = started(lr=0.05)
    reward = Once(many_fives)
    steps = online_dpo(
        learner, reference, ToySampler(policy), Rewarded(reward), [PROMPTS] * 40, n=n, asking=asking, watched=reward,
        objective=objectives.dpo(beta=0.3),
    )  # fmt: skip
    told = list(steps)
    first, last = ([sum(step["reward"] for step in part) / 5] for part in (told[:5], told[-5:]))
    assert last[0] > first[0] + 1
    assert told[0]["kl"] == pytest.approx(0, abs=1e-6)
    assert told[-1]["kl"] > 0.5


@pytest.mark.parametrize("name", [*sorted(builders().keys() - {"discopop"}), "wpo"])
def test_any_loss_on_pairs_learns_from_what_is_drawn(name):
    """The margin of the same pairs grows. DiscoPOP's begins by falling: it rises at 0, and is no convex loss."""
    objective = weighted(objectives.dpo()) if name == "wpo" else builders()[name]()
    _, reference, learner = started(lr=0.05)
    frozen = ToySampler(reference)
    frozen.load = lambda weights, version: None  # the same replies each step
    told = list(online_dpo(learner, reference, frozen, Rewarded(many_fives), [PROMPTS] * 20, objective=objective))
    assert told[-1]["margin"] > told[0]["margin"]
    assert all(step["skipped"] == 0 for step in told)


# --- what is asked, and what is learned from ---------------------------------------------------------


def drawn(n=2, prompts=PROMPTS):
    policy, reference, learner = started()
    return learner, asked(learner, reference, ToySampler(policy).sample(prompts, n))


def test_what_the_reference_said_stands_beside_the_replies_of_the_pairs():
    """As if it had been asked about them alone, though some are left out and the others in another order."""
    learner, said = drawn(4)
    answers = [
        Preference(Comparison(group[0].prompt, (group[2], group[1])), (0.0, 1.0)) for group in reversed(said.groups[1:])
    ]
    batch = referred(said, answers)
    alone = pairs(answers)
    assert torch.equal(batch.pairs.replies.tokens, alone.replies.tokens)
    torch.testing.assert_close(batch.reference, learner.model.read(alone.replies).logprobs.detach())


def test_what_the_learner_says_of_its_own_replies_is_what_the_sampler_said():
    """Asked again, as it is where the two have other arithmetic: the same policy, and how far they are apart."""
    found = []
    for recompute in (False, True):
        policy, reference, learner = started()
        steps = online_dpo(
            learner, reference, ToySampler(policy), Rewarded(many_fives), [PROMPTS] * 3, recompute=recompute
        )
        found.append(([*steps], said(policy)))
    (first, ours), (again, theirs) = found
    assert [step.pop("mismatch") + step.pop("mismatch_k3") for step in again] == [pytest.approx(0, abs=1e-5)] * 3
    assert first == [pytest.approx(step, abs=1e-5) for step in again]
    assert torch.equal(ours, theirs)


def test_a_reply_is_not_compared_with_itself():
    policy, reference, learner = started()
    asked = []

    def nobody(comparisons):
        asked.extend(comparisons)
        return []

    (step,) = online_dpo(learner, reference, ToySampler(policy, length=1), nobody, [[QUESTION] * 64])
    assert 0 < len(asked) < 64
    assert all(a.tokens != b.tokens for a, b in (comparison.options for comparison in asked))
    assert step["answered"] == 0


def test_only_answers_are_learned_from_and_without_any_a_step_is_skipped():
    policy, reference, learner = started()
    before = policy.next.weight.detach().clone()
    full = Rewarded(many_fives)

    def turns(comparisons):
        return full(comparisons[:2]) if learner.version else []

    def at_last(comparisons):
        return full(comparisons[:2])

    sampler = ToySampler(policy)
    (step,) = online_dpo(learner, reference, sampler, turns, [PROMPTS])
    assert step["skipped"] == 1
    assert torch.equal(policy.next.weight, before)
    (step,) = online_dpo(learner, reference, sampler, at_last, [PROMPTS])
    assert step["skipped"] == 0
    assert step["answered"] == pytest.approx(2 / len(PROMPTS))
    assert learner.version == 2


class Noted(ToySampler):
    """Keeps what it drew."""

    def sample(self, prompts, n):
        groups = super().sample(prompts, n)
        self.drew = [*getattr(self, "drew", []), [episode.tokens for group in groups for episode in group]]
        return groups


def nobody(_):
    return []


def in_vain(method, learner, policy, steps):
    """What is drawn in steps that have nothing to learn from, and what the steps say."""
    prompts, sampler, other = [[Prompt((2,))]] * steps, Noted(policy), ToySampler(policy, seed=1)
    told = {
        "online dpo": lambda: online_dpo(learner, policy, sampler, nobody, prompts),
        "raft": lambda: raft(learner, policy, sampler, many_fives, prompts, keep=partial(top, least=100.0)),
        "rso": lambda: rso(learner, Follower(policy), sampler, many_fives, nobody, prompts),
        "xpo": lambda: xpo(learner, Follower(policy), sampler, other, nobody, prompts, objective=exploring()),
        "nash-md": lambda: nash_md(learner, policy, sampler, other, nobody, prompts),
    }[method]()
    return list(told), sampler.drew


@pytest.mark.parametrize("method", ["online dpo", "raft", "rso", "xpo", "nash-md"])
def test_after_a_step_with_nothing_to_learn_from_a_prompt_gets_other_replies_and_a_resumed_run_the_same(method):
    policy, _, learner = started()
    before = policy.next.weight.detach().clone()
    told, drew = in_vain(method, learner, policy, 6)
    assert [step["skipped"] for step in told] == [1] * 6
    assert torch.equal(policy.next.weight, before)
    assert len({tuple(each) for each in drew}) >= 5  # by chance some are alike
    _, _, again = started()
    _, first = in_vain(method, again, policy, 2)
    _, _, resumed = started()
    resumed.load_state_dict(again.state_dict())
    assert first + in_vain(method, resumed, policy, 4)[1] == drew


# --- a reward as an annotator ------------------------------------------------------------------------


def test_a_reward_prefers_by_its_scores_hard_or_soft():
    assert [hard(gap) for gap in (2.0, 0.0, -0.1)] == [1.0, 0.5, 0.0]
    assert soft(0.7) == pytest.approx(1 / (1 + 2.718281828459045**-0.7))
    assert soft(-900.0) == 0
    assert extremes([1.0, 2.0]) == (0, 1)
    assert extremes([1.0, 3.0, -1.0, 2.0]) == (1, 2)
    assert extremes([1.0, 1.0, 1.0]) == (0, 1)


def test_a_reward_that_gives_no_number_is_refused():
    _, said = drawn()
    annotator = Rewarded(lambda episodes: [Score(float("nan")) for _ in episodes], name="broken.py:mark")
    with pytest.raises(NoScore, match=r"broken\.py:mark gave"):
        annotator([comparison for group in said.groups for comparison in in_pairs(group)])


def test_a_reward_is_asked_once_about_what_is_watched_and_compared():
    asked = []

    def counted(episodes):
        asked.append(len(episodes))
        return many_fives(episodes)

    policy, reference, learner = started()
    once = Once(counted)
    list(online_dpo(learner, reference, ToySampler(policy), Rewarded(once), [PROMPTS] * 3, watched=once))
    assert asked == [2 * len(PROMPTS)] * 3


# --- imitating the best ------------------------------------------------------------------------------


def test_raft_raises_the_reward():
    policy, reference, learner = started(lr=0.1)
    told = list(raft(learner, reference, ToySampler(policy), many_fives, [PROMPTS] * 40, n=4))
    assert sum(step["reward"] for step in told[-5:]) / 5 > told[0]["reward"] + 1
    assert all(step["reward_kept"] >= step["reward"] for step in told)
    assert all(step["kept"] == 1 / 4 for step in told)


def test_best_of_n_distillation_goes_to_the_best_of_n():
    """P(best is i) = Fᵢⁿ - Fᵢ₋₁ⁿ over tokens in the order of their rewards, of the model as it was."""
    policy, reference, learner = started(steps=80)
    n, start = 4, said(policy)
    order = REWARD.argsort()
    below = start[order].cumsum(-1)
    goal = torch.zeros(8).index_copy(0, order, below**n - torch.cat([torch.zeros(1), below[:-1]]) ** n)
    assert distance(start, goal) > 0.3
    source, sampler = Follower(policy), ToySampler(policy, length=1)
    steps = raft(learner, reference, sampler, by_token, [[QUESTION] * 48] * 80, n=n, source=source)
    told = list(steps)
    assert distance(said(policy), goal) <= 0.03
    assert "kl" not in told[0]


def test_what_is_imitated_is_the_best_that_is_good_enough():
    assert top([1.0, 3.0, 2.0]) == [1]
    assert top([1.0, 3.0, 3.0], k=2) == [1, 2]
    assert top([1.0, 3.0, 2.0], k=3, least=2.0) == [1, 2]
    policy, reference, learner = started()
    keep = partial(top, k=1, least=100.0)
    (step,) = raft(learner, reference, ToySampler(policy), many_fives, [PROMPTS], keep=keep)
    assert step["skipped"] == 1
    assert step["kept"] == 0


# --- statistical rejection sampling ------------------------------------------------------------------


def test_what_is_accepted_is_distributed_as_the_best_policy():
    """Of many replies of π_ref, the first accepted one is as if drawn from π_ref·exp(r/β)."""
    policy = Bigram()
    key, goal = torch.Generator().manual_seed(0), best(policy)
    first = []
    for scores in draw_tokens(policy, 3000, 64):
        (place,) = accepted(REWARD[scores].tolist(), 1, beta=BETA, key=key)
        first.append(scores[place].item())
    assert distance(torch.tensor(first).bincount(minlength=8) / 3000, goal) < 0.04


def draw_tokens(policy, times, n):
    key = torch.Generator().manual_seed(1)
    return torch.multinomial(said(policy).expand(times, -1), n, replacement=True, generator=key)


def test_a_round_that_accepts_too_few_is_followed_by_another_among_those_left():
    key = torch.Generator().manual_seed(0)
    assert accepted([0.0, 900.0, -900.0], 3, beta=1.0, key=key) == [1, 0, 2]
    assert accepted([5.0], 2, beta=1.0, key=key) == [0]


def test_rsos_own_loss_is_the_hinge_of_the_command():
    policy, x = Bigram(seed=1), referred_of(replies_of([(2, (3, 5)), (1, (4, 2))]))
    ours, theirs = (each(policy, x).terms["preference"][1].total for each in (HINGE, objectives.hinge()))
    assert torch.equal(ours, theirs)


def test_a_reward_that_gives_no_number_accepts_nothing():
    """Not by its place, where other replies have scores, either: those accepted may all have one."""
    policy, _, learner = started()

    def partly(episodes):
        return [Score(float("nan") if i == 7 else 0.0) for i in range(len(episodes))]

    rows = [[QUESTION]]
    with pytest.raises(NoScore, match="expected finite numbers"):
        list(rso(learner, Follower(policy), ToySampler(policy), partly, Rewarded(by_token), rows))


@pytest.mark.parametrize("objective", [objectives.dpo(beta=BETA), HINGE])
def test_rso_raises_the_reward_and_with_soft_labels_reaches_the_best_policy(objective):
    policy, _, learner = started(lr=0.1, steps=100)
    reference, goal = Follower(policy), best(policy)
    sampler = ToySampler(policy, length=1, seed=1)
    soft_dpo = objective is not HINGE
    start = (said(policy) * REWARD).sum()
    list(
        rso(
            learner, reference, sampler, by_token, Rewarded(by_token, soft if soft_dpo else hard),
            [[QUESTION] * 16] * 100, objective=objective,
        )
    )  # fmt: skip
    assert (said(policy) * REWARD).sum() > start + 0.3
    assert torch.equal(said(reference.policy), said(Bigram()))
    if soft_dpo:
        assert distance(said(policy), goal) <= 0.02
