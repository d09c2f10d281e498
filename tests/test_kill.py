"""The real commands, killed, terminated and interrupted at random moments, end where an undisturbed run ends."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from preferent.models.load import load_scorer, save
from toys import saved_policy

pytestmark = pytest.mark.slow
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
EXIT = {signal.SIGKILL: -signal.SIGKILL, signal.SIGTERM: 128 + signal.SIGTERM, signal.SIGINT: 130}
PATIENCE = 120.0  # seconds for one sitting, on a busy machine
LENGTHS = "--max-length 100 --max-new-tokens 8 --batch 4"
BRIEF = f"--data prompts.jsonl --reward mine.py:brief {LENGTHS}"
# Long enough for a signal to find them at work; each says how often it saves.
COMMANDS = {
    "sft": "--data demos.jsonl --max-length 128 --steps 120 --save-every 2 --eval-data demos.jsonl --eval-every 7",
    "reward": "--data prefs.jsonl --max-length 128 --steps 60 --save-every 1 --members 2",
    "dpo": "--data prefs.jsonl --max-length 128 --steps 100 --save-every 2 --lora 2",
    "kto": "--data prefs.jsonl --max-length 128 --steps 80 --save-every 2 --objective bco",
    "grpo": f"--data prompts.jsonl --reward mine.py:brief --steps 40 --save-every 1 --group 3 {LENGTHS}",
    "ppo": f"--data prompts.jsonl --reward ./rm --steps 25 --save-every 2 --kl-target 0.1 {LENGTHS}",
}
# Where more than weights and data has to come back: what is drawn from, what is paid, a second file. Killed once each.
OTHERS = {
    "ppo with text": f"--data prompts.jsonl --reward ./rm --steps 20 --save-every 2 --ptx-data demos.jsonl {LENGTHS}",
    "grpo at a cost": f"{BRIEF} --steps 20 --save-every 1 --group 3 --cost ./rm --cost-rate 0.5 --kl-reward 0.05",
    "online-dpo that follows": f"{BRIEF} --steps 20 --save-every 3 --follow 0.5 --follow-every 2 --labels soft",
    "nash-md": f"{BRIEF} --steps 20 --save-every 2",
    "raft": f"{BRIEF} --steps 20 --save-every 3 --replies 4 --draw-every 4",
    "spin": "--data demos.jsonl --max-length 100 --max-new-tokens 8 --batch 4 --steps 20 --save-every 3 --move-every 4",
}
ALL = COMMANDS | OTHERS


@pytest.fixture(autouse=True)
def heard():
    """A shell starts what is to run in its background deaf to SIGINT, and all its children would be."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return filled(tmp_path_factory.mktemp("kill"))


def filled(folder: Path) -> Path:
    """The folder, with a tiny model, a reward model on it, a function of the user's, and data."""
    save(load_scorer(saved_policy(folder / "base")), folder / "rm")
    questions = [f"Where is parcel {i}?" for i in range(24)]
    rows = {
        "demos": [{"prompt": q, "completion": f"It left on day {i}."} for i, q in enumerate(questions)],
        "prefs": [{"prompt": q, "chosen": f"It left, {i}.", "rejected": "I am fine."} for i, q in enumerate(questions)],
        "prompts": [{"prompt": q} for q in questions],
    }
    for name, each in rows.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in each))
    (folder / "mine.py").write_text("def brief(episodes):\n    return [-len(e.text) for e in episodes]\n")
    return folder


def started(place: Path, name: str, out: str) -> subprocess.Popen[str]:
    words = f"-m preferent {name.split()[0]} --model ./base --lr 1e-3 --resume {ALL[name]}".split()
    return subprocess.Popen(
        [sys.executable, *words, "--out", out],
        cwd=place,
        env={**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def ended(process: subprocess.Popen[str]) -> int:
    said, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode in (0, *EXIT.values()), said
    return process.returncode


def lines(out: Path) -> int:
    metrics = out / "metrics.jsonl"
    return metrics.read_bytes().count(b"\n") if metrics.exists() else 0


def disturbed(place: Path, name: str, out: str, number: signal.Signals, chance: random.Random) -> int:
    """One sitting that gets a signal at a random moment of its work, unless it ends before; its exit code."""
    before, process = lines(place / out), started(place, name, out)
    deadline = time.monotonic() + PATIENCE
    more = before + chance.randint(1, 8)
    while process.poll() is None and lines(place / out) < more:
        assert time.monotonic() < deadline
        time.sleep(0.002)
    time.sleep(chance.uniform(0, 0.05))
    if process.poll() is None:
        process.send_signal(number)
    return ended(process)


def left(out: Path) -> tuple[dict[str, bytes], list[dict[str, object]]]:
    """The model's files, and the metrics without what a clock says."""
    model = {str(p.relative_to(out)): p.read_bytes() for p in sorted((out / "model").rglob("*")) if p.is_file()}
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return model, [{k: v for k, v in row.items() if k != "time"} for row in rows]


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_that_is_stopped_again_and_again_ends_where_an_undisturbed_one_ends(place, name):
    chance = random.Random(name)
    assert ended(started(place, name, f"straight-{name}")) == 0
    codes = [disturbed(place, name, f"stopped-{name}", number, chance) for number in SIGNALS]
    assert codes == [EXIT[number] for number in SIGNALS]
    assert ended(started(place, name, f"stopped-{name}")) == 0

    assert_same(place, name, f"straight-{name}", f"stopped-{name}")


@pytest.mark.parametrize("name", OTHERS)
def test_so_does_one_that_has_more_to_bring_back(place, name):
    assert ended(started(place, name, f"straight-{name}")) == 0
    assert disturbed(place, name, f"killed-{name}", signal.SIGKILL, random.Random(name)) == EXIT[signal.SIGKILL]
    assert ended(started(place, name, f"killed-{name}")) == 0
    assert_same(place, name, f"straight-{name}", f"killed-{name}")


def assert_same(place: Path, name: str, straight: str, stopped: str) -> None:
    """The same model to the last bit, and the same metrics for every step, once each."""
    model, metrics = left(place / straight)
    other_model, other_metrics = left(place / stopped)
    steps = int(ALL[name].partition("--steps ")[2].split()[0])
    assert [row["step"] for row in metrics] == list(range(1, steps + 1))
    assert other_metrics == metrics
    assert other_model.keys() == model.keys() != set()
    assert [file for file in model if model[file] != other_model[file]] == []
