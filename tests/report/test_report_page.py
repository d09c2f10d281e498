"""The page: what it tells, in which order, and that it needs nothing else."""

import json
import re
from datetime import UTC, datetime
from html import unescape
from html.parser import HTMLParser

import pytest
from told_runs import HOSTILE, evaluation, run_folder, whole, write_samples, write_store

from preferent.cli import main
from preferent.report.page import page
from preferent.report.reading import found

ORDER = [
    "What was run",
    "Before and after",
    "Win rate and truth",
    "Reward and truth against √KL",
    "Length, entropy, diversity",
    "How training went",
    "The reward model",
    "The crowd",
    "Cost",
    "How to run it again",
]
NOW = datetime(2026, 1, 2, 3, 4, tzinfo=UTC)
EMPTY = {"meta", "br", "hr", "img", "input", "link"}


class Reader(HTMLParser):
    """Checks that every element that is opened is closed, and collects what a test asks for."""

    def __init__(self, html):
        super().__init__()
        self.open, self.tags, self.ids, self.links = [], [], [], []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag, attrs):
        said = dict(attrs)
        self.tags.append((tag, said))
        self.ids += [said["id"]] if "id" in said else []
        self.links += [said["href"]] if tag == "a" else []
        if tag not in EMPTY:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    return page(found([whole(tmp_path_factory.mktemp("told") / "demo")]), now=NOW)


def section(html, title):
    """The text of a section, without its tags."""
    inside = re.search(rf"<h2 [^>]*>{title}</h2>(.*?)</section>", html, re.DOTALL)[1]
    return re.sub(r"\s+", " ", unescape(re.sub(r"<[^>]+>", " ", inside)))


def test_sections_stand_in_the_order_in_which_a_reader_asks(told):
    assert re.findall(r"<h2 [^>]*>(.*?)</h2>", told) == ORDER


def test_the_page_is_whole_and_its_links_lead_somewhere(told):
    reader = Reader(told)
    assert reader.open == []
    assert len(reader.ids) == len(set(reader.ids))
    assert {link.removeprefix("#") for link in reader.links} <= set(reader.ids)


def test_the_page_needs_nothing_from_elsewhere(told):
    """No script, no address but those of names in the markup itself, no style sheet, no picture."""
    tags = Reader(told).tags
    assert {tag for tag, _ in tags} & {"script", "link", "img", "iframe", "object", "form"} == set()
    assert not [said for _, said in tags if any(name.startswith("on") or name == "src" for name in said)]
    assert not re.search(r"https?://|@import|url\(", told)
    assert "default-src 'none'" in told


def test_what_a_model_says_is_text_and_never_markup(told):
    assert "<script" not in told
    assert HOSTILE[:30] in unescape(told)


def test_before_and_after_stand_side_by_side(told):
    said = section(told, "Before and after")
    assert "where is it?" in said
    assert said.index("sft says") < said.index("ppo says")


def test_without_an_evaluation_the_samples_of_the_runs_are_shown(tmp_path):
    """From the first evaluation to that of the model; prompts spread over the file."""
    folder = run_folder(tmp_path / "ppo", "ppo", keep_best="max:eval/gold")
    write_samples(folder, [10, 30, 40], prompts=8)
    said = section(page(found([folder])), "Before and after")
    assert "ppo, step 10 answer 0 at 10" in said
    assert "ppo, step 30 answer 6 at 30" in said
    assert "at 40" not in said
    assert "question 1?" not in said


def test_win_rates_have_their_intervals(told):
    said = section(told, "Win rate and truth")
    assert "one reply of each policy to 400 held-out prompts" in said
    assert "runs/grpo: 80 % [75 % – 85 %]" in said
    assert "ppo: 70 % [65 % – 75 %]" in said


def test_the_chosen_checkpoint_is_marked(told):
    said = section(told, "Reward and truth against √KL")
    assert "The model of grpo is that of step 30, best by max:eval/gold." in said
    assert "The model of ppo is that of step 40, its last." in said
    assert "Marked: ppo, step 40 at √KL to where it began 2.2" in said
    assert "Truth against √KL, on held-out prompts" in said


def test_the_reward_model_is_told_to_like_length(told):
    said = section(told, "The reward model")
    assert re.search(r"It values more than the annotators do: [^.]*words \(", said)
    assert "Expected calibration error" in said
    assert "Calibration" in said


def test_the_crowd_is_told_of(told):
    assert "Krippendorff's α is 0.4 [0.35 – 0.45]" in section(told, "The crowd")


def test_the_annotators_in_a_store_are_told_of(tmp_path):
    folder = whole(tmp_path / "demo")
    write_store(folder / "judgements.db")
    said = section(page(found([folder]), now=NOW), "The crowd")
    assert "Krippendorff's α is 0.4" in said
    assert "4 annotators chose 180 times." in said
    assert re.search(r"A choice took [\d.]+ seconds on average", said)
    assert "4 of them prefer what is shown first and 0 what is shown second" in said
    assert "Siding with the others" in said
    assert "Position bias" in said
    alone = section(page(found([folder / "judgements.db"]), now=NOW), "The crowd")
    assert "reward model's leanings, above" in said
    assert "reward model's leanings, above" not in alone  # there is nothing above
    assert "α = -0.0" in alone or "α = 0.0" in alone


