"""Rows of a data file or a Hub data set, one by one: a file is never held in memory as a whole.

What is wrong with the source as a whole (missing, empty, damaged) is raised as a ``UsageError``. What is wrong with one
row comes as a ``BadRow`` *value*, so that the reader after it decides: raise it, or collect it and go on.
"""

from __future__ import annotations

import difflib
import gzip
import json
import re
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import IO, Any, cast

from preferent.config import UsageError

CHUNK = 1 << 16  # characters of a JSON array read at once
SUFFIXES = (".jsonl", ".json", ".parquet")
FIELD_SEPARATOR = ":"
HUB_NAME = re.compile(r"(?P<name>[\w.-]+(?:/[\w.-]+)?)(?::(?P<config>[\w.-]+))?(?::(?P<split>[\w.+-]+))?")
# Columns of arrow batches are turned to Python objects this many rows at a time.
PARQUET_ROWS = 256


@dataclass(frozen=True, slots=True)
class Row:
    """One row and where it stands: a line of a JSONL file, or the how-manieth row of anything else (from 1)."""

    source: str
    line: int
    data: Mapping[str, Any]
    unit: str = "line"

    @property
    def raw(self) -> str:
        return json.dumps(self.data, default=str)


class BadRow(UsageError):
    """A row that cannot be used, why (one sentence), and where it stands.

    ``fault`` is the part of the reason before its first colon: the same for all rows with the same trouble.
    """

    def __init__(
        self, reason: str, *, source: str = "", line: int = 0, unit: str = "line", raw: str = "", hint: str = ""
    ) -> None:
        where = f"{source}: {unit} {line}: " if source else ""
        super().__init__(f"{where}{reason}." + (f"\n{hint}" if hint else ""))
        self.reason, self.hint = reason, hint
        self.source, self.line, self.unit, self.raw = source, line, unit, raw

    @property
    def fault(self) -> str:
        return self.reason.split(":", 1)[0]

    def at(self, row: Row) -> BadRow:
        """The same fault, with the place of the row that has it."""
        return type(self)(self.reason, source=row.source, line=row.line, unit=row.unit, raw=row.raw, hint=self.hint)


def rows(source: str | Path) -> Iterator[Row | BadRow]:
    """Rows of a ``.jsonl``, ``.json`` (also ``.gz``) or ``.parquet`` file, or of a Hub data set.

    A Hub data set is ``owner/name``, ``name:split`` or ``name:config:split`` (split ``train`` when left out); a folder
    on disk may stand for the name. Raises UsageError where the source is missing, empty, damaged, or of a kind that is
    not read here.
    """
    name = str(source)
    found = chain(read(name))
    first = next(found, None)
    if first is None:
        raise UsageError(f"{name}: there is no row in it. Expected one JSON object a line, or a table with rows.")
    return chain([first], found)


def read(name: str) -> Iterator[Row | BadRow]:
    path, suffix = Path(name), suffix_of(name)
    if not path.name:
        raise UsageError(f'"{name}" names no file. Expected a JSONL, JSON or Parquet file, or a Hub data set.')
    if suffix is None and (path.is_dir() or is_hub_name(name)):
        return hub_rows(name)
    if not path.exists():
        raise UsageError(missing(path))
    if path.is_dir():
        raise UsageError(
            f"{name}: this is a folder. Name a file in it, or {name}{FIELD_SEPARATOR}train for a data set."
        )
    if suffix is None:
        raise UsageError(f"{name}: cannot tell what is in it. Expected a name ending in .jsonl, .json or .parquet.")
    if suffix == ".parquet":
        return parquet_rows(name)
    return guarded(name, array_rows(name) if suffix == ".json" and opens_an_array(name) else line_rows(name))


def suffix_of(name: str) -> str | None:
    """``.jsonl``, ``.json`` or ``.parquet``, whether packed or not; None for anything else."""
    stem = name.lower().removesuffix(".gz")
    return next((suffix for suffix in SUFFIXES if stem.endswith(suffix)), None)


