"""A reference that is asked once for each reply, before the first step, and whose words are kept on the disk.

Offline methods see the same replies in every epoch and at every evaluation, and the reference never changes its mind.
So nobody has to ask it twice, and once it was asked for everything, its weights need not be in memory.

What is kept are log-probabilities token by token, not their sum: that is what ``Policy.read`` gives, so a memory is a
policy like any other, and a method may sum, average, clip or mask them as it likes. They take 4 bytes for each learned
token, less than the token itself does.

The last bits of a log-probability depend on what else was in the forward pass. Here each is computed in the batch in
which the run meets its reply first, as that step would compute it, and from then on read from the files. Files hold
whole batches, so where one ends decides nothing: a run that was killed, or lost a file, gets the same bits again.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from preferent.config import UsageError
from preferent.models.policy import scattered
from preferent.runtime import files
from preferent.runtime.drive import Pace
from preferent.types import Algorithm, Learner, Policy, Reading, Replies

if TYPE_CHECKING:
    from preferent.models.policy import LanguagePolicy

log = logging.getLogger(__name__)
FORMAT = 1
KEY = 16  # bytes of a reply's key


class Place(NamedTuple):
    """Where the log-probabilities of a reply's learned tokens begin."""

    said: Tensor  # [n] of many replies, one behind the other; looks at a file
    start: int


class Remembered:
    """A policy that nobody updates, with a memory. Until it is ``asked``, it knows nothing and passes questions on.

    ``source`` may be the policy itself, as long as it has not learned yet: then ``let_go`` before it does. Without one
    (None) only what was kept can be read.
    """

    def __init__(self, source: Policy | None) -> None:
        self.source = source
        self._known: dict[bytes, Place] = {}

    def read(self, x: Replies, *, entropy: bool = False) -> Reading:
        """What is kept; of prompts with a reply that is not, what the source says now, which is not kept."""
        if entropy:
            raise ValueError("log-probabilities are kept, entropies are not: ask the reference itself for them")
        keys, lengths = keys_of(x), x.learn.sum(-1).tolist()
        new = self._said(x, keys, self._unknown(x, keys))
        said = [self._kept(key, n) if key in self._known else new[key] for key, n in zip(keys, lengths, strict=True)]
        return Reading(scattered(torch.cat(said).to(x.tokens.device), x.learn))

    def asked(
        self,
        learner: Learner[Policy],
        batches: Iterable[Replies],
        folder: Path,
        *,
        mark: str,
        every: int | None = None,
    ) -> Algorithm:
        """Ask for all replies that are not in the folder yet, in the learner's cuts; yields after each batch.

        ``mark`` names the reference: files with another one are made again, and so are damaged ones. A file is written
        every so many batches (None: as seldom as keeps writing under 2 % of the time), and at the end. Raises
        UsageError when one cannot be written.
        """
        files.make_folder(folder)
        files.discard_leftovers(folder)
        for path in sorted(folder.glob("[0-9]*.safetensors")):
            self._known |= kept_in(path, mark)
        new: dict[bytes, Tensor] = {}

        def ask(_: Policy, x: Replies) -> Tensor:
            keys = keys_of(x)
            prompts = self._unknown(x, keys, new)
            for key, said in self._said(x, keys, prompts).items():
                if key not in self._known:  # another reply to its prompt is new
                    new.setdefault(key, said)
            return torch.tensor([sum(x[prompts].tokens_each())])

        pace = Pace(every)
        for i, x in enumerate(batches, 1):
            tokens = learner.map(x, ask)
            if new and pace.due(i):
                with pace.timed():
                    self._keep(folder, new, mark)
            yield {"tokens": float(tokens.sum())}
        if new:
            self._keep(folder, new, mark)

    def let_go(self) -> None:
        """Forget the source, whose weights from here on may go, or learn."""
        self.source = None

    def _unknown(self, x: Replies, keys: Sequence[bytes], new: Collection[bytes] = ()) -> list[int]:
        """The prompts with a reply that is neither kept nor among the new ones."""
        each = zip(x.prompt_of.tolist(), keys, strict=True)
        return sorted({prompt for prompt, key in each if key not in self._known and key not in new})

    def _said(self, x: Replies, keys: Sequence[bytes], prompts: Sequence[int]) -> dict[bytes, Tensor]:
        """What the source says of all replies to these prompts."""
        if not prompts:
            return {}
        if self.source is None:
            raise ValueError(
                f"the reference was let go before it was asked for replies to {len(prompts)} of these prompts"
            )
        part = x[prompts]
        with torch.no_grad():
            said = self.source.read(part).logprobs[part.learn].cpu()
        each = said.split(part.learn.sum(-1).tolist())
        return {keys[row]: one for row, one in zip(x.rows(prompts).tolist(), each, strict=True)}

    def _kept(self, key: bytes, length: int) -> Tensor:
        place = self._known[key]
        return place.said[place.start : place.start + length]

    def _keep(self, folder: Path, new: dict[bytes, Tensor], mark: str) -> None:
        """Move what was said from memory into a file, and look at it there."""
        path = next(path for i in count() if not (path := folder / f"{i}.safetensors").exists())
        written(path, new, mark)
        self._known |= kept_in(path, mark)
        new.clear()


