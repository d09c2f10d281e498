"""Rows, configurations and checkpoints that nobody would write: each is taken, or refused in a sentence.

What is drawn goes through the command line itself, in this process, where any error but ``UsageError`` is a test's.
"""

import copy
import gzip
import hashlib
import importlib
import io
import json
import shutil
import sqlite3
from contextlib import closing, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from altered import ODD, altered
from preferent.cli import main
from preferent.config import UsageError, Word, words
from preferent.data.batches import Batches
from preferent.feedback.store import open_engine
from preferent.runtime import checkpoint, tree
from preferent.runtime.files import checksum
from preferent.runtime.learner import local_learner
from toys import saved_policy, tiny_policy

DEMOS = [{"prompt": f"Where is parcel {i}?", "completion": f"It left on day {i}."} for i in range(12)]
PREFS = [{"prompt": f"Where is {i}?", "chosen": f"It left on {i}.", "rejected": "Who knows?"} for i in range(12)]
PROMPTS = [{"prompt": f"Where is parcel {i}?", "topic": "parcels"} for i in range(12)]
SMALL = ["--max-length", 96, "--threads", 1, "--batch", 6]


def examples(count: int) -> settings:
    """The same cases every time: a rare fault is for whoever looks for it, not for whoever changes something else."""
    return settings(max_examples=count, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))


def outcome(*words: object, also: tuple[int, ...] = ()) -> int:
    """The exit code: 0 or one of ``also``, or 2 with a sentence."""
    out = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")  # a terminal's habits: strict here, forgiving there
    err = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", errors="backslashreplace")
    with redirect_stdout(out), redirect_stderr(err):
        code = main([str(word) for word in words])
        err.flush()
    told = err.buffer.getvalue().decode()
    assert code in (0, 2, *also), told
    assert code != 2 or told.strip()
    assert "Traceback" not in told
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


@pytest.mark.slow
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


FORMATS = ["auto", "trl", "openai", "argilla", "label-studio"]
FEW = st.lists(st.sampled_from(ROWS).flatmap(lambda row: altered(row, times=3)), min_size=1, max_size=3)


@given(rows=FEW, good=st.booleans(), format_=st.sampled_from(FORMATS), array=st.booleans())
@examples(150)
def test_judgements_of_any_rows_are_imported_whole_or_not_at_all(rows, good, format_, array, place):
    """What is refused leaves a store as it was, whatever stood in the file before it."""
    path, store = place / ("some.json" if array else "some.jsonl"), place / "store.db"
    store.unlink(missing_ok=True)
    shutil.copy(empty_store(place), store)
    lines = [line(row) for row in [*[PREFS[0]] * good, *rows]]
    path.write_bytes(b"[" + b",".join(lines) + b"]" if array else b"\n".join(lines))
    code = outcome("data", "import", path, "--store", store, "--format", format_)
    if code == 2:
        assert held(store) == held(empty_store(place))
    else:
        exported = place / "exported.json"
        for kind in ("comparison", "ranking", "demonstration"):
            outcome("data", "export", "--store", store, "--to", exported, "--kind", kind)


def empty_store(place: Path) -> Path:
    """A store of nothing, made once."""
    store = place / "empty.db"
    if not store.exists():
        open_engine(store).dispose()
    return store


def held(store: Path) -> dict[str, list[Any]]:
    """Every row of every table."""
    with closing(sqlite3.connect(store)) as file:
        tables = [name for (name,) in file.execute("select name from sqlite_master where type = 'table'")]
        return {name: file.execute(f"select * from {name}").fetchall() for name in tables}  # noqa: S608  (our tables)


# --- configurations --------------------------------------------------------------------------------

TRAINING = {
    "sft": ("demos", []),
    "reward": ("prefs", []),
    "dpo": ("prefs", []),
    "grpo": ("prompts", ["--max-new-tokens", 8]),
    "ppo": ("prompts", ["--max-new-tokens", 8]),
}
FIXED = {"data", "reward", "out", "dry_run", "device", "max_new_tokens", "threads"}
SCALARS = st.one_of(
    st.sampled_from([*ODD, "auto", "none", "1", "1e400", "-0", "0x10", "1_000", "cuda:99", "eval/nll", "max:eval/nll"]),
    st.integers(),
    st.floats(),
    st.text(max_size=4),
    st.dates(),
    st.binary(max_size=3),
)
FRAGMENTS = st.sampled_from(
    ["&a [*a]", "*nowhere", "!!python/object:os.system x", "!!set {a, b}", "!!timestamp x", "2026-13-45", "<<: 3",
     "? x", "? [a]\n: 3", "? {a: b}\n: 3", "{", "[1, 2", "'", '"\\x"', "!!binary x", "!!int x", "!!float y", "!!bool z",
     "1:60:99", "0b2", "|\n  text", "%YAML 9.9", "---\na: 1", "\ttab", "@x", "!!omap [1]", "=", "~", "0o9", "!!null x",
     "!!timestamp 2026-01-01 99:99:99", "!!int", "!!merge x", "<<: {lr: 1}", "<<: [1]", "1e", "." , "!!pairs [a]"]
)  # fmt: skip


