"""Where a model computes, and in which format."""

from __future__ import annotations

from typing import Literal

import torch

from preferent.config import UsageError

DType = Literal["auto", "float32", "bfloat16"]


def chosen_device(device: str) -> torch.device:
    """What ``--device`` means. Raises UsageError for one that is not known, or not there."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    there = [f"cuda:{i}" for i in range(torch.cuda.device_count())]
    try:
        chosen = torch.device(device)
        if chosen.type == "cuda" and f"cuda:{chosen.index or 0}" not in there:
            raise RuntimeError("there is no such GPU")
        torch.zeros(1, device=chosen).item()  # which a device of no numbers ("meta") cannot
    except (RuntimeError, AssertionError) as refused:  # an assertion where PyTorch was built without this device
        raise UsageError(
            f"--device {device} cannot be used here: expected one of auto, {', '.join(['cpu', *there])}."
        ) from refused
    return chosen


def fast_bf16(device: torch.device, dtype: DType) -> bool:
    """Whether to compute in bf16: where asked for, or, on auto, on a GPU that has it."""
    if dtype == "auto":
        return device.type == "cuda" and torch.cuda.is_bf16_supported()
    return dtype == "bfloat16"
