"""Judgements one by one: what becomes of labels, pairs and rankings, and which replies stand with another prompt."""

import json
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from shapes import CHATML, tokenizer_with

from preferent.config import UsageError
from preferent.data.columns import Unpaired
from preferent.data.load import load_preferences
from preferent.data.mixture import mixed
from preferent.data.rated import Collate, Judged, Neighbours, Rated, Streamed, load_rated, rated
from preferent.data.stream import stream
from preferent.data.template import Template
from preferent.types import Prompt
from toys import preference, ranking, reply

A, B, C = Prompt((5,)), Prompt((6, 3)), Prompt((7, 7, 7))
ONE, TWO, THREE = reply(2, 1), reply(3, 3, 1), reply(4, 1)


@pytest.fixture(scope="module")
def template() -> Template:
    return Template(tokenizer_with(CHATML), max_length=60)


def file_of(folder: Path, rows: Any, name: str = "rows.jsonl") -> str:
    path = folder / name
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def marks(*judgements: Any) -> list[tuple[Any, ...]]:
    return [(one.tokens, desirable, weight) for one, desirable, weight in rated(judgements)]


def thumb(i: int, label: bool = True) -> dict[str, Any]:
    return {"prompt": f"what is {i}?", "completion": f"it is {i}.", "label": label}


def groups_of(x: Any) -> list[list[tuple[int, ...]]]:
    """The tokens of each prompt's replies."""
    rows = [tuple(row[:n]) for row, n in zip(x.tokens.tolist(), x.present.sum(-1).tolist(), strict=True)]
    return [[rows[i] for i in x.rows([p]).tolist()] for p in range(len(x))]


def test_a_pair_is_a_good_reply_and_a_bad_one_and_a_soft_label_says_how_much() -> None:
    assert marks(preference(A, ONE, TWO)) == [(ONE.tokens, 1, 1), (TWO.tokens, 0, 1)]
    assert marks(preference(A, ONE, TWO, choice=(0.25, 0.75))) == [(ONE.tokens, 0.25, 1), (TWO.tokens, 0.75, 1)]
    assert marks(preference(A, ONE, TWO, choice=(0.5, 0.5))) == [(ONE.tokens, 0.5, 1), (TWO.tokens, 0.5, 1)]


def test_of_two_that_are_both_bad_neither_is_desirable() -> None:
    found = marks(preference(A, ONE, TWO, choice=(0.5, 0.5), both_bad=True))
    assert found == [(ONE.tokens, 0, 1), (TWO.tokens, 0, 1)]


def test_in_a_ranking_a_reply_is_as_desirable_as_its_share_of_wins() -> None:
    """Of three, the middle one wins once of twice; of two that share the first place, each wins ½ and 1 of 2."""
    assert [d for _, d, _ in marks(ranking(A, ONE, TWO, THREE, ranks=(2, 0, 1)))] == [0, 1, 0.5]
    assert [d for _, d, _ in marks(ranking(A, ONE, TWO, THREE, ranks=(0, 0, 1)))] == [0.75, 0.75, 0]


def test_of_a_choice_among_several_those_without_a_chance_are_undesirable() -> None:
    found = marks(preference(A, ONE, TWO, THREE, choice=(1.0, 0.0, 0.0)))
    assert [d for _, d, _ in found] == [1, 0, 0]


def test_a_rating_between_0_and_1_is_how_desirable_a_reply_is(tmp_path: Path, template: Template) -> None:
    rows = [thumb(0), thumb(1) | {"label": 0.25}, thumb(2) | {"label": 0}]
    found = load_rated(file_of(tmp_path, rows), template)
    assert [row.own[0].good for row in found] == [True, 0.25, False]
    assert Collate()(list(found)).desirable.tolist() == [1, 0.25, 0]
    for label in (1.5, -0.5, float("nan")):
        with pytest.raises(UsageError, match="neither true nor false nor between 0 and 1"):
            load_rated(file_of(tmp_path, [thumb(0) | {"label": label}]), template)


def test_several_judgements_of_a_reply_are_one_reply_with_their_mean_and_their_number() -> None:
    found = marks(Unpaired(A, ONE, True), Unpaired(A, ONE, False), preference(A, ONE, TWO))
    assert found == [(ONE.tokens, pytest.approx(2 / 3), 3), (TWO.tokens, 0, 1)]


GROUPS = [
    [Unpaired(A, ONE, True), Unpaired(A, TWO, False)],
    [Unpaired(B, THREE, True)],
    [Unpaired(C, TWO, False)],
]


def test_a_prompt_stands_with_the_replies_to_the_next_and_each_reply_once_with_each_kind() -> None:
    rows = list(Neighbours(GROUPS))
    assert [row.others for row in rows] == [GROUPS[1], GROUPS[2], GROUPS[0]]
    x = Collate()(rows)
    assert x.others is not None
    assert groups_of(x.replies) == [[ONE.tokens, TWO.tokens], [THREE.tokens], [TWO.tokens]]
    assert groups_of(x.others) == [[THREE.tokens], [TWO.tokens], [ONE.tokens, TWO.tokens]]
    assert x.others.prompts.equal(x.replies.prompts)
    assert (x.desirable.tolist(), x.weight.tolist()) == ([1, 0, 1, 0], [1] * 4)
    assert x.asked == [x.replies, x.others]


