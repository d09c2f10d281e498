"""`preferent data dedupe | split | mix`, and what `data check` says of a data set as a whole."""

import json
import re
from html.parser import HTMLParser

import pytest
from tiny_runs import DEMOS, PREFS, left, rows_of, run, written

from preferent.stages import curating

LONG = "please tell me in a few words how the storm kettle is repaired when it no longer whistles at night"


def pair(prompt, chosen="the sun is out.", rejected="i do not know.", **more):
    return {"prompt": prompt, "chosen": chosen, "rejected": rejected, **more}


# --- dedupe ----------------------------------------------------------------------------------------


def test_the_first_of_nearly_equal_rows_is_kept_and_the_others_are_listed_with_line_and_reason(tmp_path, capsys):
    near = LONG.replace("please", "kindly")
    data = written(tmp_path / "a.jsonl", [pair(LONG), pair("something else"), pair(near), pair(LONG.upper() + "!")])
    assert run("data", "dedupe", data, "--out", tmp_path / "out" / "clean.jsonl") == 0
    assert [row["prompt"] for row in rows_of(tmp_path / "out" / "clean.jsonl")] == [LONG, "something else"]
    listed = rows_of(tmp_path / "out" / "clean.left-out.jsonl")
    assert [row["line"] for row in listed] == [3, 4]
    assert listed[0]["reason"] == f"nearly the same as a row before: {data} line 1 (likeness 0.89)"
    assert json.loads(listed[0]["raw"]) == pair(near)
    said = capsys.readouterr().out
    assert "2 rows kept" in said
    assert re.search(r"2 rows were left out → .*clean\.left-out\.jsonl\n +2  nearly the same as a row before\n", said)


def test_a_second_opinion_and_an_opposite_one_are_rows_of_their_own(tmp_path):
    rows = [
        pair(LONG, annotator="ann"),
        pair(LONG, annotator="bob"),
        pair(LONG, "i do not know.", "the sun is out.", annotator="ann"),
        pair(LONG, "quite another reply than the first"),
    ]
    assert run("data", "dedupe", written(tmp_path / "a.jsonl", rows), "--out", tmp_path / "b.jsonl") == 0
    assert rows_of(tmp_path / "b.jsonl") == rows
    assert left(tmp_path) == ["a.jsonl", "b.jsonl"]


def test_a_reply_marked_good_and_bad_stays_twice(tmp_path):
    rows = [{"prompt": LONG, "completion": "as you like", "label": label} for label in (True, False, True)]
    assert run("data", "dedupe", written(tmp_path / "a.jsonl", rows), "--out", tmp_path / "b.jsonl") == 0
    assert rows_of(tmp_path / "b.jsonl") == rows[:2]


def test_rows_that_an_evaluation_holds_are_left_out_and_say_where(tmp_path, capsys):
    data = written(tmp_path / "a.jsonl", [*PREFS, pair(LONG)])
    held = written(tmp_path / "held.jsonl", [{"prompt": "what else is there?"}, {"prompt": LONG + " please"}])
    assert run("data", "dedupe", data, "--against", held, "--out", tmp_path / "b.jsonl") == 0
    assert rows_of(tmp_path / "b.jsonl") == PREFS
    (one,) = rows_of(tmp_path / "b.left-out.jsonl")
    assert one["reason"].startswith(f"also in {held}: line 2, nearly the same question")
    assert f"1  also in {held}" in capsys.readouterr().out


def test_a_bad_row_stops_everything_or_is_left_out_when_told_to(tmp_path, capsys):
    data = written(tmp_path / "a.jsonl", [PREFS[0], pair("x", "y", "y"), PREFS[1]])
    assert run("data", "dedupe", data, "--out", tmp_path / "b.jsonl") == 2
    said = capsys.readouterr().err
    assert "line 2: chosen and rejected are equal" in said
    assert "--skip-bad-rows" in said
    assert left(tmp_path) == ["a.jsonl"]
    assert run("data", "dedupe", data, "--out", tmp_path / "b.jsonl", "--skip-bad-rows") == 0
    assert rows_of(tmp_path / "b.jsonl") == PREFS[:2]
    assert [row["line"] for row in rows_of(tmp_path / "b.left-out.jsonl")] == [2]


def test_nothing_is_written_where_nothing_would_be_left(tmp_path, capsys):
    data = written(tmp_path / "a.jsonl", [pair(LONG)])
    assert run("data", "dedupe", data, "--against", data, "--out", tmp_path / "b.jsonl") == 2
    assert "Every row was left out" in capsys.readouterr().err
    assert left(tmp_path) == ["a.jsonl"]