LARGE = {"batch", "lora", "group", "members", "replies"}  # what takes memory in proportion
NONE: st.SearchStrategy[list[str]] = st.just([])


def yaml_of(value: Any) -> str:
    try:
        return yaml.safe_dump(value, allow_unicode=True, default_flow_style=True).removesuffix("\n...\n")
    except yaml.YAMLError:
        return repr(value)


@st.composite
def configurations(draw: Any) -> tuple[str, str]:
    """A training command, and lines of YAML: words of it with values that they may or may not have."""
    command = draw(st.sampled_from(list(TRAINING)))
    module = importlib.import_module(f"preferent.stages.{command}")
    known = [word for word in words(module.Options) if word.name not in FIXED]
    names = st.sampled_from([*(word.name for word in known), "learning_rate", "", "data", "é", "null", "3", "[a]"])
    right = st.sampled_from(known).flatmap(lambda word: st.tuples(st.just(word.name), fitting(word)))
    wrong = st.tuples(names, SCALARS.map(yaml_of) | FRAGMENTS)
    said = draw(st.lists(right, min_size=1, max_size=4) | st.lists(right | wrong, max_size=3))
    return command, "\n".join(
        [*(f"{name}: {value}" for name, value in said), *draw(st.lists(FRAGMENTS, max_size=1) | NONE)]
    )


def fitting(word: Word) -> st.SearchStrategy[str]:
    """Values of the word's own kind, as large and as odd as they come, within what this machine can hold."""
    if word.choices:
        return st.sampled_from(word.choices)
    extreme = {
        int: st.sampled_from([1, 7, 64] if word.name in LARGE else [0, 1, 2, 7, 64, 2**31, 10**18 - 1, 2**63, 10**30]),
        float: st.sampled_from([0, 5e-324, 1e-9, 0.5, 1, 3, 1e38, 1e300]),
        str: st.sampled_from(
            ["", " ", "a", "a/b", "é", "min:eval/nll", "max:loss", "x" * 300, "eval/loss", "a=b", "a=-1"]
        ),
        bool: st.booleans(),
        Path: st.just("x"),
    }[word.kind]
    return extreme.map(yaml_of)


@pytest.mark.slow
@given(said=configurations(), broken=st.sampled_from([b"", b"", b"", b"\xff", b"\0", b"\xef\xbb\xbf"]))
@example(said=("sft", "model: &a [*a]"), broken=b"")  # what broke it once
@example(said=("sft", "model: {[1]: 2}"), broken=b"")
@example(said=("sft", "model: " + "x" * 300), broken=b"")
@example(said=("sft", 'model: "a\\0b"'), broken=b"")
@example(said=("dpo", "lr: !!int x"), broken=b"")
@example(said=("dpo", "lr: 2026-13-45"), broken=b"")
@example(said=("dpo", "!!set {a, b}"), broken=b"")
@example(said=("sft", "eval_data: ''"), broken=b"")
@example(said=("ppo", "epochs: 1.0e+38"), broken=b"")
@example(said=("sft", f"steps: {2**63}"), broken=b"")
@example(said=("sft", f"seed: {2**64}"), broken=b"")
@examples(200)
def test_any_configuration_is_planned_with_or_refused_in_a_sentence(said, broken, place):
    """A dry run loads the model and the data, so values of the right kind go as far as a plan."""
    command, text = said
    path = place / "run.yaml"
    path.write_bytes(broken + text.encode("utf-8", "surrogatepass"))
    data, more = TRAINING[command]
    given = ["--config", path, "--data", place / f"{data}.jsonl", "--out", place / "none", "--dry-run"]
    if "model:" not in text:
        given += ["--model", place / "base"]
    given += ["--max-length", 96] * ("max_length:" not in text)
    given += ["--threads", 1]
    outcome(command, *given, *more, *["--reward", f"{place / 'rewards.py'}:brief"] * bool(more))
    assert not (place / "none").exists()


# --- runs and checkpoints --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def begun(place):
    """A run that stopped after two of three steps, and the weights that it would end with."""
    words = training(place, place / "begun")
    assert outcome(*words, "--steps", 2) == 0
    shutil.copytree(place / "begun", place / "whole")
    assert outcome(*training(place, place / "whole"), "--steps", 3, "--resume") == 0
    return place / "begun"


def training(place: Path, out: Path) -> list[object]:
    words = ["--data", place / "demos.jsonl", "--model", place / "base", *SMALL, "--save-every", 1, "--lr", 1e-2]
    return ["sft", *words, "--schedule", "constant", "--out", out]


@pytest.mark.slow
@given(data=st.data())
@examples(100)
def test_a_damaged_run_goes_on_as_if_nothing_had_been_or_is_refused_and_stays_as_it_is(data, begun, place):
    """Bytes of any file change, it ends too early, is empty or gone, or holds other JSON that can be read."""
    run = place / "run"
    shutil.rmtree(run, ignore_errors=True)
    shutil.copytree(begun, run)
    files = sorted(path for path in run.rglob("*") if path.is_file() and path.parent.name not in ("events", "model"))
    path = data.draw(st.sampled_from(files))
    path.unlink() if data.draw(st.integers(0, 9)) == 0 else path.write_bytes(data.draw(damaged(path)))
    before = contents(run)
    if outcome(*training(place, run), "--steps", 3, "--resume") == 2:
        assert contents(run) == before
    else:
        assert same_weights(run, place / "whole")


