"""People are asked about text, in a campaign; their answers come back about the very replies that were drawn."""

import pytest

from preferent.config import UsageError
from preferent.feedback.asking import Campaign, Unanswered, work
from preferent.feedback.records import Choice, Skipped
from preferent.feedback.store import open_engine
from preferent.feedback.store.store import add_annotator
from preferent.rewards.people import People
from preferent.types import Comparison, Episode, Prompt

PROMPTS = [Prompt((i, 2), {"messages": ({"role": "user", "content": f"question {i}"},)}) for i in range(3)]


def episode(prompt, *tokens, text):
    return Episode(prompt, tokens, (True,) * len(tokens), (-1.0,) * len(tokens), "end", 0, text)


def asked(texts):
    return [
        Comparison(prompt, tuple(episode(prompt, 5, i, text=text) for i, text in enumerate(pair)))
        for prompt, pair in zip(PROMPTS, texts, strict=True)
    ]


def longer(item, _):
    """The longer reply is better; nobody can say anything about question 2."""
    lengths = [len(option[0]["content"]) for option in item.options]
    if item.context[0]["content"] == "question 2":
        return Skipped("who knows"), 1.0
    return Choice((1.0, 0.0) if lengths[0] > lengths[1] else (0.0, 1.0)), 1.0


def test_answers_come_back_about_the_replies_that_were_drawn(tmp_path):
    """Whatever their canonical order; a skipped question has none, and nothing is asked twice."""
    engine = open_engine(tmp_path / "s.db")
    add_annotator(engine, "ann")
    people = People(Campaign(engine, "c"))
    comparisons = asked([("zz much longer", "aa"), ("b", "a good deal longer"), ("p", "q")])
    for _ in range(2):
        with pytest.raises(Unanswered) as stop:
            people(comparisons)
        assert (stop.value.missing, stop.value.asked) == (3, 3)
    assert work(engine, "c", "ann", longer) == 3
    answers = people(comparisons)
    assert len(answers) == 2
    drawn = {id(option) for comparison in comparisons for option in comparison.options}
    for answer in answers:
        assert {id(option) for option in answer.comparison.options} <= drawn
        assert answer.annotator == "ann"
        assert len(answer.judgements) == 1
        best = answer.comparison.options[answer.choice.index(1.0)]
        assert "longer" in best.text


def test_questions_that_read_alike_are_asked_once_and_all_answered(tmp_path):
    """Other tokens may have the same text, and the answer is about each of them."""
    engine = open_engine(tmp_path / "s.db")
    add_annotator(engine, "ann")
    noted = []
    people = People(Campaign(engine, "c"), note=noted.extend)
    first = Comparison(PROMPTS[0], (episode(PROMPTS[0], 5, text="short"), episode(PROMPTS[0], 6, text="much longer")))
    other = Comparison(PROMPTS[0], (episode(PROMPTS[0], 7, text="much longer"), episode(PROMPTS[0], 8, text="short")))
    with pytest.raises(Unanswered, match="1 of 1"):
        people([first, other])
    assert work(engine, "c", "ann", longer) == 1
    answers = people([first, other])
    best = {answer.comparison.options[answer.choice.index(1.0)].tokens for answer in answers}
    assert (len(answers), best) == (2, {(6,), (7,)})
    assert len(noted) == 1


def test_replies_that_read_alike_are_not_asked_about_and_text_is_needed(tmp_path):
    people = People(Campaign(open_engine(tmp_path / "s.db"), "c"))
    assert people([]) == []
    assert people(asked([("same", "same")] * 3)) == []
    bare = Prompt((1,))
    with pytest.raises(UsageError, match="People are shown text"):
        people([Comparison(bare, (episode(bare, 1, text="a"), episode(bare, 2, text="b")))])