def test_an_output_is_not_written_over_unasked_and_its_old_side_file_goes(tmp_path, capsys):
    data = written(tmp_path / "a.jsonl", [PREFS[0], PREFS[0]])
    assert run("data", "dedupe", data, "--out", tmp_path / "b.jsonl") == 0
    assert run("data", "dedupe", data, "--out", tmp_path / "b.jsonl") == 2
    assert "--force" in capsys.readouterr().err
    once = written(tmp_path / "c.jsonl", [PREFS[0]])
    assert run("data", "dedupe", once, "--out", tmp_path / "b.jsonl", "--force") == 0
    assert left(tmp_path) == ["a.jsonl", "b.jsonl", "c.jsonl"]
    assert run("data", "dedupe", data, "--out", tmp_path / "b.parquet") == 2


def test_a_file_may_be_cleaned_in_place(tmp_path):
    data = written(tmp_path / "a.jsonl", [PREFS[0], PREFS[0], PREFS[1]])
    assert run("data", "dedupe", data, "--out", data, "--force") == 0
    assert rows_of(tmp_path / "a.jsonl") == PREFS[:2]


def test_columns_are_written_as_they_were_even_what_utf_8_cannot_hold(tmp_path):
    row = {"prompt": "wie geht's, Müller?", "completion": "gut", "odd": "\ud800", "number": 1.5, "none": None}
    assert run("data", "dedupe", written(tmp_path / "a.jsonl", [row]), "--out", tmp_path / "b.jsonl") == 0
    assert rows_of(tmp_path / "b.jsonl") == [row]


# --- split -----------------------------------------------------------------------------------------


def test_every_row_goes_to_one_part_and_a_prompt_to_one_alone(tmp_path, capsys):
    rows = [*PREFS, *DEMOS, *[{"prompt": f"tell me a story of {i}", "completion": f"once upon {i}"} for i in range(60)]]
    data = written(tmp_path / "a.jsonl", rows)
    assert run("data", "split", data, "--out", tmp_path / "parts", "--part", "train=3", "--part", "test=1") == 0
    train, test = (rows_of(tmp_path / "parts" / f"{name}.jsonl") for name in ("train", "test"))
    assert sorted(map(json.dumps, train + test)) == sorted(map(json.dumps, rows))
    assert {row["prompt"] for row in train}.isdisjoint(row["prompt"] for row in test)
    assert "nothing was left out" in capsys.readouterr().out
    assert left(tmp_path / "parts") == ["test.jsonl", "train.jsonl"]


def test_rows_added_at_the_end_move_no_old_one(tmp_path):
    rows = [{"prompt": f"tell me {i} stories of {i}", "completion": "once"} for i in range(90)]
    for name, some in (("old", rows[:60]), ("new", rows)):
        assert run("data", "split", written(tmp_path / f"{name}.jsonl", some), "--out", tmp_path / name) == 0
    for part in ("train", "test"):
        old, new = (rows_of(tmp_path / name / f"{part}.jsonl") for name in ("old", "new"))
        assert new[: len(old)] == old


def test_branches_of_a_conversation_and_rows_with_the_same_value_stay_together(tmp_path):
    def branch(i, answer):
        turns = [f"what shall i know of town {i}?", answer, f"and what is {answer} to me?"]
        roles = ["user", "assistant", "user"]
        return [{"role": role, "content": turn} for role, turn in zip(roles, turns, strict=True)]

    rows = [
        {"prompt": branch(i, answer), "completion": "so", "tree": i // 2}
        for i in range(40)
        for answer in ("all of its rivers and hills", "nobody ever asked that")
    ]
    data = written(tmp_path / "a.jsonl", rows)
    assert run("data", "split", data, "--out", tmp_path / "by", "--by", "tree", "--part", "a=1", "--part", "b=1") == 0
    a, b = (rows_of(tmp_path / "by" / f"{name}.jsonl") for name in "ab")
    assert {row["tree"] for row in a}.isdisjoint(row["tree"] for row in b)
    assert run("data", "split", data, "--out", tmp_path / "no", "--part", "a=1", "--part", "b=1") == 0
    a, b = (rows_of(tmp_path / "no" / f"{name}.jsonl") for name in "ab")
    assert {row["prompt"][0]["content"] for row in a}.isdisjoint(row["prompt"][0]["content"] for row in b)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--part", "train"], "expected a name, ="),
        (["--part", "train=0"], "a share above 0"),
        (["--part", "a=1", "--part", "a=2"], "each name once"),
        (["--part", "../a=1"], "cannot be the name of a part"),
        (["--by", "promt"], 'there is no column "promt" (did you mean prompt?)'),
        (["--part", "train=1", "--part", "test=0.000001"], "No row fell into test"),
    ],
)
def test_what_cannot_be_split_is_refused_and_leaves_nothing(tmp_path, capsys, words, said):
    data = written(tmp_path / "a.jsonl", PREFS)
    assert run("data", "split", data, "--out", tmp_path / "parts", *words) == 2
    assert said in capsys.readouterr().err
    assert left(tmp_path) == ["a.jsonl"]


