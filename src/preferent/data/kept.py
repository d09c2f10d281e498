"""Tokenised rows of large files, kept on disk: made once, then memory-mapped, however many runs read them.

A file of the cache is called ``<key>.<checksum>.arrow``. The key stands for all that the rows depend on: the source's
bytes, the template, how the source is read, and the code that does it; so nothing is ever out of date, and another
template makes another file. The checksum is that of the file itself, held against it at each use, so one that is
damaged or cut short is made again. It takes its name only when it is whole. Two processes that make the same file at
once make the same bytes.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import sys
import tempfile
import time
import weakref
from contextlib import closing, suppress
from importlib.util import find_spec
from pathlib import Path

from preferent.config import UsageError
from preferent.data.arrow import ACCOUNT, ArrowRows, NotPlain, batch_of, schema
from preferent.data.blocks import blocks, sensible_workers
from preferent.data.identity import checksum_of, fingerprint
from preferent.data.reading import Reader, Tally
from preferent.data.rows import suffix_of

log = logging.getLogger(__name__)

FORMAT = 1  # of the files; another number makes them all anew
LARGE = 4 << 20  # bytes of text; a smaller source is read into memory faster than a file is worth
PACKED = 4  # times as many bytes of text as gzip or Parquet make of it, about
ENV = "PREFERENT_CACHE"
UNUSED = 30 * 24 * 3600  # seconds after which a file that nobody read goes away, when another one is made
ABANDONED = 24 * 3600  # the same for what a killed process left half-written


def kept_rows(reader: Reader, tally: Tally) -> ArrowRows | None:
    """The good rows of a large local source, counted in the tally; None for one that is to be read into memory.

    That is one which is small, or bounded, or no file, or whose template or rows cannot be told by a checksum or JSON.
    Raises UsageError for the first bad row, unless they are skipped.
    """
    size = text_size(tally.source)
    if size < LARGE or reader.reading.limit is not None or find_spec("pyarrow") is None:
        return None
    key = key_of(reader, tally.source)
    if key is None:
        return None
    folder = cache_folder()
    try:
        found = usable(folder, key) if folder else None
        if found is None:
            found = made(folder, key, reader, tally, sensible_workers(size))
    except NotPlain:
        log.info("%s: has columns of dates or bytes, so its rows are kept in memory, not on disk.", tally.source)
        return None
    except OSError as error:
        log.warning("%s: its rows are kept in memory, not on disk (%s).", tally.source, error)
        return None
    tally.add(found.account["counts"], reader.template)
    return found


def text_size(source: str) -> int:
    """About how many bytes of text a local file holds; 0 for what is no file that we read."""
    path, suffix = Path(source), suffix_of(source)
    if suffix is None or not path.is_file():
        return 0
    return path.stat().st_size * (PACKED if suffix == ".parquet" or source.lower().endswith(".gz") else 1)


def cache_folder() -> Path | None:
    """``PREFERENT_CACHE``, or else ``preferent`` where the system keeps caches; None where it says ``off``."""
    said = os.environ.get(ENV)
    if said:
        return None if said.lower() == "off" else Path(said).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "preferent"


def key_of(reader: Reader, source: str) -> str | None:
    """A checksum of all that the rows depend on; None where it cannot be told."""
    template = fingerprint(reader.template)
    if template is None:
        return None
    return checksum_of(
        {
            "format": [FORMAT, sys.byteorder],
            "template": template,
            "source": file_checksum(Path(source)),
            "suffixes": [suffix_of(source), source.lower().endswith(".gz")],
            "kind": reader.kind,
            "columns": dict(reader.reading.columns),
            "skip_bad_rows": reader.reading.skip_bad_rows,
        }
    )


def usable(folder: Path, key: str) -> ArrowRows | None:
    """The rows under this key; None where there are none, or none that are as they were written."""
    for path in folder.glob(f"{key}.*.arrow"):
        if path.name == name_of(key, path):
            with suppress(OSError):  # a cache that others own can be read all the same
                os.utime(path)
            return ArrowRows(path)
        log.info("%s is damaged, and made again.", path)
        with suppress(OSError):
            path.unlink()
    return None


def made(folder: Path | None, key: str, reader: Reader, tally: Tally, workers: int) -> ArrowRows:
    """Tokenise a source into a file of the cache, or without one into a file that lasts as long as its rows."""
    if folder is None:
        return passing(reader, tally, workers)
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)  # the rows are somebody's data
    clear_out(folder)
    handle, name = tempfile.mkstemp(prefix=f"{key}.", suffix=".partial", dir=folder)
    os.close(handle)
    partial = Path(name)
    try:
        write(partial, reader, tally, workers)
        if key_of(reader, tally.source) != key:
            raise UsageError(f"{tally.source}: changed while it was read. Try again once nobody writes to it.")
        target = folder / name_of(key, partial)
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)
    return ArrowRows(target)


def passing(reader: Reader, tally: Tally, workers: int) -> ArrowRows:
    """Rows in a temporary file, which goes when they go."""
    folder = tempfile.mkdtemp(prefix="preferent-")
    try:
        write(Path(folder) / "rows.arrow", reader, tally, workers)
        found = ArrowRows(Path(folder) / "rows.arrow")
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    weakref.finalize(found, shutil.rmtree, folder, ignore_errors=True)
    return found


def write(path: Path, reader: Reader, tally: Tally, workers: int) -> None:
    """Tokenise a source into an Arrow file, block by block."""
    import pyarrow as pa

    source, label = tally.source, tally.label
    total, sizes, began = Tally(source, label, reader.reading), list[int](), time.monotonic()
    log.info("%s: tokenising it%s …", source, f" with {workers} processes" if workers > 1 else "")
    with pa.ipc.new_file(str(path), schema()) as file, closing(blocks(reader, source, label, workers)) as coming:
        for block in coming:
            file.write_batch(block.batch)
            sizes.append(block.batch.num_rows)
            total.add(block.counts, reader.template)
        account = {"sizes": sizes, "counts": total.state()}
        file.write_batch(batch_of([]), custom_metadata={ACCOUNT: json.dumps(account)})
    log.info("%s: %d rows tokenised in %.0f s.", source, total.read, time.monotonic() - began)


def name_of(key: str, path: Path) -> str:
    return f"{key}.{file_checksum(path)[:32]}.arrow"


def file_checksum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def clear_out(folder: Path) -> None:
    """Remove what nobody used for a month. Who still reads a file keeps it until then."""
    now = time.time()
    for pattern, age in (("*.arrow", UNUSED), ("*.partial", ABANDONED)):
        for path in folder.glob(pattern):
            with suppress(OSError):  # another process may have been quicker
                if now - path.stat().st_mtime > age:
                    path.unlink()
