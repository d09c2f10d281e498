"""A full disk, wherever it is met, ends a training with a sentence; with room again it goes on to the same end."""

import json
import os
import subprocess
import sys

import pytest

from toys import saved_policy

pytestmark = pytest.mark.slow
SFT = "-m preferent sft --model ./base --data demos.jsonl --steps 12 --save-every 2 --max-length 64 --resume --out"
# The largest file that a process may write stands for the room on the disk; the kernel refuses the rest alike.
LIMITED = "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, ({0}, {0})); sys.argv = sys.argv[1:]; "


@pytest.fixture
def place(tmp_path):
    saved_policy(tmp_path / "base")
    rows = [{"prompt": f"Where is parcel {i}?", "completion": f"It left on day {i}."} for i in range(24)]
    (tmp_path / "demos.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


def sft(place, out, *, room=None):
    """The command's exit code and what it said; ``room`` is in bytes."""
    start = (
        ["-c", LIMITED.format(room) + "from preferent.cli import main; sys.exit(main(sys.argv[2:]))"] if room else []
    )
    words = [sys.executable, *start, *SFT.split(), out]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(words, cwd=place, env=env, capture_output=True, text=True, check=False)
    return done.returncode, done.stderr


def weights(place, out):
    return (place / out / "model" / "model.safetensors").read_bytes()


def test_a_disk_that_fills_up_at_any_moment_stops_with_a_sentence_and_the_run_goes_on(place):
    assert sft(place, "straight")[0] == 0
    largest = max(p.stat().st_size for p in (place / "straight").rglob("*") if p.is_file())
    for share in (0.002, 0.5, 0.99):
        out = f"full-{share}"
        code, said = sft(place, out, room=max(300, int(largest * share)))
        assert code == 2, said
        assert "on the disk" in said
        assert "--resume" in said
        assert "Traceback" not in said
        assert sft(place, out)[0] == 0
        assert weights(place, out) == weights(place, "straight")