def test_a_folder_with_anything_else_in_it_is_never_replaced(tmp_path, capsys):
    data = written(tmp_path / "a.jsonl", PREFS)
    parts = tmp_path / "parts"
    assert run("data", "split", data, "--out", parts, "--part", "train=1") == 0
    assert run("data", "split", data, "--out", parts, "--part", "train=1") == 2
    assert run("data", "split", data, "--out", parts, "--part", "train=1", "--force") == 0
    (parts / "thesis.txt").write_text("years of work")
    assert run("data", "split", data, "--out", parts, "--part", "train=1", "--force") == 2
    assert "holds 'thesis.txt'" in capsys.readouterr().err
    assert (parts / "thesis.txt").read_text() == "years of work"


# --- mix -------------------------------------------------------------------------------------------


def numbered(tmp_path, name, n, **more):
    rows = [{"prompt": f"{name} {i}", "completion": "yes", "from": name, **more} for i in range(n)]
    return written(tmp_path / f"{name}.jsonl", rows)


def counts(path, column="from"):
    found = [row[column] for row in rows_of(path)]
    return {value: found.count(value) for value in found}


def test_weights_give_as_many_rows_as_there_can_be_without_one_standing_twice(tmp_path):
    """30 rows at weight 3 are worth 10 at weight 1, of which there are 20."""
    a, b = numbered(tmp_path, "a", 30), numbered(tmp_path, "b", 20)
    assert run("data", "mix", f"{a}=0.75", f"{b}=0.25", "--out", tmp_path / "c.jsonl") == 0
    mixed = rows_of(tmp_path / "c.jsonl")
    assert counts(tmp_path / "c.jsonl") == {"a": 30, "b": 10}
    assert len({row["prompt"] for row in mixed}) == 40
    assert [row["from"] for row in mixed] != sorted(row["from"] for row in mixed)
    listed = rows_of(tmp_path / "c.left-out.jsonl")
    assert [row["reason"] for row in listed] == ["not drawn"] * 10


def test_more_rows_than_there_are_stand_again_as_evenly_as_can_be(tmp_path, capsys):
    a, b = numbered(tmp_path, "a", 30), numbered(tmp_path, "b", 4)
    assert run("data", "mix", f"{a}=1", f"{b}=1", "--rows", 20, "--out", tmp_path / "c.jsonl") == 0
    assert counts(tmp_path / "c.jsonl") == {"a": 10, "b": 10}
    of_b = [row for row in rows_of(tmp_path / "c.jsonl") if row["from"] == "b"]
    assert sorted(of_b.count(row) for row in of_b) == [2, 2, 2, 2, 3, 3, 3, 3, 3, 3]
    assert "rows that stand more than once: 4" in capsys.readouterr().out


def test_without_weights_all_rows_are_there_once_in_an_order_that_the_seed_draws(tmp_path):
    a, b = numbered(tmp_path, "a", 6), numbered(tmp_path, "b", 5)
    for name, seed in (("one", 0), ("same", 0), ("other", 1)):
        assert run("data", "mix", a, b, "--seed", seed, "--out", tmp_path / f"{name}.jsonl") == 0
    one, same, other = (rows_of(tmp_path / f"{name}.jsonl") for name in ("one", "same", "other"))
    assert one == same != other
    assert sorted(map(str, one)) == sorted(map(str, other))
    assert len(one) == 11


def test_rare_classes_are_repeated(tmp_path, capsys):
    rows = [{"prompt": f"{i}", "completion": "yes", "topic": "rare" if i < 3 else "common"} for i in range(15)]
    data = written(tmp_path / "a.jsonl", [*rows, {"prompt": "?", "completion": "none"}])
    assert run("data", "mix", data, "--balance", "topic", "--out", tmp_path / "b.jsonl") == 0
    found = [row.get("topic") for row in rows_of(tmp_path / "b.jsonl")]
    assert (found.count("rare"), found.count("common"), found.count(None)) == (12, 12, 1)
    assert "rows that stand more than once: 3" in capsys.readouterr().out


