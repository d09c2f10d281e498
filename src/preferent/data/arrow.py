"""Rows of tokens as Arrow record batches, and rows read from a memory-mapped file of these, one at a time.

Tokens and masks are Arrow lists; all else that a row says (its messages, its other columns, who judged) is JSON.
"""

from __future__ import annotations

import json
import mmap
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import accumulate, chain
from pathlib import Path
from typing import Any, overload

from preferent.data.batches import keyed
from preferent.data.columns import Unpaired
from preferent.data.template import Noun
from preferent.types import Comparison, Demonstration, Preference, Prompt, Ranking, Reply

ACCOUNT = b"account"
LET_GO = 256  # rows, after which pages of the file that were read are let go


class NotPlain(ValueError):
    """A row holds what JSON cannot give back as it was, such as a date in a Parquet column."""


def schema() -> Any:
    import pyarrow as pa

    return pa.schema(
        {
            "prompt": pa.list_(pa.int32()),
            "replies": pa.list_(pa.list_(pa.int32())),
            "learn": pa.list_(pa.list_(pa.bool_())),
            "asked": pa.uint64(),  # a checksum of the prompt, to find all opinions on one without reading the rows
            "rest": pa.large_binary(),
        }
    )


def batch_of(nouns: Sequence[Noun]) -> Any:
    """Nouns of any kind as one record batch. Raises NotPlain for a row that would not come back as it is."""
    import numpy as np
    import pyarrow as pa

    taken = [parts(noun) for noun in nouns]
    groups = [[reply.tokens for reply in replies] for _, replies, _ in taken]
    masks = [[reply.learn for reply in replies] for _, replies, _ in taken]
    columns = [
        lists([prompt.tokens for prompt, _, _ in taken], flat(np.int32)),
        lists(groups, partial(lists, inner=flat(np.int32))),
        lists(masks, partial(lists, inner=flat(np.bool_))),
        pa.array([keyed(prompt.tokens) for prompt, _, _ in taken], pa.uint64()),
        pa.array([rest_of(prompt, replies, said) for prompt, replies, said in taken], pa.large_binary()),
    ]
    return pa.record_batch(columns, schema=schema())


def flat(kind: Any) -> Callable[[list[Any]], Any]:
    """Numbers as an Arrow array; by way of numpy, which is several times as fast as Arrow's own conversion."""
    import numpy as np
    import pyarrow as pa

    return lambda values: pa.array(np.array(values, kind))


def lists(rows: Sequence[Sequence[Any]], inner: Callable[[list[Any]], Any]) -> Any:
    """Lists of anything as an Arrow array, ``inner`` turning all their elements into one."""
    import pyarrow as pa

    starts = pa.array(accumulate(map(len, rows), initial=0), pa.int32())
    return pa.ListArray.from_arrays(starts, inner(list(chain.from_iterable(rows))))


def parts(noun: Noun) -> tuple[Prompt, tuple[Reply, ...], dict[str, Any]]:
    """A noun's prompt, its replies, and what it says of them."""
    if isinstance(noun, Prompt):
        return noun, (), {"is": "prompt"}
    if isinstance(noun, Demonstration):
        return noun.prompt, (noun.reply,), {"is": "demonstration"}
    if isinstance(noun, Unpaired):
        return noun.context, (noun.option,), {"is": "unpaired", "good": noun.good}
    said: dict[str, Any] = {"annotator": noun.annotator, "judgements": noun.judgements}
    if isinstance(noun, Ranking):
        said |= {"is": "ranking", "ranks": noun.ranks}
    else:
        said |= {"is": "preference", "choice": noun.choice, "strength": noun.strength, "both_bad": noun.both_bad}
    return noun.comparison.context, noun.comparison.options, said


def prompt_of(noun: Noun) -> Prompt:
    return parts(noun)[0]


