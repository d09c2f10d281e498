"""Reading rows one by one, and saying what is wrong with a source or with one of its rows."""

import gzip
import json
import tracemalloc
from collections import Counter
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from preferent.config import UsageError
from preferent.data.faults import BadRows, plain_name
from preferent.data.rows import CHUNK, BadRow, Row, hub_parts, is_hub_name, rows

scalars = st.none() | st.booleans() | st.integers(-(10**20), 10**20) | st.floats(allow_nan=False) | st.text()
values = st.recursive(
    scalars, lambda of: st.lists(of, max_size=3) | st.dictionaries(st.text(), of, max_size=3), max_leaves=8
)
objects = st.dictionaries(st.text(max_size=5), values, max_size=4)


def data_of(source: Path | str) -> list[Any]:
    found = list(rows(source))
    assert all(isinstance(row, Row) for row in found)
    return [row.data for row in found if isinstance(row, Row)]


def everything(source: Path) -> list[Row | BadRow] | UsageError:
    try:
        return list(rows(source))
    except UsageError as error:
        return error


def written(folder: Path, name: str, text: str) -> Path:
    path, raw = folder / name, text.encode("utf-8", "surrogatepass")
    path.write_bytes(gzip.compress(raw) if name.endswith(".gz") else raw)
    return path


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "b.json", "b.json.gz", "lines.json"])
@settings(max_examples=25, deadline=None)
@given(table=st.lists(objects, min_size=1, max_size=6), indent=st.sampled_from([None, 1]), plain=st.booleans())
def test_what_was_written_is_read(
    name: str, table: list[Any], indent: int | None, plain: bool, tmp_path_factory: Any
) -> None:
    lines = "\n".join(json.dumps(row, ensure_ascii=plain) for row in table)
    whole = json.dumps(table, indent=indent, ensure_ascii=plain)
    path = written(tmp_path_factory.mktemp("rows"), name, whole if name.startswith("b") else lines)
    assert data_of(path) == table


@settings(max_examples=200, deadline=None)
@given(raw=st.binary(max_size=60), name=st.sampled_from(["x.jsonl", "x.json", "x.jsonl.gz", "x.json.gz", "x.parquet"]))
def test_any_bytes_give_rows_or_an_error_for_people(raw: bytes, name: str, tmp_path_factory: Any) -> None:
    path = tmp_path_factory.mktemp("bytes") / name
    path.write_bytes(raw)
    found = everything(path)
    if isinstance(found, UsageError):
        assert str(path) in str(found)
    else:
        assert all(isinstance(row, Row) or row.reason for row in found)


def test_a_row_knows_its_line_blank_lines_counted(tmp_path: Path) -> None:
    path = written(tmp_path, "a.jsonl", '\ufeff{"x": 1}\n\n  \n{"x": 2}\r\n{"x": 3}')
    assert [(row.line, row.unit, row.data["x"]) for row in rows(path) if isinstance(row, Row)] == [
        (1, "line", 1),
        (4, "line", 2),
        (5, "line", 3),
    ]


def test_a_bad_line_has_its_number_its_reason_and_its_text_and_the_next_one_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"x": 1}\n{"x": \n[1, 2]\nnull\n"caf\xe9"\n{"x": 2}\n')
    found = list(rows(path))
    bad = [row for row in found if isinstance(row, BadRow)]
    assert [(row.line, row.fault) for row in bad] == [
        (2, "not JSON"),
        (3, "not an object"),
        (4, "not an object"),
        (5, "not UTF-8"),
    ]
    assert str(bad[0]) == f"{path}: line 2: not JSON: expecting value at character 7."
    assert "byte 0xe9 at place 5" in bad[3].reason
    assert [row.raw for row in bad[1:]] == ["[1, 2]", "null", '"caf\\xe9"']
    assert isinstance(found[-1], Row)


def test_nesting_deeper_than_python_goes_is_a_bad_row(tmp_path: Path) -> None:
    path = written(tmp_path, "deep.jsonl", '{"x": ' * 100_000 + "1" + "}" * 100_000)
    (row,) = rows(path)
    assert isinstance(row, BadRow)
    assert row.fault == "not JSON that can be read"


def test_a_missing_file_names_the_nearest_one(tmp_path: Path) -> None:
    written(tmp_path, "prefs.jsonl", "{}")
    with pytest.raises(UsageError, match=r"pref\.jsonl: there is no such file\. Did you mean .*prefs\.jsonl\?"):
        rows(tmp_path / "pref.jsonl")
    with pytest.raises(UsageError, match="no folder"):
        rows(tmp_path / "nowhere" / "prefs.jsonl")
    with pytest.raises(UsageError, match="owner/name"):
        rows("surely_not_here")


@pytest.mark.parametrize(
    ("name", "text"),
    [("a.jsonl", ""), ("a.jsonl", "\n \n"), ("a.json", "[]"), ("a.jsonl.gz", ""), ("a.json", " ")],
)
def test_an_empty_file_is_an_error(tmp_path: Path, name: str, text: str) -> None:
    with pytest.raises(UsageError, match="there is no row in it"):
        rows(written(tmp_path, name, text))


def test_damage_is_told_with_the_place_where_it_begins(tmp_path: Path) -> None:
    cut = tmp_path / "cut.jsonl.gz"
    whole = gzip.compress("".join(json.dumps({"x": [i, hash(str(i))]}) + "\n" for i in range(5000)).encode())
    cut.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UsageError, match=r"cannot be read any further behind line \d+"):
        list(rows(cut))
    with pytest.raises(UsageError, match="row 2: not JSON"):
        list(rows(written(tmp_path, "b.json", '[{"x": 1}, {"x": ')))
    with pytest.raises(UsageError, match=r"expected ',', got '\{"):
        list(rows(written(tmp_path, "c.json", '[{"x": 1} {"x": 2}]')))


