"""A source's rows tokenised block by block, by this process or by several, with the same result.

Workers are programs of their own (``python -m preferent.data.blocks``): nothing is forked, and a script of the user's
is not run again, so it works alike on every system and whatever threads there are. Every worker reads the whole file,
which costs a hundredth of tokenising it, and tokenises each n-th block; record batches come back through a pipe, which
holds a worker up when this process does not keep pace. Threads would not help: the tokenizer holds Python's lock.

A worker that meets a fault just stops. This process then goes on alone from that block and meets the fault itself, so
errors are the same, and so is the row that they name.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Generator, Iterator, Mapping
from dataclasses import asdict, dataclass
from itertools import count, islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO, Any, cast

from preferent.config import UsageError
from preferent.data.arrow import NotPlain, batch_of, schema
from preferent.data.identity import fingerprint, settings
from preferent.data.reading import Reader, Reading, Tally
from preferent.data.rows import BadRow, Row, rows
from preferent.data.template import Template

ROWS = 512  # of a source in each block
PER_WORKER = 12 << 20  # bytes of text, below which starting another worker takes longer than it saves
MOST_WORKERS = 16  # each one holds the libraries, about 300 MB
COUNTS = b"counts"  # what a record batch that comes from a worker says of its block; the last one says nothing
ENV = "PREFERENT_WORKERS"


@dataclass(frozen=True, slots=True)
class Block:
    """The good rows among some rows of a source, as a record batch, and what became of all of them."""

    batch: Any
    counts: Mapping[str, Any]


def blocks(reader: Reader, source: str, label: str, workers: int = 1) -> Generator[Block]:
    """All blocks in the order of the file. Raises UsageError for the first bad row, unless these are skipped.

    ``label``: that of the file of bad rows, which the error names.
    """
    done = 0
    if workers > 1 and sys.executable:
        for block in delivered(reader, source, workers):
            if block is None:
                return
            done += 1
            yield block
    found = islice(rows(source), done * ROWS, None)
    while taken := list(islice(found, ROWS)):
        yield block_of(reader, Tally(source, label, reader.reading), taken)


def block_of(reader: Reader, tally: Tally, found: list[Row | BadRow]) -> Block:
    return Block(batch_of(list(tally.kept(reader, found))), tally.state())


def sensible_workers(size: int) -> int:
    """How many processes are worth their start for so many bytes of text; ``PREFERENT_WORKERS`` overrules it."""
    said = os.environ.get(ENV)
    if said:
        if not said.isdecimal() or int(said) < 1:
            raise UsageError(f"{ENV} is how many processes tokenise a large file: expected 1 or more, got {said!r}.")
        return int(said)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(cores, MOST_WORKERS, size // PER_WORKER))


# --- this side of the pipes ----------------------------------------------------------------------


def delivered(reader: Reader, source: str, workers: int) -> Iterator[Block | None]:
    """Blocks from workers, in order, and None behind the last one; it ends without that where a worker stops."""
    import pyarrow as pa

    with TemporaryDirectory(prefix="preferent-", ignore_cleanup_errors=True) as folder:
        reader.template.tokenizer.save_pretrained(folder)
        task = {
            "source": source,
            "kind": reader.kind,
            "reading": asdict(reader.reading) | {"bad_rows_folder": None},
            "settings": settings(reader.template),
            "tokenizer": folder,
            "fingerprint": fingerprint(reader.template),
            "workers": workers,
        }
        running: list[subprocess.Popen[bytes]] = []
        try:
            for i in range(workers):
                running.append(started())
                with cast(IO[bytes], running[-1].stdin) as stdin:
                    stdin.write(json.dumps(task | {"worker": i}).encode())
            streams = [pa.ipc.open_stream(worker.stdout) for worker in running]
            for number in count():
                batch, told = streams[number % workers].read_next_batch_with_custom_metadata()
                if told is None:
                    yield None
                    return
                yield Block(batch, json.loads(told[COUNTS]))
        except (pa.ArrowException, OSError, StopIteration):
            return
        finally:
            for worker in running:
                ended(worker)


def started() -> subprocess.Popen[bytes]:
    """A worker that waits for its task. What it would say on the screen is of no use: its faults are met again here."""
    here = str(Path(__file__).parents[2])  # the package may be importable here for reasons that a new process lacks
    path = os.pathsep.join([here, *filter(None, [os.environ.get("PYTHONPATH")])])
    return subprocess.Popen(  # noqa: S603  (this very interpreter, no shell)
        [sys.executable, "-m", __name__],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": path, "TOKENIZERS_PARALLELISM": "false"},
    )


def ended(worker: subprocess.Popen[bytes]) -> None:
    worker.kill()
    worker.wait()
    cast(IO[bytes], worker.stdout).close()


# --- the other side ------------------------------------------------------------------------------


def work(task: Mapping[str, Any], out: IO[bytes]) -> None:
    """Write this worker's blocks into ``out``, and a batch without counts behind them."""
    import pyarrow as pa
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(task["tokenizer"], local_files_only=True)
    template = Template(tokenizer, **task["settings"])
    if fingerprint(template) != task["fingerprint"]:
        return  # a tokenizer that is not the same once it was saved
    reader = Reader(template, task["kind"], Reading(**task["reading"]))
    found = rows(task["source"])
    with pa.ipc.new_stream(out, schema()) as writer:
        for number in count():
            taken = list(islice(found, ROWS))
            if taken and number % task["workers"] == task["worker"]:
                block = block_of(reader, Tally(task["source"], "", reader.reading), taken)
                writer.write_batch(block.batch, custom_metadata={COUNTS: json.dumps(block.counts)})
            if not taken:
                writer.write_batch(batch_of([]))
                return


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that waits for us, which ends us
    logging.disable()
    task = json.load(sys.stdin)
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints must not get between the blocks
    try:
        work(task, out)
        out.flush()
    except (UsageError, NotPlain, OSError):
        sys.exit(1)


if __name__ == "__main__":
    main()
