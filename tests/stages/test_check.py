"""`preferent data check`: what is wrong with a file, before a run finds out."""

from tiny_runs import DEMOS, PREFS, base, run, written


def test_a_good_file_is_exit_code_0(tmp_path, capsys):
    assert run("data", "check", written(tmp_path / "prefs.jsonl", PREFS)) == 0
    said = capsys.readouterr().out
    assert "prompt + chosen + rejected" in said
    assert said.endswith("every row can be used\n")


def test_bad_rows_are_listed_by_line_and_are_exit_code_1(tmp_path, capsys):
    bad = written(tmp_path / "bad.jsonl", [*PREFS[:2], {"prompt": "x", "chosen": "y", "rejected": "y"}, *PREFS[2:4]])
    good = written(tmp_path / "demos.jsonl", DEMOS)
    assert run("data", "check", bad, good) == 1
    said = capsys.readouterr().out
    assert "1 row of 5 cannot be used" in said
    assert "chosen and rejected are equal" in said
    assert "line 3" in said
    assert said.endswith("every row can be used\n")


def test_with_a_model_lengths_are_in_its_tokens_and_too_long_rows_are_told(tmp_path, capsys):
    demos = written(tmp_path / "demos.jsonl", DEMOS)
    assert run("data", "check", demos, "--model", base(), "--max-length", "20") == 0
    said = capsys.readouterr().out
    assert "a reply ends with '<|end|>'" in said
    assert "too long for max_length 20" in said


def test_lengths_are_those_of_the_rows_that_are_too_long_as_well(tmp_path, capsys):
    demos = written(tmp_path / "demos.jsonl", [*DEMOS, {"prompt": "sun " * 60, "completion": "yes."}])
    said = []
    for more in ([], ["--max-length", "20"]):
        assert run("data", "check", demos, "--model", base(), *more) == 0
        said.append([line for line in capsys.readouterr().out.splitlines() if line.startswith("lengths")])
    assert said[0] == said[1]
    assert any("tokens" in line for line in said[0])


def test_kind_says_what_the_rows_are_meant_to_be(tmp_path, capsys):
    demos = written(tmp_path / "demos.jsonl", DEMOS)
    assert run("data", "check", demos, "--kind", "preferences") == 1
    assert "24 rows of 24 cannot be used" in capsys.readouterr().out


def test_a_length_in_tokens_needs_a_tokenizer(tmp_path, capsys):
    assert run("data", "check", written(tmp_path / "a.jsonl", DEMOS), "--max-length", "20") == 2
    assert "--max-length counts tokens, so it needs a --model" in capsys.readouterr().err


def test_a_missing_file_is_exit_code_2(tmp_path, capsys):
    assert run("data", "check", tmp_path / "none.jsonl") == 2
    assert "there is no such file" in capsys.readouterr().err
