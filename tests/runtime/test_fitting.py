"""Batches that do not fit: in a process of its own whose address space is limited, so that allocations really fail."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from preferent.models.room import no_room

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="a process's address space is limited as on Linux")

SCRIPT = """
import copy, json, logging, resource, sys
from pathlib import Path
import torch
from preferent.algorithms.sft import Likelihood
from preferent.config import UsageError
from preferent.models.policy import LanguagePolicy
from preferent.models.scorer import HeadedTrunk, ScoringModel
from preferent.models.scratch import Size, new_model
from preferent.rewards.learned import LearnedReward, Scale
from preferent.runtime.learner import local_learner
from preferent.sampling.local import LocalSampler
from preferent.types import Prompt, Reply
from toys import replies_of, tokenizer

def limit(mib):
    now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    resource.setrlimit(resource.RLIMIT_AS, (now + (mib << 20) if mib else hard, hard))

said = {"log": []}
handler = logging.StreamHandler()
handler.emit = lambda record: said["log"].append(record.getMessage())
logging.basicConfig(handlers=[handler])
words = tokenizer()
policy = LanguagePolicy(new_model(words, Size(hidden=64, layers=4, heads=2, context=4096), seed=0), words, sharing=True)
limited, free = (local_learner(copy.deepcopy(policy), lr=0.01, token_budget=100_000) for _ in range(2))
samplers = [LocalSampler(learner.model, max_new_tokens=16, end_tokens=[]) for learner in (limited, free)]
small, large = replies_of([(3, [4])], high=300), replies_of([(100, [60, 60])] * 32, high=300)
larger = replies_of([(100, [60, 60])] * 96, high=300)
prompts = [Prompt(tuple(range(3, 43 + i))) for i in range(16)]
for learner in (limited, free):  # what is allocated once, is
    learner.update(small, Likelihood())
samplers[0].sample(prompts[:1], 1)
scorer = ScoringModel(HeadedTrunk(policy.base.base_model, heads=1), words, sharing=True)
rewards = [LearnedReward([scorer], [Scale()], token_budget=200_000) for _ in range(2)]
rows = [(Prompt(tuple(range(3 + i % 99, 103 + i % 99))), Reply(tuple(range(5, 65)), (True,) * 60)) for i in range(640)]
rewards[0].score_rows(rows[:1])

limit(20)
drawn = samplers[0].sample(prompts, 64)
said["cache"] = samplers[0].state_dict()["cache_tokens"] < samplers[1].cache_tokens
limit(20)
read = limited.map(large, lambda model, cut: model.read(cut).logprobs)
said["read"], limited.token_budget = limited.token_budget, 100_000
limit(20)
measured = limited.measure([small, larger], Likelihood())["loss"]
said["measured"], limited.token_budget = limited.token_budget, 100_000
limit(60)
said["limited"] = [limited.update(batch, Likelihood()) for batch in (large, small)]
said["updated"] = limited.token_budget
try:
    limited.update(replies_of([(5, [6]), (9, [3]), (1200, [700, 650])], high=300), Likelihood())
except UsageError as error:
    said["error"] = str(error)
limit(20)
scores = rewards[0].score_rows(rows)
said["scored"] = rewards[0].token_budget
try:
    endless = Reply(tuple(range(5, 205)) * 200, (True,) * 40_000)
    rewards[0].score_rows([*rows[:2], (rows[2][0], endless)])
except UsageError as error:
    said["unread"] = str(error)
limit(None)

other = local_learner(copy.deepcopy(policy))
other.load_state_dict(limited.state_dict())
said["resumed"] = other.token_budget
said["far"] = (read - free.map(large, lambda model, cut: model.read(cut).logprobs)).abs().max().item()
said["losses"] = [measured, free.measure([small, larger], Likelihood())["loss"]]
said["same"] = [[e.tokens for e in group] for group in drawn] == [
    [e.tokens for e in group] for group in samplers[1].sample(prompts, 64)
]
said["far off"] = (scores - rewards[1].score_rows(rows)).abs().max().item()
said["free"] = [free.update(batch, Likelihood()) for batch in (large, small)]
print(json.dumps(said))
"""


@pytest.fixture(scope="module")
def said():
    """What a limited learner and sampler did, and free ones like them."""
    path = os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    env = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1"}
    done = subprocess.run([sys.executable, "-c", SCRIPT], env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_a_step_that_does_not_fit_is_cut_smaller_and_gives_the_same_update(said):
    assert said["updated"] < 100_000
    for limited, free in zip(said["limited"], said["free"], strict=True):
        assert limited == pytest.approx(free, rel=1e-4)  # a gradient that counts twice would be in its norm


def test_the_smaller_budget_is_said_and_goes_on_in_a_resumed_run(said):
    assert f"--token-budget is {said['updated']} from here on." in "".join(said["log"])
    assert said["resumed"] == said["updated"]


def test_reading_and_measuring_are_cut_smaller_too(said):
    assert said["read"] < 100_000
    assert said["far"] < 1e-5
    assert said["measured"] < 100_000
    assert said["losses"][0] == pytest.approx(said["losses"][1], rel=1e-6)


def test_a_reward_model_reads_fewer_at_a_time_and_names_the_reply_that_it_cannot_read(said):
    assert said["scored"] < 200_000
    assert f"reward models read {said['scored']} from here on." in "".join(said["log"])
    assert said["far off"] < 1e-5
    assert "number 3 of the 3 in this batch, with a prompt of 100 tokens and 40000 of its own." in said["unread"]


def test_a_prompt_that_cannot_fit_is_named_with_its_length_and_what_helps(said):
    assert "number 3 of the 3 in this batch, 1200 tokens and replies of 700, 650." in said["error"]
    assert "The prompt begins with the tokens" in said["error"]
    for option in ("--max-length", "--max-new-tokens", "--group", "--checkpoint-activations", "--lora", "--load-4bit"):
        assert option in said["error"]


def test_replies_that_do_not_fit_are_drawn_fewer_at_a_time_and_are_the_same(said):
    assert said["cache"]
    assert said["same"]


def test_only_memory_counts_as_memory():
    assert no_room(MemoryError())
    assert not no_room(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    assert not no_room(ValueError("DefaultCPUAllocator"))
