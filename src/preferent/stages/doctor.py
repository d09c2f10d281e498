"""The machine, measured: what it has, and what ``--device auto --dtype auto`` will use on it."""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import click

GIB = 2**30
CORE = ("torch", "transformers", "tokenizers", "safetensors", "numpy")


class Extra(NamedTuple):
    """What not everybody needs: ``pip install 'preferent[name]'`` brings ``package``."""

    name: str
    package: str
    purpose: str


EXTRAS = (
    Extra("lora", "peft", "low-rank adapters (--lora)"),
    Extra(
        "quantised", "bitsandbytes", "weights in four bits and moments in eight (--load-4bit, --optimizer adamw8bit)"
    ),
    Extra("hub", "datasets", "data sets from the Hugging Face Hub by name"),
    Extra("parquet", "pyarrow", "Parquet files"),
    Extra("tensorboard", "tensorboard", "TensorBoard events in the run folder"),
    Extra("postgresql", "psycopg", "judgements in a PostgreSQL database"),
)


@dataclass(frozen=True, kw_only=True)
class Options:
    """Show what this machine has, and what will be used.

    Measures matrix products for about two seconds; everything else is looked up. Nothing is written.

    Examples:
      preferent doctor
      preferent doctor --json > machine.json

    """

    json: Annotated[bool, "print one JSON object instead of lines"] = False


def run(options: Options) -> None:
    """Print the findings."""
    found = examined()
    click.echo(json.dumps(found, indent=2) if options.json else "\n".join(told(found)))


def examined() -> dict[str, Any]:
    """What this machine has, as JSON can hold it."""
    import torch

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    speeds = {str(n): round(gflops(threads=n, seconds=0.5), 1) for n in sorted({1, min(2, cores), cores})}
    return {
        "python": platform.python_version(),
        "platform": platform.platform(terse=True),
        "cpu": {"name": cpu_name(), "cores": cores, "threads": torch.get_num_threads()},
        "memory": memory(),
        "libraries": {name: installed(name) for name in CORE},
        "extras": [extra._asdict() | {"version": installed(extra.package)} for extra in EXTRAS],
        "gflops": {"float32": speeds, "bfloat16": round(gflops(dtype="bfloat16", seconds=0.5), 1)},
        "gpus": gpus(),
        "use": asdict(choice()),
    }


def gflops(
    *, device: str = "cpu", dtype: str = "float32", threads: int | None = None, seconds: float = 1.0, size: int = 1024
) -> float:
    """Billions of floating-point operations per second in a product of two ``size`` × ``size`` matrices.

    The best of the products that fit into ``seconds``, since other programs only ever slow one down. The number of
    threads is put back afterwards.
    """
    import torch

    before = torch.get_num_threads()
    a, b = (torch.randn(size, size, device=device).to(getattr(torch, dtype)) for _ in range(2))
    try:
        torch.set_num_threads(threads or before)
        best, until = _product(a, b), time.perf_counter() + seconds  # the first one warms up
        while time.perf_counter() < until:
            best = min(best, _product(a, b))
    finally:
        torch.set_num_threads(before)
    return 2 * size**3 / best / 1e9


def _product(a: Any, b: Any) -> float:
    import torch

    began = time.perf_counter()
    torch.matmul(a, b)
    if a.is_cuda:
        torch.cuda.synchronize(a.device)
    return time.perf_counter() - began


@dataclass(frozen=True)
class Choice:
    """What ``--device auto --dtype auto`` mean here, and why."""

    device: str
    dtype: str
    why: str


def choice() -> Choice:
    """By what the device is, never by how fast it was just now: a stopwatch must not change results."""
    from preferent.models.device import chosen_device, fast_bf16

    device = chosen_device("auto")
    if device.type == "cpu":
        why = "PyTorch finds no GPU here; on a CPU it is float32 unless you say otherwise"
    else:
        why = "the first GPU; bfloat16 where it has such arithmetic, float32 elsewhere"
    return Choice(device.type, "bfloat16" if fast_bf16(device, "auto") else "float32", why)


def gpus() -> list[dict[str, Any]]:
    """Name, memory in GiB and measured GFLOP/s of each GPU."""
    import torch

    found = []
    for i in range(torch.cuda.device_count()):
        about = torch.cuda.get_device_properties(i)
        speed = {
            dtype: round(gflops(device=f"cuda:{i}", dtype=dtype, seconds=0.5, size=4096))
            for dtype in ("float32", "bfloat16")
        }
        found.append({"name": about.name, "memory": round(about.total_memory / GIB, 1), "gflops": speed})
    return found


def memory() -> dict[str, float]:
    """GiB of main memory, in all and free for new programs; empty where the system does not say."""
    about = Path("/proc/meminfo")
    if not about.exists():
        return {}
    kib = {line.split(":")[0]: int(line.split()[1]) for line in about.read_text().splitlines()}
    return {"total": round(kib["MemTotal"] * 1024 / GIB, 1), "free": round(kib["MemAvailable"] * 1024 / GIB, 1)}


def cpu_name() -> str:
    """The processor as Linux names it, or its architecture elsewhere."""
    about = Path("/proc/cpuinfo")
    lines = about.read_text().splitlines() if about.exists() else []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor() or platform.machine())


def installed(package: str) -> str | None:
    """Its version, without importing it."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def told(found: Mapping[str, Any]) -> list[str]:
    """The findings as a person reads them."""
    cpu, speeds = found["cpu"], found["gflops"]["float32"]
    half, full = found["gflops"]["bfloat16"], speeds[str(cpu["cores"])]
    memory = f"{found['memory']['total']} GiB, {found['memory']['free']} free" if found["memory"] else "not known here"
    threads = f"{cpu['threads']} thread{'s' * (cpu['threads'] != 1)}"
    lines = [
        f"Python       {found['python']} · {found['platform']}",
        f"CPU          {cpu['name']} · {cpu['cores']} cores · PyTorch uses {threads}",
        f"memory       {memory}",
        "speed        " + " · ".join(f"{speeds[n]} GFLOP/s fp32 on {n} core{'s' * (n != '1')}" for n in speeds),
        f"             {half} GFLOP/s bf16 on {cpu['cores']} cores, {_advice(half / full)}",
    ]
    for gpu in found["gpus"] or [None]:
        lines.append(f"GPU          {_gpu(gpu)}" if gpu else "GPU          none")
    lines.append("libraries    " + " · ".join(f"{name} {number}" for name, number in found["libraries"].items()))
    for extra in found["extras"]:
        mark = extra["version"] or f"missing, pip install 'preferent[{extra['name']}]'"
        lines.append(f"{extra['package']:<12} {mark}: {extra['purpose']}")
    use = found["use"]
    return [*lines, "", f"will use     {use['device']}, {use['dtype']}: {use['why']}"]


def _advice(ratio: float) -> str:
    return f"{ratio:.1f} times fp32: " + ("--dtype bfloat16 is worth a try" if ratio > 1.5 else "stay with fp32 here")


def _gpu(gpu: Mapping[str, Any]) -> str:
    speeds = " · ".join(f"{speed:,} GFLOP/s {dtype}" for dtype, speed in gpu["gflops"].items())
    return f"{gpu['name']} · {gpu['memory']} GiB · {speeds}"
