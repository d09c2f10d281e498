"""The benchmark for a GPU, on a CPU: a tiny model goes through every line that needs no CUDA."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


@pytest.fixture
def races(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import gpu_race

    return gpu_race


def test_the_benchmark_runs_on_a_cpu_and_both_sides_say_the_same(tmp_path):
    out = tmp_path / "gpu.json"
    asked = ["--device", "cpu", "--size", "tiny", "--rounds", "1", "--out", str(out)]
    done = subprocess.run(
        [sys.executable, str(BENCHMARKS / "gpu.py"), *asked],
        env={**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(out.read_text())
    assert not [name for name, each in found["details"].items() if isinstance(each, dict) and "failed" in each]
    rows = {row["name"]: row for row in found["found"]}
    judged = {name for name, row in rows.items() if row["verdict"] == "PASS"}
    assert {
        "log-probabilities in fp32 against the plain forward's, relative",
        "log-probabilities in bf16, our error / the plain forward's",
        "the sampler's log-probabilities in fp32, relative",
        "SFT: gradient norms apart, relative",
        "DPO: gradient norms apart, relative",
        "GRPO, given replies: gradient norms apart, relative",
    } <= judged
    assert all(rows[f"{job}: share of the matrix-product rate"]["value"] > 0 for job in ("SFT", "DPO"))
    assert all(rows[f"sampling {job}: share of the copy bandwidth"]["value"] > 0 for job in ("2 × 4", "8 × 1"))


@pytest.mark.slow
def test_the_lines_that_are_for_a_gpus_precision_run_on_a_cpu_too(races, monkeypatch):
    """bf16 over fp32 weights, sampling from a copy in bf16, and blocks of keys in place of a tree."""
    import gpu

    from preferent.models import plan

    monkeypatch.setattr(plan, "in_blocks", lambda _: True)
    monkeypatch.setattr("torch.nn.attention.flex_attention._validate_device", lambda *_: None)
    monkeypatch.setattr("torch.nn.attention.flex_attention._FLEX_ATTENTION_DISABLE_COMPILE_DEBUG", True)
    report = races.Report(judged=False, until=time.perf_counter() + 600)
    bench = gpu.Bench(races.SIZES["tiny"], races.torch.device("cpu"), 1, report)
    bench.load()
    bench.bf16, bench.rates = True, {"products": 1e9, "copying": 1e9}
    report.section("check", bench.check)
    for kind in ("sft", "dpo", "grpo"):
        report.section(kind, gpu.partial(bench.training, kind))
    report.section("sampling", gpu.partial(bench.sampling, 2, 2))
    report.section("whole", bench.whole)
    assert not [name for name, each in report.details.items() if "failed" in each], report.details
    assert not [row for row in report.rows if row["verdict"] == "FAIL"], report.rows


def test_where_there_is_no_such_gpu_the_benchmark_says_so(races, monkeypatch):
    import gpu

    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    with pytest.raises(SystemExit, match="--device cuda:99 cannot be used here"):
        gpu.main(["--device", "cuda:99"])


def test_a_section_that_fails_is_told_of_and_the_next_one_runs(races, capsys):
    report, ran = races.Report(judged=False, until=time.perf_counter() + 60), []

    def out_of_memory():
        raise races.torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB")

    report.section("too large", out_of_memory)
    report.section("small", lambda: ran.append(1))
    assert ran == [1]
    assert not report.met
    assert "Tried to allocate 9 GiB" in report.details["too large"]["failed"]
    assert "Tried to allocate 9 GiB" in capsys.readouterr().out


def test_a_missed_target_and_a_section_without_time_are_both_failures(races):
    for most, met in ((2.0, True), (1.0, False), (0.0, False)):
        report = races.Report(judged=True, until=time.perf_counter() + 60)
        report.says("a number", 1.5, most=most)
        assert report.met is met
    late = races.Report(judged=True, until=time.perf_counter() - 1)
    late.section("optional", pytest.fail, wanted=False)
    assert late.met
    late.section("wanted", pytest.fail)
    assert not late.met


def test_the_counted_weights_are_those_of_the_model(races):
    """Operations are counted from a shape; transformers makes the matrices. Here both must say the same."""
    size = races.SIZES["tiny"]
    report = races.Report(judged=False, until=time.perf_counter() + 60)
    race = races.Race(size, races.torch.device("cpu"), 1, report)
    race.load()
    layers = sum(p.numel() for name, p in race.plain.model.layers.named_parameters() if name.endswith("proj.weight"))
    assert layers == size.shape.in_layers
    assert race.plain.lm_head.weight.numel() == size.shape.hidden * size.shape.vocabulary