def is_hub_name(name: str) -> bool:
    """Could this be a data set's name? A path into a folder that exists, or a bare word, is a missing file instead."""
    if Path(name).exists() or HUB_NAME.fullmatch(name) is None:
        return Path(name.split(FIELD_SEPARATOR)[0]).is_dir()
    owner = name.split("/")[0]
    return (FIELD_SEPARATOR in name or "/" in name) and not ("/" in name and Path(owner).is_dir())


def missing(path: Path) -> str:
    """Says that a file is missing, and which of the names beside it comes nearest."""
    if not path.parent.is_dir():
        return f"{path}: there is no such file, and no folder {path.parent} either."
    names = sorted(entry.name for entry in path.parent.iterdir() if suffix_of(entry.name))
    nearest = difflib.get_close_matches(path.name, names, n=1, cutoff=0.5)
    if nearest:
        return f"{path}: there is no such file. Did you mean {path.parent / nearest[0]}?"
    return f"{path}: there is no such file. A Hub data set is written owner/name, name:split or name:config:split."


# --- JSON ----------------------------------------------------------------------------------------


def opened(name: str) -> IO[bytes]:
    return cast(IO[bytes], gzip.open(name, "rb") if name.lower().endswith(".gz") else Path(name).open("rb"))


def guarded(name: str, found: Iterator[Row | BadRow]) -> Iterator[Row | BadRow]:
    """Names the file and the last row that came, when the disk or the packing fails on the way."""
    last = 0
    try:
        for row in found:
            last = row.line
            yield row
    except (OSError, EOFError, zlib.error) as error:
        raise UsageError(f"{name}: cannot be read any further behind line {last}: {error}.") from error


def opens_an_array(name: str) -> bool:
    """Many files called .json hold one object a line; an array begins with a bracket."""
    try:
        with opened(name) as file:
            return file.read(CHUNK).removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"[")
    except (OSError, EOFError, zlib.error) as error:
        raise UsageError(f"{name}: cannot be read: {error}.") from error


def line_rows(name: str) -> Iterator[Row | BadRow]:
    with opened(name) as file:
        for number, line in enumerate(file, 1):
            if number == 1 and line.startswith((b"\xff\xfe", b"\xfe\xff")):
                raise UsageError(f"{name}: this is UTF-16. Expected UTF-8: save it again with that encoding.")
            text = line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
            if text.strip():
                yield line_row(name, number, text.rstrip(b"\r\n"))


def line_row(name: str, number: int, line: bytes) -> Row | BadRow:
    try:
        text = line.decode("utf-8")
        return object_row(name, number, json.loads(text), "line", text)
    except UnicodeDecodeError as error:
        reason = f"not UTF-8: byte 0x{line[error.start]:02x} at place {error.start + 1}"
        return BadRow(reason, source=name, line=number, raw=line.decode("utf-8", "backslashreplace"))
    except json.JSONDecodeError as error:
        what = error.msg.removesuffix(" at")  # some of Python's messages end so, others do not
        reason = f"not JSON: {what[:1].lower()}{what[1:]} at character {error.pos + 1}"
        return BadRow(reason, source=name, line=number, raw=text)
    except (ValueError, RecursionError) as error:
        return BadRow(f"not JSON that can be read: {error}", source=name, line=number, raw=text)


def object_row(name: str, number: int, value: object, unit: str, raw: str) -> Row | BadRow:
    if isinstance(value, dict):
        return Row(name, number, value, unit)
    hint = "A file that is one array as a whole is called .json." if isinstance(value, list) else ""
    came = type(value).__name__
    reason = f"not an object: expected {{…}} with columns, got {'null' if value is None else came}"
    return BadRow(reason, source=name, line=number, unit=unit, raw=raw, hint=hint)


def array_rows(name: str) -> Iterator[Row | BadRow]:
    """Elements of one JSON array, read chunk by chunk: only the element at hand is in memory."""
    with opened(name) as file:
        text = Text(name, file)
        text.skip_space()
        text.take("[")
        text.skip_space()
        number = 0
        while not text.at("]"):
            number += 1
            if number > 1:
                text.take(",")
                text.skip_space()
            value, raw = text.element(number)
            yield object_row(name, number, value, "row", raw)
            text.skip_space()