def mark_of(policy: LanguagePolicy, *, bf16: bool) -> str:
    """What a policy's words depend on beside the tokens: its weights, an adapter left out, and how they are used."""
    digest = hashlib.sha256(repr((FORMAT, policy.temperature, bf16)).encode())
    for name, value in policy.model.state_dict().items():
        if "lora_" not in name:
            digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
            digest.update(bytes_of(value.detach().cpu()))
    return digest.hexdigest()


def keys_of(x: Replies) -> list[bytes]:
    """For each reply a checksum of its prompt's tokens, its own, and which of them are learned from.

    Whatever changes the data, the template or the tokenizer, changes these.
    """
    prompts, tokens, learn = (each.cpu().numpy() for each in (x.prompts, x.tokens, x.learn))
    asked = [
        hashlib.blake2b(n.to_bytes(8) + row[:n].tobytes(), digest_size=KEY)
        for row, n in zip(prompts, x.prompt_length.tolist(), strict=True)
    ]
    found: list[bytes] = []
    for row, (p, n) in enumerate(zip(x.prompt_of.tolist(), x.present.sum(-1).tolist(), strict=True)):
        digest = asked[p].copy()
        digest.update(tokens[row, :n].tobytes() + learn[row, :n].tobytes())
        found.append(digest.digest())
    return found


def written(path: Path, said: Mapping[bytes, Tensor], mark: str) -> None:
    """Log-probabilities of replies by their keys, as one file. Raises UsageError when it cannot be written."""
    tensors = {
        "keys": torch.frombuffer(bytearray(b"".join(said)), dtype=torch.uint8),
        "lengths": torch.tensor([len(each) for each in said.values()]),
        "logprobs": torch.cat(list(said.values())),
    }
    try:
        with files.replaced(path) as partial:
            save_file(tensors, partial, {"reference": mark, "sha256": sealed(tensors)})
    except (OSError, SafetensorError) as error:  # safetensors wraps the system's errors
        raise UsageError(
            f"{path} could not be written: {error}. Make room on the disk, then go on with --resume."
        ) from error


def kept_in(path: Path, mark: str) -> dict[bytes, Place]:
    """Where in a file each reply's log-probabilities are; a file that is damaged or another reference's is removed."""
    try:
        with safe_open(path, "pt") as file:  # maps the file into memory: its pages come when they are read
            said = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (it is no mapping)
    except SafetensorError:
        said, tensors = {}, {}
    if said.get("reference") != mark or said.get("sha256") != sealed(tensors):
        log.warning("%s is damaged, or of another reference: what it held is computed again.", path)
        files.failpoint("unlink", path)
        path.unlink()
        return {}
    keys, lengths = tensors["keys"].numpy().tobytes(), tensors["lengths"]
    starts = (lengths.cumsum(0) - lengths).tolist()
    return {keys[KEY * i : KEY * (i + 1)]: Place(tensors["logprobs"], start) for i, start in enumerate(starts)}


def sealed(tensors: Mapping[str, Tensor]) -> str:
    """A checksum of a file's content."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(bytes_of(tensors[name]))
    return digest.hexdigest()


def bytes_of(tensor: Tensor) -> memoryview:
    """Those of a tensor on the CPU, not copied."""
    array: Any = tensor.contiguous().flatten().view(torch.uint8).numpy()
    return memoryview(array)
