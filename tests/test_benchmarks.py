"""What the benchmarks say where there is little to run: peers that cannot be used, floors by hand, the page's table."""

import json
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
linux = pytest.mark.skipif(sys.platform != "linux", reason="the peak is read from /proc")

SIDE = """
import json, sys
from pathlib import Path
sys.path.insert(0, {benchmarks!r})
from pace import Pace
pace = Pace()
pace.ready()
for loss in {losses}:
    pace.turn()
    pace.done(losses=[loss], groups=[[5, [2, 3]]], tokens=5)
print("no more is known", file=sys.stderr)
sys.exit(3)
"""


@pytest.fixture
def speed(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import speed

    return speed


def raced(speed, folder, ours, theirs, rounds=2):
    """A race of two sides that say these losses, one a round."""
    commands = {}
    for name, losses in (("peer", theirs), ("here", ours)):
        script = folder / f"{name}.py"
        script.write_text(SIDE.format(benchmarks=str(BENCHMARKS), losses=losses))
        commands[name] = (sys.executable, str(script))
    return speed.race(speed.Job("scoring", "scoring", None, None, rounds=rounds), folder, commands)


COMMANDS = sorted(path.name for path in BENCHMARKS.glob("*.py") if "ArgumentParser" in path.read_text())


@pytest.mark.slow
@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_that_is_asked_for_help_gives_it_and_runs_nothing(name):
    done = subprocess.run(
        [sys.executable, BENCHMARKS / name, "--help"], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.startswith(f"usage: {name}")


def test_all_that_can_be_run_takes_arguments():
    """But for a race's sides, which are told a folder."""
    sides = {"peer_trl.py", "speed_here.py", "speed_trl.py"}
    runnable = {path.name for path in BENCHMARKS.glob("*.py") if "__main__" in path.read_text()}
    assert runnable - sides == set(COMMANDS)


def test_the_estimate_of_memory_is_asked_of_a_configuration():
    asked = [sys.executable, BENCHMARKS / "memory.py", "predict"]
    done = subprocess.run(asked, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "predict of which configuration? There are: sft, 256 wide" in done.stderr


# --- the race ------------------------------------------------------------------------------------


def test_a_peer_without_its_packages_is_missing_and_the_next_job_has_its_turn(speed, tmp_path, capsys):
    bare = tmp_path / "bare"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", bare], check=True)
    jobs = [job for job in speed.JOBS if job.kind in ("dpo", "ppo")]
    assert len(jobs) == 2
    peers = {"DPO": str(bare / "bin" / "python"), "PPO": str(tmp_path / "nowhere" / "python")}
    found = speed.compared(jobs, peers, speed.floor.Machine(1e9, 1e9, 1e9))
    assert found == {
        "jobs": {},
        "uncompared": {"DPO": "the peer is missing, for its packages are not installed", "PPO": "the peer is missing"},
        "met": False,
    }
    printed = capsys.readouterr()
    assert printed.out.count("nothing is compared  FAIL") == 2
    assert "ModuleNotFoundError" in printed.err


@pytest.mark.slow
@pytest.mark.real_data
@linux
def test_a_peer_that_stops_in_a_job_is_told_of_and_the_next_job_runs(speed, tmp_path, real_data, capfd):
    """A Python that can import everything and run nothing."""
    python = tmp_path / "python"
    python.write_text('#!/bin/sh\ntest "$1" = -c || { echo too old >&2; exit 4; }\n')
    python.chmod(0o755)
    jobs = [job for job in speed.JOBS if job.kind in ("sft", "dpo")]
    found = speed.compared(jobs, dict.fromkeys(("SFT", "DPO"), str(python)), speed.floor.Machine(1e9, 1e9, 1e9))
    assert found["uncompared"] == dict.fromkeys(("SFT", "DPO"), "the peer stopped with exit code 4")
    assert not found["met"]
    assert capfd.readouterr().err.count("too old") == 2


@linux
def test_sides_that_say_the_same_go_all_rounds(speed, tmp_path):
    turns = raced(speed, tmp_path, [1.0, 2.0], [1.0001, 2.0])
    assert [[turn["losses"] for turn in turns[name]] for name in ("here", "peer")] == [
        [[1.0], [2.0]],
        [[1.0001], [2.0]],
    ]
    assert speed.apart(turns) == pytest.approx(1e-4, rel=1e-3)


@linux
@pytest.mark.parametrize(("theirs", "apart"), [(1.01, "9.9e-03"), ("float('nan')", "inf")])
def test_sides_that_differ_after_the_first_round_do_not_go_on(speed, tmp_path, theirs, apart):
    # There is no second loss: who raced on would hear that a side has stopped.
    with pytest.raises(speed.Uncompared, match=f"^the losses differ by {apart}$"):
        raced(speed, tmp_path, "[1.0]", f"[{theirs}]", rounds=9)


@linux
def test_a_side_that_stops_in_the_middle_ends_the_race_and_its_last_words_are_shown(speed, tmp_path, capfd):
    with pytest.raises(speed.Uncompared, match="the peer stopped with exit code 3"):
        raced(speed, tmp_path, [1.0, 1.0, 1.0], [1.0], rounds=3)
    assert "no more is known" in capfd.readouterr().err


def test_an_unknown_job_is_refused(speed, capsys):
    with pytest.raises(SystemExit):
        speed.main(["--only", "chess"])
    assert "no job begins so. There are SFT, reward model, DPO" in capsys.readouterr().err


# --- the floor -----------------------------------------------------------------------------------

# A prompt of 3 tokens with replies of 2 and 1, in a model of width 4, two layers and 10 tokens, whose inner width is 6
# and whose keys are 2 wide. A layer's matrices: 4·4 twice, 4·2 twice, 4·6 three times, 120 numbers; 240 in both.
# Tokens: 6, of which 3 are learned. Pairs: 3 + 2 + 1 in the prompt; the replies' tokens see it, 3 · 3, and themselves
# and what is before them, 2 + 1 and 1: 6 + 9 + 4 = 19.
GROUP = (3, (2, 1))
LAYERS = 2 * 240 * 6
PAIRS = 2 * 2 * 4 * 19 * 2  # a product for the score and one for the sum, each of 4 numbers, in two layers; × + each
HEAD = 2 * 4 * 10 * 3
READ = LAYERS + PAIRS + HEAD
OPTIMISER = 7 * 4 * (240 + 4 * 10)  # bytes: weights and two moments read and written, the gradient read


@pytest.fixture
def floor(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import floor

    return floor


def shape(floor):
    return floor.Shape(hidden=4, layers=2, vocabulary=10, intermediate=6, key_width=2)


def test_operations_of_a_forward_pass_are_those_counted_by_hand(floor):
    assert floor.read(shape(floor), [GROUP], head=10) == READ
    assert floor.read(shape(floor), [GROUP, GROUP], head=10) == 2 * READ
    assert floor.read(shape(floor), [GROUP], head=0) == LAYERS + PAIRS


def test_drawing_reads_the_weights_once_a_token_and_a_prompts_keys_once_for_its_replies(floor):
    prompt = 2 * 240 * 3 + 2 * 2 * 4 * 6 * 2
    # Bytes of fp32: two steps, each with all weights; keys and values, each 2 wide, in two layers: the prompt's 3
    # twice, of the first reply 1 + 2, of the second 1.
    moved = 4 * (2 * (240 + 4 * 10) + 2 * 2 * 2 * (2 * 3 + 3 + 1))
    assert floor.drawn(shape(floor), [GROUP]) == (prompt, READ - prompt, moved)


def test_the_floor_of_each_kind_is_what_its_steps_need(floor):
    scored = LAYERS + PAIRS + 2 * 4 * 1 * 3
    prompts, replies, moved = floor.drawn(shape(floor), [GROUP])
    needed = {
        "sft": (3 * READ, 0, OPTIMISER),
        "dpo": (3 * READ, 0, OPTIMISER),  # its reference was asked before
        "kto": (3 * READ + READ - prompts, 0, OPTIMISER),  # others are behind the same prompts
        "reward": (3 * scored, 0, OPTIMISER),
        "scoring": (READ, 0, 0),
        "sampling": (prompts, replies, moved),
        "grpo": (prompts + READ + 3 * READ, replies, moved + OPTIMISER),
        "online-dpo": (prompts + READ + 3 * READ, replies, moved + OPTIMISER),
        "ppo": (prompts + READ + 2 * scored + 4 * 3 * (READ + scored), replies, moved + 2 * 4 * OPTIMISER),
    }
    for kind, each in needed.items():
        assert floor.floor(kind, shape(floor), [GROUP], epochs=4) == each, kind
    assert floor.Machine(matrices=10, drawing=5, copying=2).seconds(100, 10, 4) == 14


# --- the page ------------------------------------------------------------------------------------


@pytest.fixture
def page(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import page

    return page


JOB = {
    "ratio": 3.14, "ratio_low": 2.9, "ratio_high": 3.5, "seconds_a_step": {"here": 0.5, "peer": 1.57},
    "memory_ratio": 0.7, "target": {"ratio": 3.0, "memory_ratio": 0.6}, "times_the_floor": 1.52,
    "reply_tokens_a_second": {"here": 12345.6, "peer": 4000.0}, "of_the_matrix_rate": 0.655,
}  # fmt: skip
REPORT = {
    "machine": {
        "cpu": "A processor", "threads": 2, "python": "3.11.7", "torch": "2.13.0", "transformers": "5.23.0",
        "gflops_on_many_rows": 200.4, "gflops_on_64_rows": 300.0, "copied_gb_a_second": 40.06,
    },
    "minutes": 21.4,
    "jobs": {"SFT": JOB, "scoring": JOB | {"target": {"ratio": None, "memory_ratio": None}}},
    "uncompared": {"PPO": "the peer is missing"},
}  # fmt: skip
TABLE = """\
| work | seconds a step | peer's | faster | target | memory | target | reply tokens/s | matrix rate | floor |
|---|---:|---:|---:|---|---:|---|---:|---:|---:|
| SFT | 0.500 | 1.570 | 3.1× (2.9–3.5) | ≥ 3 met | 0.70× | ≤ 0.6 **missed** | 12,346 | 66% | 1.5× |
| scoring | 0.500 | 1.570 | 3.1× (2.9–3.5) | – | 0.70× | – | 12,346 | 66% | 1.5× |
| PPO: the peer is missing | – | – | – | – | – | – | – | – | – |

A processor, 2 threads, Python 3.11.7, torch 2.13.0, transformers 5.23.0; 200 GFLOP/s on 2,048 rows, 300 on 64, \
40.1 GB/s copied. The whole took 21 minutes."""


def test_the_table_says_what_was_measured_met_and_missed(page):
    assert page.speed(json.loads(json.dumps(REPORT))) == TABLE


def test_the_table_stands_between_its_marks_and_nothing_else_changes(page):
    text = "Before\n<!-- speed -->\nold\n<!-- end -->\nafter\n<!-- other -->\nas it was\n<!-- end -->\n"
    assert page.written(text, "speed", REPORT) == text.replace("old", TABLE)
    assert page.written(page.written(text, "speed", REPORT), "speed", REPORT) == text.replace("old", TABLE)
    with pytest.raises(ValueError, match="no <!-- speed -->"):
        page.written("Before\n", "speed", REPORT)


COMPARED = {
    "n": 1200, "seeds": [0, 1, 2], "cores": 2, "minutes": 21.4,
    "policies": {
        "SFT": {"wins": [0.5, 0.49, 0.51], "gold": 0.4691, "kl": -1e-9, "length": 19.08},
        "DPO": {
            "wins": [0.886, 0.87, 0.9], "wins_by_seed": [0.9, 0.87, 0.888], "gold": 0.8351, "kl": 4.12, "length": 12.5,
            "seconds": 14.6,
        },
    },
}  # fmt: skip
COMPARISON = """\
| method | wins against SFT | of the seeds | gold | KL | reply tokens | seconds |
|---|---:|---:|---:|---:|---:|---:|
| SFT | 50% (49%–51%) | – | 0.469 | 0.0 | 19.1 | – |
| DPO | 89% (87%–90%) | 90% 87% 89% | 0.835 | 4.1 | 12.5 | 15 |

1,200 held-out questions over 3 seeds, one reply each. Seconds are of one run on one core beside others; the whole \
took 21 minutes on 2."""


def test_the_comparison_says_what_every_method_came_to(page):
    assert page.compare(COMPARED) == COMPARISON


def test_the_pages_have_the_marks(page):
    for name, (file, _) in page.TABLES.items():
        report, table = {"speed": (REPORT, TABLE), "compare": (COMPARED, COMPARISON)}[name]
        assert table in page.written((page.DOCS / file).read_text(), name, report)


# --- the arithmetic ------------------------------------------------------------------------------


@pytest.fixture
def arithmetic(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import arithmetic

    return arithmetic


def test_every_figure_of_the_arithmetic_is_printed_with_both_ways(arithmetic, capsys):
    assert arithmetic.main(["--quick"]) == 0
    lines = capsys.readouterr().out.splitlines()
    for name, (unit, _) in arithmetic.MEASURED.items():
        said = [line for line in lines if line.startswith(name)]
        assert said
        assert all(line.endswith(f" {unit}") and len(line.split(": ")[1].split(", ")) == 2 for line in said), said


def test_the_slower_of_two_ways_takes_longer(arithmetic):
    seconds = arithmetic.taken({"slow": lambda: time.sleep(0.004), "fast": lambda: None}, arithmetic.TINY)
    assert seconds["slow"] > 0.004
    assert seconds["fast"] < 0.001


def test_a_heads_gradient_is_nearer_the_more_pieces_it_is_added_up_from(arithmetic):
    usual = arithmetic.heads.CHUNK
    few, many = arithmetic.head_error(replace(arithmetic.TINY, pieces=(2, 40))).values()
    assert few["ours"] == pytest.approx(many["ours"], rel=0.3)
    assert many["PyTorch"] > 1.5 * few["PyTorch"]
    assert many["PyTorch"] > 1.5 * many["ours"]
    assert usual == arithmetic.heads.CHUNK