class Text:
    """The rest of a JSON text: what has been read and not been used."""

    def __init__(self, name: str, file: IO[bytes]) -> None:
        self.name, self.file, self.rest, self.ended = name, file, "", False
        self.decoder = json.JSONDecoder()
        self.incomplete = b""

    def more(self, size: int = CHUNK) -> bool:
        """Read on; False at the end. A character may be cut in two by the end of a chunk."""
        chunk = self.file.read(size)
        self.ended = not chunk
        bytes_ = self.incomplete + chunk
        try:
            text, self.incomplete = bytes_.decode("utf-8"), b""
        except UnicodeDecodeError as error:
            if self.ended or len(bytes_) - error.start > 3:
                raise UsageError(f"{self.name}: not UTF-8: byte 0x{bytes_[error.start]:02x} in it.") from error
            text, self.incomplete = bytes_[: error.start].decode("utf-8"), bytes_[error.start :]
        self.rest += text
        return not self.ended

    def skip_space(self) -> None:
        self.rest = self.rest.lstrip(" \t\r\n\ufeff")
        while not self.rest and self.more():
            self.rest = self.rest.lstrip(" \t\r\n\ufeff")

    def at(self, sign: str) -> bool:
        return self.rest.startswith(sign)

    def take(self, sign: str) -> None:
        if not self.at(sign):
            came = repr(self.rest[:20]) if self.rest else "the end of the file"
            raise UsageError(f"{self.name}: not JSON: expected {sign!r}, got {came}.")
        self.rest = self.rest[1:]

    def element(self, number: int) -> tuple[object, str]:
        """The next value. Grows the text twofold until the value is whole, so that a long one costs linear time."""
        while True:
            try:
                value, end = self.decoder.raw_decode(self.rest)
                # A number or a word may go on behind what has been read; an object, array or string ends itself.
                if end < len(self.rest) or isinstance(value, dict | list | str) or not self.more():
                    raw, self.rest = self.rest[:end], self.rest[end:]
                    return value, raw
            except (ValueError, RecursionError) as error:
                if not self.more(max(CHUNK, len(self.rest))):
                    raise UsageError(f"{self.name}: row {number}: not JSON: {error}.") from error


# --- tables --------------------------------------------------------------------------------------


def parquet_rows(name: str) -> Iterator[Row | BadRow]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise UsageError(f'{name}: reading Parquet needs pyarrow: pip install "preferent[parquet]".') from error
    number = 0
    try:
        with pyarrow.parquet.ParquetFile(name) as file:
            for batch in file.iter_batches(batch_size=PARQUET_ROWS):
                for data in batch.to_pylist():
                    number += 1
                    yield Row(name, number, data, "row")
    except (pyarrow.ArrowException, OSError) as error:
        raise UsageError(f"{name}: cannot be read behind row {number}: {first_line(error)}") from error


def hub_rows(name: str) -> Iterator[Row | BadRow]:
    try:
        from datasets import load_dataset
        from datasets.exceptions import DatasetsError
    except ImportError as error:
        raise UsageError(f'{name}: reading a Hub data set needs datasets: pip install "preferent[hub]".') from error
    path, config, split = hub_parts(name)
    try:
        found = load_dataset(path, config, split=split, streaming=True)
        for number, data in enumerate(found, 1):
            yield Row(name, number, data, "row")
    except (DatasetsError, OSError, ValueError) as error:
        raise UsageError(
            f"{name}: cannot be read as a data set: {first_line(error)}\n"
            "Expected owner/name, name:split or name:config:split, and a connection to the Hub."
        ) from error


def hub_parts(name: str) -> tuple[str, str | None, str]:
    """Name, configuration and split: ``name:split`` has no configuration."""
    path, *rest = name.split(FIELD_SEPARATOR)
    if len(rest) > 2:
        raise UsageError(f"{name}: expected owner/name, name:split or name:config:split.")
    return path, rest[0] if len(rest) == 2 else None, rest[-1] if rest else "train"


def first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