def test_what_is_no_store_is_named_as_damaged(tmp_path):
    folder = whole(tmp_path / "demo")
    (folder / "judgements.db").write_text("my thesis, " * 1000)
    assert "judgements.db is no store, or a damaged one" in page(found([folder]), now=NOW)


def test_every_run_can_be_run_again(told):
    said = section(told, "How to run it again")
    assert "preferent demo --all" in said
    for kind in ("sft", "reward", "dpo", "ppo", "grpo"):
        assert re.search(rf"preferent {kind} --config \S+/demo/{kind}/config.yaml --out \S+/{kind}-again", said)


def test_what_is_not_there_is_said_in_a_sentence(tmp_path):
    html = page(found([run_folder(tmp_path / "sft", "sft")]))
    assert "preferent evaluate BASELINE" in section(html, "Win rate and truth")
    assert "--eval-data" in section(html, "The reward model")
    assert Reader(html).open == []


def test_a_run_without_a_step_and_an_evaluation_without_runs_make_a_page(tmp_path):
    empty = run_folder(tmp_path / "ppo", "ppo", steps=0, finished=False)
    assert "no step yet" in section(page(found([empty])), "What was run")
    (tmp_path / "evaluation.json").write_text(json.dumps(evaluation(["a", "b"])))
    html = page(found([tmp_path / "evaluation.json"]))
    assert "80 %" in section(html, "Win rate and truth")
    assert Reader(html).open == []


def test_the_same_files_make_the_same_page(tmp_path):
    folder = whole(tmp_path / "demo")
    assert page(found([folder]), now=NOW) == page(found([folder]), now=NOW)


def test_time_is_that_of_every_sitting(tmp_path):
    """Two sittings: 5 s to step 2, a night, then 7 s to step 4. The night costs nothing."""
    folder = run_folder(tmp_path / "sft", "sft", steps=0)
    times = {1: 1004.0, 2: 1005.0, 3: 90005.0, 4: 90007.0}
    (folder / "metrics.jsonl").write_text(
        "".join(json.dumps({"step": step, "time": time, "nll": 1.0}) + "\n" for step, time in times.items())
    )
    said = json.loads((folder / "manifest.json").read_text())
    first = said["sittings"][0]
    begun = [datetime.fromtimestamp(at, UTC).isoformat() for at in (1000, 90000)]
    said["sittings"] = [first | {"started": begun[0]}, first | {"started": begun[1], "after_step": 2}]
    (folder / "manifest.json").write_text(json.dumps(said))
    assert section(page(found([folder])), "Cost").strip().startswith("12 s in all")


# --- the command --------------------------------------------------------------------------------------


def test_the_command_writes_the_page_beside_the_runs(tmp_path, capsys):
    folder = whole(tmp_path / "demo")
    assert main(["report", *(str(path) for path in sorted(folder.iterdir()))]) == 0
    assert "5 runs. The page is" in capsys.readouterr().err
    assert (folder / "report.html").read_text(encoding="utf-8").startswith("<!doctype html>")
    assert main(["report", str(folder)]) == 0  # over its predecessor


def test_the_command_writes_into_the_folder_of_one_run(tmp_path):
    folder = run_folder(tmp_path / "ppo", "ppo")
    assert main(["report", str(folder), "--title", "Mine & yours"]) == 0
    assert "<h1>Mine &amp; yours</h1>" in (folder / "report.html").read_text(encoding="utf-8")


def test_the_command_writes_over_nothing_but_a_report(tmp_path, capsys):
    folder = run_folder(tmp_path / "ppo", "ppo")
    mine = tmp_path / "mine.html"
    mine.write_text("my thesis")
    assert main(["report", str(folder), "--out", str(mine)]) == 2
    assert "is no report" in capsys.readouterr().err
    assert mine.read_text() == "my thesis"
    assert main(["report", str(folder), "--out", str(mine), "--force"]) == 0


def test_a_damaged_run_is_named_on_the_page_and_on_the_screen(tmp_path, capsys):
    folder = whole(tmp_path / "demo")
    (folder / "ppo" / "metrics.jsonl").write_text("rubbish\n")
    assert main(["report", str(folder)]) == 0
    assert "Left out as damaged" in capsys.readouterr().err
    html = (folder / "report.html").read_text(encoding="utf-8")
    assert "Damaged, and left out" in html
    assert "line 1 is damaged" in html


def test_nothing_but_damage_is_an_error_and_writes_nothing(tmp_path, capsys):
    folder = run_folder(tmp_path / "ppo", "ppo")
    (folder / "manifest.json").write_text("{")
    assert main(["report", str(folder)]) == 2
    said = capsys.readouterr().err
    assert "manifest.json: is damaged" in said
    assert "Traceback" not in said
    assert not (folder / "report.html").exists()


def test_half_a_character_in_a_reply_does_not_stop_the_page(tmp_path):
    folder = run_folder(tmp_path / "ppo", "ppo")
    write_samples(folder, [40])
    row = {"prompt": "p", "reply": "\ud800 half", "reward": 1.0}
    (folder / "samples" / "step-40.jsonl").write_text(json.dumps(row) + "\n")
    assert main(["report", str(folder)]) == 0
    assert "? half" in (folder / "report.html").read_text(encoding="utf-8")
