"""Stopping after any step and resuming equals not stopping, bit for bit, for every algorithm on a language model."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import pytest
import torch
from torch import nn

from preferent.algorithms.aot import aot
from preferent.algorithms.dpo import DPO, dpo
from preferent.algorithms.grpo import GRPO, grpo
from preferent.algorithms.grpo import Config as GRPOConfig
from preferent.algorithms.kto import Shift, bco, kto
from preferent.algorithms.listwise import Listwise, lists
from preferent.algorithms.nash_md import nash_md
from preferent.algorithms.online_dpo import online_dpo
from preferent.algorithms.ppo import Config as PPOConfig
from preferent.algorithms.ppo import ppo
from preferent.algorithms.reward_model import BradleyTerry, ensemble, reward_model
from preferent.algorithms.safe_rlhf import Constrained, Multiplier
from preferent.algorithms.sft import sft
from preferent.algorithms.tr_dpo import following, tr_dpo
from preferent.algorithms.wpo import weighted
from preferent.data.batches import Batches
from preferent.data.collate import demonstrations
from preferent.data.comparisons import by_prompt, pairs
from preferent.data.rated import Collate, Neighbours
from preferent.models.load import actor_critic, load_policy, load_scorer
from preferent.models.policy import Follower
from preferent.rewards.annotating import Once, Rewarded, soft
from preferent.rewards.learned import LearnedReward, Scale
from preferent.rewards.shaping import AdaptiveKL
from preferent.runtime import checkpoint
from preferent.runtime.drive import checkpointed, limited, logged
from preferent.runtime.learner import Schedule, local_learner
from preferent.runtime.track import JsonLines, rows
from preferent.sampling.local import LocalSampler
from preferent.sampling.mixture import MixtureSampler
from preferent.types import Algorithm, Demonstration, Prompt, Reply, Stateful
from toys import drawn, preference, ranking, saved_policy

STEPS = 5
KEY = torch.Generator().manual_seed(0)


def said(low, high):
    tokens = drawn(KEY, int(torch.randint(low, high, (1,), generator=KEY)), 6, 300)
    return Reply((*tokens, 1), (True,) * (len(tokens) + 1))


PROMPTS = [Prompt(drawn(KEY, n, 6, 300)) for n in (3, 5, 2, 7, 4, 6, 3)]
DEMONSTRATIONS = [Demonstration(prompt, said(2, 7)) for prompt in PROMPTS]
OPINIONS = [preference(prompt, said(2, 5), said(2, 7), choice=(0.9, 0.1)) for prompt in PROMPTS]
OPINIONS.append(ranking(PROMPTS[0], said(2, 5), said(3, 4), said(2, 7), ranks=(0, 2, 1)))
JUDGED = Neighbours(by_prompt(OPINIONS, lambda opinion: opinion.comparison.context))


@dataclass
class Job:
    """An algorithm, all that has state, and the models that it trains."""

    steps: Algorithm
    parts: dict[str, Stateful]
    models: list[nn.Module]


def learner_of(model, **rest):
    return local_learner(model, lr=3e-3, weight_decay=0.01, schedule=Schedule("cosine", total=40, warmup=0.1), **rest)


def of_sft(base):
    policy, data = load_policy(base), Batches(DEMONSTRATIONS, 3, demonstrations, steps=STEPS)
    learner = learner_of(policy, token_budget=20)
    return Job(sft(learner, data), {"learner": learner, "data": data}, [policy])


def of_reward(base):
    scorers = [load_scorer(base, seed=seed) for seed in range(2)]
    learners = [learner_of(scorer) for scorer in scorers]
    data = [Batches(OPINIONS, 3, pairs, seed=i, steps=STEPS) for i in range(2)]
    objective = BradleyTerry(centring=0.1)
    members = [reward_model(*member, objective=objective) for member in zip(learners, data, strict=True)]
    parts = {f"learner-{i}": learners[i] for i in range(2)} | {f"data-{i}": data[i] for i in range(2)}
    return Job(ensemble(members), parts, scorers)


def of_listwise(base):
    scorer, data = load_scorer(base), Batches([[opinion] for opinion in OPINIONS], 3, lists, steps=STEPS)
    learner = learner_of(scorer, token_budget=30)
    return Job(reward_model(learner, data, objective=Listwise()), {"learner": learner, "data": data}, [scorer])


def of_dpo(base, lora=0):
    policy, data = load_policy(base, lora=lora), Batches(OPINIONS, 3, pairs, steps=STEPS)
    learner = learner_of(policy)
    steps = dpo(learner, policy.frozen(), data, objective=replace(DPO, likelihood=0.1))
    return Job(steps, {"learner": learner, "data": data}, [policy])


def of_kto(base):
    policy, data = load_policy(base), Batches(JUDGED, 3, Collate(), steps=STEPS)
    learner = learner_of(policy, token_budget=30)
    return Job(kto(learner, policy.frozen(), data), {"learner": learner, "data": data}, [policy])


def of_bco(base):
    policy, data, shift = load_policy(base), Batches(JUDGED, 3, Collate(), steps=STEPS), Shift()
    learner = learner_of(policy)
    parts = {"learner": learner, "data": data, "shift": shift}
    return Job(bco(learner, policy.frozen(), data, shift=shift), parts, [policy])


def of_tr_dpo(base, lora=0):
    policy, data = load_policy(base, lora=lora), Batches(OPINIONS, 3, pairs, steps=STEPS)
    learner, reference = learner_of(policy), Follower(policy)
    steps = tr_dpo(learner, reference, data, share=0.6, every=2, objective=weighted(aot()))
    return Job(steps, {"learner": learner, "data": data, "reference": reference}, [policy])


def of_grpo(base):
    policy, data = load_policy(base), Batches(PROMPTS, 3, list, steps=STEPS)
    learner, sampler = learner_of(policy, token_budget=40), LocalSampler(policy, max_new_tokens=6)
    reward = LearnedReward([load_scorer(base, seed=5)], [Scale()])
    config = GRPOConfig(group=3, grpo_epochs=2, mini_batch=2)
    steps = grpo(learner, policy.frozen(), sampler, reward, data, objective=GRPO, config=config)
    return Job(steps, {"learner": learner, "data": data}, [policy])


def of_constrained(base):
    """GRPO on a reward and a cost, whose price moves with every step."""
    policy, data = load_policy(base), Batches(PROMPTS, 3, list, steps=STEPS)
    learner, sampler = learner_of(policy), LocalSampler(policy, max_new_tokens=6)
    reward, cost = (LearnedReward([load_scorer(base, seed=seed)], [Scale(std=0.01)]) for seed in (5, 6))
    price = Multiplier(limit=0.1, rate=0.2)
    config = GRPOConfig(group=3, grpo_epochs=2, mini_batch=2)
    steps = grpo(learner, policy.frozen(), sampler, Constrained(reward, cost, price), data, config=config)
    return Job(steps, {"learner": learner, "data": data, "price": price}, [policy])


def of_ppo(base):
    policy, data = load_policy(base), Batches(PROMPTS, 3, list, steps=STEPS)
    scorer = load_scorer(base, seed=5)
    model = actor_critic(policy, scorer)
    learner, sampler = learner_of(model, critic_lr=1e-2), LocalSampler(policy, max_new_tokens=6)
    price = AdaptiveKL(0.1, target=0.1, horizon=30)
    reward = LearnedReward([scorer], [Scale()])
    config = PPOConfig(ppo_epochs=2, mini_batch=2)
    steps = ppo(learner, policy.frozen(), sampler, reward, data, price=price, config=config)
    return Job(steps, {"learner": learner, "data": data, "price": price}, [model])


def of_online_dpo(base, lora=0):
    """The reference follows, so that it is part of a checkpoint; a reward judges."""
    policy, data = load_policy(base, lora=lora), Batches(PROMPTS, 3, list, steps=STEPS)
    learner, sampler, reference = learner_of(policy), LocalSampler(policy, max_new_tokens=6), Follower(policy)
    reward = Once(LearnedReward([load_scorer(base, seed=5)], [Scale()]))
    steps = online_dpo(learner, reference, sampler, Rewarded(reward, soft), data, n=3, watched=reward)
    steps = following(steps, learner, reference, share=0.5, every=2)
    return Job(steps, {"learner": learner, "data": data, "reference": reference}, [policy])


def of_nash_md(base):
    policy, data = load_policy(base), Batches(PROMPTS, 3, list, steps=STEPS)
    learner, reference = learner_of(policy, token_budget=40), load_policy(base)
    sampler, opponent = (
        LocalSampler(policy, max_new_tokens=6),
        MixtureSampler(policy, reference, share=0.3, max_new_tokens=6, seed=1),
    )
    annotator = Rewarded(LearnedReward([load_scorer(base, seed=5)], [Scale()]), soft)
    steps = nash_md(learner, reference, sampler, opponent, annotator, data, n=2)
    return Job(steps, {"learner": learner, "data": data}, [policy])


JOBS: dict[str, Callable[..., Job]] = {
    "online dpo": of_online_dpo,
    "online dpo with an adapter": lambda base: of_online_dpo(base, lora=2),
    "nash-md": of_nash_md,
    "sft": of_sft,
    "reward": of_reward,
    "dpo": of_dpo,
    "dpo with an adapter": lambda base: of_dpo(base, lora=2),
    "kto": of_kto,
    "bco": of_bco,
    "tr-dpo with aot and wpo": of_tr_dpo,
    "tr-dpo with an adapter": lambda base: of_tr_dpo(base, lora=2),
    "grpo": of_grpo,
    "ppo": of_ppo,
    "reward on lists": of_listwise,
    "grpo at a cost": of_constrained,
}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return saved_policy(tmp_path_factory.mktemp("base") / "model")


def sitting(name, base, folder, save_every, stop=None) -> Job:
    """One start of a run, from scratch in all but its folder; it is dropped after ``stop`` steps, as if killed."""
    job = JOBS[name](base)
    start = checkpoint.restore(folder / "checkpoints", job.parts)
    folder.mkdir(exist_ok=True)
    writer = JsonLines(folder / "metrics.jsonl", start)
    steps = logged(limited(job.steps, STEPS, start=start), writer, start=start)
    for _ in islice(checkpointed(steps, save_every, job.parts, folder / "checkpoints", start=start), stop):
        pass
    writer.close()
    return job


def left(job, folder) -> tuple[Any, ...]:
    weights = [{name: p.detach().clone() for name, p in model.named_parameters()} for model in job.models]
    metrics = [{k: v for k, v in row.items() if k != "time"} for row in rows(folder / "metrics.jsonl")]
    return weights, metrics, {name: part.state_dict() for name, part in job.parts.items()}


@pytest.fixture(scope="module")
def straight(base, tmp_path_factory):
    """What a run leaves that was not interrupted, for each algorithm, made when it is first asked for."""
    done: dict[str, tuple[Any, ...]] = {}

    def of(name):
        if name not in done:
            folder = tmp_path_factory.mktemp("straight")
            done[name] = left(sitting(name, base, folder, 2), folder)
        return done[name]

    return of


def equal(a, b):
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and a.equal(b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)
    return a == b


@pytest.mark.parametrize("stop", range(1, STEPS))
@pytest.mark.parametrize("name", JOBS)
def test_stopping_after_any_step_and_resuming_leaves_what_an_uninterrupted_run_leaves(
    name, stop, base, straight, tmp_path
):
    """Whether or not a checkpoint was saved at that very step."""
    for save_every in (1, 3):
        folder = tmp_path / str(save_every)
        sitting(name, base, folder, save_every, stop)
        finished = left(sitting(name, base, folder, save_every), folder)
        weights, metrics, states = straight(name)
        assert [row["step"] for row in finished[1]] == list(range(1, STEPS + 1))
        assert finished[1] == metrics
        assert all(equal(ours, theirs) for ours, theirs in zip(finished[0], weights, strict=True))
        assert equal(finished[2], states)


@pytest.mark.parametrize("name", JOBS)
def test_stopping_at_every_step_is_no_different(name, base, straight, tmp_path):
    for _ in range(STEPS - 1):
        sitting(name, base, tmp_path, 1, 1)
    job = sitting(name, base, tmp_path, 1)
    weights, metrics, _ = left(job, tmp_path)
    assert metrics == straight(name)[1]
    assert all(equal(ours, theirs) for ours, theirs in zip(weights, straight(name)[0], strict=True))


def test_what_is_compared_does_change_with_every_step(base, straight, tmp_path):
    """Else the tests above could not fail."""
    for name in JOBS:
        folder = tmp_path / name
        weights, metrics, _ = left(sitting(name, base, folder, 1, 2), folder)
        assert metrics == straight(name)[1][:2]
        assert len({row["loss"] for row in straight(name)[1]}) == STEPS
        assert not all(equal(ours, theirs) for ours, theirs in zip(weights, straight(name)[0], strict=True))
        shutil.rmtree(folder)
