"""The table of docs/performance.md, from what ``make bench`` measured, which ends by writing it.

python benchmarks/page.py        writes it again from benchmarks/results/speed.json
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
PAGE = HERE.parent / "docs" / "performance.md"


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


TABLES = {"speed": speed}


def written(text: str, name: str, report: dict[str, Any]) -> str:
    """The page with a new table between the marks of that name."""
    begin, end = f"<!-- {name} -->\n", "\n<!-- end -->"
    before, found, rest = text.partition(begin)
    after = rest.partition(end)[1:]
    if not found or not after[0]:
        raise ValueError(f"The page has no {begin.strip()} … {end.strip()} for the table to stand between.")
    return before + begin + TABLES[name](report) + "".join(after)


def write(name: str, report: dict[str, Any]) -> None:
    PAGE.write_text(written(PAGE.read_text(), name, report))


def main() -> int:
    argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args()  # fmt: skip
    for name in TABLES:
        path = HERE / "results" / f"{name}.json"
        if not path.is_file():
            sys.exit(f"benchmarks/results/{name}.json is not there: measure first (make bench).")
        write(name, json.loads(path.read_text()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
