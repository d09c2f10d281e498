"""Ending processes in every possible place, and seeing what they leave."""

import multiprocessing
import os
import traceback
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from preferent.runtime import files

# A server that has imported what takes time forks each child from itself.
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["preferent.runtime.drive", "preferent.runtime.run", "pytest", "hypothesis"])

KILLED, FAILED = 9, 3


def alone(function: Callable[..., Any], *arguments: Any) -> Any:
    """What ``function`` returns in a process of its own."""
    receiving, sending = PROCESSES.Pipe(duplex=False)
    process = PROCESSES.Process(target=_tell, args=(sending, function, arguments), daemon=True)
    process.start()
    sending.close()
    try:
        return receiving.recv()
    finally:
        process.join()
        process.close()
        receiving.close()


def _tell(sending: Connection, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    sending.send(function(*arguments))


def deaths(work: Callable[[], None], power_cut: bool) -> Iterator[str]:
    """Fork a child that does ``work`` and dies at its first failpoint, then at its second, … until one survives.

    Yields after each death the operation before which it came. After a power cut, what was written and not flushed is
    cut in half, and renamings not flushed are undone. To be called in a process without threads: ``alone``.
    """
    at = 0
    while True:
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            files.failpoint = _Death(at, power_cut, writing)
            status = FAILED
            try:
                work()
                status = 0
            finally:
                if status:
                    traceback.print_exc()
                os._exit(status)  # a killed process tidies nothing up
        os.close(writing)
        with os.fdopen(reading) as pipe:
            operation = pipe.read()
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if status == 0:
            return
        assert status == KILLED, f"the child failed at failpoint {at} with {status}"
        yield operation
        at += 1


class _Death:
    def __init__(self, at: int, power_cut: bool, pipe: int) -> None:
        self.at, self.power_cut, self.pipe = at, power_cut, pipe
        self.written: list[Path] = []
        self.renamed: list[tuple[Path, Path]] = []

    def __call__(self, operation: str, *paths: Path) -> None:
        if self.at == 0:
            os.write(self.pipe, f"{operation} {paths[-1].name}".encode())
            if self.power_cut:
                self.lose()
            os._exit(KILLED)
        self.at -= 1
        if operation == "write":
            self.written += paths
        elif operation == "rename":
            self.renamed += [paths]
        elif operation == "sync":
            self.written = [path for path in self.written if path != paths[0]]
            self.renamed = [(old, new) for old, new in self.renamed if new.parent != paths[0]]

    def lose(self) -> None:
        for path in self.written:
            if path.exists():
                os.truncate(path, path.stat().st_size // 2)
        for old, new in reversed(self.renamed):
            if new.exists():
                new.replace(old)
