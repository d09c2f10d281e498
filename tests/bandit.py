"""One question and eight answers of a token each, whose optima are known in closed form; a reward for whole replies."""

import torch
from torch import Tensor

from preferent.testing import Bigram
from preferent.types import Prompt, Score
from tabular import distance
from toys import VOCABULARY

__all__ = ["BETA", "PROMPTS", "QUESTION", "REWARD", "best", "by_token", "distance", "many_fives", "said"]
REWARD = torch.tensor([0.0, 0.5, 1.0, -1.0, 0.3, 0.8, -0.2, 0.1])  # of each token
BETA = 0.5
QUESTION = Prompt((3,))
PROMPTS = [Prompt((i,)) for i in range(2, VOCABULARY)]


def by_token(episodes):
    return [Score(REWARD[e.tokens[0]].item()) for e in episodes]


def many_fives(episodes):
    return [Score(float(sum(token == 5 for token in e.tokens))) for e in episodes]


def said(policy: Bigram) -> Tensor:
    """π(token | the question) [8]."""
    return policy.next.weight.detach()[QUESTION.tokens[0]].softmax(-1)


def best(reference: Bigram, *, beta: float = BETA) -> Tensor:
    """π_ref·exp(r/β), normalised."""
    return (said(reference).log() + REWARD / beta).softmax(-1)