def test_languages_are_balanced_as_they_are_found_in_the_text(tmp_path):
    english = [{"prompt": f"what is the name of the town {i}?", "completion": "it is what it is"} for i in range(4)]
    german = [{"prompt": "wie ist der name von dem ort?", "completion": "das ist nicht zu sagen"}]
    data = written(tmp_path / "a.jsonl", [*english, *german])
    assert run("data", "mix", data, "--balance", "language", "--out", tmp_path / "b.jsonl") == 0
    assert sum("wie" in row["prompt"] for row in rows_of(tmp_path / "b.jsonl")) == 4


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["{a}=0.5", "{b}"], "no weight, but others have one"),
        (["{a}=0.5", "{b}=0.5", "--balance", "from"], "first mix, then balance"),
        (["{a}", "--balance", "form"], 'no row has a column "form" (did you mean from?)'),
        (["{a}=-1"], "a weight is a number above 0"),
    ],
)
def test_a_mixture_that_makes_no_sense_is_refused(tmp_path, capsys, words, said):
    a, b = numbered(tmp_path, "a", 3), numbered(tmp_path, "b", 3)
    assert run("data", "mix", *[word.format(a=a, b=b) for word in words], "--out", tmp_path / "c.jsonl") == 2
    assert said in capsys.readouterr().err
    assert left(tmp_path) == ["a.jsonl", "b.jsonl"]


# --- check -----------------------------------------------------------------------------------------


def test_check_tells_near_duplicates_contradictions_leaks_languages_and_classes(tmp_path, capsys):
    rows = [pair(LONG, topic="kettle"), pair(LONG.replace("please", "kindly"), topic="kettle")]
    rows += [pair(LONG, "i do not know.", "the sun is out.", topic="kettle")]
    rows += [pair(f"what is the colour of the lamp number {i}?", topic="lamp") for i in range(5)]
    data = written(tmp_path / "a.jsonl", rows)
    held = written(tmp_path / "held.jsonl", [{"prompt": "what is the colour of the lamp number 3?"}])
    assert run("data", "check", data, "--against", held) == 0
    said = capsys.readouterr().out
    assert "1  nearly the same row as one before: line 2 (line 1)" in said
    assert "the other way round: line 3" in said
    assert f"1  also in {held}: line 7 (line 1)" in said
    assert "languages   en 100.0%" in said
    assert "classes     topic: lamp 62.5% · kettle 37.5%" in said
    assert run("data", "check", data, "--near", "none") == 0
    assert "nearly" not in capsys.readouterr().out


class Page(HTMLParser):
    """Tags, and what they would load from elsewhere."""

    def __init__(self):
        super().__init__()
        self.tags, self.loads, self.text = [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.loads += [value for name, value in attrs if name in ("src", "href", "srcset", "data")]

    def handle_data(self, data):
        self.text.append(data)


def test_the_page_stands_by_itself_and_escapes_what_the_data_says(tmp_path, capsys):
    rows = [*PREFS, pair("<script>alert(1)</script>", kind="<b>x</b>"), pair("x", "y", "y")]
    rows += [pair(f"{i} und das ist die frage von mir", kind="<b>y</b>") for i in range(4)]
    data = written(tmp_path / "a&b.jsonl", rows)
    assert run("data", "check", data, "--page", tmp_path / "pages" / "check.html") == 1
    text = (tmp_path / "pages" / "check.html").read_text()
    page = Page()
    page.feed(text)
    assert "script" not in page.tags
    assert "b" not in page.tags
    assert page.loads == []
    assert "@import" not in text
    assert "url(" not in text
    assert page.tags.count("svg") >= 4
    seen = " ".join(page.text)
    assert "a&b.jsonl" in seen
    assert "chosen and rejected are equal" in seen
    assert "Languages" in seen
    assert left(tmp_path / "pages") == ["check.html"]


def test_progress_is_told_now_and_then_where_there_is_no_terminal(caplog, monkeypatch):
    monkeypatch.setattr(curating, "QUIET", 0.0)
    with caplog.at_level("INFO", logger="preferent"):
        assert list(curating.watched(range(500), "dedupe")) == list(range(500))
    assert [message.partition(",")[0] for message in caplog.messages] == ["dedupe: 200 rows", "dedupe: 400 rows"]
