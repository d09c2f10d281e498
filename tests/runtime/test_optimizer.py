"""AdamW with moments in eight bits: it learns as AdamW does, in a quarter of the memory, and resumes to the bit."""

from importlib.util import find_spec

import pytest
import torch

from preferent.algorithms.sft import Likelihood
from preferent.models.policy import LanguagePolicy
from preferent.models.scratch import Size, new_model
from preferent.runtime import checkpoint
from preferent.runtime.learner import LocalLearner, Schedule
from preferent.runtime.optimizer import adamw
from preferent.stages.memory import moments_of
from toys import replies_of, tokenizer

needs_bitsandbytes = pytest.mark.skipif(not find_spec("bitsandbytes"), reason="bitsandbytes is not installed")
SIZE = Size(hidden=64, layers=2, heads=2, context=128)
X = replies_of([(9, [6, 3, 8]), (4, [5]), (3, [7, 7])], high=300)


def learner_of(kind, seed=0):
    model = LanguagePolicy(new_model(tokenizer(), SIZE, seed=seed), tokenizer(), sharing=True).eval()
    schedule = Schedule("cosine", total=60)
    return LocalLearner(model, adamw(model, kind, lr=3e-3, weight_decay=0.01), schedule=schedule)


def learned(learner, updates):
    return [learner.update(X, Likelihood())["loss"] for _ in range(updates)]


@needs_bitsandbytes
def test_it_learns_as_adamw_does():
    whole, eight = (learned(learner_of(kind), 20) for kind in ("adamw", "adamw8bit"))
    assert whole[-1] < whole[0] / 2
    assert eight == pytest.approx(whole, rel=0.05)


@needs_bitsandbytes
def test_its_moments_take_a_quarter_and_are_estimated_so():
    learner = learner_of("adamw8bit")
    learned(learner, 1)
    own = {}
    for state in learner.optimizer.state.values():
        own |= {v.data_ptr(): v.numel() * v.element_size() for k, v in state.items() if k[:4] in ("stat", "absm")}
    weights = sum(p.numel() * 4 for p in learner.model.parameters())
    assert sum(own.values()) < 0.3 * 2 * weights
    assert sum(own.values()) == pytest.approx(moments_of(learner.model), rel=0.01)


@needs_bitsandbytes
def test_a_checkpoint_of_it_goes_on_to_the_bit(tmp_path):
    straight = learner_of("adamw8bit")
    learned(straight, 3)
    checkpoint.save(tmp_path, 3, {"learner": straight.state_dict()})
    resumed = learner_of("adamw8bit", seed=1)
    assert checkpoint.restore(tmp_path, {"learner": resumed}) == 3
    assert learned(resumed, 4) == learned(straight, 4)
    for a, b in zip(straight.model.parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(a, b)


@needs_bitsandbytes
def test_moments_of_another_size_are_refused():
    learner = learner_of("adamw8bit")
    learned(learner, 1)
    state = learner.state_dict()
    name = next(name for name, of in state["optimizer"].items() if "absmax1" in of)
    state["optimizer"][name]["absmax1"] = state["optimizer"][name]["absmax1"][:-1]
    with pytest.raises(ValueError, match="other shapes"):
        learner_of("adamw8bit").load_state_dict(state)


def test_fused_adamw_is_the_default():
    (group,) = adamw(torch.nn.Linear(2, 2)).param_groups
    assert group["fused"]
