"""Nothing of what is done, or of what it is done on, goes anywhere: no telemetry, no look for a newer version."""

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "src" / "preferent"
TALKATIVE = {"urllib", "http", "socket", "requests", "httpx", "aiohttp", "ftplib", "smtplib", "posthog", "sentry_sdk"}
WATCHED = """
import sys
def noted(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto"):
        print("NETWORK", event, arguments, file=sys.stderr)
sys.addaudithook(noted)
from preferent.cli import main
sys.exit(main(sys.argv[1:]))
"""


def test_no_module_imports_what_speaks_to_a_network():
    found = []
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            found += [f"{path.name}: {name}" for name in names if name.split(".")[0] in TALKATIVE]
    assert found == []


@pytest.mark.slow
def test_a_training_on_local_files_asks_nothing_of_the_network(tmp_path):
    """Every connection and every name that is looked up would raise an audit event; also those of libraries."""
    rows = [{"prompt": f"Where is parcel {i}?", "completion": f"It left on day {i}."} for i in range(24)]
    (tmp_path / "demos.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    size = "--hidden 16 --layers 1 --heads 2 --vocabulary 400"
    for words in (
        f"init --text demos.jsonl --out base {size}",
        "sft --model base --data demos.jsonl --out run --steps 2 --batch 4",
        "sample run --prompts demos.jsonl --limit 2 --max-new-tokens 4 --out said.jsonl",
        "report run",
    ):
        env = {name: value for name, value in os.environ.items() if name != "HF_HUB_OFFLINE"}
        done = subprocess.run(
            [sys.executable, "-c", WATCHED, *words.split()],
            cwd=tmp_path, env=env | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert "NETWORK" not in done.stderr, done.stderr
