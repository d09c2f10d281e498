"""Where each loss on pairs ends: with a label for every pair of replies, its own optimum is known beforehand.

On a bandit — one prompt, replies of one token — and on whole sequences, with a table that can say anything.
"""

from functools import partial
from itertools import combinations

import pytest
import torch

from preferent.algorithms import objectives
from preferent.algorithms.dpo import Objective, dpo, on
from preferent.algorithms.tr_dpo import tr_dpo
from preferent.data.comparisons import pairs
from preferent.models.policy import Follower
from preferent.runtime.learner import Schedule, local_learner
from preferent.types import Prompt
from tabular import Tabular, best, distance
from toys import preference, reply

BETA = 0.5
QUESTION = Prompt((2,))
BANDIT = partial(Tabular, 6, 1)
SEQUENCES = partial(Tabular, 3, 3)
REWARD = torch.tensor([0.0, 0.5, 1.0, -0.6, 0.3, 0.8])


def chances_of(reward):
    """[n, n]: Bradley and Terry's chance that one is better than another."""
    return (reward[:, None] - reward).sigmoid()


def cyclic(n):
    """Chances that no reward explains: each is better than the next ones around a ring, more or less."""
    key = torch.Generator().manual_seed(4)
    noise = torch.rand(n, n, generator=key)
    return 0.5 + 0.4 * (noise - noise.T)


def fitted(objective, chances, make=BANDIT, *, steps=300, lr=0.1, train=dpo):
    """(π after learning from every pair, labelled with its chance; π_ref) over all replies."""
    policy = make()
    reference = policy.frozen()
    learner = local_learner(policy, lr=lr, schedule=Schedule("linear", total=steps), max_grad_norm=torch.inf)
    replies = [reply(*tokens) for tokens in policy.replies]
    labelled = [
        preference(QUESTION, replies[i], replies[j], choice=(p, 1 - p))
        for i, j in combinations(range(len(replies)), 2)
        for p in [chances[i, j].item()]
    ]
    list(train(learner, reference, [pairs(labelled)] * steps, objective=objective))
    return policy.distribution(QUESTION).detach(), reference.distribution(QUESTION).detach()


def normalised(reference, ratio_of):
    """π = π_ref·u(s + c), with the constant c at which it sums to 1. ``ratio_of`` rises with c."""
    low, high = -50.0, 50.0
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (low, middle) if (reference * ratio_of(middle)).sum() > 1 else (middle, high)
    return reference * ratio_of(low)


@pytest.mark.parametrize("make", [BANDIT, SEQUENCES], ids=["bandit", "sequences"])
def test_dpo_reaches_the_best_policy(make):
    reward = torch.cat([REWARD, -REWARD, REWARD / 2])[: len(make().replies)]
    policy, reference = fitted(objectives.dpo(beta=BETA), chances_of(reward), make)
    assert distance(reference, best(reference, reward, BETA)) > 0.2
    assert distance(policy, best(reference, reward, BETA)) <= 0.005


@pytest.mark.parametrize("make", [BANDIT, SEQUENCES], ids=["bandit", "sequences"])
def test_ipo_reaches_its_own_policy_which_needs_no_reward(make):
    """Azar et al. 2023: π* ∝ π_ref·exp(mean over y' of P(y ≻ y')/β), for chances that go around in a ring."""
    chances = cyclic(len(make().replies))
    policy, reference = fitted(objectives.ipo(beta=0.2), chances, make)
    goal = best(reference, chances.mean(-1), 0.2)
    assert distance(reference, goal) > 0.05
    assert distance(policy, goal) <= 0.005


def test_exo_reaches_the_best_policy_by_its_own_way():
    """Its divergence is nothing only where the policy says each label; its ε mixes the label with the opposite."""
    policy, reference = fitted(objectives.exo(beta=BETA, flip=1e-6), chances_of(REWARD))
    assert distance(policy, best(reference, REWARD, BETA)) <= 0.005


def test_conservative_dpo_believes_that_labels_are_flipped():
    """Labels p with (1 - ε)p + ε(1 - p) = σ(r_i - r_j) are to be read as the best policy's own."""
    flip = 0.1
    chances = (chances_of(REWARD) - flip) / (1 - 2 * flip)
    policy, reference = fitted(objectives.dpo(beta=BETA, flip=flip), chances)
    assert distance(policy, best(reference, REWARD, BETA)) <= 0.005


def test_robust_dpo_sees_through_labels_that_were_flipped_and_dpo_does_not():
    flip = 0.2
    noisy = (1 - flip) * chances_of(REWARD) + flip * (1 - chances_of(REWARD))
    policy, reference = fitted(objectives.robust_dpo(beta=BETA, flip=flip), noisy)
    goal = best(reference, REWARD, BETA)
    assert distance(policy, goal) <= 0.01
    deceived, _ = fitted(objectives.dpo(beta=BETA), noisy)
    assert distance(deceived, goal) > 0.05


