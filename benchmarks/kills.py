"""A hundred kills at random moments, over all training commands: the weights and metrics of an undisturbed run, or not.

python benchmarks/kills.py               writes benchmarks/results/kills.json (about ten minutes on two CPU cores)
python benchmarks/kills.py --kills 1     that many of each command, to see that it runs; writes nothing

The kill is SIGKILL of the real command, which is resumed and killed again, four times before it may end.
"""

import argparse
import json
import random
import signal
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.append(str(ROOT / "tests"))

from test_kill import COMMANDS, assert_same, disturbed, ended, filled, started

RESULTS = Path(__file__).parent / "results" / "kills.json"
WORKERS = 2


def killed(place, name, wanted):
    """So many kills of a command, and whether every run in which they fell ended where an undisturbed one does."""
    chance, kills, runs, began = random.Random(f"long {name}"), 0, 0, time.monotonic()
    assert ended(started(place, name, f"whole-{name}")) == 0
    while kills < wanted:
        runs += 1
        out = f"killed-{name}-{runs}"
        for _ in range(min(4, wanted - kills)):
            kills += disturbed(place, name, out, signal.SIGKILL, chance) == -signal.SIGKILL
        assert ended(started(place, name, out)) == 0
        try:
            assert_same(place, name, f"whole-{name}", out)
        except AssertionError as error:
            return {"kills": kills, "runs": runs, "identical": False, "difference": str(error)[:2000]}
    return {"kills": kills, "runs": runs, "identical": True, "seconds": round(time.monotonic() - began)}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20, help="of each command")
    wanted = parser.parse_args().kills
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(WORKERS) as workers:
        place = filled(Path(folder))
        report = dict(zip(COMMANDS, workers.map(partial(killed, place, wanted=wanted), COMMANDS), strict=True))
    for name, found in report.items():
        same = "PASS" if found["identical"] else f"FAIL: {found['difference']}"
        print(f"{name:<8}{found['kills']:>4} kills in {found['runs']} runs, bit-identical   {same}")
    if wanted == parser.get_default("kills"):
        RESULTS.write_text(json.dumps(report, indent=1) + "\n")
    return 0 if all(found["identical"] for found in report.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
