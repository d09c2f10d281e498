"""The learner's state: through a checkpoint it goes on bit for bit, with an adapter it is the adapter alone."""

import pytest
import torch
from torch import nn

from preferent.algorithms.sft import Likelihood
from preferent.models.load import load_policy
from preferent.runtime import checkpoint
from preferent.runtime.learner import Schedule, local_learner
from preferent.testing import Bigram
from toys import replies_of, saved_policy, tiny_policy


def snapshot(learner):
    moments = {
        name: {key: moment.clone() for key, moment in state.items()}
        for name, state in learner.state_dict()["optimizer"].items()
    }
    return {name: p.detach().clone() for name, p in learner.weights().items()}, moments, learner.version


def same(a, b):
    (weights, moments, version), (others, other_moments, other_version) = a, b
    assert version == other_version
    assert weights.keys() == others.keys()
    assert all(weights[name].equal(others[name]) for name in weights)
    assert moments.keys() == other_moments.keys()
    assert all(moments[n][k].equal(other_moments[n][k]) for n in moments for k in moments[n])


@pytest.mark.parametrize("stop", [0, 1, 3])
def test_through_a_checkpoint_the_learner_goes_on_bit_for_bit(tmp_path, stop):
    x = replies_of([(4, (3, 5)), (3, (6, 2, 1)), (5, (4, 2))], high=60)

    def make(seed):
        return local_learner(tiny_policy(seed), lr=0.01, weight_decay=0.1, schedule=Schedule("cosine", total=4))

    straight, first, second = make(0), make(0), make(9)
    for _ in range(4):
        straight.update(x, Likelihood())
    for _ in range(stop):
        first.update(x, Likelihood())
    checkpoint.save(tmp_path, stop, {"learner": first.state_dict()})
    assert checkpoint.restore(tmp_path, {"learner": second}) == stop
    same(snapshot(first), snapshot(second))
    for _ in range(4 - stop):
        second.update(x, Likelihood())
    same(snapshot(straight), snapshot(second))


def test_what_was_saved_does_not_move_when_the_learner_goes_on():
    learner = local_learner(Bigram(), lr=0.1)
    x = replies_of([(2, (3,)), (1, (2,))])
    learner.update(x, Likelihood())
    other = local_learner(Bigram())
    other.load_state_dict(learner.state_dict())
    kept = snapshot(other)
    learner.update(x, Likelihood())
    same(kept, snapshot(other))


def test_the_checkpoint_of_another_model_is_refused():
    with pytest.raises(ValueError, match="another model"):
        local_learner(nn.Linear(2, 2)).load_state_dict(local_learner(Bigram()).state_dict())


# --- adapters and precision -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return saved_policy(tmp_path_factory.mktemp("base") / "model")


def test_with_an_adapter_only_the_adapter_is_in_the_state_and_only_it_moves(base, tmp_path):
    x = replies_of([(4, (3, 5)), (3, (6, 2))], high=60)
    learner = local_learner(load_policy(base, lora=2), lr=0.1)
    before = {name: p.detach().clone() for name, p in learner.weights().items()}
    for _ in range(2):  # LoRA's first update leaves A as it is, for B is 0
        learner.update(x, Likelihood())
    moved = {name for name, p in learner.weights().items() if not p.equal(before[name])}
    adapter = {name for name in before if "lora_" in name}
    assert moved == adapter != set()
    assert set(learner.state_dict()["model"]) == set(learner.state_dict()["optimizer"]) == adapter

    checkpoint.save(tmp_path, 2, {"learner": learner.state_dict()})
    resumed = local_learner(load_policy(base, lora=2), lr=0.1)
    checkpoint.restore(tmp_path, {"learner": resumed})
    for each in (learner, resumed):
        each.update(x, Likelihood())
    same(snapshot(learner), snapshot(resumed))


def test_bf16_is_close_to_fp32_and_its_weights_stay_fp32():
    x = replies_of([(4, (3, 5)), (3, (6, 2))], high=60)
    exact, rough = (local_learner(tiny_policy(), lr=0.01, bf16=bf16) for bf16 in (False, True))
    said = [learner.map(x, lambda model, cut: model.read(cut).logprobs) for learner in (exact, rough)]
    assert said[1].dtype == torch.float32
    assert 0 < (said[0] - said[1]).abs().max() < 0.1
    for _ in range(5):
        told = [learner.update(x, Likelihood())["nll"] for learner in (exact, rough)]
        assert told[0] == pytest.approx(told[1], rel=0.02)
    assert all(p.dtype == torch.float32 for p in rough.model.parameters())
    assert rough.measure([x], Likelihood())["nll"] < said[1][x.learn].mean().neg()