def test_utf_16_and_unknown_kinds_of_files_are_told(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes('{"x": 1}'.encode("utf-16"))
    with pytest.raises(UsageError, match="UTF-16"):
        rows(tmp_path / "a.jsonl")
    with pytest.raises(UsageError, match=r"ending in \.jsonl"):
        rows(written(tmp_path, "a.csv", "x"))
    with pytest.raises(UsageError, match="cannot be read behind row 0"):
        rows(written(tmp_path, "a.parquet", "no parquet"))


def test_characters_and_values_cut_in_two_by_the_end_of_a_chunk_are_read_whole(tmp_path: Path) -> None:
    table = [{"x": "é漢🙂" * CHUNK}, {"y": "a" * (2 * CHUNK)}, *[{"n": 10**20 + i} for i in range(5000)]]
    assert data_of(written(tmp_path, "a.json", json.dumps(table, ensure_ascii=False))) == table


def test_elements_that_are_no_objects_are_bad_rows_wherever_a_chunk_ends(tmp_path: Path) -> None:
    found = list(rows(written(tmp_path, "a.json", json.dumps([12345] * 30_000 + [{"x": 1}]))))
    assert Counter(type(row) for row in found) == {BadRow: 30_000, Row: 1}


@pytest.mark.parametrize("name", ["big.jsonl", "big.json"])
def test_a_file_is_never_in_memory_as_a_whole(tmp_path: Path, name: str) -> None:
    line = json.dumps({"text": "x" * 1000})
    lines = [line] * 30_000  # 30 MB
    text = "\n".join(lines) if name.endswith("l") else "[" + ",\n".join(lines) + "]"
    path = written(tmp_path, name, text)
    del lines, text
    tracemalloc.start()
    n = sum(1 for _ in rows(path))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert n == 30_000
    assert peak < 3_000_000


def test_parquet_rows_are_read_batch_by_batch(tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    table = [{"prompt": f"p{i}", "messages": [{"role": "user", "content": "é"}]} for i in range(1000)]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(table), tmp_path / "a.parquet")
    assert data_of(tmp_path / "a.parquet") == table
    third = list(islice(rows(tmp_path / "a.parquet"), 3))[-1]
    assert (third.line, third.unit) == (3, "row")


@pytest.mark.filterwarnings("ignore")  # of the datasets library's own
def test_a_hub_data_set_is_read_with_its_split(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "mine"
    folder.mkdir()
    written(folder, "train.jsonl", '{"prompt": "a"}\n{"prompt": "b"}\n')
    written(folder, "test.jsonl", '{"prompt": "c"}\n')
    assert data_of(f"{folder}:test") == [{"prompt": "c"}]
    assert data_of(str(folder)) == [{"prompt": "a"}, {"prompt": "b"}]
    with pytest.raises(UsageError, match="cannot be read as a data set"):
        rows(f"{folder}:validation")


def test_names_of_hub_data_sets_are_told_from_missing_files(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    assert is_hub_name("owner/name")
    assert is_hub_name("owner/name:train")
    assert is_hub_name("name:config:test")
    assert not is_hub_name("data/prefs")
    assert not is_hub_name("prefs")
    assert hub_parts("owner/name") == ("owner/name", None, "train")
    assert hub_parts("name:test") == ("name", None, "test")
    assert hub_parts("name:config:test") == ("name", "config", "test")


def test_bad_rows_are_counted_by_fault_and_written_whole(tmp_path: Path) -> None:
    bad = BadRows("prefs")
    bad.found += [
        BadRow("an empty reply: chosen", source="prefs.jsonl", line=3, raw='{"x": 1}'),
        BadRow("not JSON: expecting value", source="prefs.jsonl", line=5, raw="\ud800"),
        BadRow("an empty reply: rejected", source="prefs.jsonl", line=9, raw="é"),
    ]
    assert bad.by_fault == {"an empty reply": 2, "not JSON": 1}
    path = bad.write(tmp_path / "new")
    assert path.name == "prefs.bad.jsonl"
    assert json.loads(path.read_text().splitlines()[0]) == {
        "source": "prefs.jsonl",
        "line": 3,
        "reason": "an empty reply: chosen",
        "raw": '{"x": 1}',
    }
    assert [entry.name for entry in path.parent.iterdir()] == ["prefs.bad.jsonl"]


def test_the_file_of_bad_rows_is_named_after_the_source() -> None:
    assert plain_name("data/prefs.jsonl.gz") == "prefs"
    assert plain_name("owner/name:config:split") == "name-config-split"
    assert plain_name("/") == "rows"
