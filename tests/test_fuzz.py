"""Rows, configurations and checkpoints that nobody would write: each is taken, or refused in a sentence.

What is drawn goes through the command line itself, in this process, where any error but ``UsageError`` is a test's.
"""

import gzip
import io
import json
import os
import shutil
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from altered import ODD, altered
from preferent.cli import main
from toys import saved_policy

DEMOS = [{"prompt": f"Where is parcel {i}?", "completion": f"It left on day {i}."} for i in range(12)]
PREFS = [{"prompt": f"Where is {i}?", "chosen": f"It left on {i}.", "rejected": "Who knows?"} for i in range(12)]
PROMPTS = [{"prompt": f"Where is parcel {i}?", "topic": "parcels"} for i in range(12)]
SMALL = ["--max-length", 96, "--threads", 1, "--batch", 6]


def examples(count: int) -> settings:
    return settings(max_examples=count, deadline=None, suppress_health_check=list(HealthCheck))


def outcome(*words: object, also: tuple[int, ...] = ()) -> int:
    """The exit code: 0 or one of ``also``, or 2 with a sentence."""
    said, told = io.StringIO(), io.StringIO()
    with redirect_stdout(said), redirect_stderr(told):
        code = main([str(word) for word in words])
    assert code in (0, 2, *also)
    assert (code != 2) or (said.getvalue() + told.getvalue()).strip()
    assert "Traceback" not in told.getvalue()
    return code


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a model, data and a reward."""
    folder = tmp_path_factory.mktemp("fuzz")
    saved_policy(folder / "base")
    for name, rows in {"demos": DEMOS, "prefs": PREFS, "prompts": PROMPTS}.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "rewards.py").write_text("def brief(episodes):\n    return [-len(e.text) / 10 for e in episodes]\n")
    return folder


# --- rows ------------------------------------------------------------------------------------------

OPENAI = {
    "input": {"messages": [{"role": "user", "content": "Hello?"}], "tools": []},
    "preferred_output": [{"role": "assistant", "content": "Hello."}],
    "non_preferred_output": [{"role": "assistant", "content": "What?"}],
}
ARGILLA = {
    "id": "0",
    "status": "completed",
    "fields": {"prompt": "Hello?", "response1": "Hello.", "response2": "What?"},
    "responses": {
        "preference": [{"value": "response1", "user_id": "u", "status": "submitted"}],
        "note": [{"value": "good", "user_id": "u", "status": "submitted"}],
    },
    "metadata": {"source": "x"},
    "suggestions": {},
}
LABEL_STUDIO = {
    "id": 3,
    "data": {"prompt": "Hello?", "answer1": "Hello.", "answer2": "What?"},
    "annotations": [
        {
            "id": 1,
            "completed_by": {"email": "a@example.org"},
            "created_at": "2026-01-02T03:04:05Z",
            "lead_time": 3.5,
            "result": [
                {"from_name": "better", "to_name": "x", "type": "pairwise", "value": {"selected": "left"}},
                {"from_name": "score", "to_name": "x", "type": "rating", "value": {"rating": 3}},
            ],
        }
    ],
}
ROWS = [DEMOS[0], PREFS[0], PROMPTS[0], OPENAI, ARGILLA, LABEL_STUDIO]
ROWS += [
    {"prompt": "a", "completions": ["b", "c", "d"], "ranks": [1, 2, 3], "judgements": ["j"], "annotator": "ann"},
    {"prompt": "a", "completions": ["b", "c"], "labels": [True, False], "info": {"x": 1}},
    {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]},
]


def line(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass")


TORN = st.tuples(st.sampled_from(ROWS).map(line), st.integers(0, 200), st.sampled_from([b"", b"\xff", b"\0", b"\r"]))
LINES = st.one_of(
    st.sampled_from(ROWS).flatmap(lambda row: altered(row, times=2)).map(line),
    st.sampled_from(ROWS).map(line),
    TORN.map(lambda torn: torn[0][: torn[1]] + torn[2] + torn[0][torn[1] :][:3]),
    st.binary(max_size=12),
    st.sampled_from(
        [b"prompt,chosen,rejected", b'"a","b","c"', b'{"prompt": "a", "prompt": "b", "completion": "c"}', b"[1]", b"1"]
    ),
)
NAMES = st.sampled_from(["rows.jsonl", "rows.jsonl", "rows.json", "rows.jsonl.gz", "rows.csv", "rows"])


@st.composite
def files(draw: Any) -> tuple[str, bytes]:
    """A file's name and content: lines, or one array of them."""
    name, lines = draw(NAMES), draw(st.lists(LINES, max_size=4))
    content = b"[" + b",".join(lines) + b"]" if name == "rows.json" else b"\n".join(lines)
    return name, gzip.compress(content) if name.endswith(".gz") else content


READERS = {
    "data check": ["data", "check"],
    "sft": ["sft", "--data"],
    "reward": ["reward", "--skip-bad-rows", "--data"],
    "dpo": ["dpo", "--skip-bad-rows", "--data"],
    "grpo": ["grpo", "--skip-bad-rows", "--data"],
}


@given(file=files(), name=st.sampled_from(list(READERS)))
@examples(120)
def test_a_file_of_any_rows_is_read_or_refused_in_a_sentence(file, name, place):
    path = place / file[0]
    path.write_bytes(file[1])
    words = [*READERS[name], path]
    if name != "data check":
        words += ["--model", place / "base", *SMALL, "--dry-run", "--out", place / "none"]
    if name == "grpo":
        words += ["--reward", f"{place / 'rewards.py'}:brief", "--max-new-tokens", 8]
    outcome(*words, also=(1,) if name == "data check" else ())
    assert not (place / "none").exists()
