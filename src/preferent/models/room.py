"""Memory that does not suffice: how an error tells so, and a smaller attempt in its place."""

from __future__ import annotations

import gc

import torch

# What PyTorch says on a CPU, where it has no class for it; a C++ library's refusal; cuBLAS, when it finds no workspace.
SIGNS = ("DefaultCPUAllocator", "std::bad_alloc", "CUBLAS_STATUS_ALLOC_FAILED")


def no_room(error: BaseException) -> bool:
    """Whether it was raised because memory ran out."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in SIGNS)


def release() -> None:
    """Give back what a failed attempt held. To be called outside its ``except``, whose traceback keeps every tensor."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
