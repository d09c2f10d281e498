"""What reward models learn from besides pairs, and one score out of several members.

Pairs: ``preference.bradley_terry`` and ``preference.thurstone``. Here: rankings, ratings, safety labels, segments of
behaviour. A list is a prompt's replies: l lists of up to k, ``ranks`` 0 for the best, -1 where a list is shorter.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn.functional import softplus

from preferent.losses.preference import bradley_terry

Combination = Literal["mean", "worst", "uncertain"]


# --- rankings ------------------------------------------------------------------------------------


def kwise(scores: Tensor, ranks: Tensor, prompt_of: Tensor) -> Tensor:
    """[p] from scores [r] and ranks [r]: -logσ(s_i - s_j) over all pairs of a prompt, i ranked above j, averaged.

    Ouyang et al. 2022, eq. 1: a pair weighs 1/(K choose 2), so a prompt weighs one however many replies it has. Equal
    ranks are ties, half a pair each way. A prompt with one reply has no pair, and 0. ``prompt_of`` [r] ascends.
    """
    s, r = listed(scores, prompt_of, 0.0), listed(ranks, prompt_of, -1)
    there = (r >= 0).unsqueeze(-1) & (r >= 0).unsqueeze(-2)
    above = (r.unsqueeze(-1) < r.unsqueeze(-2)).to(s) + 0.5 * (r.unsqueeze(-1) == r.unsqueeze(-2)).to(s)
    other = there & ~torch.eye(r.shape[-1], dtype=torch.bool, device=r.device)
    weight = above.where(other, 0)
    each = softplus(s.unsqueeze(-2) - s.unsqueeze(-1)) * weight
    return each.sum((-1, -2)) / weight.sum((-1, -2)).clamp(min=1)


def plackett_luce(scores: Tensor, ranks: Tensor, taken: Tensor | None = None) -> Tensor:
    """[l] from scores [l, k] and ranks [l, k]: -log P(ranking), the best taken first, then the best of what is left.

    Plackett 1975; Luce 1959: -Σ_i w_i·log(e^{s_i} / Σ_{j not above i} e^{s_j}), w by default ``choices(ranks)``.
    """
    there = ranks >= 0
    left = (ranks.unsqueeze(-2) >= ranks.unsqueeze(-1)) & there.unsqueeze(-2)  # [l, i, j]: j is there when i is taken
    weight = choices(ranks).to(scores) if taken is None else taken
    return (weight * (among(scores, left) - scores)).where(there, 0).sum(-1)


def choices(ranks: Tensor) -> Tensor:
    """[l, k]: how many choices of a ranking fall to each reply: one, and none to the last, for it is no choice.

    Ties as Breslow 1974 has them, each of m equals taken while all m are there. The last m of them share m - 1 choices:
    so a ranking of two is ``bradley_terry``, a tie included.
    """
    equals = (ranks.unsqueeze(-2) == ranks.unsqueeze(-1)).sum(-1)
    last = ranks == ranks.amax(-1, keepdim=True)
    return torch.where(last, (equals - 1) / equals, 1.0).where(ranks >= 0, 0)


def pick_best(scores: Tensor, best: Tensor) -> Tensor:
    """[l] from scores [l, k] and P(reply is the best one) [l, k], -1 where there is no reply: cross-entropy.

    Of what is not the best it says nothing: Ziegler et al. 2019, eq. 1, who had people pick one of four.
    """
    return plackett_luce(scores, torch.where(best >= 0, 0, -1), best)


def among(scores: Tensor, which: Tensor) -> Tensor:
    """[l, i]: log Σ exp of the scores [l, k] under each mask [l, i, k]."""
    return scores.unsqueeze(-2).masked_fill(~which, -torch.inf).logsumexp(-1)


def listed(x: Tensor, prompt_of: Tensor, fill: float) -> Tensor:
    """[r] to [p, k]: a row for each prompt, its replies in order, filled up. ``prompt_of`` [r] ascends from 0."""
    sizes = prompt_of.bincount()
    first = sizes.cumsum(0) - sizes
    rows = x.new_full((len(sizes), int(sizes.max()) if len(sizes) else 0), fill)
    place = torch.arange(len(x), device=x.device) - first[prompt_of]
    return rows.index_put((prompt_of, place), x)


# --- what else people say ------------------------------------------------------------------------


def regression(scores: Tensor, ratings: Tensor) -> Tensor:
    """(s - rating)² [r, h]; 0, without a gradient, where a rating is NaN: nobody gave it."""
    known = ~ratings.isnan()
    return (scores - ratings.nan_to_num()).where(known, 0) ** 2


def cost(safer: Tensor, worse: Tensor, safer_harm: Tensor, worse_harm: Tensor, *, flip: float | Tensor = 0.0) -> Tensor:
    """-logσ(c_l - c_s) - logσ(h_s·c_s) - logσ(h_l·c_l) on costs [b]: the worse of two costs more, and the sign tells.

    h is 1 for what is harmful, -1 for what is safe, and 0 where nobody said: that term is then left out. So 0 is where
    harm begins, which a preference alone could not say; ``flip`` as in ``bradley_terry``. Dai et al. 2023 (Safe RLHF),
    section 3.2.
    """
    return bradley_terry(worse, safer, flip=flip) + signed(safer, safer_harm) + signed(worse, worse_harm)


def signed(score: Tensor, sign: Tensor) -> Tensor:
    """-logσ(sign·score); 0 where the sign is."""
    return softplus(-sign * score).where(sign != 0, 0)


def segment_preference(first: Tensor, second: Tensor, *, noise: float = 0.1) -> Tensor:
    """[b]: P(the first segment is preferred) = (1 - ε)·σ(Σr₁ - Σr₂) + ε/2, from rewards [b, t] at each step.

    Christiano et al. 2017, section 2.2.3: with chance ε people answer at random. Segments equally good are labelled ½.
    """
    return (1 - noise) * (first.sum(-1) - second.sum(-1)).sigmoid() + noise / 2


def segments(first: Tensor, second: Tensor, choice: Tensor, *, noise: float = 0.1) -> Tensor:
    """[b]: cross-entropy between the chance [b] that the first is better and ``segment_preference``.

    With ``noise`` 0, certain errors cost without bound, and may overflow: take ``preference.bradley_terry`` then.
    """
    p = segment_preference(first, second, noise=noise)
    return -choice * p.log() - (1 - choice) * (1 - p).log()


# --- zero points, members ------------------------------------------------------------------------


def centring(chosen: Tensor, rejected: Tensor) -> Tensor:
    """(r_w + r_l)² for each pair [b]: pulls scores, of which only differences are learned, towards mean 0.

    Eisenstein et al. 2023 ("Helping or herding?"), there with weight 0.01.
    """
    return (chosen + rejected) ** 2


def combine(scores: Tensor, how: Combination, *, caution: float = 0.0) -> Tensor:
    """Scores of m members [m, r] to one for each reply [r]: Coste et al. 2023.

    ``mean``; ``worst``, the least of the members; ``uncertain``, the mean less ``caution`` times the population
    variance between members. Members should be on one scale: normalise each on the same replies first.
    """
    if how not in get_args(Combination):
        raise ValueError(f"how must be one of {', '.join(get_args(Combination))}, not {how!r}")
    if how == "worst":
        return scores.amin(0)
    mean = scores.mean(0)
    return mean if how == "mean" else mean - caution * scores.var(0, correction=0)


def certainty(margins: Tensor, *, temperature: float = 1.0) -> Tensor:
    """[b] in (0, 1] from the members' margins [m, b], better less worse: e^(-u/τ), u their population deviation.

    A weight for each pair of DPO: where reward models disagree by how much one reply is better, its gradient shrinks;
    where they agree, the pair weighs one, whether they like it or not. Houliston et al. 2024 ("Uncertainty-penalized
    DPO") penalise so by an ensemble's deviation; here it is of the margin, not of each reply's score, for what members
    disagree on at both replies alike does not change who is better.
    """
    if temperature <= 0:
        raise ValueError(f"temperature must be above 0, not {temperature:g}")
    return (-margins.std(0, correction=0) / temperature).exp()
