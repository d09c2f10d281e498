"""A checkpoint gives back what it was given, to the last bit, or says what is wrong with it."""

import errno
import json
import math
import os
import resource
import shutil
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from killing import alone, deaths
from safetensors.torch import load, load_file
from safetensors.torch import save as serialised

from preferent.config import UsageError
from preferent.runtime import checkpoint, files, tree

DTYPES = (
    torch.float32,
    torch.float64,
    torch.bfloat16,
    torch.float16,
    torch.int64,
    torch.int32,
    torch.uint8,
    torch.bool,
)


@st.composite
def tensors(draw: st.DrawFn) -> torch.Tensor:
    """Any bits in any of the types, 0-d, empty or not contiguous."""
    dtype, shape = draw(st.sampled_from(DTYPES)), draw(st.lists(st.integers(0, 3), max_size=3))
    size = dtype.itemsize * math.prod(shape)
    data = bytearray(draw(st.binary(min_size=size, max_size=size)) or b"\0")
    raw = torch.frombuffer(data, dtype=torch.uint8)[:size]
    tensor = (raw % 2).bool() if dtype == torch.bool else raw.clone().view(dtype)
    tensor = tensor.reshape(shape)
    return tensor.transpose(0, -1) if draw(st.booleans()) and shape else tensor


FLOATS = st.floats() | st.integers(0, 2**51 - 1).map(
    lambda payload: struct.unpack(">d", struct.pack(">Q", 0xFFF8 << 48 | payload))[0]
)
LEAVES = st.none() | st.booleans() | st.integers() | FLOATS | st.text() | tensors()
KEYS = st.text(max_size=5) | st.sampled_from(["$tensor", "$float", "$items", "$", "a.b", "", "__metadata__"])
TREES = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(KEYS, inner, max_size=3)
        | st.dictionaries(st.integers(), inner, max_size=2)
    ),
    max_leaves=8,
)


def same(a: Any, b: Any) -> bool:
    """Equal in type, structure and every bit."""
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        return serialised({"x": a.contiguous()}) == serialised({"x": b})  # type, shape and bytes
    if type(a) is not type(b):
        return False
    if isinstance(a, float):
        return struct.pack(">d", a) == struct.pack(">d", b)
    if isinstance(a, Mapping):
        return list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


@given(st.dictionaries(KEYS, TREES, max_size=4))
def test_a_state_comes_back_to_the_last_bit(state):
    text, held = tree.packed("part", state)
    assert same(state, tree.unpacked(text, load(serialised(held))))


@given(st.dictionaries(KEYS, TREES, max_size=4))
def test_what_stands_beside_the_tensors_is_strict_json(state):
    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    json.loads(tree.packed("part", state)[0], parse_constant=refuse)


def some(step: int) -> dict[str, dict[str, Any]]:
    """Two parts' states, different at each step."""
    weight = torch.arange(12.0).reshape(3, 4) * step
    return {
        "learner": {"model": {"weight": weight, "bias": torch.tensor(0.1 * step)}, "version": step},
        "data": {"position": step, "best": -math.inf},
    }


def test_parts_come_back_from_the_disk_to_the_last_bit(tmp_path):
    checkpoint.save(tmp_path, 3, some(3))
    step, parts = checkpoint.load(tmp_path)
    assert step == 3
    assert same(parts, some(3))


def test_tied_weights_are_stored_once_and_are_one_tensor_again(tmp_path):
    weight = torch.nn.Parameter(torch.randn(5, 2))
    checkpoint.save(tmp_path, 1, {"model": {"embed": weight, "head": weight.detach(), "row": weight[1]}})
    assert set(load_file(tmp_path / "step-1" / "model.safetensors")) == {"model.embed", "model.row"}
    model = checkpoint.load(tmp_path)[1]["model"]
    assert model["embed"] is model["head"]
    assert torch.equal(model["row"], weight[1])


def test_what_was_loaded_does_not_look_at_the_file_any_more(tmp_path):
    path = checkpoint.save(tmp_path, 2, some(2)) / "learner.safetensors"
    parts = checkpoint.load(tmp_path)[1]
    with path.open("r+b") as file:
        file.write(bytes(path.stat().st_size))
    assert same(parts, some(2))


def test_a_leaf_that_a_state_cannot_hold_is_named():
    with pytest.raises(TypeError, match=r"learner\.model\.1 is a builtins\.set; a state holds tensors, int"):
        tree.packed("learner", {"model": [1, {2}]})


