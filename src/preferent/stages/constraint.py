"""Options of a cost that stays below a limit, for every command that learns by sampling (Safe RLHF)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from annotated_types import Ge, Gt

if TYPE_CHECKING:
    from preferent.algorithms.safe_rlhf import Multiplier
    from preferent.types import Reward


@dataclass(frozen=True, kw_only=True)
class CostOptions:
    """Cost."""

    cost: Annotated[
        tuple[str, ...],
        "what must stay below --cost-limit in the mean, named as --reward is: a cost model, a function; an ensemble's "
        "members are averaged, whatever --combine says of rewards",
    ] = ()
    cost_limit: Annotated[float, "mean cost of a reply; to a model of --objective cost, harm begins at 0"] = 0.0
    cost_price: Annotated[float, "reward that a unit of cost is worth at first (λ)", Gt(0)] = 1.0
    cost_rate: Annotated[
        float, "how fast λ moves: a step adds rate·λ·(mean cost - limit) to its logarithm; 0: never", Ge(0)
    ] = 0.05


def constrained(reward: Reward, options: CostOptions, tokenizer: Any, *, device: str) -> Reward:
    """The reward, with the cost that ``--cost`` names taken off at its price."""
    from preferent.algorithms.safe_rlhf import Constrained, Multiplier
    from preferent.rewards.load import load_reward

    if not options.cost:
        return reward
    multiplier = Multiplier(options.cost_limit, rate=options.cost_rate, initial=options.cost_price)
    return Constrained(reward, load_reward(options.cost, tokenizer, device=device), multiplier)


def watched(reward: Reward) -> Reward:
    """The reward as evaluation asks it: nothing moves."""
    from preferent.algorithms.safe_rlhf import Constrained

    return reward.watched() if isinstance(reward, Constrained) else reward


def prices(reward: Reward | None) -> dict[str, Multiplier]:
    """What a checkpoint has to know of it."""
    from preferent.algorithms.safe_rlhf import Constrained

    return {"cost_price": reward.multiplier} if isinstance(reward, Constrained) else {}