def test_sppo_goes_as_near_to_its_log_ratios_as_probabilities_allow():
    """Least squares on c_i = log π/π_ref = a_i, a_i = mean over the others of (P - ½)/β, where Σ π_ref·e^c = 1.

    There, a_i - c_i = λ·π_i with one λ for all: π ∝ π_ref·e^a, as in the paper, only where that sums to 1 by itself.
    """
    chances = cyclic(6)
    aims = (chances - 0.5).sum(-1) / 5 / 0.2
    policy, reference = fitted(objectives.sppo(beta=0.2), chances, steps=600)
    price = ((aims - (policy / reference).log()) / policy).mean()
    goal = (reference.log() + aims - price * policy).exp()
    assert distance(reference, policy) > 0.1
    assert distance(policy, goal) <= 0.005
    assert price > 0.5


@pytest.mark.parametrize(
    ("divergence", "ratio"),
    [
        ("forward", lambda s: 1 / -s.clamp(max=-1e-6)),
        ("jensen-shannon", lambda s: s.exp() / (2 - s.exp()).clamp(min=1e-6)),
        ("alpha", lambda s: (1 - 0.4 * s).clamp(min=1e-6) ** (-1 / 0.4)),
        ("reverse", torch.exp),
    ],
)
def test_f_dpo_reaches_the_best_policy_under_its_divergence(divergence, ratio):
    """f'(π/π_ref) = r/β + c. -1/u = s: u = -1/s; log(2u/(1 + u)) = s: u = e^s/(2 - e^s); (1 - u^-α)/α = s."""
    alpha = 0.4 if divergence == "alpha" else None
    objective = objectives.f_dpo(beta=BETA, divergence=divergence, alpha=alpha)
    policy, reference = fitted(objective, chances_of(REWARD), steps=400)
    goal = normalised(reference, lambda c: ratio(REWARD / BETA + c))
    torch.testing.assert_close(goal.sum(), torch.ones(()), atol=1e-4, rtol=0)
    assert distance(policy, goal) <= 0.01
    if divergence != "reverse":
        assert distance(goal, best(reference, REWARD, BETA)) > 0.02  # which is another one


def test_length_that_annotators_like_is_taken_out_by_r_dpo():
    """Labels follow r + α·length, and the policy is the best for r alone."""
    make, alpha = SEQUENCES, 0.3
    lengths = torch.tensor([len(tokens) for tokens in make().replies])
    reward = torch.cat([REWARD, -REWARD, REWARD / 2])[:15]
    objective = objectives.rdpo(beta=BETA, alpha=alpha)
    policy, reference = fitted(objective, chances_of(reward + alpha * lengths), make)
    assert distance(policy, best(reference, reward, BETA)) <= 0.005
    swayed, _ = fitted(objectives.dpo(beta=BETA), chances_of(reward + alpha * lengths), make)
    assert (swayed * lengths).sum() > (policy * lengths).sum() + 0.2


def test_without_a_reference_cpos_contrast_makes_the_policy_the_rewards_own_softmax():
    """DPO with a uniform reference: π* ∝ exp(r/β), wherever it started."""
    contrast = Objective(on(lambda c, r: torch.nn.functional.softplus(-BETA * (c - r)), lambda side: side.logp()))
    policy, _ = fitted(contrast, chances_of(REWARD))
    assert distance(policy, (REWARD / BETA).softmax(-1)) <= 0.005


def test_a_reference_that_follows_lets_the_policy_go_on_beyond_the_best_one():
    """TR-DPO: what it is not allowed to leave moves with it, so that it has less divergence to pay for."""
    reference = BANDIT().distribution(QUESTION).detach()
    goal = best(reference, REWARD, BETA)

    def following(learner, _, steps, *, objective):
        return tr_dpo(learner, Follower(learner.model), steps, share=0.5, every=50, objective=objective)

    policy, _ = fitted(objectives.dpo(beta=BETA), chances_of(REWARD), train=following)
    stayed, _ = fitted(objectives.dpo(beta=BETA), chances_of(REWARD))
    assert distance(stayed, goal) <= 0.005
    assert (policy * REWARD).sum() > (goal * REWARD).sum() + 0.1


@pytest.mark.parametrize("make", [BANDIT, SEQUENCES], ids=["bandit", "sequences"])
@pytest.mark.parametrize("anchored", [False, True], ids=["moved", "frozen"])
def test_iterated_dpo_goes_a_round_further_each_time_its_reference_is_moved_and_stays_where_it_is_not(make, anchored):
    """After k rounds: π_0·exp(k·r/β), or where one leads."""
    rounds, reward = 3, torch.cat([REWARD, -REWARD, REWARD / 2])[: len(make().replies)]

    def rounded(learner, reference, steps, *, objective):
        moved = Follower(learner.model)
        for i in range(rounds):
            yield from dpo(learner, reference if anchored else moved, steps[i::rounds], objective=objective)
            moved.follow(learner.weights(), 1.0)

    beta = rounds * BETA
    policy, first = fitted(objectives.dpo(beta=beta), chances_of(reward), make, train=rounded)
    goal = best(first, (1 if anchored else rounds) * reward, beta)
    assert distance(best(first, reward, beta), best(first, rounds * reward, beta)) > 0.1
    assert distance(policy, goal) <= 0.01
