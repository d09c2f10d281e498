"""The tables of the documentation that benchmarks measured: each ends by writing its own.

python benchmarks/page.py        writes them again from benchmarks/results/
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
DOCS = HERE.parent / "docs"


def verdict(ratio: float, target: float | None, *, least: bool) -> str:
    if target is None:
        return "–"
    met = ratio >= target if least else ratio <= target
    return f"{'≥' if least else '≤'} {target:g} {'met' if met else '**missed**'}"


def speed(report: dict[str, Any]) -> str:
    rows = [
        "| work | seconds a step | peer's | faster | target | memory | target | reply tokens/s | matrix rate | floor |",
        "|---|---:|---:|---:|---|---:|---|---:|---:|---:|",
    ]
    for name, job in report["jobs"].items():
        ours, theirs = job["seconds_a_step"]["here"], job["seconds_a_step"]["peer"]
        rows.append(
            f"| {name} | {ours:.3f} | {theirs:.3f} "
            f"| {job['ratio']:.1f}× ({job['ratio_low']:.1f}–{job['ratio_high']:.1f}) "
            f"| {verdict(job['ratio'], job['target']['ratio'], least=True)} | {job['memory_ratio']:.2f}× "
            f"| {verdict(job['memory_ratio'], job['target']['memory_ratio'], least=False)} "
            f"| {job['reply_tokens_a_second']['here']:,.0f} | {job['of_the_matrix_rate']:.0%} "
            f"| {job['times_the_floor']:.1f}× |"
        )
    for name, why in report.get("uncompared", {}).items():
        rows.append(f"| {name}: {why} |" + " – |" * 9)
    machine = report["machine"]
    rows.append(
        f"\n{machine['cpu']}, {machine['threads']} threads, Python {machine['python']}, torch {machine['torch']}, "
        f"transformers {machine['transformers']}; {machine['gflops_on_many_rows']:.0f} GFLOP/s on 2,048 rows, "
        f"{machine['gflops_on_64_rows']:.0f} on 64, {machine['copied_gb_a_second']:.1f} GB/s copied."
        + (f" The whole took {report['minutes']:.0f} minutes." if "minutes" in report else "")
    )
    return "\n".join(rows)


def compare(report: dict[str, Any]) -> str:
    rows = [
        "| method | wins against SFT | of the seeds | gold | KL | reply tokens | seconds |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for name, row in report["policies"].items():
        value, low, high = row["wins"]
        each = " ".join(f"{wins:.0%}" for wins in row.get("wins_by_seed", ()))
        seconds = f"{row['seconds']:.0f}" if "seconds" in row else "–"
        rows.append(
            f"| {name} | {value:.0%} ({low:.0%}–{high:.0%}) | {each or '–'} | {row['gold']:.3f} "
            f"| {max(row['kl'], 0):.1f} | {row['length']:.1f} | {seconds} |"
        )
    n, seeds = report["n"], len(report["seeds"])
    rows.append(
        f"\n{n:,} held-out questions over {seeds} seeds, one reply each. Seconds are of one run on one "
        f"core beside others; the whole took {report['minutes']:.0f} minutes on {report['cores']}."
    )
    return "\n".join(rows)


TABLES = {"speed": ("performance.md", speed), "compare": ("methods.md", compare)}


def written(text: str, name: str, report: dict[str, Any]) -> str:
    """The page with a new table between the marks of that name."""
    begin, end = f"<!-- {name} -->\n", "\n<!-- end -->"
    before, found, rest = text.partition(begin)
    after = rest.partition(end)[1:]
    if not found or not after[0]:
        raise ValueError(f"The page has no {begin.strip()} … {end.strip()} for the table to stand between.")
    return before + begin + TABLES[name][1](report) + "".join(after)


def write(name: str, report: dict[str, Any]) -> None:
    page = DOCS / TABLES[name][0]
    page.write_text(written(page.read_text(), name, report))


def main() -> int:
    argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args()  # fmt: skip
    for name in TABLES:
        path = HERE / "results" / f"{name}.json"
        if not path.is_file():
            sys.exit(f"benchmarks/results/{name}.json is not there: measure first (make bench, make compare).")
        write(name, json.loads(path.read_text()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
