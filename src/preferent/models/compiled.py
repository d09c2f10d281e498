"""Functions of a few operations made one kernel by PyTorch's compiler, on devices where moving memory costs the most.

A compiler needs what a machine may lack (Triton, a C compiler, headers), and says so only when it is called.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import cached_property
from subprocess import SubprocessError
from typing import Any

import torch

from preferent.models.room import no_room

log = logging.getLogger(__name__)
REFUSALS = (RuntimeError, TypeError, ValueError, AttributeError, LookupError)


class Fused:
    """A function of tensors, compiled where they are not on a CPU; as it is from then on where that fails."""

    def __init__(self, plain: Callable[..., Any]) -> None:
        self.plain = plain

    @cached_property
    def compiled(self) -> Callable[..., Any]:
        return torch.compile(self.plain, dynamic=True)  # the import alone takes seconds

    def __call__(self, *given: Any) -> Any:
        if given[0].device.type == "cpu":
            return self.plain(*given)
        try:
            return self.compiled(*given)
        except REFUSALS + failures() as refused:
            if no_room(refused) or self.compiled is self.plain:
                raise
            log.warning("%s is not compiled, which takes more time: %s.", self.plain.__name__, reason_of(refused))
        self.compiled = self.plain
        return self.plain(*given)


def failures() -> tuple[type[BaseException], ...]:
    """What compiling may raise beside PyTorch's own errors: of Triton, of a compiler it calls, of what is missing."""
    found = (AssertionError, ImportError, OSError, SubprocessError)
    try:
        from triton.errors import TritonError
    except ImportError:
        return found
    return (*found, TritonError)


def reason_of(error: BaseException) -> str:
    """On one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"
