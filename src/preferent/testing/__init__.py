"""For tests of this package and of what its users plug in: conformance suites, and a model to run algorithms on."""

from preferent.testing.conformance import (
    check_actor_critic,
    check_annotator,
    check_critic,
    check_learner,
    check_policy,
    check_reward,
    check_sampler,
    check_scorer,
)
from preferent.testing.toy import END, Bigram, ToySampler

__all__ = [
    "END",
    "Bigram",
    "ToySampler",
    "check_actor_critic",
    "check_annotator",
    "check_critic",
    "check_learner",
    "check_policy",
    "check_reward",
    "check_sampler",
    "check_scorer",
]
