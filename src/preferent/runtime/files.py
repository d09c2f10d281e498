"""Writing files so that a kill or a power cut at any moment leaves the old or the new, whole, never a mixture.

What is being written lies under a hidden name (``.name.partial``) until it is complete and flushed to the disk, then
takes its real name in one rename. What is being removed first takes a hidden name (``.name.gone``).
Every operation calls ``failpoint`` before it acts, so that a test can stop the process at each of them in turn.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from preferent.config import UsageError

PARTIAL, GONE = "partial", "gone"


def failpoint(operation: str, *paths: Path) -> None:
    """Do nothing. A test replaces this function to see, or to end the process at, any operation on the disk.

    Operations: ``write`` (path), ``sync`` (file or folder), ``rename`` (from, to), ``unlink`` (path).
    """


def write(path: Path, data: bytes) -> None:
    """Write a file that nobody reads yet; ``whole`` around it makes it last."""
    failpoint("write", path)
    path.write_bytes(data)


@contextmanager
def replaced(target: Path) -> Iterator[Path]:
    """A hidden file to write, which becomes ``target`` in one step when the block ends without an error."""
    partial = hidden(target, PARTIAL)
    failpoint("write", partial)
    try:
        yield partial
        sync(partial)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    rename(partial, target)


@contextmanager
def whole(target: Path) -> Iterator[Path]:
    """A hidden folder to write files into, which becomes ``target`` in one step when the block ends without an error.

    A folder that stands at ``target`` already gives way once the new one is complete. (Between the two renames there
    is a moment with neither; what must survive that moment needs a new name, as every checkpoint has.)
    """
    partial, gone = hidden(target, PARTIAL), hidden(target, GONE)
    discard(partial)
    make_folder(partial)
    try:
        yield partial
        for path in sorted(partial.rglob("*"), reverse=True):  # files before the folder that they are in
            sync(path)
        sync(partial)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)  # gives the room back when the disk is full
        raise
    if target.exists():
        discard(gone)
        rename(target, gone)
    rename(partial, target)
    discard(gone)


def remove(folder: Path) -> None:
    """Remove a folder: out of sight at once, then file by file."""
    gone = hidden(folder, GONE)
    discard(gone)
    rename(folder, gone)
    discard(gone)


def discard(folder: Path) -> None:
    """Remove a hidden folder, if it exists."""
    if not folder.exists():
        return
    for path in sorted(folder.rglob("*"), reverse=True):
        failpoint("unlink", path)
        path.rmdir() if path.is_dir() else path.unlink()
    failpoint("unlink", folder)
    folder.rmdir()


def discard_leftovers(folder: Path) -> None:
    """Remove what a killed process left half-written or half-removed in this folder."""
    for ending in (PARTIAL, GONE):
        for path in sorted(folder.glob(f".*.{ending}")):
            if path.is_dir():
                discard(path)
            else:
                failpoint("unlink", path)
                path.unlink()


def make_folder(folder: Path) -> None:
    """Make a folder and those above it that are missing, and make them last."""
    if not folder.is_dir():
        make_folder(folder.parent)
        folder.mkdir(exist_ok=True)
        sync(folder.parent)


@contextmanager
def wanted(out: Path) -> Iterator[None]:
    """Around the first use of what ``--out`` names: UsageError where the system does not let it be made or written."""
    if "\0" in str(out):
        raise UsageError(f"{str(out)!r} cannot be written (no path has the character NUL): choose another --out.")
    try:
        yield
    except OSError as error:
        raise UsageError(f"{out} cannot be written ({error.strerror}): choose another --out.") from error


def rename(source: Path, target: Path) -> None:
    """Rename, and make the renaming last."""
    failpoint("rename", source, target)
    source.replace(target)
    sync(target.parent)


def sync(path: Path) -> None:
    """Flush a file's content, or a folder's list of names, to the disk."""
    failpoint("sync", path)
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def checksum(path: Path) -> dict[str, int | str]:
    """A file's size in bytes and its SHA-256, as manifests hold them."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {"size": path.stat().st_size, "sha256": digest}


def hidden(path: Path, ending: str) -> Path:
    """The name under which ``path`` lies while it is being written (``PARTIAL``) or removed (``GONE``)."""
    return path.with_name(f".{path.name}.{ending}")