def rest_of(prompt: Prompt, replies: Sequence[Reply], said: Mapping[str, Any]) -> bytes:
    info = {**prompt.info, "messages": list(prompt.info["messages"])}
    if not is_plain(info):
        raise NotPlain
    rest = {**said, "info": info, "texts": [reply.text for reply in replies]}
    # Text from JSON may hold halves of surrogate pairs, which UTF-8 proper has no bytes for.
    return json.dumps(rest, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogatepass")


def is_plain(value: object) -> bool:
    """Does JSON give this back as it was?"""
    if isinstance(value, dict):
        return all(type(key) is str and is_plain(each) for key, each in value.items())
    return all(map(is_plain, value)) if type(value) is list else type(value) in (str, int, float, bool, type(None))


def noun_at(batch: Any, i: int) -> Noun:
    """Row i of a record batch, equal to the noun that was put in."""
    rest = json.loads(batch.column(4)[i].as_buffer().to_pybytes().decode("utf-8", "surrogatepass"))
    info = {**rest["info"], "messages": tuple(rest["info"]["messages"])}
    prompt = Prompt(tuple(batch.column(0)[i].values.to_numpy().tolist()), info)
    replies = tuple(
        Reply(tuple(tokens.values.to_numpy().tolist()), tuple(learn.as_py()), text)
        for tokens, learn, text in zip(batch.column(1)[i], batch.column(2)[i], rest["texts"], strict=True)
    )
    return NOUNS[rest["is"]](prompt, replies, rest)


def opinion(prompt: Prompt, replies: tuple[Reply, ...], said: Mapping[str, Any]) -> Noun:
    compared, who, judgements = Comparison(prompt, replies), said["annotator"], tuple(said["judgements"])
    if said["is"] == "ranking":
        return Ranking(compared, tuple(said["ranks"]), who, judgements)
    return Preference(compared, tuple(said["choice"]), who, said["strength"], said["both_bad"], judgements)


NOUNS: Mapping[str, Callable[[Prompt, tuple[Reply, ...], Mapping[str, Any]], Noun]] = {
    "prompt": lambda prompt, replies, said: prompt,
    "demonstration": lambda prompt, replies, said: Demonstration(prompt, replies[0]),
    "unpaired": lambda prompt, replies, said: Unpaired(prompt, replies[0], said["good"]),
    "preference": opinion,
    "ranking": opinion,
}


class ArrowRows(Sequence[Noun]):
    """The rows of an Arrow IPC file. A row is made when it is asked for; none is held in memory.

    The file's last record batch has no rows; it carries an account of all others as JSON: ``sizes``, the rows of each,
    and whatever the writer wants to be told again.
    """

    def __init__(self, path: Path) -> None:
        import pyarrow as pa

        with path.open("rb") as file:
            self.pages = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self.reader = pa.ipc.open_file(pa.BufferReader(pa.py_buffer(self.pages)))
        self.taken = 0
        _, told = self.reader.get_batch_with_custom_metadata(self.reader.num_record_batches - 1)
        self.account: Mapping[str, Any] = json.loads(told[ACCOUNT])
        self.starts: list[int] = list(accumulate(self.account["sizes"], initial=0))

    def __len__(self) -> int:
        return self.starts[-1]

    @overload
    def __getitem__(self, i: int, /) -> Noun: ...
    @overload
    def __getitem__(self, i: slice, /) -> list[Noun]: ...
    def __getitem__(self, i: int | slice, /) -> Noun | list[Noun]:
        if isinstance(i, slice):
            return [self[place] for place in range(*i.indices(len(self)))]
        place = i + len(self) if i < 0 else i
        if not 0 <= place < len(self):
            raise IndexError(f"there are {len(self)} rows, got {i}")
        self.taken += 1
        # What was read is in the system's own cache anyhow; kept in the map as well, it would look like memory of ours.
        if self.taken % LET_GO == 0 and hasattr(mmap, "MADV_DONTNEED"):
            self.pages.madvise(mmap.MADV_DONTNEED)
        block = bisect_right(self.starts, place) - 1
        return noun_at(self.reader.get_batch(block), place - self.starts[block])

    def asked(self) -> Any:
        """[n] a checksum of each row's prompt."""
        import numpy as np

        blocks = [self.reader.get_batch(b).column(3).to_numpy() for b in range(len(self.starts) - 1)]
        return np.concatenate(blocks)