def damaged(path: Path) -> st.SearchStrategy[bytes]:
    was = path.read_bytes()
    cut = st.integers(0, len(was)).map(lambda at: was[:at])
    flipped = st.builds(
        lambda at, by: was[:at] + bytes([was[at] ^ by]) + was[at + 1 :],
        st.integers(0, max(0, len(was) - 1)),
        st.integers(1, 255),
    )
    raw = cut | flipped if was else cut
    if path.suffix == ".json":
        return raw | altered(json.loads(was), times=2).map(line)
    if path.suffix == ".yaml":
        return raw | altered(yaml.safe_load(was)).map(yaml_of).map(lambda text: text.encode("utf-8", "replace"))
    if path.suffix == ".jsonl":
        return raw | altered([json.loads(each) for each in was.splitlines()]).map(lines_of)
    return raw


def lines_of(value: Any) -> bytes:
    return b"".join(line(each) + b"\n" for each in (value if isinstance(value, list) else [value]))


@pytest.mark.parametrize(
    "content", [b"{", b"[]", b'{"inputs": {}, "sittings": [{}]}', b'{"inputs": [], "sittings": []}']
)
def test_a_damaged_manifest_of_a_run_is_told_with_the_way_out(content, begun, place, capsys):
    run = place / "unmanifest"
    shutil.rmtree(run, ignore_errors=True)
    shutil.copytree(begun, run)
    (run / "manifest.json").write_bytes(content)
    words = [str(word) for word in [*training(place, run), "--steps", 3, "--resume"]]
    assert main(words) == 2
    assert f"{run / 'manifest.json'} is damaged: expected what the run noted" in capsys.readouterr().err
    (run / "manifest.json").unlink()
    assert main(words) == 0
    assert same_weights(run, place / "whole")


def test_a_line_of_metrics_that_holds_no_numbers_is_cut_off_and_said(begun, place, capsys):
    run = place / "unmeasured"
    shutil.copytree(begun, run)
    first, _ = (run / "metrics.jsonl").read_bytes().splitlines(keepends=True)
    (run / "metrics.jsonl").write_bytes(first + b'{"step": 2, "loss": [1]}\n')
    assert main([str(word) for word in [*training(place, run), "--steps", 3, "--resume"]]) == 0
    assert "ends at step 1, the run goes on after step 2: lines between were lost" in capsys.readouterr().err
    assert same_weights(run, place / "whole")


def contents(folder: Path) -> dict[str, bytes]:
    """Every file but those of the moment: the lock, and TensorBoard's of this sitting."""
    kept = (path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != ".lock")
    return {str(path.relative_to(folder)): path.read_bytes() for path in kept if path.parent.name != "events"}


def same_weights(run: Path, other: Path) -> bool:
    one, two = (folder / "model" / "model.safetensors" for folder in (run, other))
    return one.read_bytes() == two.read_bytes()


@given(data=st.data())
@examples(100)
def test_a_checkpoint_of_anything_under_the_right_checksums_is_loaded_or_refused_and_no_part_is_half_loaded(
    data, begun, place
):
    """As a program of another version, or a person with an editor, would have written and sealed it."""
    folder = place / "sealed"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(begun / "checkpoints" / "step-2", folder / "step-2")
    path = folder / "step-2" / data.draw(st.sampled_from(["learner.json", "data.json", "manifest.json"]))
    path.write_bytes(line(data.draw(altered(json.loads(path.read_bytes()), times=2))))
    sealed(folder / "step-2", anew=path.name != "manifest.json")
    parts = {"learner": local_learner(tiny_policy(), lr=1e-3), "data": Batches([1, 2, 3], 1, list)}
    before = {name: copy.deepcopy(part.state_dict()) for name, part in parts.items()}
    try:
        assert checkpoint.restore(folder, parts) == 2
    except UsageError:
        fine = checkpoint.load(begun / "checkpoints", 2)[1]
        for name, part in parts.items():
            assert as_bytes(part.state_dict()) in (as_bytes(before[name]), as_bytes(fine[name]))


def as_bytes(state: Any) -> list[Any]:
    """A state to the last bit."""
    text, tensors = tree.packed("part", state)
    return [text, {name: tensor.numpy().tobytes() for name, tensor in tensors.items()}]


def sealed(folder: Path, *, anew: bool) -> None:
    """Give a checkpoint the checksums of what it holds now; ``anew`` those of its files too."""
    manifest = json.loads((folder / "manifest.json").read_bytes())
    if isinstance(manifest, dict):
        manifest.pop("sha256", None)
        if anew:
            manifest["files"] = {name: checksum(folder / name) for name in manifest["files"]}
        text = json.dumps(manifest, sort_keys=True)
        manifest["sha256"] = hashlib.sha256(text.encode()).hexdigest()
        (folder / "manifest.json").write_text(json.dumps(manifest))
