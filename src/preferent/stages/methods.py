"""Every method that there is: its family, its paper, what it needs, and the command that runs it."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal, NamedTuple, get_args

import click

from preferent.config import UsageError, did_you_mean

Family = Literal["imitation", "pairs", "ratings", "online", "policy gradient", "reward model", "no training"]


class Method(NamedTuple):
    """A row of the table."""

    name: str
    family: Family
    command: str
    needs: str  # besides a model and prompts: what must be there before it can run
    paper: str


P, R, K = "pairs", "pairs, reference", "rankings"
S, SR = "reward", "reward, reference"

METHODS = (
    Method("SFT", "imitation", "sft", "demonstrations", "Ouyang et al. 2022"),
    Method("DFT", "imitation", "sft --objective dft", "demonstrations", "Wu et al. 2025"),
    Method("SPIN", "imitation", "spin", "demonstrations", "Chen et al. 2024"),
    Method("on-policy distillation", "imitation", "distill", "a teacher", "Agarwal et al. 2023; Lu 2025"),
    Method("DPO", "pairs", "dpo", R, "Rafailov et al. 2023"),
    Method("cDPO", "pairs", "dpo --flip 0.1", R, "Mitchell 2023"),
    Method("robust DPO", "pairs", "dpo --objective robust-dpo", R, "Chowdhury et al. 2024"),
    Method("DPO with an offset", "pairs", "dpo --objective odpo", "pairs with margins, reference", "Amini et al. 2024"),
    Method("IPO", "pairs", "dpo --objective ipo", R, "Azar et al. 2023"),
    Method("hinge on log-ratios", "pairs", "dpo --objective hinge", R, "Liu et al. 2023 (RSO's loss)"),
    Method("SLiC (hinge on likelihoods)", "pairs", "dpo --objective slic", P, "Zhao et al. 2023"),
    Method("SimPO", "pairs", "dpo --objective simpo", P, "Meng et al. 2024"),
    Method("CPO", "pairs", "dpo --objective cpo", P, "Xu et al. 2024"),
    Method("ORPO", "pairs", "dpo --objective orpo", P, "Hong et al. 2024"),
    Method("APO-zero", "pairs", "dpo --objective apo-zero", R, "D'Oosterlinck et al. 2024"),
    Method("APO-down", "pairs", "dpo --objective apo-down", R, "D'Oosterlinck et al. 2024"),
    Method("NCA", "pairs", "dpo --objective nca", R, "Chen et al. 2024"),
    Method("SPPO", "pairs", "dpo --objective sppo", R, "Wu et al. 2024"),
    Method("EXO", "pairs", "dpo --objective exo", R, "Ji et al. 2024"),
    Method("DiscoPOP", "pairs", "dpo --objective discopop", R, "Lu et al. 2024"),
    Method("DPO-positive", "pairs", "dpo --objective dpop", R, "Pal et al. 2024"),
    Method("R-DPO (length-regularised)", "pairs", "dpo --objective rdpo", R, "Park et al. 2024"),
    Method("LD-DPO (length-desensitised)", "pairs", "dpo --objective ld-dpo", R, "Liu et al. 2024"),
    Method("DPO a token", "pairs", "dpo --objective sigmoid-norm", R, "Lambert et al. 2024 (Tülu 3)"),
    Method("f-DPO", "pairs", "dpo --objective f-dpo", R, "Wang et al. 2023"),
    Method("AOT", "pairs", "dpo --objective aot", R, "Melnyk et al. 2024"),
    Method("WPO", "pairs", "dpo --weigh", R, "Zhou et al. 2024"),
    Method("TR-DPO", "pairs", "dpo --follow 0.6", R, "Gorbatovski et al. 2024"),
    Method(
        "uncertain pairs", "pairs", "dpo --uncertainty runs/rm", "pairs, reference, ensemble", "Houliston et al. 2024"
    ),
    Method("DPO with likelihood (RPO)", "pairs", "dpo --likelihood 1", R, "Liu et al. 2024; Pang et al. 2024"),
    Method("KTO", "ratings", "kto", "ratings or pairs, reference", "Ethayarajh et al. 2024"),
    Method("BCO", "ratings", "kto --objective bco", "ratings or pairs, reference", "Jung et al. 2024"),
    Method(
        "APO-zero, unpaired",
        "ratings",
        "kto --objective apo-zero",
        "ratings or pairs, reference",
        "D'Oosterlinck et al. 2024",
    ),
    Method("iterated online loop", "online", "loop", "people, or what stands in for them", "Bai et al. 2022"),
    Method("iterated DPO", "online", "loop --method dpo --start last", "the same", "Xu et al. 2023"),
    Method(
        "iterated DPO, frozen reference", "online", "loop --method dpo --start last --anchor first", "the same", "–"
    ),
    Method("online DPO", "online", "online-dpo", "reward or people, reference", "Guo et al. 2024"),
    Method(
        "iterated online DPO",
        "online",
        "online-dpo --follow 1 --follow-every 100",
        "reward or people",
        "Xiong et al. 2024",
    ),
    Method("self-rewarding (DICE)", "online", "online-dpo --self-reward runs/sft", "its own start", "Chen et al. 2024"),
    Method("XPO", "online", "xpo", "reward or people, reference", "Xie et al. 2024"),
    Method("Nash-MD", "online", "nash-md", "reward or people, reference", "Munos et al. 2023"),
    Method("RAFT", "online", "raft", S, "Dong et al. 2023"),
    Method("best-of-n distillation", "online", "raft --draw-every 0", S, "Stiennon et al. 2020; Touvron et al. 2023"),
    Method("RSO (draws its own pairs)", "online", "rso", SR, "Liu et al. 2023"),
    Method("PPO", "policy gradient", "ppo", SR, "Ouyang et al. 2022"),
    Method("PPO-ptx", "policy gradient", "ppo --ptx-data demos.jsonl", f"{SR}, demonstrations", "Ouyang et al. 2022"),
    Method("GRPO", "policy gradient", "grpo", SR, "Shao et al. 2024"),
    Method("Dr. GRPO", "policy gradient", "grpo --objective dr-grpo", SR, "Liu et al. 2025"),
    Method("DAPO", "policy gradient", "grpo --objective dapo --resample 3 --overlong-buffer 64", S, "Yu et al. 2025"),
    Method("GSPO", "policy gradient", "grpo --objective gspo", S, "Zheng et al. 2025"),
    Method("CISPO", "policy gradient", "grpo --objective cispo", S, "MiniMax 2025"),
    Method("GMPO", "policy gradient", "grpo --objective gmpo", S, "Zhao et al. 2025"),
    Method("SAPO", "policy gradient", "grpo --objective sapo", S, "Gao et al. 2025"),
    Method(
        "GDPO",
        "policy gradient",
        "grpo --objective gdpo --end-penalty 0",
        "two --reward or more, reference",
        "Liu et al. 2026",
    ),
    Method("REINFORCE", "policy gradient", "grpo --objective reinforce", SR, "Williams 1992"),
    Method("RLOO", "policy gradient", "grpo --objective rloo", SR, "Ahmadian et al. 2024"),
    Method("REINFORCE++", "policy gradient", "grpo --objective reinforce++", SR, "Hu 2025"),
    Method("ReMax", "policy gradient", "grpo --objective remax", SR, "Li et al. 2023"),
    Method(
        "MaxRL", "policy gradient", "grpo --objective max-rl --end-penalty 0", "reward of 0 or 1", "Tajwar et al. 2026"
    ),
    Method("Safe-RLHF", "policy gradient", "grpo --objective rloo --cost runs/cost", f"{SR}, cost", "Dai et al. 2023"),
    Method("Bradley-Terry", "reward model", "reward", "pairs or rankings", "Ouyang et al. 2022"),
    Method("Thurstone", "reward model", "reward --objective thurstone", P, "Thurstone 1927"),
    Method("Plackett-Luce", "reward model", "reward --objective plackett-luce", K, "Plackett 1975; Luce 1959"),
    Method("the best of several", "reward model", "reward --objective pick-best", K, "Ziegler et al. 2019"),
    Method(
        "attributes", "reward model", "reward --objective regression --heads helpful", "ratings", "Wang et al. 2024"
    ),
    Method("aspects", "reward model", "reward --heads helpful", "pairs with aspects", "Bai et al. 2022"),
    Method("cost model", "reward model", "reward --objective cost", "pairs with labels of harm", "Dai et al. 2023"),
    Method("smoothed labels", "reward model", "reward --smoothing 0.1", P, "Wang et al. 2024 (Secrets of RLHF II)"),
    Method("adversarial rounds", "reward model", "sample --n 8 --adversarial 50", "ensemble", "Bai et al. 2022"),
    Method("ensemble", "reward model", "reward --members 3", P, "Coste et al. 2023"),
    Method("averaged weights (WARM)", "reward model", "merge --average", "ensemble", "Ramé et al. 2024"),
    Method("centred rewards", "reward model", "reward --centring 0.01", P, "Eisenstein et al. 2023"),
    Method("margins", "reward model", "reward --margins 0 --margins 1", "pairs with strengths", "Touvron et al. 2023"),
    Method("best of n", "no training", "evaluate --best-of 16", S, "Nakano et al. 2021"),
)


@dataclass(frozen=True, kw_only=True)
class Options:
    """List every method: family, paper, what it needs besides a model, and the command that runs it.

    docs/methods.md says when to use which, and how each can fail.

    Examples:
        preferent methods
        preferent methods simpo
        preferent methods --family pairs
    """

    positional: ClassVar[str] = "named"
    named: Annotated[tuple[str, ...], "only methods whose name, command or paper holds one of these words"] = ()
    family: Annotated[str | None, f"only one family: {', '.join(get_args(Family))}; none: all of them"] = None
    json: Annotated[bool, "print JSON instead of a table"] = False


def run(options: Options) -> None:
    """Print the table."""
    families = get_args(Family)
    if options.family is not None and options.family not in families:
        near = did_you_mean(options.family, dict.fromkeys(families, ""))
        raise UsageError(f'--family: expected one of {", ".join(families)}; got "{options.family}"{near}.')
    rows = [row for row in METHODS if options.family in (None, row.family) and wanted(row, options.named)]
    if not rows:
        raise UsageError(f"No method is called {' or '.join(options.named)}; `preferent methods` lists them all.")
    if options.json:
        click.echo(json.dumps([row._asdict() for row in rows], indent=2, ensure_ascii=False))
    else:
        show(rows)


def wanted(row: Method, words: Sequence[str]) -> bool:
    """Whether one of the words stands in the row."""
    text = " ".join((row.name, row.command, row.paper)).lower()
    return not words or any(word.lower() in text for word in words)


def called(name: str) -> list[Method]:
    """The methods of that name, or, where there are none, those with that word in their name: rpo is in "… (RPO)"."""
    asked = name.lower()
    whole = [row for row in METHODS if asked in (row.name.lower(), row.name.lower().replace(" ", "-"))]
    return whole or [row for row in METHODS if asked in re.findall(r"[\w+-]+", row.name.lower())]


def show(rows: Sequence[Method]) -> None:
    """A section for each family."""
    from rich.box import SIMPLE
    from rich.console import Console
    from rich.table import Table

    console = Console()
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = 140
    made = Table(box=SIMPLE)
    for column in ("method", "command: preferent …", "needs", "paper"):
        made.add_column(column, overflow="fold")
    for family in dict.fromkeys(row.family for row in rows):
        made.add_row(f"[bold]{family}[/]")
        for row in rows:
            if row.family == family:
                made.add_row(f"  {row.name}", row.command, row.needs, row.paper)
        made.add_section()
    console.print(made)
