"""A run is a folder, held by one process at a time.

    config.yaml     the options, as flat words; can be fed back with --config
    manifest.json   seed, checksums of data and models, and for each sitting: when, how, on what, with which versions
    judgements.txt  the ids of the judgements in the data and of those that came later, where there are any;
                    the manifest has its checksum
    metrics.jsonl   one line a step
    events/         the same for TensorBoard
    samples/        step-N.jsonl: what the policy said, at each evaluation
    reference/      what the reference says of the data's replies, where a method asks it for that once
    checkpoints/    step-N/: all that is needed to go on
    model/          the final Hugging Face folder; model/member-i/ for an ensemble

Each start of the program on a run is a sitting; all but the first are resumed.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import platform
import shutil
from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, Self

from preferent.config import UsageError, read_yaml, write_yaml
from preferent.runtime import checkpoint, files, manifest, provenance
from preferent.runtime.track import Writer, open_writers
from preferent.types import Stateful

log = logging.getLogger(__name__)

# Options that say how to begin this sitting, not what the run is: they are not saved.
OF_THE_SITTING = frozenset({"resume", "config", "dry_run"})
# Options that may differ on resume, because no step depends on them. Evaluation only watches; that a best checkpoint
# is chosen among other steps when eval_every changes is what the user asked for.
FREE = OF_THE_SITTING | {"out", "save_every", "eval_every"}
# Options that may grow, for a run that is to go on longer. A schedule that depends on them then changes from here on.
GROWING = frozenset({"steps", "epochs"})
# Where one of these is there, something came of the run: a model, or people were asked.
CAME = ("model", "best", "bad_batches", "reference", "judgements.db", "asked.jsonl")


class Run:
    """A run folder, created or resumed, and locked until ``close``.

    ``options`` are flat words and plain values (numbers, strings, lists, None); ``inputs`` are the data files, model
    folders and Hub names that the run reads: what is local gets a checksum. ``allow`` names further options that may
    differ on resume. To resume a folder in which nothing was begun yet is to begin; ``resume=None`` is for commands
    that cannot go on. A ``with`` block that fails before its first step or model leaves nothing behind.

    Raises UsageError when another process holds the folder, it is not empty and not resumed, or it is resumed with
    other options or other inputs than the run began with. Other threads, versions or machines are logged as warnings.
    """

    def __init__(
        self,
        folder: str | Path,
        options: Mapping[str, Any],
        *,
        resume: bool | None = False,
        inputs: Iterable[str | Path] = (),
        command: str = "",
        seed: int = 0,
        device: str = "cpu",
        allow: Collection[str] = (),
    ) -> None:
        self.folder = Path(folder)
        with files.wanted(self.folder):
            if self.folder.exists() and not self.folder.is_dir():
                raise UsageError(f"{folder} is a file; expected a folder to write the run to: choose another --out.")
            self._made = not self.folder.exists()
            files.make_folder(self.folder)
            self._lock = _locked(self.folder)
        self._new = self._written = False
        self._writers: list[Writer] = []
        try:
            begun = self._begun(resume)
            self._new = not begun
            files.discard_leftovers(self.folder)
            self._options = {word: value for word, value in options.items() if word not in OF_THE_SITTING}
            if begun:
                _refuse_changes(read_yaml(self._config), self._options, FREE | set(allow))
            facts = {"command": command, "seed": seed, "inputs": manifest.checksums(inputs)}
            self._facts = self._agreed(begun, facts, device)
            if not begun:
                self._write_down()
        except BaseException:
            self._undo()
            self.close()
            raise

    @property
    def checkpoints(self) -> Path:
        return self.folder / "checkpoints"

    @property
    def reference_folder(self) -> Path:
        return self.folder / "reference"

    @property
    def model_folder(self) -> Path:
        return self.folder / "model"

    def samples(self, step: int) -> Path:
        """The file for what the policy said at this step's evaluation; its folder is made."""
        files.make_folder(self.folder / "samples")
        return self.folder / "samples" / f"step-{step}.jsonl"

    def note(self, judgements: Iterable[str]) -> None:
        """Name these, too, which are about to be learned from: a kill may leave a few too many, and never too few.

        Between the list and the manifest, a kill leaves the one without the other, until the run goes on: it comes by
        here again.
        """
        ids = [*provenance.listed_in(self.folder / provenance.JUDGEMENTS), *judgements]
        self._facts |= self._listed(ids)
        self._write_manifest()

    def restore(self, parts: Mapping[str, Stateful]) -> int:
        """Give every part its state of the last checkpoint; the step from which to go on, 0 from the beginning.

        Samples of later steps are removed: the run will write them again. Only now does a resumed run write down its
        options and this sitting, so that one that cannot go on leaves the folder as it was.
        """
        start = checkpoint.restore(self.checkpoints, parts)
        self._write_down()
        for path in (self.folder / "samples").glob("step-*.jsonl"):
            if int(path.stem.removeprefix("step-")) > start:
                path.unlink()
        return start

    def writers(self, start: int) -> tuple[Writer, ...]:
        """The metrics file and the TensorBoard events, cut off after step ``start``, closed when the run is."""
        opened = open_writers(self.folder, start)
        self._writers += opened
        return opened

    def close(self) -> None:
        """Close the writers and let go of the folder."""
        self._close_writers()
        if not self._lock.closed:
            self._lock.truncate(0)
            self._lock.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        if error is not None:
            self._undo()
        elif self._written:
            now = self._facts["sittings"][-1]
            now["peak_memory"] = manifest.peak_memory(now["device"])
            self._write_manifest()
        self.close()

    def _close_writers(self) -> None:
        while self._writers:
            self._writers.pop().close()

    def _undo(self) -> None:
        """Remove what a run wrote that failed before anything came of it, so that the same command can be tried again.

        Only files that a run writes, and only where this one began it; anything else stays, and so does the folder.
        """
        self._close_writers()
        metrics = self.folder / "metrics.jsonl"
        came = [metrics.exists() and metrics.stat().st_size > 0, checkpoint.latest(self.checkpoints) is not None]
        if not self._new or any(came) or any((self.folder / name).exists() for name in CAME):
            return
        for name in ("samples", "checkpoints", "events"):
            shutil.rmtree(self.folder / name, ignore_errors=True)
        written = [self._config, self._manifest, metrics, self.folder / provenance.JUDGEMENTS, self.folder / ".lock"]
        for path in (*written, *self.folder.glob("*.bad.jsonl")):
            path.unlink(missing_ok=True)
        if self._made:
            with suppress(OSError):  # somebody else put a file there
                self.folder.rmdir()

    @property
    def _config(self) -> Path:
        return self.folder / "config.yaml"

    @property
    def _manifest(self) -> Path:
        return self.folder / "manifest.json"

    def _begun(self, resume: bool | None) -> bool:
        """Whether this goes on with what is there already."""
        if not any(not path.name.startswith(".") for path in self.folder.iterdir()):
            if resume:
                log.warning("There is nothing to resume in %s yet: beginning.", self.folder)
            return False
        if not resume:
            a_run = resume is not None and self._config.exists()
            go_on = "go on with the run in it (--resume), or " if a_run else ""
            raise UsageError(f"{self.folder} is not empty: {go_on}choose another --out.")
        if not self._config.exists():
            raise UsageError(f"{self.folder} holds no run (no config.yaml): choose another --out.")
        return True

    def _agreed(self, begun: bool, facts: Mapping[str, Any], device: str) -> dict[str, Any]:
        """The manifest with this sitting. Raises UsageError where the inputs are not those that the run began with."""
        saved: dict[str, Any] = {"sittings": []}
        if begun and self._manifest.exists():
            saved = manifest.read(self._manifest)
            manifest.refuse_other_inputs(saved["inputs"], facts["inputs"])
        now = manifest.sitting(device, checkpoint.latest(self.checkpoints) or 0)
        for line in manifest.differences(saved["sittings"][-1], now) if saved["sittings"] else ():
            log.warning("%s: from here on results may differ in their last bits from a run not interrupted.", line)
        return {**saved, **facts, "sittings": [*saved["sittings"], now]}

    def _write_down(self) -> None:
        """Options and manifest, once this sitting is sure to go on; until then they are those of the last one."""
        if self._written:
            return
        with files.replaced(self._config) as partial:
            write_yaml(partial, self._options)
        if not self._manifest.exists():
            self._facts |= self._listed(provenance.judgement_ids(self._facts["inputs"]))
        self._write_manifest()
        self._written = True

    def _write_manifest(self) -> None:
        with files.replaced(self._manifest) as partial:
            partial.write_text(json.dumps(self._facts, indent=2, ensure_ascii=False), encoding="utf-8")

    def _listed(self, judgements: Iterable[str]) -> dict[str, Any]:
        """Name these judgements, each once, in a file of their own; how many they are, and its checksum."""
        ids = list(dict.fromkeys(judgements))
        if not ids:
            return {}
        path = self.folder / provenance.JUDGEMENTS
        with files.replaced(path) as partial:
            partial.write_text("".join(f"{id}\n" for id in ids), encoding="utf-8")
        return {"judgements": len(ids), "judgements_sha256": files.checksum(path)["sha256"]}


def _locked(folder: Path) -> IO[str]:
    """The lock file, held. The system lets go of it when the process ends, however it ends."""
    file = (folder / ".lock").open("a+", encoding="utf-8")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        file.seek(0)
        holder = file.read().strip() or "another process"
        file.close()
        raise UsageError(
            f"Output folder in use: {folder} by {holder}. Wait for it, or choose another --out."
        ) from error
    file.truncate(0)
    file.write(f"pid {os.getpid()} on {platform.node()}")
    file.flush()
    return file


def _refuse_changes(saved: Mapping[str, Any], given: Mapping[str, Any], allowed: Collection[str]) -> None:
    changed = []
    for word in dict.fromkeys((*saved, *given)):
        old, new = saved.get(word), given.get(word)
        if old == new or word in allowed:
            continue
        if word in GROWING and isinstance(old, int | float) and isinstance(new, int | float) and new > old:
            log.warning("%s grows from %s to %s; a schedule that depends on it changes from here on.", word, old, new)
            continue
        changed.append(f"  {word}: {old!r} → {new!r}")
    if changed:
        raise UsageError(
            "Options differ from those that the run began with:\n" + "\n".join(changed) + "\n"
            "Give the old ones (they are in its config.yaml), or begin a new run with another --out."
        )
