"""Writes the table of docs/performance.md from what ``make bench`` measured: ``python benchmarks/page.py``."""

import json
import re
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
PAGE = HERE.parent / "docs" / "performance.md"


def read(name: str) -> dict[str, Any] | None:
    path = HERE / "results" / f"{name}.json"
    return json.loads(path.read_text()) if path.is_file() else None


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
    machine = report["machine"]
    rows.append(
        f"\n{machine['cpu']}, {machine['threads']} threads, Python {machine['python']}, torch {machine['torch']}, "
        f"transformers {machine['transformers']}; {machine['gflops_on_many_rows']:.0f} GFLOP/s on 2,048 rows, "
        f"{machine['gflops_on_64_rows']:.0f} on 64, {machine['copied_gb_a_second']:.1f} GB/s copied."
    )
    return "\n".join(rows)


def main() -> int:
    text = PAGE.read_text()
    for name, made in (("speed", speed),):
        report = read(name)
        if report is None:
            sys.exit(f"benchmarks/results/{name}.json is not there: measure first (make bench).")
        text = re.sub(
            f"(<!-- {name} -->\n).*?(\n<!-- end -->)", lambda m, said=made(report): m[1] + said + m[2], text, flags=re.S
        )
    PAGE.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