def test_what_stands_with_a_prompt_does_not_depend_on_the_batch() -> None:
    rows = Neighbours(GROUPS)
    alone = [Collate()([rows[i]]) for i in range(3)]
    together = Collate()([rows[2], rows[0], rows[1]])
    assert [groups_of(each.others)[0] for each in alone] == [groups_of(together.others)[i] for i in (1, 2, 0)]


def test_without_others_there_is_one_thing_to_ask_about() -> None:
    x = Collate()(list(Neighbours(GROUPS, others=False)))
    assert x.others is None
    assert x.asked == [x.replies]


def test_a_reply_to_another_prompt_is_cut_where_it_would_be_too_long_for_it() -> None:
    x = Collate(longest=4)([Judged([Unpaired(C, ONE, True)], [Unpaired(A, TWO, True)])])
    assert x.others is not None
    assert groups_of(x.others) == [[TWO.tokens[:1]]]
    assert groups_of(x.replies) == [[ONE.tokens]]  # what was judged is never cut


def test_labels_and_pairs_may_stand_in_one_file(tmp_path: Path, template: Template) -> None:
    pair = {"prompt": "who?", "chosen": "me.", "rejected": "you."}
    source = file_of(tmp_path, [thumb(0), thumb(1, label=False), pair, thumb(0, label=False)])
    found = load_rated(source, template)
    assert [len(row.own) for row in found] == [2, 1, 1]
    batch = next(iter(found.batches(3, seed=1)))
    assert isinstance(batch, Rated)
    assert sorted(batch.desirable.tolist()) == [0, 0, 0.5, 1]
    assert sorted(batch.weight.tolist()) == [1, 1, 1, 2]


def test_rows_with_one_prompt_alone_are_refused_where_others_are_wanted(tmp_path: Path, template: Template) -> None:
    source = file_of(tmp_path, [thumb(0), thumb(0, label=False)])
    with pytest.raises(UsageError, match=r"all rows have the same prompt.*\n.*--objective bco"):
        load_rated(source, template)
    assert len(load_rated(source, template, others=False)) == 1


def test_labels_given_where_pairs_are_expected_are_sent_to_the_right_command(
    tmp_path: Path, template: Template
) -> None:
    with pytest.raises(UsageError, match=r"label judges each completion alone\.\n`preferent kto` learns from these"):
        load_preferences(file_of(tmp_path, [thumb(0)]), template)


def test_rows_kept_on_disk_are_those_in_memory(
    tmp_path: Path, template: Template, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = file_of(tmp_path, [thumb(i % 7, label=i % 3 > 0) for i in range(20)])
    plain = load_rated(source, template)
    monkeypatch.setenv("PREFERENT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("preferent.data.kept.LARGE", 0)
    kept = load_rated(source, template)
    assert not isinstance(kept.rows.groups, list)
    assert [list(row.own) for row in kept] == [list(row.own) for row in plain]
    assert [list(row.others) for row in kept] == [list(row.others) for row in plain]


def test_mixtures_hold_judgements_of_all_their_parts(tmp_path: Path, template: Template) -> None:
    sources = [file_of(tmp_path, [thumb(i + 10 * j) for i in range(4)], f"{j}.jsonl") for j in range(2)]
    rows = mixed([f"{name}=0.5" for name in sources], lambda name: load_rated(name, template))
    batches = list(rows.batches(4, epochs=2))
    assert sum(len(batch.replies) for batch in batches) == 16
    assert all(batch.others is not None for batch in batches)


def test_of_a_stream_the_other_replies_are_those_of_the_batch(
    tmp_path: Path, template: Template, caplog: pytest.LogCaptureFixture
) -> None:
    source = file_of(tmp_path, [thumb(i) for i in range(6)])
    rows = list(islice(stream(source, template, "rated", buffer=1), 3))
    x = Streamed(longest=60)(rows)
    assert x.others is not None
    own = groups_of(x.replies)
    assert groups_of(x.others) == [own[1], own[2], own[0]]
    assert not caplog.text
    assert Streamed(others=False)(rows[:1]).others is None
    assert not caplog.text
    assert Streamed()(rows[:1]).others is None
    assert "1 judgements of a step are all of one prompt" in caplog.text


@pytest.mark.parametrize("name", ["llamafactory_demos/kto_en", "gsm8k/model_solutions", "truthfulqa/answers_truth"])
def test_real_thumbs_become_batches(real_data: Path, template: Template, name: str) -> None:
    from preferent.data.reading import Reading

    long = Template(template.tokenizer, max_length=4096)
    found = load_rated(real_data / f"{name}.unpaired.jsonl.gz", long, Reading(limit=120))
    batch = next(iter(found.batches(16)))
    assert batch.others is not None
    assert len(batch.replies) == len(batch.others) == 16
    assert set(batch.desirable.tolist()) <= {0.0, 1.0} | set(torch.linspace(0, 1, 13).tolist())
    assert {bool(one.good) for row in found for one in row.own} == {True, False}
