"""``make bench-scale`` on sizes so small that it says nothing, but runs."""

import json
import os
import subprocess
import sys
from pathlib import Path
from xml.dom.minidom import parseString

import pytest

ROOT = Path(__file__).parent.parent
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="the peak is read from /proc"),
]


def scaled(folder, *more):
    command = [sys.executable, ROOT / "benchmarks" / "scale.py", "--quick", "--out", folder, *more]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    return done.stdout, json.loads((folder / "scale.json").read_text())


def test_an_axis_is_measured_and_drawn(tmp_path):
    printed, said = scaled(tmp_path, "--only", "prompt")
    assert [line.split()[:2] for line in printed.splitlines() if line.startswith("prompt")] == [
        ["prompt", "update"],
        ["prompt", "sampling"],
    ]
    points = said["axes"]["prompt"]["update"]["points"]
    assert [point["value"] for point in points] == [8, 16]
    assert all(point["low"] <= point["seconds"] <= point["high"] and point["peak_mib"] > 1 for point in points)
    # A forward pass over twice the prompt is more than it was, and attention has a larger share in it.
    assert points[0]["operations"] < points[1]["operations"]
    assert 0 < points[0]["attention"] < points[1]["attention"] < 1
    for name in ("scale-time.svg", "scale-memory.svg"):
        drawn = (tmp_path / name).read_text()
        parseString(drawn)  # noqa: S318  (ours; raises where it is not well-formed)
        assert drawn.count('class="line c0 d0"') == 2  # the curve, and its sign in the legend


@pytest.mark.real_data
def test_rows_of_real_data_are_read_from_the_cache(tmp_path, real_data):
    _, said = scaled(tmp_path, "--only", "rows")
    assert {work: len(found["points"]) for work, found in said["axes"]["rows"].items()} == {
        "tokenising": 2,
        "reading": 2,
    }
