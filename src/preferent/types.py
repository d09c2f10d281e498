"""The nouns and the verbs of learning from feedback. Read this first; everything else is a function over these.

Nouns are frozen. Verbs are protocols, one or two methods wide. Shapes: p prompts, r replies, b comparisons,
s prompt tokens, t reply tokens, h heads. Importing this module does not import torch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, Literal, NamedTuple, Protocol, Self, TypeVar

from preferent.cutting import CutPairs, CutReplies, CutRows

if TYPE_CHECKING:
    from torch import Tensor

X = TypeVar("X")
Y = TypeVar("Y")
B = TypeVar("B", bound="Batch")
Out = TypeVar("Out")
M_co = TypeVar("M_co", covariant=True)
M_contra = TypeVar("M_contra", contravariant=True)
B_contra = TypeVar("B_contra", contravariant=True)
Metrics = Mapping[str, float]
Algorithm = Iterator[Metrics]  # yields once per step that can be resumed from


# --- feedback: what somebody said about some options (text or behaviour; no tensors) -------------
@dataclass(frozen=True, slots=True)
class Comparison(Generic[X, Y]):
    """A context and the options to choose between: prompt and replies, state and segments."""

    context: X
    options: tuple[Y, ...]


@dataclass(frozen=True, slots=True)
class Preference(Generic[X, Y]):
    """A comparison, answered, in canonical order whatever order was shown."""

    comparison: Comparison[X, Y]
    choice: tuple[float, ...]  # a distribution over the options: (1, 0), (.5, .5) for a tie, (.8, .2) for a soft label
    annotator: str = ""
    strength: float | None = None  # how much better, on the annotator's scale: 0 not at all … 3 much
    both_bad: bool = False  # which is not a tie
    judgements: tuple[str, ...] = ()  # ids in the store


@dataclass(frozen=True, slots=True)
class Ranking(Generic[X, Y]):
    """K options ordered; equal ranks are ties. Becomes all its pairs."""

    comparison: Comparison[X, Y]
    ranks: tuple[int, ...]  # 0 is best
    annotator: str = ""
    judgements: tuple[str, ...] = ()


# --- text: what a policy was asked and what it said ----------------------------------------------
@dataclass(frozen=True, slots=True)
class Prompt:
    """A question, tokenised once, with the data columns that its reward needs (``info["messages"]``: the text)."""

    tokens: tuple[int, ...]
    info: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Reply:
    """What stands after the prompt, its end token included. Over several turns, not all of it is learned from."""

    tokens: tuple[int, ...]
    learn: tuple[bool, ...]
    text: str = ""


@dataclass(frozen=True, slots=True)
class Demonstration:
    """A prompt with one reply that is worth imitating."""

    prompt: Prompt
    reply: Reply


@dataclass(frozen=True, slots=True)
class Episode:
    """One reply, drawn: everything after the prompt. Over several turns it holds tool and user tokens too."""

    prompt: Prompt
    tokens: tuple[int, ...]
    learn: tuple[bool, ...]  # True where a policy drew the token
    logprobs: tuple[float, ...]  # of the sampler, one a token; 0 where not drawn
    stop: Literal["end", "length", "stop_string"]
    version: int  # of the weights that drew it
    text: str = ""


class Score(NamedTuple):
    """What a reward says of an episode, and what it is made of."""

    value: float
    parts: Mapping[str, float] = {}


# --- tensors -------------------------------------------------------------------------------------
class Batch(Protocol):
    """Something that can be cut between prompts, and nowhere else."""

    def __len__(self) -> int: ...  # prompts
    def tokens_each(self) -> Sequence[int]: ...  # tokens of each prompt with its replies, for the token budget
    def __getitem__(self, prompts: slice | Sequence[int], /) -> Self: ...


@dataclass(frozen=True, slots=True)
class Replies(CutReplies):
    """Replies to prompts; a prompt stands once, however many replies it has."""

    prompts: Tensor  # [p, s] right-padded
    prompt_length: Tensor  # [p]
    prompt_of: Tensor  # [r] ascending
    tokens: Tensor  # [r, t] right-padded; the end-of-reply token included
    present: Tensor  # [r, t] bool: real tokens, attended to
    learn: Tensor  # [r, t] bool, a subset of present: tokens that a policy chose


@dataclass(frozen=True, slots=True)
class PerReply(CutRows):
    """Replies with tensors about them, one row for each reply: an algorithm adds fields ``[r, …]``."""

    replies: Replies


@dataclass(frozen=True, slots=True)
class Pairs(CutPairs):
    """Comparisons over the replies of one batch. A reply that stands in several pairs is forwarded once."""

    replies: Replies
    better: Tensor  # [b] index into r
    worse: Tensor  # [b]
    choice: Tensor  # [b] probability that ``better`` is better: 1, .5 for a tie, or soft
    margin: Tensor  # [b] how much higher the better one should score
    weight: Tensor  # [b] a K-wise ranking shares one among its pairs


class Reading(NamedTuple):
    """What a policy says of replies, aligned with ``Replies.tokens``; 0 off ``learn``."""

    logprobs: Tensor  # [r, t] log p(token | what came before)
    entropy: Tensor | None = None  # [r, t], only when asked for


@dataclass(frozen=True, slots=True)
class Mean:
    """An average not divided yet. ``count`` depends on masks only, never on the model."""

    total: Tensor
    count: Tensor

    def __add__(self, other: Mean) -> Mean:
        return Mean(self.total + other.total, self.count + other.count)

    @property
    def value(self) -> float:
        return (self.total.detach() / self.count.clamp(min=1e-12)).item()


@dataclass(frozen=True, slots=True)
class Loss:
    """Weighted terms, each with a denominator of its own, and metrics. Nobody but the learner divides.

    The learner first sums every term's count over the whole step and all ranks (``Objective.counts``), then
    back-propagates sum(weight * total / count) cut by cut: the update cannot depend on how the batch is cut.
    """

    terms: Mapping[str, tuple[float, Mean]]
    metrics: Mapping[str, Mean] = field(default_factory=dict)


# --- verbs ---------------------------------------------------------------------------------------
class Policy(Protocol):
    """Anything that gives tokens a probability. A reference is a policy that nobody updates."""

    def read(self, x: Replies, *, entropy: bool = False) -> Reading: ...


class Critic(Protocol):
    """What is still to come."""

    def values(self, x: Replies) -> Tensor: ...  # [r, t + 1]: before each token was drawn, and after the last present


class ActorCritic(Policy, Critic, Protocol):
    """Both, which may share a trunk."""

    def read_with_values(self, x: Replies, *, entropy: bool = False) -> tuple[Reading, Tensor]: ...


class Scorer(Protocol[B_contra]):
    """A trainable reward on a batch of anything."""

    def scores(self, x: B_contra) -> Tensor: ...  # [r, h]: for each reply and head, read at its last present token


class Sampler(Protocol):
    """A generation engine, here or behind a wire; its noise is keyed by (seed, version, prompt, reply, position)."""

    def sample(self, prompts: Sequence[Prompt], n: int) -> list[list[Episode]]: ...
    def load(self, weights: Mapping[str, Tensor], version: int) -> None: ...


class Reward(Protocol):
    """Marks episodes: a learned scorer, a function of the user's, a verifier, or a weighted sum of them."""

    def __call__(self, episodes: Sequence[Episode], /) -> list[Score]: ...


