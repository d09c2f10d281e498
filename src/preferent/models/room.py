"""Memory that does not suffice: how an error tells so, and a smaller attempt in its place."""

from __future__ import annotations

import gc
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from preferent.config import UsageError

# What PyTorch says on a CPU, where it has no class for it; a C++ library's refusal; oneDNN's; cuBLAS, when it finds no
# workspace; and the driver, whose memory others may have taken.
SIGNS = (
    "DefaultCPUAllocator", "std::bad_alloc", "could not create a memory object", "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDA error: out of memory",
)  # fmt: skip
SHOWN = 24  # tokens of the prompt that does not fit


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


@contextmanager
def suffices(what: str, helps: str) -> Iterator[None]:
    """Around work that cannot be cut smaller. Raises UsageError where memory does not suffice ``what`` it is for."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not no_room(error):
            raise
        raise UsageError(f"Memory does not suffice {what}. {helps}\n({reason(str(error))})") from error


def too_large(what: str, prompt: Sequence[int], *, tokenizer: Any, helps: str, said: str = "") -> UsageError:
    """What memory does not suffice for, how the prompt begins, what helps, and what the library said."""
    begins = list(prompt[:SHOWN])
    text = f', "{tokenizer.decode(begins)} …"' if tokenizer is not None else ""
    return UsageError(
        f"Memory does not suffice {what}.\n"
        f"The prompt begins with the tokens {' '.join(map(str, begins))}{text}\n"
        f"{helps}\n({reason(said)})"
    )


def reason(said: str) -> str:
    """The first line of what the library said; a ``MemoryError`` says nothing."""
    return said.splitlines()[0] if said else "out of memory"