@pytest.mark.parametrize("name", ["manifest", "../up", "a/b", "", ".hidden"])
def test_a_part_with_a_name_that_is_no_file_name_is_refused(tmp_path, name):
    with pytest.raises(ValueError, match="a part's name is a file's name"):
        checkpoint.save(tmp_path, 1, {name: {"x": 1}})
    assert list(tmp_path.iterdir()) == []


def test_the_newest_two_and_the_pinned_ones_stay(tmp_path):
    for step in (1, 2, 5, 10, 20):
        checkpoint.save(tmp_path, step, some(step), pinned={2})
    assert checkpoint.steps(tmp_path) == [2, 10, 20]
    checkpoint.save(tmp_path, 30, some(30), keep=3)
    assert checkpoint.steps(tmp_path) == [10, 20, 30]
    assert same(checkpoint.load(tmp_path, 10), (10, some(10)))


def test_a_checkpoint_is_not_written_over(tmp_path):
    checkpoint.save(tmp_path, 1, some(1))
    with pytest.raises(UsageError, match="step-1 exists already"):
        checkpoint.save(tmp_path, 1, some(2))
    assert same(checkpoint.load(tmp_path), (1, some(1)))


def test_a_step_that_is_not_there_is_an_error_that_lists_those_that_are(tmp_path):
    with pytest.raises(UsageError, match=r"No checkpoint in .* \(steps there: none\)"):
        checkpoint.load(tmp_path / "nowhere")
    checkpoint.save(tmp_path, 4, some(4))
    with pytest.raises(UsageError, match=r"No checkpoint of step 5 in .* \(steps there: 4\)"):
        checkpoint.load(tmp_path, 5)


# --- damage --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """A folder with the checkpoints of steps 1 and 2."""
    folder = tmp_path_factory.mktemp("two")
    for step in (1, 2):
        checkpoint.save(folder, step, some(step))
    return folder


@given(name=st.sampled_from(["learner.json", "learner.safetensors", "data.json", "manifest.json"]), data=st.data())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_any_changed_byte_is_found(two, name, data):
    path = two / "step-2" / name
    was = path.read_bytes()
    at, flip = data.draw(st.integers(0, len(was) - 1)), data.draw(st.integers(1, 255))
    path.write_bytes(was[:at] + bytes([was[at] ^ flip]) + was[at + 1 :])
    found = loaded(two)
    path.write_bytes(was)
    if isinstance(found, str):
        assert name in found or "newer preferent" in found
    else:  # white space between the manifest's fields
        assert name == "manifest.json"
        assert same(found, (2, some(2)))


def loaded(folder: Path) -> tuple[int, Any] | str:
    """The newest checkpoint, or what is wrong with it."""
    try:
        return checkpoint.load(folder)
    except UsageError as error:
        return str(error)


def test_a_damaged_file_is_named_with_the_way_out(tmp_path, two):
    shutil.copytree(two, tmp_path, dirs_exist_ok=True)
    path = tmp_path / "step-2" / "learner.safetensors"
    size = path.stat().st_size
    os.truncate(path, 20)
    with pytest.raises(UsageError) as error:
        checkpoint.load(tmp_path)
    assert str(error.value) == (
        f"Damaged checkpoint: {path}: expected {size} bytes, found 20. "
        f"To go on from step 1 instead, delete the folder {path.parent} and use --resume again."
    )
    shutil.rmtree(path.parent)
    assert same(checkpoint.load(tmp_path), (1, some(1)))
    (tmp_path / "step-1" / "data.json").unlink()
    with pytest.raises(UsageError, match=r"data\.json: expected \d+ bytes, the file is missing\. There is no earlier"):
        checkpoint.load(tmp_path)


@pytest.mark.parametrize(
    ("content", "found"), [(b"{", "something else"), (b"[]", "something else"), (None, "the file is missing")]
)
def test_a_damaged_manifest_is_told_in_words(tmp_path, content, found):
    path = checkpoint.save(tmp_path, 1, some(1)) / "manifest.json"
    path.unlink() if content is None else path.write_bytes(content)
    with pytest.raises(UsageError) as error:
        checkpoint.load(tmp_path)
    assert str(error.value) == (
        f"Damaged checkpoint: {path}: expected a checkpoint's manifest, FOUND. "
        "There is no earlier checkpoint: start the run again with another --out."
    ).replace("FOUND", found if content is None else f"found {found}")


def test_a_newer_format_is_refused_in_a_sentence(tmp_path):
    path = checkpoint.save(tmp_path, 1, some(1)) / "manifest.json"
    path.write_text(json.dumps({"format": checkpoint.FORMAT + 1, "step": 1, "unheard": "of"}))
    with pytest.raises(UsageError, match=r"by a newer preferent \(checkpoint format 2; this one reads up to 1\)"):
        checkpoint.load(tmp_path)