class Annotator(Protocol[X, Y]):
    """People behind a page, a simulated crowd, an AI judge, a gold reward. May answer fewer than it was asked."""

    def __call__(self, comparisons: Sequence[Comparison[X, Y]], /) -> list[Preference[X, Y]]: ...


class Objective(Protocol[M_contra, B_contra]):
    """A loss over a batch: ``counts`` from masks alone, then totals with gradients."""

    def counts(self, batch: B_contra, /) -> Mapping[str, Tensor]: ...
    def __call__(self, model: M_contra, batch: B_contra, /) -> Loss: ...


class Learner(Protocol[M_co]):
    """Owns parameters and optimiser; the only place that knows devices, ranks, precision, cuts and division."""

    @property
    def model(self) -> M_co: ...

    @property
    def version(self) -> int: ...  # updates, made or skipped; keys randomness, so that a resumed run draws the same
    # Both cut the batch between prompts, by a token budget, and share it among ranks; ``update`` then makes one step.
    def update(self, batch: B, objective: Objective[M_co, B]) -> Metrics: ...
    def skip(self) -> Metrics: ...  # a step with nothing to learn from: only the version moves on
    def map(self, batch: B, f: Callable[[M_co, B], Out]) -> Out: ...  # no gradients, results in order
    def weights(self) -> Mapping[str, Tensor]: ...


class Stateful(Protocol):
    """Every part of a run with state: learner, data position, adaptive KL, round, opponent."""

    def state_dict(self) -> Mapping[str, Any]: ...
    def load_state_dict(self, state: Mapping[str, Any]) -> None: ...
