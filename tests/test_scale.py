"""``make bench-scale``: sizes so small that they say nothing, but run; and what it says of invented curves."""

import json
import os
import subprocess
import sys
from pathlib import Path
from xml.dom.minidom import parseString

import pytest

ROOT = Path(__file__).parent.parent
SIZES = (512, 1024, 2048)
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the peak is read from /proc")


@pytest.fixture
def scale(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import scale

    return scale


def invented(scale, power, *, attention=(0.0, 0.0, 0.0), memory=1.0):
    """A curve: seconds and memory grow with such powers of the size, operations linearly but for attention's share."""
    return scale.curve([
        {"value": n, "seconds": (n / 512) ** power, "peak_mib": 100 * (n / 512) ** memory,
         "operations": n / (1 - share), "attention": share}
        for n, share in zip(SIZES, attention, strict=True)
    ])  # fmt: skip


def test_a_linear_curve_is_good_and_a_steeper_one_is_not(scale, capsys):
    assert scale.told("prompts", "update", invented(scale, 1.1))
    assert "FAIL" not in capsys.readouterr().out
    assert not scale.told("prompts", "update", invented(scale, 1.2))
    assert "time: worse than time^1.15, and no reason is known  FAIL" in capsys.readouterr().out
    assert not scale.told("prompts", "update", invented(scale, 1.0, memory=1.2))
    assert "memory: worse than memory^1.15" in capsys.readouterr().out


@pytest.mark.parametrize("axis", ["prompt", "reply"])
def test_attention_excuses_a_steeper_curve_no_further_than_its_operations_go(scale, axis, capsys):
    # Shares of 1/5, 1/3 and 1/2: pairs are a 4th, a half and the whole of the rest. At four times the time each, the
    # whole is 2, 3 and 5 times the rest: over twice the rest it grows by 1.5 · 2, then 5/3 · 2, on average 2^1.66.
    shares = (1 / 5, 1 / 3, 1 / 2)
    most = invented(scale, 1.0, attention=shares)["exponents"]["allowed"]["time"]
    assert most == pytest.approx(1.66 + 0.15, abs=0.005)
    assert scale.told(axis, "update", invented(scale, 1.7, attention=shares))
    assert "attention: every token sees all before it" in capsys.readouterr().out
    assert not scale.told(axis, "update", invented(scale, 1.9, attention=shares))
    assert "FAIL" in capsys.readouterr().out


def test_no_attention_excuses_more_than_a_square(scale):
    shares = (0.9999, 0.99995, 0.999975)  # pairs are nearly all there is
    assert invented(scale, 2.0, attention=shares)["exponents"]["allowed"]["time"] == pytest.approx(2.15, abs=0.01)


def test_keys_that_every_drawn_token_reads_again_excuse_a_curve_too(scale):
    """Those of replies of 64, 128 and 256 tokens; without them the operations excuse nothing."""
    points = [{"value": n, "seconds": n, "peak_mib": 1, **scale.arithmetic(scale.Point(reply=n), "sampling")}
              for n in (64, 128, 256)]  # fmt: skip
    assert scale.allowed(points) == pytest.approx(1.2, abs=0.01)
    assert scale.allowed([{k: v for k, v in point.items() if k != "bytes"} for point in points]) == scale.LINEAR


def scaled(folder, *more):
    command = [sys.executable, ROOT / "benchmarks" / "scale.py", "--quick", "--out", folder, *more]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    return done.stdout, json.loads((folder / "scale.json").read_text())


@pytest.mark.slow
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


@pytest.mark.slow
@pytest.mark.real_data
def test_rows_of_real_data_are_read_from_the_cache(tmp_path, real_data):
    _, said = scaled(tmp_path, "--only", "rows")
    assert {work: len(found["points"]) for work, found in said["axes"]["rows"].items()} == {
        "tokenising": 2,
        "reading": 2,
    }