# --- interruption --------------------------------------------------------------------------------


def die_everywhere(folder: Path, power_cut: bool) -> list[str]:
    """Save step 3, keeping no other, after step 2, with a death at every failpoint; one of them must be whole."""
    seen = []
    checkpoint.save(folder / "clean", 2, some(2))
    place = folder / "place"
    shutil.copytree(folder / "clean", place)
    for operation in deaths(lambda: save_third(place), power_cut):
        step, parts = checkpoint.load(place)
        assert step in (2, 3)
        assert same(parts, some(step))
        if step == 2:
            save_third(place)
        else:
            checkpoint.begin(place, 3)
        assert not [path for path in place.iterdir() if path.name.startswith(".")]
        shutil.rmtree(place)
        shutil.copytree(folder / "clean", place)
        seen.append(f"{operation} then {step}")
    assert checkpoint.steps(place) == [3]
    return seen


def save_third(place: Path) -> None:
    checkpoint.begin(place, 2)
    checkpoint.save(place, 3, some(3), keep=1)


@pytest.mark.parametrize("power_cut", [False, True])
def test_a_death_at_any_operation_leaves_the_old_or_the_new_checkpoint_whole(tmp_path, power_cut):
    seen = alone(die_everywhere, tmp_path, power_cut)
    assert {"write learner.safetensors then 2", "rename step-3 then 2", "rename .step-2.gone then 3"} <= set(seen)
    assert sum(line.startswith("sync") for line in seen) >= 7  # four files, their folder, the folder above it twice


def test_a_full_disk_leaves_the_earlier_checkpoints_and_no_rubbish(tmp_path, monkeypatch):
    """Every write and flush in turn says that there is no room."""
    for step in (1, 2):
        checkpoint.save(tmp_path, step, some(step))
    failures = 0
    for at in range(100):
        calls = iter(range(100))

        def full(operation, *paths, at=at, calls=calls):
            if operation in ("write", "sync") and paths[0].parts[-2] == ".step-3.partial" and next(calls) == at:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr(files, "failpoint", full)
        if (said := saved_or_why_not(tmp_path)) is None:
            break
        failures += 1
        assert "step-3 could not be written: [Errno 28] No space left on device" in said
        assert sorted(path.name for path in tmp_path.iterdir()) == ["step-1", "step-2"]
    assert failures == 8  # four files written, four flushed
    assert same(checkpoint.load(tmp_path), (3, some(3)))


def saved_or_why_not(folder: Path) -> str | None:
    try:
        checkpoint.save(folder, 3, some(3))
    except UsageError as error:
        return str(error)
    return None


def write_beyond_the_limit(folder: Path) -> str:
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
    with pytest.raises(UsageError) as error:
        checkpoint.save(folder, 2, {"learner": {"weight": torch.zeros(100_000)}})
    return str(error.value)


def test_a_tensor_file_that_the_system_refuses_to_write_is_the_same_error(tmp_path):
    checkpoint.save(tmp_path, 1, some(1))
    assert "step-2 could not be written: " in alone(write_beyond_the_limit, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["step-1"]


# --- parts ---------------------------------------------------------------------------------------


class Count:
    def __init__(self, n: int = 0) -> None:
        self.n = n

    def state_dict(self) -> dict[str, Any]:
        return {"n": self.n}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.n = state["n"]


def test_parts_get_their_states_back_and_a_new_run_begins_at_0(tmp_path):
    a, b = Count(), Count()
    assert checkpoint.restore(tmp_path, {"a": a, "b": b}) == 0
    checkpoint.save(tmp_path, 7, {"a": {"n": 1}, "b": {"n": 2}})
    assert checkpoint.restore(tmp_path, {"a": a, "b": b}) == 7
    assert (a.n, b.n) == (1, 2)


def test_a_checkpoint_of_other_parts_is_refused(tmp_path):
    checkpoint.save(tmp_path, 7, {"a": {"n": 1}, "b": {"n": 2}})
    untouched = Count(5)
    with pytest.raises(UsageError, match="step-7 holds the state of a, b; this run has a, c"):
        checkpoint.restore(tmp_path, {"a": untouched, "c": Count()})
    assert untouched.n == 5


def test_checkpoints_of_another_past_are_not_built_upon(tmp_path):
    for step in (1, 2):
        checkpoint.save(tmp_path, step, some(step))
    checkpoint.begin(tmp_path, 2)
    with pytest.raises(UsageError, match="holds checkpoints after step 1, from which this run goes on: step-2"):
        checkpoint.begin(tmp_path, 1)
