"""The doctor tells what is there, the same to a person and to a program."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path

import pytest
import torch

from preferent.cli import main
from preferent.stages.doctor import EXTRAS, choice, examined, gflops, installed, told


@pytest.fixture(scope="module")
def found():
    return examined()


def test_a_measurement_is_positive_and_puts_the_threads_back():
    before = torch.get_num_threads()
    assert gflops(threads=1, seconds=0.05, size=128) > 0
    assert torch.get_num_threads() == before


def test_the_findings_name_the_machine_the_libraries_and_the_choice(found):
    assert found["cpu"]["cores"] >= 1
    assert set(found["gflops"]["float32"]) >= {"1", str(found["cpu"]["cores"])}
    assert found["libraries"]["torch"] == installed("torch")
    assert found["use"]["device"] == choice().device == ("cuda" if torch.cuda.is_available() else "cpu")


def test_a_person_is_told_what_is_missing_and_how_to_get_it(found):
    extras = [dict(extra, version=None) for extra in found["extras"]]
    lines = told({**found, "extras": extras})
    assert "peft         missing, pip install 'preferent[lora]': low-rank adapters (--lora)" in lines
    assert lines[-1].startswith(f"will use     {found['use']['device']}, {found['use']['dtype']}: ")
    assert all(extra.purpose in "\n".join(told(found)) for extra in EXTRAS)


def test_a_gpu_is_told_with_its_memory_and_speed(found):
    gpu = {"name": "NVIDIA H200", "memory": 139.8, "gflops": {"float32": 50000, "bfloat16": 700000}}
    line = "GPU          NVIDIA H200 · 139.8 GiB · 50,000 GFLOP/s float32 · 700,000 GFLOP/s bfloat16"
    assert line in told({**found, "gpus": [gpu]})


def test_a_machine_that_does_not_tell_its_memory_is_no_error(found):
    assert "memory       not known here" in told({**found, "memory": {}})


def test_one_thread_is_not_several(found):
    alone, several = ("\n".join(told({**found, "cpu": {**found["cpu"], "threads": n}})) for n in (1, 2))
    assert "PyTorch uses 1 thread\n" in alone
    assert "PyTorch uses 2 threads\n" in several


def test_json_is_one_object_with_the_same_findings(capsys, found):
    assert main(["doctor", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said.keys() == found.keys()
    assert said["extras"] == found["extras"]


def test_the_extras_are_those_of_the_project():
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    extras = {name: needs for name, needs in project["optional-dependencies"].items() if name not in ("all", "dev")}
    assert {extra.name: extra.package for extra in EXTRAS} == {
        name: re.split(r"[\[>]", needs[0])[0] for name, needs in extras.items()
    }


def test_a_package_that_is_not_there_has_no_version():
    assert installed("a-package-that-nobody-made") is None
