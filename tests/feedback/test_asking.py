"""Judgements as preferences, campaigns as annotators, and a crowd that answers through the queue."""

from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest

from preferent.feedback.asking import Campaign, Unanswered, ask_crowd, item_of, person_of, preferences, says, work
from preferent.feedback.crowd import Crowd
from preferent.feedback.records import Choice, Skipped
from preferent.feedback.store import open_engine
from preferent.feedback.store.log import verify
from preferent.feedback.store.queue import answer, ask, claim
from preferent.feedback.store.store import add_annotator, add_campaign, read_judgements
from preferent.types import Comparison

PAIRS = [Comparison(f"question {i}", (f"long and winding {i}", f"short {i}")) for i in range(12)]


def shorter(_, reply):
    return -len(reply[-1]["content"].split()) / 4 if not isinstance(reply, str) else -len(reply.split()) / 4


def test_a_crowds_answers_are_kept_with_their_ids_and_asking_again_keeps_nothing_twice(engine):
    crowd = Crowd(shorter, seed=0)
    first = ask_crowd(engine, crowd, PAIRS, campaign="c")
    assert ask_crowd(engine, crowd, PAIRS, campaign="c") == first
    kept = {each.id: each for _, group in read_judgements(engine) for each in group}
    assert verify(engine).judgements == len(first) == len(kept) == 36
    for said in first:
        assert kept[said.judgements[0]].answer == Choice(said.choice)
        assert kept[said.judgements[0]].seconds > 0
    assert sorted(preferences(engine), key=repr) == sorted(first, key=repr)


def test_a_crowd_says_the_same_whether_it_is_asked_at_once_or_directly(engine):
    crowd = Crowd(shorter, seed=3)
    direct = Counter(
        (said.comparison.context, said.comparison.options[said.choice.index(max(said.choice))], said.annotator)
        for said in crowd(PAIRS)
        if max(said.choice) == 1
    )
    stored = Counter(
        (
            said.comparison.context[0]["content"],
            said.comparison.options[said.choice.index(1.0)][0]["content"],
            said.annotator,
        )
        for said in ask_crowd(engine, crowd, PAIRS)
        if max(said.choice) == 1
    )
    assert stored == direct


def test_a_crowd_answers_through_the_queue_as_people_would(where):
    engine = open_engine(where)
    crowd = Crowd(shorter, seed=0, people=6, lapse=0, tie_rate=0, sharpness=1000.0, reliability=(1.0, 1.0))
    for person in range(6):
        add_annotator(engine, person_of(crowd, person), kind="crowd")
    campaign = Campaign(engine, "c", overlap=3)
    with pytest.raises(Unanswered, match="12 of 12"):
        campaign(PAIRS)

    def person(i):
        mine = open_engine(where)
        done = work(mine, "c", person_of(crowd, i), says(crowd, i))
        mine.dispose()
        return done

    with ThreadPoolExecutor(6) as people:
        assert sum(people.map(person, range(6))) == 36
    said = campaign(PAIRS)
    asked = Counter(each.comparison.context[0]["content"] for each in said)
    assert asked == {pair.context: 3 for pair in PAIRS}
    for each in said:
        assert each.comparison.options[each.choice.index(1.0)][0]["content"].startswith("short")
    engine.dispose()


def test_a_campaign_goes_on_where_it_stopped(engine):
    add_annotator(engine, "p1")
    campaign = Campaign(engine, "c")
    with pytest.raises(Unanswered):
        campaign(PAIRS[:2])
    lease = claim(engine, "c", "p1")
    answer(engine, lease.id, Choice((1.0, 0.0)))
    with pytest.raises(Unanswered, match="1 of 2"):
        campaign(PAIRS[:2])
    answer(engine, claim(engine, "c", "p1").id, Skipped("cannot say"))
    assert len(campaign(PAIRS[:2])) == 1  # a skip is an answer, but no preference


def test_the_order_on_the_screen_is_kept_and_does_not_move_the_choice(engine):
    crowd = Crowd(shorter, seed=1, per_comparison=9, lapse=0, tie_rate=0, sharpness=1000.0)
    said = ask_crowd(engine, crowd, PAIRS[:4])
    orders = {each.shown for _, group in read_judgements(engine) for each in group}
    assert orders == {(0, 1), (1, 0)}
    assert {each.comparison.options[each.choice.index(1.0)][0]["content"][:5] for each in said} == {"short"}


def test_queueing_by_hand_and_by_campaign_is_one_queue(engine):
    add_annotator(engine, "p1")
    add_campaign(engine, "c")
    assert ask(engine, "c", [item_of(PAIRS[0])[0]]) == 1
    with pytest.raises(Unanswered, match="2 of 2"):
        Campaign(engine, "c")(PAIRS[:2])
    assert {claim(engine, "c", "p1").item.context[0]["content"]} <= {"question 0", "question 1"}
